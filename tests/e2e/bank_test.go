// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

const (
	accounts = 64
	opening  = 1000 // balance of each account at the beginning
)

// database is one database on a server, made for one test. The tests look into it
// past the product.
type database struct {
	server *testdb.Server
	name   string
	admin  *sql.DB
}

func newDatabase(t testing.TB, s *testdb.Server) *database {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := regexp.MustCompile(`[^a-z]+`).ReplaceAllString(strings.ToLower(t.Name()), "_")
	name = fmt.Sprintf("%.30s_%x", name, rand.Uint32())
	require.NoError(t, s.Exec(ctx, "", "CREATE DATABASE "+name))
	require.NoError(t, s.Exec(ctx, name,
		"CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
		"CREATE TABLE transfer (gid VARCHAR(26) PRIMARY KEY, amount BIGINT NOT NULL)",
		"INSERT INTO account VALUES "+openingRows()))
	kind := "mysql"
	if s.Flavor() == testdb.FlavorPostgres {
		kind = "pgx"
	}
	admin, err := sql.Open(kind, s.DSN(name))
	require.NoError(t, err)
	admin.SetMaxIdleConns(0) // a kept connection would not survive its server
	t.Cleanup(func() { require.NoError(t, admin.Close()) })
	return &database{server: s, name: name, admin: admin}
}

func openingRows() string {
	rows := make([]string, accounts)
	for i := range rows {
		rows[i] = fmt.Sprintf("(%d, %d)", i, opening)
	}
	return strings.Join(rows, ", ")
}

func (d *database) dsn() string { return d.server.DSN(d.name) }

// texts returns the last column of every row.
func (d *database) texts(t testing.TB, query string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	rows, err := d.admin.QueryContext(ctx, query)
	require.NoError(t, err, query)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	into := make([]any, len(columns))
	var text string
	for i := range into {
		into[i] = new(any)
	}
	into[len(into)-1] = &text
	var all []string
	for rows.Next() {
		require.NoError(t, rows.Scan(into...))
		all = append(all, text)
	}
	require.NoError(t, rows.Err())
	return all
}

func (d *database) number(t testing.TB, query string) (n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, d.admin.QueryRowContext(ctx, query).Scan(&n), query)
	return n
}

// prepared returns what the server lists as prepared for a cluster.
func (d *database) prepared(t testing.TB, id txn.ClusterID) []string {
	t.Helper()
	query := "XA RECOVER"
	if d.server.Flavor() == testdb.FlavorPostgres {
		query = "SELECT gid FROM pg_prepared_xacts"
	}
	var ours []string
	for _, name := range d.texts(t, query) {
		if strings.HasPrefix(name, "concord-"+id.String()+"-") {
			ours = append(ours, name)
		}
	}
	return ours
}

// bank is money in two databases, and the application that moves it.
type bank struct {
	testing.TB
	*application
	left, right *database
}

func newBank(t testing.TB) *bank {
	t.Helper()
	return bankAt(t, postgresServer.Get(t), mariadbServer.Get(t))
}

func bankAt(t testing.TB, left, right *testdb.Server) *bank {
	t.Helper()
	b := &bank{TB: t, left: newDatabase(t, left), right: newDatabase(t, right)}
	var err error
	b.application, err = openApplication(b.left.dsn(), b.right.dsn())
	require.NoError(t, err)
	t.Cleanup(b.close)
	return b
}

// in is the same bank, for a subtest.
func (b *bank) in(t testing.TB) *bank {
	other := *b
	other.TB = t
	return &other
}

// resources is the coordinator's side.
func (b *bank) resources() []resource {
	return []resource{{"orders", "postgres", b.left.dsn()}, {"billing", "mysql", b.right.dsn()}}
}

// run does one transfer with the SDK.
func (b *bank) run(ctx context.Context, c *concord.Client, opts ...concord.TxOption) (id txn.ID, err error) {
	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		return b.transfer(ctx, tx, id)
	}, opts...)
	return id, err
}

// settled waits until nothing of a cluster is prepared in either database.
func (b *bank) settled(c *cluster) {
	b.Helper()
	began := time.Now()
	eventually(b, "nothing is prepared any more", func() bool {
		return len(b.left.prepared(b, c.id)) == 0 && len(b.right.prepared(b, c.id)) == 0
	})
	b.Logf("nothing is prepared any more, after %v", time.Since(began).Round(time.Millisecond))
}

// sumHolds checks that no money was made or lost.
func (b *bank) sumHolds() {
	b.Helper()
	sum := 0
	for _, d := range []*database{b.left, b.right} {
		sum += d.number(b, "SELECT SUM(balance) FROM account")
	}
	require.Equal(b, 2*accounts*opening, sum, "the sum over both databases")
}

// shows tells what the databases show of a transaction: in both, or in neither.
func (b *bank) shows(id txn.ID) concord.Outcome {
	b.Helper()
	query := fmt.Sprintf("SELECT COUNT(*) FROM transfer WHERE gid = '%v'", id)
	left, right := b.left.number(b, query), b.right.number(b, query)
	require.Equal(b, left, right, "%v happened in one database only", id)
	if left == 1 {
		return concord.Committed
	}
	return concord.Aborted
}

// agree checks every answer that a client got against both databases, and that
// the databases hold nothing that nobody was told about.
func (b *bank) agree(answers map[txn.ID]concord.Outcome) {
	b.Helper()
	committed := map[string]bool{}
	for id, outcome := range answers {
		switch outcome {
		case concord.Committed:
			committed[id.String()] = true
		case concord.Aborted:
		default:
			b.Errorf("%v has the outcome %v", id, outcome)
		}
	}
	for _, d := range []*database{b.left, b.right} {
		there := map[string]bool{}
		for _, gid := range d.texts(b, "SELECT gid FROM transfer") {
			there[gid] = true
			if !committed[gid] {
				b.Errorf("%s of %s is in %s, and its client was not told that it committed", gid, d.name,
					d.server.Flavor())
			}
		}
		for gid := range committed {
			if !there[gid] {
				b.Errorf("%s was answered as committed and is not in %s", gid, d.server.Flavor())
			}
		}
	}
}
