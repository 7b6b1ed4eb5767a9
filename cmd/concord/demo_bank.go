// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/adapters/postgres"
)

const (
	accountsPerBank = 100
	firstBalance    = 1000
)

// bank is a database with accounts.
type bank interface {
	adapters.Resource
	// fill makes the accounts anew, each with firstBalance.
	fill(ctx context.Context) error
	// add changes the balance of an account as part of tx.
	add(ctx context.Context, tx *concord.Tx, account int, amount int64) error
	// sum adds up what is committed.
	sum(ctx context.Context) (int64, error)
}

// banks are the databases of a demonstration. Transfers touch them in this order,
// because two databases make deadlocks that neither of them sees.
type banks struct {
	list []bank
	// recovery are the connections of the nodes; the banks themselves, if they are embedded.
	recovery []adapters.Resource
}

func openBanks(ctx context.Context, file, dir string) (b *banks, err error) {
	b = &banks{}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if file == "" {
		for _, name := range []string{"amsterdam", "berlin", "cairo"} {
			r, err := pebble.Open(name, filepath.Join(dir, name))
			if err != nil {
				return b, err
			}
			b.list = append(b.list, &pebbleBank{r})
			b.recovery = append(b.recovery, r)
		}
	} else if err := b.openConfigured(ctx, file); err != nil {
		return b, err
	}
	for _, k := range b.list {
		if err := k.fill(ctx); err != nil {
			return b, fmt.Errorf("bank %s: make accounts: %w", k.Name(), err)
		}
	}
	return b, nil
}

func (b *banks) openConfigured(ctx context.Context, file string) error {
	configs, err := loadResources(file)
	if err != nil {
		return &exitError{exitUsage, err.Error()}
	}
	if len(configs) < 2 {
		return usagef("%s: \"resources\" has %s: money moves between at least two", file, plural(len(configs), "resource", "resources"))
	}
	for _, c := range configs {
		if c.Driver == agent.Driver {
			return usagef("%s: resource %s is hosted by an agent, and the demo moves money between SQL databases that it reaches itself: leave it out", file, named(c.Name))
		}
	}
	if b.recovery, err = openResources(ctx, configs); err != nil {
		return err
	}
	for _, c := range configs {
		k, err := openSQLBank(ctx, c, ledger{table: "concord_demo_account", accounts: accountsPerBank})
		if err != nil {
			return fmt.Errorf("bank %s: %w", c.Name, err)
		}
		b.list = append(b.list, k)
	}
	return nil
}

// ledger is the table of a bank that is an SQL database.
type ledger struct {
	table    string
	accounts int
	// conns is how many connections a bank keeps for transfers; 0: the driver's default.
	conns int
}

func openSQLBank(ctx context.Context, c resourceConfig, l ledger) (bank, error) {
	dsn, err := c.secret()
	if err != nil {
		return nil, err
	}
	if c.Driver == "postgres" {
		return openPostgresBank(ctx, c.Name, dsn, l)
	}
	return openMySQLBank(c.Name, dsn, l)
}

func openPostgresBank(ctx context.Context, name, dsn string, l ledger) (*postgresBank, error) {
	conf, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errors.New("its dsn is not a PostgreSQL URL or keyword string") // the driver's text may hold the password
	}
	if l.conns > 0 {
		conf.MaxConns = int32(l.conns)
	}
	// The limits of a branch, from the start, so that no branch has to set them.
	conf.ConnConfig.RuntimeParams["lock_timeout"] = fmt.Sprint(postgres.DefaultLockTimeout.Milliseconds())
	conf.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(postgres.DefaultIdleTimeout.Milliseconds())
	pool, err := pgxpool.NewWithConfig(ctx, conf)
	if err != nil {
		return nil, err
	}
	return &postgresBank{postgres.New(name, pool), pool, l}, nil
}

func openMySQLBank(name, dsn string, l ledger) (*mysqlBank, error) {
	conf, err := sqldriver.ParseDSN(dsn)
	if err != nil {
		return nil, errors.New("its dsn is not of the form user:password@tcp(host:port)/database")
	}
	conf.InterpolateParams = true // one round trip for each statement
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	if l.conns > 0 {
		db.SetMaxOpenConns(l.conns)
		db.SetMaxIdleConns(l.conns)
	}
	return &mysqlBank{mysql.NewWithOptions(name, connector, mysql.Options{MaxOpen: l.conns}), db, l}, nil
}

func (b *banks) resources() []adapters.Resource { return b.recovery }

func (b *banks) describe() string {
	var out []string
	for _, k := range b.list {
		out = append(out, k.Name()+" ("+k.Driver()+")")
	}
	return strings.Join(out, ", ")
}

func (b *banks) sum(ctx context.Context) (total int64, err error) {
	for _, k := range b.list {
		s, err := k.sum(ctx)
		if err != nil {
			return 0, fmt.Errorf("bank %s: add up: %w", k.Name(), err)
		}
		total += s
	}
	return total, nil
}

func (b *banks) expected() int64 { return int64(len(b.list)) * accountsPerBank * firstBalance }

func (b *banks) close() {
	for _, k := range b.list {
		_ = k.Close() // read-only by now
	}
	_ = closeResources(b.recovery)
}

type pebbleBank struct{ *pebble.Resource }

func accountKey(n int) []byte { return fmt.Appendf(nil, "account/%03d", n) }

func (b *pebbleBank) fill(ctx context.Context) error {
	tx := &localTx{}
	t, err := b.Tx(ctx, tx)
	for n := 0; n < accountsPerBank && err == nil; n++ {
		err = t.Set(ctx, accountKey(n), binary.BigEndian.AppendUint64(nil, firstBalance))
	}
	if err != nil {
		return err
	}
	return tx.session.CommitOnePhase(ctx)
}

func (b *pebbleBank) add(ctx context.Context, tx *concord.Tx, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	value, found, err := t.Get(ctx, accountKey(account))
	if err != nil {
		return err
	}
	if !found || len(value) != 8 {
		return fmt.Errorf("account %d of %s is not there", account, b.Name())
	}
	balance := int64(binary.BigEndian.Uint64(value)) + amount
	return t.Set(ctx, accountKey(account), binary.BigEndian.AppendUint64(nil, uint64(balance)))
}

func (b *pebbleBank) sum(context.Context) (total int64, err error) {
	for n := range accountsPerBank {
		value, found, err := b.Get(accountKey(n))
		if err != nil || !found || len(value) != 8 {
			return 0, fmt.Errorf("account %d: found %v: %w", n, found, err)
		}
		total += int64(binary.BigEndian.Uint64(value))
	}
	return total, nil
}

// localTx is a transaction of one resource that no coordinator knows of.
type localTx struct{ session adapters.Session }

func (t *localTx) Enlist(ctx context.Context, r adapters.Opener) (s adapters.Session, err error) {
	if t.session == nil {
		t.session, err = r.Open(ctx, localXID())
	}
	return t.session, err
}

type postgresBank struct {
	*postgres.Resource
	pool *pgxpool.Pool
	ledger
}

func (b *postgresBank) fill(ctx context.Context) error {
	for _, q := range []string{
		// Half of each page is left for new versions of its rows, so that the index stays as it is.
		`CREATE TABLE IF NOT EXISTS ` + b.table + ` (id int PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 50)`,
		`TRUNCATE ` + b.table,
	} {
		if _, err := b.pool.Exec(ctx, q); err != nil {
			return err
		}
	}
	_, err := b.pool.Exec(ctx, `INSERT INTO `+b.table+` SELECT n, $1 FROM generate_series(0, $2 - 1) n`, firstBalance, b.accounts)
	return err
}

func (b *postgresBank) add(ctx context.Context, tx *concord.Tx, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.Exec(ctx, b.update(), amount, account)
	return err
}

// update is the statement that changes one balance.
func (b *postgresBank) update() string {
	return `UPDATE ` + b.table + ` SET balance = balance + $1 WHERE id = $2`
}

func (b *postgresBank) sum(ctx context.Context) (total int64, err error) {
	err = b.pool.QueryRow(ctx, `SELECT sum(balance)::bigint FROM `+b.table).Scan(&total)
	return total, err
}

func (b *postgresBank) Close() error {
	b.pool.Close()
	return b.Resource.Close()
}

type mysqlBank struct {
	*mysql.Resource
	db *sql.DB
	ledger
}

func (b *mysqlBank) fill(ctx context.Context) error {
	for _, q := range []string{
		`CREATE TABLE IF NOT EXISTS ` + b.table + ` (id INT PRIMARY KEY, balance BIGINT NOT NULL) ENGINE=InnoDB`,
		`TRUNCATE ` + b.table,
	} {
		if _, err := b.db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	const most = 10_000 // rows in one statement
	for first := 0; first < b.accounts; first += most {
		var rows []string
		for n := first; n < min(first+most, b.accounts); n++ {
			rows = append(rows, fmt.Sprintf("(%d,%d)", n, firstBalance))
		}
		if _, err := b.db.ExecContext(ctx, `INSERT INTO `+b.table+` VALUES `+strings.Join(rows, ",")); err != nil {
			return err
		}
	}
	return nil
}

func (b *mysqlBank) add(ctx context.Context, tx *concord.Tx, account int, amount int64) error {
	t, err := b.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = t.ExecContext(ctx, b.update(), amount, account)
	return err
}

// update is the statement that changes one balance.
func (b *mysqlBank) update() string {
	return `UPDATE ` + b.table + ` SET balance = balance + ? WHERE id = ?`
}

func (b *mysqlBank) sum(ctx context.Context) (total int64, err error) {
	err = b.db.QueryRowContext(ctx, `SELECT CAST(SUM(balance) AS SIGNED) FROM `+b.table).Scan(&total)
	return total, err
}

func (b *mysqlBank) Close() error { return errors.Join(b.Resource.Close(), b.db.Close()) }
