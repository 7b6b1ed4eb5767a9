// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// story is one situation on a server that several share.
type story struct {
	name string
	tell func(t *testing.T, w *world)
}

func tellAll(t *testing.T, stories []story) {
	onEach(t, func(t *testing.T, w *world) {
		for _, s := range stories {
			t.Run(s.name, func(t *testing.T) {
				mine := *w
				mine.t = t
				s.tell(t, &mine)
				mine.requireListed()
			})
		}
	})
}

func TestBranch(t *testing.T) { tellAll(t, branchStories) }

var branchStories = []story{
	{"a lock wait that times out dooms the branch, which would commit half of its work", func(t *testing.T, w *world) {
		w.seed("lock1", "lock2")
		r := w.openAs(w.DSN(database), Options{LockTimeout: time.Second})
		w.work(r, newXID(), "lock1")
		s := w.work(r, newXID(), "lock2")
		err := write(w.ctx, s, "lock1", 8)
		require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
		require.True(t, r.Transient(err))
		require.Error(t, write(w.ctx, s, "lock2", 9), "a doomed branch takes no statements")
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
		w.requireFree("lock2")
		w.requireValue("lock2", 1)
	}},
	{"a deadlock's victim votes no and the other goes on", func(t *testing.T, w *world) {
		w.seed("dead1", "dead2")
		r := w.open()
		s1, s2 := w.work(r, newXID(), "dead1"), w.work(r, newXID(), "dead2")
		first := make(chan error, 1)
		go func() { first <- write(w.ctx, s1, "dead2", 8) }()
		w.awaitWait(s1)
		err2 := write(w.ctx, s2, "dead1", 8)
		err1 := <-first
		victim, other, err := s1, s2, err1
		if err1 == nil {
			victim, other, err = s2, s1, err2
		}
		require.True(t, isCode(err, codeDeadlock), "%v / %v", err1, err2)
		require.True(t, r.Transient(fmt.Errorf("transfer: %w", err)))
		vote, _, err := victim.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, codeDeadlock), "%v", err)
		require.NoError(t, other.CommitOnePhase(w.ctx))
		require.NoError(t, w.work(r, newXID(), "dead1").CommitOnePhase(w.ctx), "the victim's session is usable or gone")
	}},
	{"a name in use is refused, and the session is not kept dirty", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		s, _ := w.prepared(r, x, "dup")
		err := write(w.ctx, w.begin(r, x), "dup3", 1)
		require.True(t, isCode(err, codeDuplicate), "%v", err)
		require.ErrorContains(t, err, "begin a new transaction")
		w.requireAbsent("dup3")
		require.NoError(t, w.work(r, newXID(), "dup2").CommitOnePhase(w.ctx))
		require.NoError(t, s.Rollback(w.ctx))
	}},
	{"a gid whose marker is there cannot commit twice", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		s, _ := w.prepared(r, x, "again")
		_, err := s.Commit(w.ctx)
		require.NoError(t, err)
		vote, _, err := w.work(r, x, "again").Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, 1062), "%v", err)
		require.False(t, r.Transient(err))
	}},
	{"a context that ends during a statement ends the session at the server", func(t *testing.T, w *world) {
		w.seed("cancel1", "cancel2")
		w.work(w.open(), newXID(), "cancel1")
		r := w.open()
		s := w.work(r, newXID(), "cancel2")
		ctx, cancel := context.WithCancel(w.ctx)
		failed := make(chan error, 1)
		go func() { failed <- write(ctx, s, "cancel1", 8) }()
		w.awaitWait(s)
		cancel()
		require.Error(t, <-failed)
		require.True(t, w.isGone(s), "the server still works for it")
		w.requireFree("cancel2")
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.ErrorIs(t, err, context.Canceled)
		require.NoError(t, w.work(r, newXID(), "cancel2").CommitOnePhase(w.ctx))
	}},
	{"a rollback cuts off a statement that nobody cancelled", func(t *testing.T, w *world) {
		w.seed("cut1", "cut2")
		w.work(w.open(), newXID(), "cut1")
		s := w.work(w.open(), newXID(), "cut2")
		failed := make(chan error, 1)
		go func() { failed <- write(context.Background(), s, "cut1", 8) }()
		w.awaitWait(s)
		ctx, cancel := context.WithCancel(w.ctx)
		cancel()
		require.NoError(t, s.Rollback(ctx))
		require.Error(t, <-failed)
		w.requireFree("cut2")
	}},
	{"rows left open do not disturb the vote", func(t *testing.T, w *world) {
		w.seed("open1", "open2")
		s := w.begin(w.open(), newXID())
		rows, err := w.tx(s).QueryContext(w.ctx, "SELECT k, v FROM kv ORDER BY k")
		require.NoError(t, err)
		require.True(t, rows.Next())
		vote, _, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteReadOnly, vote)
		require.False(t, rows.Next())
	}},
	{"the application's commit ends a piece of work, its rollback dooms the branch", func(t *testing.T, w *world) {
		r := w.open()
		s := w.work(r, newXID(), "piece1")
		require.NoError(t, w.tx(s).Commit())
		require.NoError(t, write(w.ctx, s, "piece2", 8))
		require.NoError(t, w.tx(s).Commit())
		w.requireAbsent("piece1")
		vote, _, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		_, err = s.Commit(w.ctx)
		require.NoError(t, err)
		w.requireValue("piece1", 7)
		w.requireValue("piece2", 8)

		s = w.work(r, newXID(), "piece3")
		require.NoError(t, w.tx(s).Rollback())
		vote, _, err = s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.ErrorIs(t, err, errRolledBack)
		w.requireAbsent("piece3")
	}},
	{"an argument or a number of arguments that the driver refuses dooms the branch", func(t *testing.T, w *world) {
		for _, args := range [][]any{{"arg"}, {"arg", struct{}{}}} {
			s := w.work(w.open(), newXID(), "arg")
			_, err := w.tx(s).ExecContext(w.ctx, "INSERT INTO kv VALUES (?, ?)", args...)
			require.Error(t, err)
			vote, _, err := s.Prepare(w.ctx)
			require.Equal(t, txn.VoteNo, vote)
			require.Error(t, err)
		}
	}},
	{"statements that end transactions are refused and doom the branch", func(t *testing.T, w *world) {
		for _, statement := range []string{"COMMIT", "ROLLBACK", "BEGIN", "CREATE TABLE ddl (i INT)",
			"TRUNCATE TABLE kv", "LOCK TABLES kv READ"} {
			s := w.work(w.open(), newXID(), "ddl")
			_, err := w.tx(s).ExecContext(w.ctx, statement)
			require.True(t, isCode(err, codeWrongState), "%s: %v", statement, err)
			vote, _, err := s.Prepare(w.ctx)
			require.Equal(t, txn.VoteNo, vote, statement)
			require.ErrorContains(t, err, "DDL, BEGIN, COMMIT")
		}
	}},
	{"several statements in one text are refused although the server knows them", func(t *testing.T, w *world) {
		s := w.work(w.open(), newXID(), "multi")
		_, err := w.tx(s).ExecContext(w.ctx, "UPDATE kv SET v = 1; XA END 'x'")
		require.True(t, isCode(err, 1064), "%v", err)
	}},
	{"what the application prepares works, and its errors doom", func(t *testing.T, w *world) {
		s := w.begin(w.open(), newXID())
		st, err := w.tx(s).PrepareContext(w.ctx, "INSERT INTO kv VALUES (?, ?)")
		require.NoError(t, err)
		_, err = st.ExecContext(w.ctx, "stmt", 5)
		require.NoError(t, err)
		_, err = st.ExecContext(w.ctx, "stmt", 6)
		require.True(t, isCode(err, 1062), "%v", err)
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, 1062), "%v", err)
	}},
	{"sessions are reused one after another", func(t *testing.T, w *world) {
		r := w.open()
		ids := map[uint64]bool{}
		for range 20 {
			s, _ := w.prepared(r, newXID(), "reuse")
			ids[s.link.server.connection] = true
			_, err := s.Commit(w.ctx)
			require.NoError(t, err)
		}
		require.Len(t, ids, 1)
	}},
	{"a session whose state was changed is not reused", func(t *testing.T, w *world) {
		r := w.open()
		for _, statement := range []string{"SET SESSION sql_mode = ''", "DO GET_LOCK('mine', 0)", "SELECT @a:=1",
			"CREATE TEMPORARY TABLE tmp (i INT)"} {
			s := w.begin(r, newXID())
			_, _ = w.tx(s).ExecContext(w.ctx, statement) // MySQL refuses temporary tables
			require.NoError(t, s.Rollback(w.ctx))
			w.eventually(statement, func() bool { return w.isGone(s) })
		}
	}},
	{"sessions that the server ended meanwhile do no harm", func(t *testing.T, w *world) {
		r := w.open()
		for range 3 {
			s := w.work(r, newXID(), "stale")
			require.NoError(t, s.CommitOnePhase(w.ctx))
			w.kill(s)
			require.NoError(t, w.work(r, newXID(), "stale").CommitOnePhase(w.ctx))
		}
	}},
	{"a read in a session that wrote before is read-only", func(t *testing.T, w *world) {
		r := w.open()
		s, _ := w.prepared(r, newXID(), "rw")
		_, err := s.Commit(w.ctx)
		require.NoError(t, err)
		for range 3 {
			s = w.begin(r, newXID())
			var n int
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT v FROM kv WHERE k = ?", "rw").Scan(&n))
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteReadOnly, vote)
		}
	}},
	{"a read that writes through a function, alone or behind a view, is a write", func(t *testing.T, w *world) {
		if w.Flavor() == "mysql" {
			w.run("", "SET GLOBAL log_bin_trust_function_creators = ON")
		}
		w.run(database, "CREATE TABLE written (i INT)",
			"CREATE FUNCTION writes() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO written VALUES (1); RETURN "+
				"1; END",
			"CREATE VIEW behind AS SELECT writes() AS i")
		r := w.open()
		for n, query := range []string{"SELECT writes()", "SELECT i FROM behind"} {
			s := w.begin(r, newXID())
			var i int
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, query).Scan(&i))
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote, query)
			_, err = s.Commit(w.ctx)
			require.NoError(t, err)
			var rows int
			require.NoError(t, w.admin.QueryRowContext(w.ctx, "SELECT COUNT(*) FROM written").Scan(&rows))
			require.Equal(t, n+1, rows)
		}
	}},
	{"a reset of the counters between a write and the vote hides nothing", func(t *testing.T, w *world) {
		r := w.open()
		s := w.begin(r, newXID())
		var i int
		require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT 1").Scan(&i))
		before := s.link.changes
		require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT writes()").Scan(&i))
		w.eventually("a second passes", func() bool {
			w.run("", "FLUSH STATUS")
			now, err := s.link.countChanges(w.ctx)
			require.NoError(t, err)
			return now.flush != before.flush
		})
		vote, _, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		require.NoError(t, s.Rollback(w.ctx))
	}},
	{"locks of a branch that only locked are kept until its end", func(t *testing.T, w *world) {
		w.seed("only")
		r := w.open()
		x := newXID()
		s := w.begin(r, x)
		var n int
		require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT v FROM kv WHERE k = 'only' FOR UPDATE").Scan(&n))
		vote, b, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		require.True(t, w.isLocked("only"))
		w.kill(s)
		require.True(t, w.isLocked("only"))
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		w.requireFree("only")
	}},
	{"an update that changes nothing is a write and commits after its session is gone", func(t *testing.T, w *world) {
		r, x := w.open(), newXID()
		s := w.begin(r, x)
		_, err := w.tx(s).ExecContext(w.ctx, "UPDATE kv SET v = 1 WHERE k = 'there is no such key'")
		require.NoError(t, err)
		vote, b, err := s.Prepare(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.VoteYes, vote)
		w.kill(s)
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b), "without a marker MariaDB says 1402")
	}},
	{"the lease ends a session whose application sleeps", func(t *testing.T, w *world) {
		w.seed("lease")
		r := w.openAs(w.DSN(database), Options{Lease: time.Second})
		s := w.work(r, newXID(), "lease")
		w.eventually("the server ends it", func() bool { return w.isGone(s) })
		w.requireFree("lease")
		vote, _, err := s.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.Error(t, err)
	}},
	{"a session that died before the one-phase commit has certainly not committed", func(t *testing.T, w *world) {
		s := w.work(w.open(), newXID(), "died")
		w.kill(s)
		require.ErrorIs(t, s.CommitOnePhase(w.ctx), adapters.ErrNotCommitted)
		w.requireAbsent("died")
	}},
	{"the application's own connector is used as it is", func(t *testing.T, w *world) {
		cfg, err := sqldriver.ParseDSN(w.DSN(database))
		require.NoError(t, err)
		cfg.InterpolateParams, cfg.ParseTime = true, true
		connector, err := sqldriver.NewConnector(cfg)
		require.NoError(t, err)
		r := New("db", connector)
		defer func() { require.NoError(t, r.Close()) }()
		x := newXID()
		s, b := w.prepared(r, x, "own")
		require.ErrorIs(t, within(w.ctx, s, func(*sql.Tx) error { return nil }), adapters.ErrBranchEnded)
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		w.requireValue("own", 7)
	}},
	{"a connection without database is refused", func(t *testing.T, w *world) {
		connector, err := sqldriver.MySQLDriver{}.OpenConnector(w.DSN(""))
		require.NoError(t, err)
		r := New("db", connector)
		defer func() { require.NoError(t, r.Close()) }()
		_, err = r.Open(w.ctx, newXID())
		require.ErrorIs(t, err, errNoDatabase)
		_, err = r.Identity(w.ctx)
		require.ErrorIs(t, err, errNoDatabase)
	}},
	{"a branch of another resource under this name is refused", func(t *testing.T, w *world) {
		_, err := w.open().Tx(w.ctx, adaptertest.Enlisted(nil))
		require.ErrorContains(t, err, "another kind of resource")
	}},
}

// awaitWait returns when the session's statement waits for a row lock. InnoDB renews
// what it tells only when nobody has asked for 100 ms.
func (w *world) awaitWait(s *session) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		var n int
		err := w.admin.QueryRowContext(w.ctx,
			"SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT' AND "+
				"trx_mysql_thread_id = ?",
			s.link.server.connection).Scan(&n)
		return err == nil && n == 1
	}, patience, 150*time.Millisecond, "the statement waits")
}

// awaitBusy returns when the server executes a statement of the session.
func (w *world) awaitBusy(s *session) {
	w.t.Helper()
	w.eventually("the server is busy", func() bool {
		var n int
		err := w.admin.QueryRowContext(w.ctx,
			"SELECT COUNT(*) FROM information_schema.processlist WHERE command IN ('Query', 'Execute') AND id = ?",
			s.link.server.connection).Scan(&n)
		return err == nil && n == 1
	})
}

func (w *world) isLocked(key string) bool {
	w.t.Helper()
	c, err := w.admin.Conn(w.ctx)
	require.NoError(w.t, err)
	defer c.Close()
	var v int64
	err = c.QueryRowContext(w.ctx, "SELECT v FROM kv WHERE k = ? FOR UPDATE NOWAIT", key).Scan(&v)
	if err == nil {
		return false
	}
	require.True(w.t, isCode(err, codeLockWaitTimeout, 3572), "%v", err) // MySQL: ER_LOCK_NOWAIT
	return true
}

// Branches that are ended together wait once for all of their sessions, and nothing is lost.
func TestAWaveThatIsEndedTogetherIsFencedOnce(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	r, rec := w.openAs(w.DSN(database), Options{MaxOpen: 100}), w.open()
	pauses := 0
	rec.pause = func(ctx context.Context) error { pauses++; return awaitDetach(ctx) }
	var all []adapters.Decided
	var sessions []*session
	for i := range 64 {
		x := newXID()
		s, b := w.prepared(r, x, x.ID.String())
		s.link.close()
		sessions = append(sessions, s)
		all = append(all, adapters.Decided{XID: x, Branch: b, Decision: txn.Commit + txn.Decision(i%2)})
	}
	for _, s := range sessions {
		w.eventually("its session is gone", func() bool { return w.isGone(s) })
	}
	_, err := rec.Recover(w.ctx)
	require.NoError(t, err)
	for wave := range slices.Chunk(all, 32) {
		found, err := rec.FinishAll(w.ctx, wave)
		require.NoError(t, err)
		require.NotContains(t, found, txn.Finish(0))
	}
	require.Equal(t, 1, pauses)
	w.requireListed()
	for _, d := range all {
		if d.Decision == txn.Commit {
			w.requireValue(d.XID.ID.String(), 7)
		} else {
			w.requireAbsent(d.XID.ID.String())
		}
	}
}
