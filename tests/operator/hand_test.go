// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// database is one database of a server, as the application has it, as the nodes have it, behind a line
// that can be cut, and as an administrator has it.
type database struct {
	server *testdb.Server
	name   string // of the database, and of the resource
	line   *faultproxy.Link
	admin  *sql.DB
	// app and rec are how the application and the nodes log in; without a user as the superuser.
	app, rec login
	pg       *postgres.Resource
	my       *mysql.Resource
}

type login struct{ user, password string }

func (d *database) dsn(l login) string {
	if l.user == "" {
		return d.server.DSN(d.name)
	}
	return d.server.UserDSN(l.user, l.password, d.name)
}

func newDatabase(t testing.TB, s *testdb.Server) *database {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := &database{server: s, name: fmt.Sprintf("%s_%x", s.Flavor(), rand.Uint32())}
	require.NoError(t, s.Exec(ctx, "", "CREATE DATABASE "+d.name))
	require.NoError(t, s.Exec(ctx, d.name, "CREATE TABLE note (gid VARCHAR(26) PRIMARY KEY)"))
	var err error
	d.line, err = faultproxy.New(fmt.Sprintf("127.0.0.1:%d", s.Port()))
	require.NoError(t, err)
	t.Cleanup(d.line.Close)
	d.line.Use(faultproxy.NewKnife(faultproxy.MySQL)) // which is at rest: the line lets servers speak first
	kind := "mysql"
	if s.Flavor() == testdb.FlavorPostgres {
		kind = "pgx"
	}
	d.admin, err = sql.Open(kind, s.DSN(d.name))
	require.NoError(t, err)
	d.admin.SetMaxIdleConns(0) // a kept connection would not survive its server
	t.Cleanup(func() { require.NoError(t, d.admin.Close()) })
	d.connect(t)
	return d
}

// connect opens the application's side.
func (d *database) connect(t testing.TB) {
	t.Helper()
	if d.server.Flavor() == testdb.FlavorPostgres {
		pool, err := pgxpool.New(context.Background(), d.dsn(d.app))
		require.NoError(t, err)
		t.Cleanup(func() { go pool.Close() }) // it waits for sessions that a failed test has left open
		d.pg = postgres.New(d.name, pool)
		return
	}
	config, err := sqldriver.ParseDSN(d.dsn(d.app))
	require.NoError(t, err)
	config.Logger = &sqldriver.NopLogger{}
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	d.my = mysql.New(d.name, connector)
	t.Cleanup(func() { _ = d.my.Close() })
}

// resource is the database as the nodes have it.
func (d *database) resource() resource {
	near, far := d.line.Addr(), fmt.Sprintf("127.0.0.1:%d", d.server.Port())
	r := resource{name: d.name, driver: "mysql", dsn: strings.Replace(d.dsn(d.rec), far, near, 1)}
	if d.server.Flavor() == testdb.FlavorPostgres {
		r.driver = "postgres"
	}
	return r
}

// cut makes the nodes lose the database, and nobody else.
func (d *database) cut() {
	d.line.Set(faultproxy.Forward, faultproxy.Fault{Drop: true})
	d.line.Set(faultproxy.Backward, faultproxy.Fault{Drop: true})
}

// note writes the gid, in a branch of its transaction.
func (d *database) note(ctx context.Context, g adapters.Global, id txn.ID) error {
	if d.pg != nil {
		tx, err := d.pg.Tx(ctx, g)
		if err == nil {
			_, err = tx.Exec(ctx, "INSERT INTO note VALUES ($1)", id.String())
		}
		return err
	}
	tx, err := d.my.Tx(ctx, g)
	if err == nil {
		_, err = tx.ExecContext(ctx, "INSERT INTO note VALUES (?)", id.String())
	}
	return err
}

// has reports whether the note of a transaction is there.
func (d *database) has(t testing.TB, id txn.ID) bool {
	t.Helper()
	return d.number(t, "SELECT COUNT(*) FROM note WHERE gid = '"+id.String()+"'") == 1
}

func (d *database) number(t testing.TB, query string) (n int) {
	t.Helper()
	require.NoError(t, d.admin.QueryRowContext(t.Context(), query).Scan(&n), query)
	return n
}

// texts returns the last column of every row.
func (d *database) texts(t testing.TB, query string) (all []string) {
	t.Helper()
	rows, err := d.admin.QueryContext(t.Context(), query)
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
	for rows.Next() {
		require.NoError(t, rows.Scan(into...))
		all = append(all, text)
	}
	require.NoError(t, rows.Err())
	return all
}

// prepared returns what the server lists of a transaction.
func (d *database) prepared(t testing.TB, id txn.ID) (names []string) {
	t.Helper()
	query := "XA RECOVER"
	if d.pg != nil {
		query = "SELECT gid FROM pg_prepared_xacts"
	}
	for _, name := range d.texts(t, query) {
		if strings.Contains(name, id.String()) {
			names = append(names, name)
		}
	}
	return names
}

// endByHand is an administrator who commits or rolls back a prepared branch, as docs/operations.md says: on
// MariaDB the session that holds it goes first.
func (d *database) endByHand(t testing.TB, x txn.XID, decision txn.Decision) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	verb := map[txn.Decision]string{txn.Commit: "COMMIT", txn.Abort: "ROLLBACK"}[decision]
	if d.pg != nil {
		names := d.prepared(t, x.ID)
		require.Len(t, names, 1)
		_, err := d.admin.ExecContext(ctx, verb+" PREPARED '"+names[0]+"'")
		require.NoError(t, err)
		return
	}
	if d.server.Flavor() == testdb.FlavorMariaDB {
		c, err := d.admin.Conn(ctx)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
		require.NoError(t, err)
		var holder string
		require.NoError(t, c.QueryRowContext(ctx, "SELECT SUBSTRING_INDEX(holder, '@', 1) FROM concord_branch WHERE "+
			"gid = '"+
			x.ID.String()+"' AND branch = "+strconv.Itoa(int(x.Branch))).Scan(&holder))
		_, err = c.ExecContext(ctx, "KILL "+holder)
		require.NoError(t, err)
		eventually(t, "the session is gone", func() bool {
			return d.number(t, "SELECT COUNT(*) FROM information_schema.processlist WHERE id = "+holder) == 0
		})
		_, err = c.ExecContext(ctx, "DO SLEEP(1)")
		require.NoError(t, err)
	}
	_, err := d.admin.ExecContext(ctx, fmt.Sprintf("XA %s '%s','%s',%d", verb, x.Gtrid(), x.Bqual(), txn.FormatID))
	require.NoError(t, err)
}

// hand is a global transaction of which somebody takes the steps one by one, and may stop anywhere.
type hand struct {
	cluster  txn.ClusterID
	id       txn.ID
	opened   []adapters.Opener
	sessions []adapters.Session // by branch number
	branches []txn.Branch       // once prepared
}

// Enlist opens one branch per resource.
func (h *hand) Enlist(ctx context.Context, r adapters.Opener) (adapters.Session, error) {
	for i, o := range h.opened {
		if o == r {
			return h.sessions[i], nil
		}
	}
	s, err := r.Open(ctx, h.xid(len(h.sessions)))
	if err != nil {
		return nil, err
	}
	h.opened, h.sessions = append(h.opened, r), append(h.sessions, s)
	return s, nil
}

func (h *hand) xid(no int) txn.XID {
	return txn.XID{Cluster: h.cluster, ID: h.id, Branch: txn.BranchNo(no)}
}

// request is the one commit request.
func (h *hand) request() *concordv1.CommitRequest {
	return api.CommitRequest(txn.CommitRequest{ID: h.id, Cluster: h.cluster, Branches: h.branches})
}

// prepare writes a note in each database and prepares all branches, in this order.
func prepare(t testing.TB, cluster txn.ClusterID, at ...*database) *hand {
	t.Helper()
	return prepareAs(t, cluster, txn.NewID(time.Now()), at...)
}

func prepareAs(t testing.TB, cluster txn.ClusterID, id txn.ID, at ...*database) *hand {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	h := &hand{cluster: cluster, id: id}
	var all []txn.BranchNo
	for i, d := range at {
		require.NoError(t, d.note(ctx, h, h.id))
		all = append(all, txn.BranchNo(i))
	}
	for i, s := range h.sessions {
		s.(adapters.Counted).Siblings(all)
		vote, branch, err := s.Prepare(ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		branch.No, branch.Resource = txn.BranchNo(i), h.opened[i].Name()
		h.branches = append(h.branches, branch)
	}
	return h
}
