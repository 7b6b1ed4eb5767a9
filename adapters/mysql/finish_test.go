// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestFinish(t *testing.T) { tellAll(t, finishStories) }

var finishStories = []story{
	{"an unknown XID that is listed means that somebody holds it, and never done", func(t *testing.T, w *world) {
		blind := w.openAs(w.DSN(database), Options{NoMarker: true})
		x := newXID()
		s, b := w.prepared(blind, x, "held")
		require.Empty(t, b.Evidence)
		b.Holder = "" // nobody knows it
		got, err := blind.Commit(w.ctx, x, b)
		if s.link.server.detaches {
			require.NoError(t, err)
			require.Equal(t, txn.Done, got)
		} else {
			require.ErrorIs(t, err, errHeld)
			w.requireListed(x)
			w.requireAbsent("held")
			w.kill(s)
			require.Equal(t, txn.Done, w.finish(blind, txn.Commit, x, b))
		}
		w.requireValue("held", 7)
		require.Equal(t, txn.Lost, w.finish(blind, txn.Commit, x, b), "without evidence nobody can tell")
	}},
	{"a commit fences a live holder only if the branch hangs on it", func(t *testing.T, w *world) {
		x := newXID()
		s, b := w.prepared(w.open(), x, "fence")
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		require.Equal(t, !s.link.server.detaches, w.isGone(s))
		w.requireValue("fence", 7)
	}},
	{"the session that hears that others committed asks the marker", func(t *testing.T, w *world) {
		x := newXID()
		s, b := w.prepared(w.open(), x, "others")
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
		got, err := s.Commit(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.AlreadyDone, got)
	}},
	{"an orphan's holder is read from its uncommitted marker", func(t *testing.T, w *world) {
		x := newXID()
		s, _ := w.prepared(w.open(), x, "orphan")
		require.Equal(t, txn.Done, w.finish(w.open(), txn.Abort, x, branchOne))
		require.True(t, w.isGone(s))
		w.requireAbsent("orphan")
		w.requireFree("orphan")
	}},
	{"a holder that is made up ends nobody's session", func(t *testing.T, w *world) {
		innocent := w.work(w.open(), newXID(), "innocent0")
		madeUp := holderOf(innocent.link.server)
		for _, detaches := range []bool{false, true} {
			madeUp.detaches = detaches
			forged := txn.Branch{No: 1, Resource: "db", Evidence: markerEvidence, Holder: madeUp.String()}
			for _, d := range []txn.Decision{txn.Commit, txn.Abort} {
				// A branch of somebody who is gone: its marker says who had it.
				x := newXID()
				s, _ := w.prepared(w.open(), x, "made"+d.String())
				w.kill(s)
				require.Equal(t, txn.Done, w.finish(w.open(), d, x, forged))
				// One that lives: whoever the marker names is ended, and nobody else.
				x = newXID()
				s, _ = w.prepared(w.open(), x, "made"+d.String())
				require.Equal(t, txn.Done, w.finish(w.open(), d, x, forged))
				require.Equal(t, d == txn.Abort || !s.link.server.detaches, w.isGone(s))
				// One that nobody has.
				want := txn.AlreadyDone
				if d == txn.Commit {
					want = txn.Lost
				}
				require.Equal(t, want, w.finish(w.open(), d, newXID(), forged))
			}
		}
		require.False(t, w.isGone(innocent))
		require.NoError(t, innocent.CommitOnePhase(w.ctx))
		w.requireValue("innocent0", 7)
	}},
	{"without a marker a holder that lives is waited for and not ended", func(t *testing.T, w *world) {
		blind := w.openAs(w.DSN(database), Options{NoMarker: true})
		for _, d := range []txn.Decision{txn.Commit, txn.Abort} {
			x := newXID()
			s, b := w.prepared(blind, x, "blind"+d.String())
			finish := blind.Commit
			if d == txn.Abort {
				finish = blind.Rollback
			}
			if !s.link.server.detaches {
				_, err := finish(w.ctx, x, b)
				require.ErrorIs(t, err, errAlive)
				w.requireListed(x)
			}
			require.False(t, w.isGone(s))
			w.kill(s)
			require.Equal(t, txn.Done, w.finish(blind, d, x, b))
		}
	}},
	{"a session that has not prepared yet is left alone by a rollback that only a record sends there",
		func(t *testing.T, w *world) {
			x := newXID()
			s := w.work(w.open(), x, "early")
			b := branchOne
			b.Holder = holderOf(s.link.server).String()
			require.Equal(t, txn.AlreadyDone, w.finish(w.open(), txn.Abort, x, b))
			vote, b, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Abort, x, b), "the next sweep finds it")
			w.requireAbsent("early")
		}},
	{"a session of another life of the server with the same number is left alone", func(t *testing.T, w *world) {
		innocent := w.work(w.open(), newXID(), "innocent")
		for _, change := range []func(*holder){
			func(h *holder) { h.start-- },
			func(h *holder) { h.server = "0123456789abcdef" },
		} {
			h := holderOf(innocent.link.server)
			change(&h)
			require.Equal(t, txn.AlreadyDone,
				w.finish(w.open(), txn.Abort, newXID(), txn.Branch{No: 1, Resource: "db", Holder: h.String()}))
		}
		require.NoError(t, innocent.CommitOnePhase(w.ctx))
		w.requireValue("innocent", 7)
	}},
	{"a holder that makes no sense is nobody", func(t *testing.T, w *world) {
		b := txn.Branch{No: 1, Resource: "db", Holder: "1; DROP TABLE kv"}
		require.Equal(t, txn.AlreadyDone, w.finish(w.open(), txn.Abort, newXID(), b))
		w.requireAbsent("nothing") // the table is there
	}},
	{"a prepare that is still running when the abort comes leaves nothing once it is swept",
		func(t *testing.T, w *world) {
			r := w.openAs(w.DSN(database), Options{NoMarker: true}) // the lock below would stop the marker
			x := newXID()
			s := w.work(r, x, "late")
			unlock := w.freeze()
			vote := make(chan txn.Vote, 1)
			go func() {
				v, _, _ := s.Prepare(w.ctx)
				vote <- v
			}()
			w.eventually("XA PREPARE waits", func() bool { return w.runs("XA PREPARE") })
			b := branchOne
			b.Holder = holderOf(s.link.server).String()
			rec := w.openAs(w.DSN(database), Options{NoMarker: true, LockTimeout: time.Second})
			require.Equal(t, txn.AlreadyDone, w.finish(rec, txn.Abort, x, b))
			unlock()
			require.Equal(t, txn.VoteYes, <-vote, "nothing proved that the session worked for it")
			s.Abandon()
			w.eventually("rolled back", func() bool {
				got, err := rec.Rollback(w.ctx, x, b)
				return err == nil && got == txn.Done
			})
			w.requireListed()
			w.requireAbsent("late")
		}},
	{"a commit that waits for a lock on everything is tried again", func(t *testing.T, w *world) {
		x := newXID()
		s, b := w.prepared(w.open(), x, "ftwrl")
		w.kill(s)
		rec := w.openAs(w.DSN(database), Options{LockTimeout: time.Second})
		unlock := w.freeze()
		_, err := rec.Commit(w.ctx, x, b)
		unlock()
		require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
		w.requireListed(x)
		require.Equal(t, txn.Done, w.finish(rec, txn.Commit, x, b))
	}},
	{"a read-only MariaDB is an error with the next step, and the branch waits", func(t *testing.T, w *world) {
		if w.Flavor() == testdb.FlavorMySQL {
			return // it lets XA COMMIT through
		}
		_, recovery := w.users()
		x := newXID()
		_, b := w.prepared(w.open(), x, "ro")
		w.run("", "SET GLOBAL read_only = 1")
		rec := w.openAs(recovery, Options{})
		_, err := rec.Commit(w.ctx, x, b)
		w.run("", "SET GLOBAL read_only = 0")
		require.True(t, isCode(err, codeReadOnly), "%v", err)
		require.ErrorContains(t, err, "primary")
		w.requireListed(x)
		require.Equal(t, txn.Done, w.finish(rec, txn.Commit, x, b))
	}},
	{"a one-phase commit whose answer is lost is not said to have failed", func(t *testing.T, w *world) {
		w.seed("unknown")
		s := w.work(w.open(), newXID(), "unknown")
		unlock := w.freeze()
		ctx, cancel := context.WithCancel(w.ctx)
		failed := make(chan error, 1)
		go func() { failed <- s.CommitOnePhase(ctx) }()
		w.eventually("XA COMMIT waits", func() bool { return w.runs("XA COMMIT") })
		cancel()
		err := <-failed
		unlock()
		require.Error(t, err)
		require.NotErrorIs(t, err, adapters.ErrNotCommitted)
		require.True(t, w.isGone(s))
		require.False(t, w.isLocked("unknown"))
	}},
	{"a prepare whose answer is lost is a no, and the sweep ends the branch", func(t *testing.T, w *world) {
		r := w.openAs(w.DSN(database), Options{NoMarker: true}) // the lock below would stop the marker
		x := newXID()
		s := w.work(r, x, "unsure")
		unlock := w.freeze()
		ctx, cancel := context.WithCancel(w.ctx)
		voted := make(chan txn.Vote, 1)
		go func() {
			vote, _, _ := s.Prepare(ctx)
			voted <- vote
		}()
		w.eventually("XA PREPARE waits", func() bool { return w.runs("XA PREPARE") })
		cancel()
		require.Equal(t, txn.VoteNo, <-voted)
		unlock()
		w.eventually("its session is gone", func() bool { return w.isGone(s) })
		require.Contains(t, []txn.Finish{txn.Done, txn.AlreadyDone}, w.finish(r, txn.Abort, x, branchOne))
		w.requireListed()
		w.requireAbsent("unsure")
	}},
	{"a rollback by hand is lost to a commit", func(t *testing.T, w *world) {
		x := newXID()
		s, b := w.prepared(w.open(), x, "hand")
		w.kill(s)
		w.eventually("XA ROLLBACK", func() bool {
			_, err := w.admin.ExecContext(w.ctx, "XA ROLLBACK "+xa(x))
			return err == nil
		})
		require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, b))
		require.Equal(t, txn.AlreadyDone, w.finish(w.open(), txn.Abort, x, b))
	}},
	{"a commit whose marker was forgotten is lost, not done", func(t *testing.T, w *world) {
		x := newXID()
		s, b := w.prepared(w.open(), x, "forgot")
		_, err := s.Commit(w.ctx)
		require.NoError(t, err)
		require.Equal(t, txn.AlreadyDone, w.finish(w.open(), txn.Commit, x, b))
		require.NoError(t, w.open().Forget(w.ctx, []txn.XID{x}))
		require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, b))
	}},
	{"a thousand markers are forgotten at once, and others stay", func(t *testing.T, w *world) {
		var xs []txn.XID
		rows := make([]string, 0, 1001)
		for range 1001 {
			x := newXID()
			xs = append(xs, x)
			rows = append(rows, "("+strings.NewReplacer("%c", "195939070", "%g",
				x.ID.String()).Replace("%c, '%g', 1, ''")+")")
		}
		w.run(database, CreateMarkerTable,
			"INSERT INTO "+markerTable+" (cluster, gid, branch, holder) VALUES "+strings.Join(rows, ", "))
		var before, after int
		count := "SELECT COUNT(*) FROM " + markerTable
		require.NoError(t, w.admin.QueryRowContext(w.ctx, count).Scan(&before))
		require.NoError(t, w.open().Forget(w.ctx, xs[1:]))
		require.NoError(t, w.admin.QueryRowContext(w.ctx, count).Scan(&after))
		require.Equal(t, before-1000, after)
	}},
	{"markers are forgotten without a wait for those of prepared branches", func(t *testing.T, w *world) {
		var ended, held []txn.XID
		for i := range 12 {
			x := newXID()
			s, _ := w.prepared(w.open(), x, fmt.Sprint("among", i))
			if i%3 == 1 { // between two that have ended
				w.kill(s)
				held = append(held, x)
				continue
			}
			_, err := s.Commit(w.ctx)
			require.NoError(t, err)
			ended = append(ended, x)
		}
		w.run(database, "ANALYZE TABLE "+markerTable) // the server knows how few rows there are
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		require.NoError(t, w.open().Forget(ctx, ended[:1]))
		require.NoError(t, w.open().Forget(ctx, slices.Concat(held, ended)))
		for _, x := range ended {
			require.Equal(t, txn.Lost, w.finish(w.open(), txn.Commit, x, branchOne))
		}
		for _, x := range held {
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, branchOne))
		}
	}},
	{"the identity tells databases of one server apart", func(t *testing.T, w *world) {
		one, err := w.open().Identity(w.ctx)
		require.NoError(t, err)
		two, err := w.openAs(w.DSN("information_schema"), Options{}).Identity(w.ctx)
		require.NoError(t, err)
		require.NotEqual(t, one, two)
	}},
	{"a server that hangs ends no call late and keeps no lock", func(t *testing.T, w *world) {
		w.seed("hang")
		s := w.work(w.open(), newXID(), "hang")
		require.NoError(t, w.Pause())
		ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
		defer cancel()
		err := s.Rollback(ctx)
		require.NoError(t, w.Resume())
		require.Error(t, err, "nobody can know yet")
		w.eventually("the lock is free", func() bool { return !w.isLocked("hang") })
		w.requireValue("hang", 1)
	}},
}

// freeze takes a lock that XA PREPARE and XA COMMIT wait for.
func (w *world) freeze() (unlock func()) {
	c, err := w.admin.Conn(w.ctx)
	require.NoError(w.t, err)
	_, err = c.ExecContext(w.ctx, "FLUSH TABLES WITH READ LOCK")
	require.NoError(w.t, err)
	return func() {
		_, err := c.ExecContext(w.ctx, "UNLOCK TABLES")
		require.NoError(w.t, err)
		require.NoError(w.t, c.Close())
	}
}

func (w *world) runs(statement string) bool {
	w.t.Helper()
	var n int
	require.NoError(w.t, w.admin.QueryRowContext(w.ctx,
		"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE ?", statement+"%").Scan(&n))
	return n == 1
}

func TestARolledBackBranchThatACrashBringsBackIsFinishedAgain(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		r := w.open()
		xs := make([]txn.XID, 5)
		for i := range xs {
			xs[i] = newXID()
			s, _ := w.prepared(r, xs[i], "back"+string(rune('0'+i)))
			require.NoError(t, s.Rollback(w.ctx))
		}
		require.NoError(t, w.Kill())
		require.NoError(t, w.Start())
		again := w.open()
		list, err := again.Recover(w.ctx)
		require.NoError(t, err)
		t.Logf("%d of %d rolled-back branches are prepared again", len(list), len(xs))
		for _, p := range list {
			require.Contains(t, xs, p.XID)
			require.Equal(t, txn.Done, w.finish(again, txn.Abort, p.XID, branchOne))
		}
		w.requireListed()
		for i := range xs {
			w.requireAbsent("back" + string(rune('0'+i)))
		}
	})
}

// Another session's XA COMMIT that races with the end of the holder answers OK and
// does nothing, about once in a hundred tries on an idle machine, much more rarely under
// load, so that no test can insist on it. What is insisted on: when it happens the
// adapter calls it neither done nor lost, and a restart brings the branch back.
// TestAHiddenBranch… makes such a branch without chance.
func TestALossWithoutTheFenceIsSeenAndHealed(t *testing.T) {
	const most, workers = 12000, 4
	for _, f := range []int{0, 2} { // those whose branches hang on the session
		t.Run(flavors[f].name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, flavors[f].start(t))
			var tries, lost atomic.Int64
			var mu sync.Mutex
			hidden := map[txn.XID]txn.Branch{}
			deadline := time.Now().Add(10 * time.Second)
			var group sync.WaitGroup
			for range workers {
				r := w.open()
				group.Go(func() {
					for lost.Load() == 0 && tries.Add(1) <= most && time.Now().Before(deadline) && !t.Failed() {
						x := newXID()
						b, ok := w.race(r, x, func() error { return w.unfenced(x) })
						if !ok {
							lost.Add(1)
							mu.Lock()
							hidden[x] = b
							mu.Unlock()
						}
					}
				})
			}
			group.Wait()
			t.Logf("%d of %d commits without fence were lost", lost.Load(), tries.Load())
			if lost.Load() == 0 { // chance, and it depends on the machine's load
				t.Log("NOT SHOWN: no loss without the fence in this run")
			}
			rec := w.open()
			for x, b := range hidden {
				_, err := rec.Commit(w.ctx, x, b)
				require.ErrorIs(t, err, errHidden)
				_, err = rec.Rollback(w.ctx, x, b)
				require.ErrorIs(t, err, errHidden)
			}
			require.NoError(t, w.Kill())
			require.NoError(t, w.Start())
			rec = w.open()
			for x, b := range hidden {
				// MySQL finds the commit in its binary log and does it while it starts.
				require.Contains(t, []txn.Finish{txn.Done, txn.AlreadyDone}, w.finish(rec, txn.Commit, x, b))
				w.requireValue(x.ID.String(), 7)
			}
			w.requireListed()
		})
	}
}

func TestWithTheFenceNothingIsLost(t *testing.T) {
	const tries, workers = 1200, 6
	for _, f := range []int{0, 2} {
		t.Run(flavors[f].name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, flavors[f].start(t))
			var group sync.WaitGroup
			for range workers {
				r, rec := w.open(), w.open()
				rec.pause = shortPause
				group.Go(func() {
					for range tries / workers {
						x := newXID()
						var b txn.Branch
						b, ok := w.race(r, x, func() error {
							got, err := rec.Commit(w.ctx, x,
								txn.Branch{No: 1, Resource: "db", Evidence: markerEvidence})
							if err == nil && got != txn.Done && got != txn.AlreadyDone {
								t.Errorf("%s: %v", x, got)
							}
							return err
						})
						if !ok {
							t.Errorf("%s with %+v is lost", x, b)
						}
					}
				})
			}
			group.Wait()
			w.requireListed()
		})
	}
}

// A wave of branches whose sessions have gone waits once for all of them.
func TestAWaveIsFencedOnce(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	r, rec := w.open(), w.open()
	pauses := 0
	rec.pause = func(ctx context.Context) error { pauses++; return awaitDetach(ctx) }
	branches := map[txn.XID]txn.Branch{}
	for range 12 {
		x := newXID()
		s, b := w.prepared(r, x, x.ID.String())
		s.link.close()
		branches[x] = b
	}
	commits := 0
	for x, b := range branches {
		if commits == len(branches)/2 {
			require.Equal(t, txn.Done, w.finish(rec, txn.Abort, x, b))
			continue
		}
		commits++
		require.Equal(t, txn.Done, w.finish(rec, txn.Commit, x, b))
		w.requireValue(x.ID.String(), 7)
	}
	w.requireListed()
	require.LessOrEqual(t, pauses, 2, "a session may have been there still when the others were looked at")
}

// race prepares a branch, ends its session and finishes it at the same time, and
// reports whether it is committed.
func (w *world) race(r *Resource, x txn.XID, finish func() error) (txn.Branch, bool) {
	s, b := w.prepared(r, x, x.ID.String())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.link.close()
	}()
	end := time.Now().Add(patience)
	err := finish()
	for err != nil && time.Now().Before(end) {
		err = finish()
	}
	<-gone
	s.Abandon()
	require.NoError(w.t, err)
	_, found := w.value(x.ID.String())
	return b, found
}

// unfenced is what other coordinators do.
func (w *world) unfenced(x txn.XID) error {
	_, err := w.admin.ExecContext(w.ctx, "XA COMMIT "+xa(x))
	return err
}

// A pool of another language resets a session that holds a prepared branch: the commit
// of somebody else is then always lost on MariaDB.
func TestAHiddenBranchIsNeitherDoneNorLostAndComesBackAfterARestart(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	cfg, err := sqldriver.ParseDSN(w.DSN(database))
	require.NoError(t, err)
	var socket net.Conn
	cfg.DialFunc = func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		socket = c
		return c, err
	}
	connector, err := sqldriver.NewConnector(cfg)
	require.NoError(t, err)
	r := New("db", connector)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	x := newXID()
	s := w.begin(r, x)
	session := socket
	require.NoError(t, write(w.ctx, s, "hidden", 7))
	vote, b, err := s.Prepare(w.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.VoteYes, vote)

	const comResetConnection = 0x1f
	require.NoError(t, session.SetDeadline(time.Now().Add(patience)))
	_, err = session.Write([]byte{1, 0, 0, 0, comResetConnection})
	require.NoError(t, err)
	_, err = session.Read(make([]byte, 512))
	require.NoError(t, err)
	require.NoError(t, w.unfenced(x), "the server says that it is committed")
	w.requireAbsent("hidden")

	rec := w.open()
	_, err = rec.Commit(w.ctx, x, b)
	require.ErrorIs(t, err, errHidden)
	require.ErrorContains(t, err, "restart")
	_, err = rec.Rollback(w.ctx, x, branchOne)
	require.ErrorIs(t, err, errHidden)
	require.NoError(t, w.Kill())
	require.NoError(t, w.Start())
	require.Equal(t, txn.Done, w.finish(w.open(), txn.Commit, x, b))
	w.requireValue("hidden", 7)
}

// The question that looks obvious is answered from a cache.
func TestInnodbTrxDoesNotShowTheLastWrite(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		c, err := w.admin.Conn(w.ctx)
		require.NoError(t, err)
		defer c.Close()
		ask := func() (n sql.NullInt64) {
			require.NoError(t, c.QueryRowContext(w.ctx,
				"SELECT SUM(trx_rows_modified) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = "+
					"CONNECTION_ID()").Scan(&n))
			return n
		}
		missed := false
		for i := 0; i < 50 && !missed; i++ { // unless this process is stopped for 100 ms in between
			_, err = c.ExecContext(w.ctx, "START TRANSACTION")
			require.NoError(t, err)
			ask()
			_, err = c.ExecContext(w.ctx, "INSERT INTO kv VALUES ('stale', 1)")
			require.NoError(t, err)
			missed = ask().Int64 == 0
			_, err = c.ExecContext(w.ctx, "ROLLBACK")
			require.NoError(t, err)
		}
		require.True(t, missed)
	})
}
