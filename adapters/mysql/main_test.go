// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestMain(m *testing.M) {
	adaptertest.ServeChild(func(dsn string) (adapters.Adapter, error) { return Open("db", dsn) }, write)
	os.Exit(m.Run())
}

const (
	database    = "shop"
	testCluster = txn.ClusterID(0x0badcafe)
	patience    = 30 * time.Second
)

// flavors are the servers that behave differently.
var flavors = []struct {
	name  string
	start func(testing.TB) *testdb.Server
}{
	{"MariaDB", func(t testing.TB) *testdb.Server { return testdb.MariaDB(t) }},
	{"MySQL", func(t testing.TB) *testdb.Server { return testdb.MySQL(t) }},
	{"MySQL attached", func(t testing.TB) *testdb.Server {
		return testdb.MySQL(t, testdb.WithSetting("xa-detach-on-prepare", "OFF"))
	}},
}

// onEach runs the same story on a server of every flavor.
func onEach(t *testing.T, story func(t *testing.T, w *world)) {
	for _, f := range flavors {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			story(t, newWorld(t, f.start(t)))
		})
	}
}

// world is a server with a database and a table to work in.
type world struct {
	*testdb.Server
	t     *testing.T
	ctx   context.Context
	admin *sql.DB
}

func newWorld(t *testing.T, server *testdb.Server) *world {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &world{Server: server, t: t, ctx: ctx}
	w.run("", "CREATE DATABASE "+database)
	w.run(database, "CREATE TABLE kv (k VARCHAR(40) PRIMARY KEY, v BIGINT NOT NULL) ENGINE=InnoDB")
	w.admin = w.openAdmin()
	return w
}

func (w *world) openAdmin() *sql.DB {
	cfg, err := sqldriver.ParseDSN(w.DSN(database))
	require.NoError(w.t, err)
	cfg.Logger = &sqldriver.NopLogger{}
	connector, err := sqldriver.NewConnector(cfg)
	require.NoError(w.t, err)
	db := sql.OpenDB(connector)
	w.t.Cleanup(func() { _ = db.Close() }) // an idle connection to a server that was killed closes with an error
	return db
}

func (w *world) run(db string, statements ...string) {
	w.t.Helper()
	require.NoError(w.t, w.Exec(w.ctx, db, statements...))
}

// open returns another instance, as another process would have it.
func (w *world) open() *Resource { return w.openAs(w.DSN(database), Options{}) }

func (w *world) openAs(dsn string, o Options) *Resource {
	r, err := OpenWithOptions("db", dsn, o)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, r.Close()) })
	return r
}

// shortPause is for tests that fence often. The pause only adds to the fence, and the
// markers would show a loss; TestFinish waits as in earnest.
func shortPause(ctx context.Context) error {
	select {
	case <-time.After(20 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newXID() txn.XID {
	return txn.XID{Cluster: testCluster, ID: txn.NewID(time.Now()), Branch: 1}
}

func (w *world) begin(r *Resource, x txn.XID) *session {
	w.t.Helper()
	s, err := r.Open(w.ctx, x)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.Rollback(ctx) // it may have ended long ago
	})
	return s.(*session)
}

func (w *world) tx(s *session) *sql.Tx {
	w.t.Helper()
	tx, err := s.r.Tx(w.ctx, adaptertest.Enlisted(s))
	require.NoError(w.t, err)
	return tx
}

func (w *world) work(r *Resource, x txn.XID, key string) *session {
	w.t.Helper()
	s := w.begin(r, x)
	require.NoError(w.t, write(w.ctx, s, key, 7))
	return s
}

func (w *world) prepared(r *Resource, x txn.XID, key string) (*session, txn.Branch) {
	w.t.Helper()
	s := w.work(r, x, key)
	vote, b, err := s.Prepare(w.ctx)
	require.NoError(w.t, err)
	require.Equal(w.t, txn.VoteYes, vote)
	return s, b
}

func (w *world) seed(keys ...string) {
	for _, key := range keys {
		w.run(database, "REPLACE INTO kv VALUES ('"+key+"', 1)")
	}
}

func (w *world) value(key string) (v int64, found bool) {
	w.t.Helper()
	err := w.admin.QueryRowContext(w.ctx, "SELECT v FROM kv WHERE k = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false
	}
	require.NoError(w.t, err)
	return v, true
}

func (w *world) requireValue(key string, want int64) {
	w.t.Helper()
	got, found := w.value(key)
	require.True(w.t, found)
	require.Equal(w.t, want, got)
}

func (w *world) requireAbsent(key string) {
	w.t.Helper()
	_, found := w.value(key)
	require.False(w.t, found)
}

func (w *world) requireListed(want ...txn.XID) {
	w.t.Helper()
	list, err := w.open().Recover(w.ctx)
	require.NoError(w.t, err)
	var got []txn.XID
	for _, p := range list {
		got = append(got, p.XID)
	}
	require.ElementsMatch(w.t, want, got)
}

// requireFree requires that nobody holds a lock on key, at once.
func (w *world) requireFree(key string) {
	w.t.Helper()
	c, err := w.admin.Conn(w.ctx)
	require.NoError(w.t, err)
	defer c.Close()
	_, err = c.ExecContext(w.ctx, "SET SESSION innodb_lock_wait_timeout = 1")
	require.NoError(w.t, err)
	_, err = c.ExecContext(w.ctx, "UPDATE kv SET v = v WHERE k = ?", key)
	require.NoError(w.t, err, "the row is locked")
}

func (w *world) finish(r *Resource, d txn.Decision, x txn.XID, b txn.Branch) txn.Finish {
	w.t.Helper()
	do := r.Rollback
	if d == txn.Commit {
		do = r.Commit
	}
	got, err := do(w.ctx, x, b)
	require.NoError(w.t, err)
	return got
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	require.Eventually(w.t, holds, patience, 5*time.Millisecond, what)
}

// kill ends a session from the server's side and returns when it is gone.
func (w *world) kill(s adapters.Session) {
	id := strconv.FormatUint(s.(*session).link.server.connection, 10)
	w.eventually("the session goes", func() bool {
		_, err := w.admin.ExecContext(w.ctx, "KILL "+id)
		return isCode(err, codeUnknownThread)
	})
}

func (w *world) isGone(s *session) bool {
	w.t.Helper()
	var n int
	require.NoError(w.t, w.admin.QueryRowContext(w.ctx,
		"SELECT COUNT(*) FROM information_schema.processlist WHERE id = ?", s.link.server.connection).Scan(&n))
	return n == 0
}

func write(ctx context.Context, s adapters.Session, key string, value int64) error {
	return within(ctx, s, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO kv (k, v) VALUES (?, ?) ON DUPLICATE KEY UPDATE v = VALUES(v)", key,
			value)
		return err
	})
}

func within(ctx context.Context, s adapters.Session, do func(*sql.Tx) error) error {
	tx, err := s.(*session).r.Tx(ctx, adaptertest.Enlisted(s))
	if err != nil {
		return err
	}
	return do(tx)
}

// branchOne is all that is known of a branch without record.
var branchOne = txn.Branch{No: 1, Resource: "db"}
