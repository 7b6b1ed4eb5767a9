// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

const patience = 30 * time.Second

// shared is the server of the whole package; nil where PostgreSQL is not installed.
var shared *testdb.Server

func TestMain(m *testing.M) {
	adaptertest.ServeChild(func(dsn string) (adapters.Adapter,
		error) {
		return Open(context.Background(), "bank", dsn)
	}, write)
	os.Exit(runWithServer(m))
}

func runWithServer(m *testing.M) int {
	db, err := testdb.Start(testdb.FlavorPostgres, "")
	switch {
	case errors.Is(err, testdb.ErrNotInstalled):
		fmt.Fprintln(os.Stderr, testdb.NotRun(testdb.FlavorPostgres, err))
		if testdb.Required(testdb.FlavorPostgres) {
			return 1
		}
		return m.Run()
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := furnish(ctx, db); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = db
	return m.Run()
}

// furnish makes two application roles that know nothing of each other, a recovery role
// that is a member of the first, and tables.
func furnish(ctx context.Context, db *testdb.Server) error {
	return errors.Join(
		db.Exec(ctx, "", "create role app login", "create role stranger login", "create role recovery login",
			"grant app to recovery", "grant create on schema public to app, stranger",
			"create database elsewhere"),
		db.Exec(ctx, "", CreateMarkerTable, "grant usage on schema concord to app, stranger",
			"grant select, insert, delete on concord.branch to app, stranger"),
		db.Exec(ctx, "", "create table account (k text primary key, v bigint not null)",
			"grant all on account to app, stranger, recovery",
			"create table canary (alive bool)", "insert into canary values (true)",
			"create table child (k text references account deferrable initially deferred)", "grant all on child to app",
			`create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(30); return null; end'`,
			"create function says(text) returns text language plpgsql as 'begin perform pg_notify(''channel'', $1); "+
				"return $1; end'",
			"create view speaker as select says('x')", "grant select on speaker to app",
			"create procedure commits() language plpgsql as 'begin commit; end'",
			"create procedure rolls_back() language plpgsql as 'begin rollback; end'",
			"create table slowly (k text)", "grant all on slowly to app",
			"create constraint trigger slow after insert on slowly deferrable initially deferred for each row "+
				"execute function slow()"))
}

// bank is one test's view of the server.
type bank struct {
	*testing.T
	ctx context.Context
	db  *testdb.Server
	*Resource
	admin *pgxpool.Pool
}

func newBank(t *testing.T, options ...Option) *bank {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	return bankOf(t, shared, options...)
}

// newBankAt is a bank whose application has a pool with settings of its own.
func newBankAt(t *testing.T, settings string, options ...Option) *bank {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	pool := newPool(t, shared.UserDSN("app", "", "")+settings)
	b := newBank(t)
	b.Resource = New("bank", pool, options...)
	return b
}

func bankOf(t *testing.T, db *testdb.Server, options ...Option) *bank {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	b := &bank{T: t, ctx: ctx, db: db, admin: newPool(t, db.DSN(""))}
	b.Resource = New("bank", newPool(t, db.UserDSN("app", "", "")), options...)
	t.Cleanup(func() {
		left, err := b.Recover(context.Background())
		require.NoError(t, err)
		require.Empty(t, left, "prepared branches left behind")
	})
	return b
}

func newPool(t testing.TB, dsn string) *pgxpool.Pool {
	pool, err := pgxpool.New(context.Background(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// as returns another instance, for another role or database.
func (b *bank) as(user, database string) *Resource {
	r, err := Open(b.ctx, "bank", b.db.UserDSN(user, "", database))
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, r.Close()) })
	return r
}

func newXID() txn.XID { return txn.XID{Cluster: 0xc0ffee, ID: txn.NewID(time.Now()), Branch: 1} }

func (b *bank) begin(x txn.XID) *session {
	s, err := b.Open(b.ctx, x)
	require.NoError(b, err)
	b.Cleanup(func() { _ = s.Rollback(context.Background()) })
	return s.(*session)
}

// Open hides nothing: Resource.Open, made visible next to the helpers.
func (b *bank) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	return b.Resource.Open(ctx, x)
}

func handleOf(t testing.TB, s adapters.Session) pgx.Tx {
	tx, err := s.(*session).r.Tx(context.Background(), adaptertest.Enlisted(s))
	require.NoError(t, err)
	return tx
}

func write(ctx context.Context, s adapters.Session, key string, value int64) error {
	return do(ctx, s, "insert into account values ($1, $2) on conflict (k) do update set v = excluded.v", key, value)
}

func do(ctx context.Context, s adapters.Session, sql string, args ...any) error {
	tx, err := s.(*session).r.Tx(ctx, adaptertest.Enlisted(s))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, sql, args...)
	return err
}

func (b *bank) do(s adapters.Session, sql string, args ...any) {
	b.Helper()
	require.NoError(b, do(b.ctx, s, sql, args...))
}

// work begins a branch and writes a key of its own in it.
func (b *bank) work() (*session, txn.XID) {
	x := newXID()
	s := b.begin(x)
	require.NoError(b, write(b.ctx, s, x.ID.String(), 1))
	return s, x
}

func (b *bank) prepared() (*session, txn.XID, txn.Branch) {
	s, x := b.work()
	return s, x, b.prepare(s)
}

func (b *bank) prepare(s adapters.Session) txn.Branch {
	b.Helper()
	vote, branch, err := s.Prepare(b.ctx)
	require.NoError(b, err)
	require.Equal(b, txn.VoteYes, vote)
	return branch
}

// votesNo requires a no with that SQLSTATE (or none), and a session that went back clean.
func (b *bank) votesNo(s adapters.Session, code string) error {
	b.Helper()
	vote, _, err := s.Prepare(b.ctx)
	require.Error(b, err)
	require.Equal(b, txn.VoteNo, vote)
	require.Equal(b, code, sqlState(err), "%v", err)
	b.clean()
	return err
}

// clean requires that nothing is prepared, and that no connection of the application is
// lent or left inside a transaction.
func (b *bank) clean() {
	b.Helper()
	left, err := b.Recover(b.ctx)
	require.NoError(b, err)
	require.Empty(b, left)
	b.eventually(func() bool { return b.pool.Stat().AcquiredConns() == 0 })
	b.eventually(func() bool {
		return b.count("select count(*) from pg_stat_activity where usename = 'app' and state like '%in "+
			"transaction%'") == 0
	})
}

func (b *bank) count(sql string, args ...any) (n int) {
	b.Helper()
	require.NoError(b, b.admin.QueryRow(b.ctx, sql, args...).Scan(&n))
	return n
}

func (b *bank) value(key string) (v int64, found bool) {
	b.Helper()
	err := b.admin.QueryRow(b.ctx, "select v from account where k = $1", key).Scan(&v)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, false
	}
	require.NoError(b, err)
	return v, true
}

func (b *bank) eventually(condition func() bool) {
	b.Helper()
	require.Eventually(b, condition, patience, 5*time.Millisecond)
}

// kill ends the session's backend from the server's side.
func (b *bank) kill(s *session) {
	var gone bool
	require.NoError(b, b.admin.QueryRow(b.ctx, "select pg_terminate_backend($1, 10000)",
		int32(s.server.holder.pid)).Scan(&gone))
	require.True(b, gone)
}

// busy waits until the session is in the middle of a statement that hangs.
func (b *bank) busy(s *session) {
	b.Helper()
	b.eventually(func() bool {
		return b.count("select count(*) from pg_stat_activity where pid = $1 and state = 'active' and "+
			"wait_event_type in ('Lock', 'Timeout')",
			int32(s.server.holder.pid)) == 1
	})
}

func TestConformance(t *testing.T) {
	b := newBank(t)
	b.ctx = context.Background() // each case has its own deadline
	dsn := b.db.UserDSN("app", "", "")
	adaptertest.Run(t, adaptertest.Target{
		Batches: true,
		Rows:    true,
		Last:    true,
		Open: func(t testing.TB) adapters.Adapter {
			r, err := Open(context.Background(), "bank", dsn)
			require.NoError(t, err)
			return r
		},
		Write: write,
		Read:  func(_ testing.TB, key string) (int64, bool) { return b.value(key) },
		Fail:  func(ctx context.Context, s adapters.Session) error { return do(ctx, s, "select 1/0") },
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			return do(ctx, s, "select count(*) from account")
		},
		Hang:    func(ctx context.Context, s adapters.Session) error { return do(ctx, s, "select pg_sleep(600)") },
		Busy:    func(_ testing.TB, s adapters.Session) { b.busy(s.(*session)) },
		Hostile: hostile(b),

		EndSession: func(_ testing.TB, s adapters.Session) { b.kill(s.(*session)) },
		Restart: func(t testing.TB) {
			require.NoError(t, b.db.Kill())
			require.NoError(t, b.db.Start())
			b.admin.Reset()
		},
		Child:   dsn,
		Foreign: func(t testing.TB) func(testing.TB) { return b.plantForeign(t) },
	})
}

// plantForeign prepares branches of others, in this database and in another one, whose
// names hurt whoever pastes them into a statement.
func (b *bank) plantForeign(t testing.TB) func(testing.TB) {
	ours := newXID().String()
	names := []string{
		"x'; drop table canary; --", "concord-", strings.Repeat("n", 199), "бранч-ñ-枝", "", "a\nb\tc\\",
		`"; drop table canary; --`,
		ours[:45] + "'", "concord-" + strings.Repeat("'", 38), strings.ToUpper(ours), ours + "0",
	}
	quoted := func(name string) string { return "'" + strings.ReplaceAll(name, "'", "''") + "'" }
	other := newPool(t, b.db.DSN("elsewhere"))
	plant := func(text string) {
		_, err := b.admin.Exec(b.ctx, "begin; update canary set alive = alive where false; "+text)
		require.NoError(t, err)
	}
	for _, name := range names {
		plant("prepare transaction " + quoted(name))
	}
	// Our own grammar in another database of the same server: not of this resource.
	elsewhere := newXID().String()
	_, err := other.Exec(b.ctx, "begin; prepare transaction "+quoted(elsewhere))
	require.NoError(t, err)
	all := append(names, elsewhere)
	t.Cleanup(func() {
		_, err := other.Exec(context.Background(), "rollback prepared "+quoted(elsewhere))
		require.NoError(t, err)
		for _, name := range names {
			_, err := b.admin.Exec(context.Background(), "rollback prepared "+quoted(name))
			require.NoError(t, err)
		}
	})
	return func(t testing.TB) {
		require.Equal(t, len(all), b.count("select count(*) from pg_prepared_xacts where gid = any($1)", all))
		require.Equal(t, 1, b.count("select count(*) from canary where alive"))
	}
}
