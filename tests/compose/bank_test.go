// SPDX-License-Identifier: Apache-2.0

//go:build compose

package compose

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
)

const (
	accounts = 50
	opening  = 1000
)

// bank has accounts in each of the three databases, and moves money between two of them.
type bank struct {
	testing.TB
	orders          *postgres.Resource
	billing, ledger *mysql.Resource
	sums            map[string]*sql.DB
}

func openBank(t testing.TB, e *engine) *bank {
	t.Helper()
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, "postgres://app:app@127.0.0.1:"+e.ports["POSTGRES_PORT"]+"/orders")
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	b := &bank{TB: t, orders: postgres.New("orders", pool), sums: map[string]*sql.DB{}}
	open := func(name, port string) *mysql.Resource {
		conf := sqldriver.NewConfig()
		conf.User, conf.Passwd, conf.Net, conf.Addr, conf.DBName = "app", "app", "tcp", "127.0.0.1:"+port, name
		conf.Timeout, conf.Logger, conf.AllowNativePasswords = 5*time.Second, &sqldriver.NopLogger{}, true
		connector, err := mysql.NewConnector(conf)
		require.NoError(t, err)
		b.sums[name] = sql.OpenDB(connector)
		return mysql.New(name, connector)
	}
	b.billing, b.ledger = open("billing", e.ports["MYSQL_PORT"]), open("ledger", e.ports["MARIADB_PORT"])
	b.sums["orders"] = stdlib.OpenDBFromPool(pool)
	for name, db := range b.sums {
		t.Cleanup(func() { require.NoError(t, db.Close()) })
		_, err := db.ExecContext(ctx, "CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL)")
		require.NoError(t, err, name)
		for id := range accounts {
			_, err := db.ExecContext(ctx, fmt.Sprintf("INSERT INTO account VALUES (%d, %d)", id, opening))
			require.NoError(t, err, name)
		}
	}
	return b
}

// transfer moves money between accounts of two databases.
func (b *bank) transfer(ctx context.Context, tx *concord.Tx) error {
	add := []func(int64) error{
		func(amount int64) error {
			pg, err := b.orders.Tx(ctx, tx)
			if err != nil {
				return err
			}
			_, err = pg.Exec(ctx, "UPDATE account SET balance = balance + $1 WHERE id = $2", amount,
				rand.IntN(accounts))
			return err
		},
	}
	for _, r := range []*mysql.Resource{b.billing, b.ledger} {
		add = append(add, func(amount int64) error {
			my, err := r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			_, err = my.ExecContext(ctx, "UPDATE account SET balance = balance + ? WHERE id = ?", amount,
				rand.IntN(accounts))
			return err
		})
	}
	which := rand.Perm(len(add))
	if which[0] > which[1] { // in one order, or two databases make deadlocks that neither sees
		which[0], which[1] = which[1], which[0]
	}
	amount := rand.Int64N(100) - 50
	return errors.Join(add[which[0]](amount), add[which[1]](-amount))
}

// requireSum checks that no money was made or lost.
func (b *bank) requireSum() {
	b.Helper()
	var total int64
	for name, db := range b.sums {
		var sum int64
		require.NoError(b, db.QueryRowContext(b.Context(), "SELECT SUM(balance) FROM account").Scan(&sum), name)
		total += sum
	}
	require.EqualValues(b, 3*accounts*opening, total)
}

// load is workers that transfer until they are stopped.
type load struct {
	committed, aborted atomic.Int64
	mu                 sync.Mutex
	unknown            []error
	other              []error
	stop               context.CancelFunc
	group              sync.WaitGroup
}

func (b *bank) load(client *concord.Client, workers int) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	l.stop = cancel
	for range workers {
		l.group.Go(func() {
			for ctx.Err() == nil {
				// what was begun is brought to its end
				err := client.Run(context.WithoutCancel(ctx), b.transfer, concord.WithTimeout(20*time.Second))
				switch {
				case err == nil:
					l.committed.Add(1)
				case errors.Is(err, concord.ErrAborted):
					l.aborted.Add(1)
					select { // a database that is away is not asked as fast as it refuses
					case <-ctx.Done():
					case <-time.After(50 * time.Millisecond):
					}
				default:
					l.mu.Lock()
					if errors.Is(err, concord.ErrUnknownOutcome) {
						l.unknown = append(l.unknown, err)
					} else {
						l.other = append(l.other, err)
					}
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// goesOn waits for so many transfers more.
func (l *load) goesOn(t testing.TB, more int64) {
	t.Helper()
	before := l.committed.Load()
	require.True(t, eventually(func() bool { return l.committed.Load() >= before+more }),
		"%d transfers have committed since, %d were aborted in all", l.committed.Load()-before, l.aborted.Load())
}

// end stops the workers, and settles what they do not know.
func (l *load) end(t testing.TB, client *concord.Client) {
	t.Helper()
	l.stop()
	l.group.Wait()
	require.Empty(t, l.other, "neither committed, nor aborted, nor unknown")
	for _, err := range l.unknown {
		var unknown *concord.UnknownError
		require.ErrorAs(t, err, &unknown)
		require.True(t, eventually(func() bool {
			outcome, err := client.Outcome(t.Context(), unknown.GID)
			return err == nil && (outcome == concord.Committed || outcome == concord.Aborted)
		}), "%v is settled", unknown.GID)
	}
}
