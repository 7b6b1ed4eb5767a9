// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestBranchThatIsNotListedIsJudgedByItsMarker(t *testing.T) {
	b := newBank(t)
	one, x, commits := b.prepared()
	_, err := one.Commit(b.ctx)
	require.NoError(t, err)
	two, y, aborts := b.prepared()
	require.NoError(t, two.Rollback(b.ctx))
	known, err := parseEvidence(commits.Evidence)
	require.NoError(t, err)
	other := func(change func(*evidence)) txn.Branch {
		e := known
		change(&e)
		return txn.Branch{No: 1, Resource: "bank", Evidence: e.String()}
	}

	for _, c := range []struct {
		name             string
		x                txn.XID
		b                txn.Branch
		commit, rollback txn.Finish
	}{
		{"committed", x, commits, txn.AlreadyDone, txn.Contradicted},
		{"aborted", y, aborts, txn.Contradicted, txn.AlreadyDone},
		{"committed, and nobody knows more than its name", x, txn.Branch{No: 1}, txn.AlreadyDone, txn.Contradicted},
		{"committed, and the server was promoted since", x, other(func(e *evidence) { e.timeline = "00000002" }),
			txn.AlreadyDone, txn.Contradicted},
		{"unknown", newXID(), txn.Branch{No: 1}, txn.Lost, txn.AlreadyDone},
		{"without its marker", newXID(), commits, txn.Lost, txn.AlreadyDone},
		{"of a client that left none", newXID(), other(func(e *evidence) { e.marker = false }), txn.AlreadyDone,
			txn.Contradicted},
		{"number of the future", newXID(), other(func(e *evidence) { e.number = "18000000000" }), txn.Lost,
			txn.AlreadyDone},
		{"another timeline", newXID(), other(func(e *evidence) { e.marker, e.timeline = false, "00000002" }), txn.Lost,
			txn.AlreadyDone},
		{"another system", newXID(), other(func(e *evidence) { e.marker, e.system = false, "1" }), txn.Lost,
			txn.AlreadyDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := b.Commit(b.ctx, c.x, c.b)
			require.NoError(t, err)
			require.Equal(t, c.commit, found)
			found, err = b.Rollback(b.ctx, c.x, c.b)
			require.NoError(t, err)
			require.Equal(t, c.rollback, found)
		})
	}
	t.Run("evidence of a newer version is no evidence of a loss", func(t *testing.T) {
		strange := txn.Branch{No: 1, Evidence: "v2;lsn=0/0"}
		_, err := b.Commit(b.ctx, x, strange)
		require.ErrorIs(t, err, errEvidence)
		_, err = b.Rollback(b.ctx, x, strange)
		require.ErrorIs(t, err, errEvidence)
	})
}

func TestTransactionStillInProgressIsTriedAgainOrFenced(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	number, role, err := askNumber(b.ctx, s.conn.Conn().PgConn(), s.server.mark)
	require.NoError(t, err)
	branch := txn.Branch{No: 1, Evidence: evidence{true, number, s.server.system, s.server.timeline, s.server.database,
		role}.String()}
	_, err = b.Commit(b.ctx, x, branch)
	require.ErrorContains(t, err, "try again")
	_, err = b.Rollback(b.ctx, x, branch)
	require.ErrorContains(t, err, "try again")

	branch.Holder = s.server.holder.String()
	found, err := b.Rollback(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
	require.Zero(t, b.count("select count(*) from pg_stat_activity where pid = $1", int32(s.server.holder.pid)))
	vote, _, err := s.Prepare(b.ctx)
	require.Error(t, err)
	require.Equal(t, txn.VoteNo, vote)
}

// The pool has lent the session that prepared to somebody else since.
func TestSessionThatPreparedIsNotEndedWhenTheNumberSettlesIt(t *testing.T) {
	b := newBank(t)
	s, x, branch := b.prepared()
	require.NoError(t, s.Rollback(b.ctx))
	found, err := b.Rollback(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
	require.Equal(t, 1, b.count("select count(*) from pg_stat_activity where pid = $1", int32(s.server.holder.pid)))
}

func TestFenceSparesASessionThatOnlyHasTheSameProcessID(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	other := s.server.holder
	other.start--
	require.NoError(t, b.with(b.ctx, func(conn *pgx.Conn) error {
		gone, err := fence(b.ctx, conn, other, proof{own: true})
		require.True(t, gone)
		return err
	}))
	b.do(s, "select 1")
	require.NoError(t, s.Rollback(b.ctx))
}

func TestFenceThatMayNotSeeTheSessionIsAnError(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	_, err := b.as("stranger", "").Rollback(b.ctx, x, txn.Branch{Holder: s.server.holder.String()})
	require.ErrorContains(t, err, "GRANT")
	require.NoError(t, s.Rollback(b.ctx))
}

// The client is gone, PREPARE waits in a trigger: without a fence the branch would
// appear after its rollback was answered.
func TestLatePrepareIsFenced(t *testing.T) {
	b := newBank(t)
	x := newXID()
	lost, err := pgx.Connect(b.ctx, b.db.UserDSN("app", "", ""))
	require.NoError(t, err)
	known, err := serverOf(b.ctx, lost)
	require.NoError(t, err)
	_, err = lost.Exec(b.ctx, "begin; insert into slowly values ('x')")
	require.NoError(t, err)
	answer := make(chan error, 1)
	go func() {
		_, err := lost.Exec(b.ctx, prepareText(x))
		answer <- err
	}()
	b.waitsInPrepare(x)
	found, err := b.as("recovery", "").Rollback(b.ctx, x, txn.Branch{No: 1, Holder: known.holder.String()})
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
	require.Error(t, <-answer)
	b.clean()
}

func (b *bank) waitsInPrepare(x txn.XID) {
	b.Helper()
	b.eventually(func() bool {
		return b.count("select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query like $1",
			"%"+x.String()+"%") == 1
	})
}

func TestPrepareCutByItsContextLeavesNothing(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	b.do(s, "insert into slowly values ('x')")
	ctx, cancel := context.WithCancel(b.ctx)
	type answer struct {
		vote txn.Vote
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		vote, _, err := s.Prepare(ctx)
		answers <- answer{vote, err}
	}()
	b.waitsInPrepare(x)
	cancel()
	got := <-answers
	require.Equal(t, txn.VoteNo, got.vote)
	require.ErrorIs(t, got.err, context.Canceled)
	require.NotContains(t, got.err.Error(), "may be left")
	require.Zero(t, b.count("select count(*) from pg_stat_activity where pid = $1", int32(s.server.holder.pid)))
	b.clean()
}

func TestBrokenSessionBehindAPoolerIsLeftToTheOrphanScan(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	known := s.server.holder
	s.server.holder = holder{} // as serverOf says when process ids differ
	var gone bool
	require.NoError(t, b.admin.QueryRow(b.ctx, "select pg_terminate_backend($1, 10000)", int32(known.pid)).Scan(&gone))
	require.True(t, gone)
	vote, branch, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.ErrorContains(t, err, "orphan scan")
	require.Empty(t, branch.Holder)
	b.clean()
}

func TestStatementCutByItsContextLeavesNoLockAndACleanPool(t *testing.T) {
	b := newBank(t)
	holder, x := b.work()
	waiter, mine := b.work()
	ctx, cancel := context.WithTimeout(b.ctx, 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, write(ctx, waiter, x.ID.String(), 2), context.DeadlineExceeded)
	require.NoError(t, waiter.Rollback(ctx)) // nil is a promise
	_, err := b.admin.Exec(b.ctx, "set lock_timeout = 1; insert into account values ('"+mine.ID.String()+"', 7)")
	require.NoError(t, err)
	require.NoError(t, holder.Rollback(b.ctx))
	b.clean()
}

func TestOnePhaseCommitThatTheServerRefusesIsNotCommitted(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	b.do(s, "insert into child values ('nobody')")
	err := s.CommitOnePhase(b.ctx)
	require.ErrorIs(t, err, adapters.ErrNotCommitted)
	require.Equal(t, "23503", sqlState(err))
	b.clean()

	s, x = b.work()
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	require.ErrorIs(t, s.CommitOnePhase(ended), adapters.ErrNotCommitted)
	_, found := b.value(x.ID.String())
	require.False(t, found)
	b.clean()

	s, x = b.work()
	b.kill(s)
	require.ErrorIs(t, s.CommitOnePhase(b.ctx), adapters.ErrNotCommitted)
	_, found = b.value(x.ID.String())
	require.False(t, found)
	b.clean()
}

// The answer is lost, and the transaction number tells what it was.
func TestOnePhaseCommitWhoseAnswerIsLostIsResolved(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	b.do(s, "insert into slowly values ('x')")
	answer := make(chan error, 1)
	go func() { answer <- s.CommitOnePhase(b.ctx) }()
	b.eventually(func() bool {
		return b.count(
			"select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == 1
	})
	b.kill(s)
	require.ErrorIs(t, <-answer, adapters.ErrNotCommitted)
	_, found := b.value(x.ID.String())
	require.False(t, found)
	b.clean()
}

// A commit that waits for a synchronous standby is committed locally, whatever happens
// to the session that waits.
func TestWaitForASynchronousStandby(t *testing.T) {
	b := bankWith(t)
	b.reload("alter system set synchronous_standby_names = 'nobody'")
	defer b.reload("alter system reset synchronous_standby_names")

	t.Run("one-phase commit cut by its context is found committed", func(t *testing.T) {
		s, x := b.work()
		ctx, cancel := context.WithCancel(b.ctx)
		answer := make(chan error, 1)
		go func() { answer <- s.CommitOnePhase(ctx) }()
		b.waitsForStandby()
		cancel()
		require.NoError(t, <-answer)
		_, found := b.value(x.ID.String())
		require.True(t, found)
	})
	t.Run("a branch whose PREPARE waits is busy", func(t *testing.T) {
		s, x := b.work()
		votes := make(chan txn.Vote, 1)
		go func() {
			vote, _, _ := s.Prepare(b.ctx)
			votes <- vote
		}()
		b.waitsForStandby()
		_, err := b.Rollback(b.ctx, x, txn.Branch{})
		require.Equal(t, "55000", sqlState(err))
		require.ErrorContains(t, err, "try again")
		b.reload("alter system reset synchronous_standby_names")
		require.Equal(t, txn.VoteYes, <-votes)
		require.NoError(t, s.Rollback(b.ctx))
	})
}

func (b *bank) reload(sql string) {
	conn, err := pgx.Connect(b.ctx, b.db.DSN(""))
	require.NoError(b, err)
	defer conn.Close(b.ctx)
	for _, text := range []string{"set synchronous_commit = local", sql, "select pg_reload_conf()"} {
		_, err = conn.Exec(b.ctx, text)
		require.NoError(b, err)
	}
	b.eventually(func() bool { // the walsender machinery reads it in its own time
		var is bool
		require.NoError(b, conn.QueryRow(b.ctx, "select current_setting('synchronous_standby_names') = '' or $1",
			sql != "alter system reset synchronous_standby_names").Scan(&is))
		return is
	})
}

func (b *bank) waitsForStandby() {
	b.Helper()
	b.eventually(func() bool {
		return b.count(
			"select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == 1
	})
}

func TestThreeSessionsThatCommitAtOnceHaveOneEffect(t *testing.T) {
	b := newBank(t)
	const rounds, racers = 40, 3
	for range rounds {
		s, x, branch := b.prepared()
		s.giveBack(true)
		var group sync.WaitGroup
		found, errs := make([]txn.Finish, racers), make([]error, racers)
		for i := range racers {
			group.Go(func() { found[i], errs[i] = b.Commit(b.ctx, x, branch) })
		}
		group.Wait()
		done := 0
		for i := range racers {
			if errs[i] != nil {
				require.Equal(t, "55000", sqlState(errs[i]))
				continue
			}
			require.Contains(t, []txn.Finish{txn.Done, txn.AlreadyDone}, found[i])
			if found[i] == txn.Done {
				done++
			}
		}
		require.Equal(t, 1, done)
	}
}

func TestMemberOfTheOwnerTakesItsRoleAndGivesItBack(t *testing.T) {
	b := newBank(t)
	recovery := b.as("recovery", "")
	for _, finish := range []func(context.Context, txn.XID, txn.Branch) (txn.Finish, error){recovery.Commit,
		recovery.Rollback} {
		_, x, branch := b.prepared()
		found, err := finish(b.ctx, x, branch)
		require.NoError(t, err)
		require.Equal(t, txn.Done, found)
	}
	for _, conn := range recovery.pool.AcquireAllIdle(b.ctx) {
		var me string
		require.NoError(t, conn.QueryRow(b.ctx, "select current_user").Scan(&me))
		require.Equal(t, "recovery", me)
		conn.Release()
	}
}

func TestBranchPreparedUnderARoleIsFinishedByItsSession(t *testing.T) {
	b := newBank(t)
	r := b.as("recovery", "")
	s, err := r.Open(b.ctx, newXID())
	require.NoError(t, err)
	require.NoError(t, do(b.ctx, s, "set local role app"))
	require.NoError(t, write(b.ctx, s, newXID().ID.String(), 1))
	branch := b.prepare(s)
	e, err := parseEvidence(branch.Evidence)
	require.NoError(t, err)
	require.Equal(t, "app", e.role)
	found, err := s.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
}

func TestStrangerMayNotFinishAndHearsWhatToGrant(t *testing.T) {
	b := newBank(t)
	s, x, branch := b.prepared()
	stranger := b.as("stranger", "")
	for _, finish := range []func(context.Context, txn.XID, txn.Branch) (txn.Finish, error){stranger.Commit,
		stranger.Rollback} {
		_, err := finish(b.ctx, x, branch)
		require.Equal(t, "42501", sqlState(err))
		require.ErrorContains(t, err, "GRANT")
		var answer *pgconn.PgError
		require.ErrorAs(t, err, &answer)
	}
	report, err := stranger.Check(b.ctx)
	require.NoError(t, err)
	require.True(t, report.OK(), "it may be a branch of others: %+v", report)
	f := findingOf(t, report, "finishing branches of other roles")
	require.Contains(t, f.Detail, "is not a member of app")
	require.Contains(t, f.Fix, `GRANT "app" TO "stranger"`)
	report, err = b.as("recovery", "").Check(b.ctx)
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
	require.NoError(t, s.Rollback(b.ctx))
}

func TestOtherDatabaseOfTheServerIsRefusedAndHasAnotherIdentity(t *testing.T) {
	b := newBank(t)
	s, x, branch := b.prepared()
	elsewhere := b.as("app", "elsewhere")
	_, err := elsewhere.Commit(b.ctx, x, branch)
	require.Equal(t, "0A000", sqlState(err))
	require.ErrorContains(t, err, "another database")
	list, err := elsewhere.Recover(b.ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	here, err := b.Identity(b.ctx)
	require.NoError(t, err)
	there, err := elsewhere.Identity(b.ctx)
	require.NoError(t, err)
	require.NotEqual(t, here, there)
	require.NoError(t, s.Rollback(b.ctx))
}

// A standby lists nothing and finishes nothing; once promoted it has what was prepared, and the
// markers of what has committed.
func TestStandbyIsNoParticipantUntilItIsPromoted(t *testing.T) {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	dir, err := os.MkdirTemp("", "concord-standby-") // not t.TempDir, where the server's account may not go
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	db, err := testdb.Start(testdb.FlavorPostgres, dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, furnish(ctx, db))
	b := bankOf(t, db)
	open, x, inDoubt := b.prepared()
	closed, y, finished := b.prepared()
	_, err = closed.Commit(b.ctx)
	require.NoError(t, err)
	require.NoError(t, db.Stop())
	marks, err := filepath.Glob(filepath.Join(dir, "*", "PG_VERSION"))
	require.NoError(t, err)
	require.Len(t, marks, 1)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(marks[0]), "standby.signal"), nil, 0o644))
	require.NoError(t, db.Start())
	b.admin.Reset()
	b.pool.Reset()

	_, err = b.Recover(b.ctx)
	require.ErrorContains(t, err, "standby")
	report, err := b.Check(b.ctx)
	require.NoError(t, err)
	require.False(t, report.OK())
	for _, finish := range []func(context.Context, txn.XID, txn.Branch) (txn.Finish, error){b.Commit, b.Rollback} {
		_, err = finish(b.ctx, x, inDoubt)
		require.Equal(t, "25006", sqlState(err))
		require.ErrorContains(t, err, "primary")
	}

	var promoted bool
	require.NoError(t, b.admin.QueryRow(b.ctx, "select pg_promote()").Scan(&promoted))
	require.True(t, promoted)
	found, err := b.Commit(b.ctx, y, finished)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
	found, err = open.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	_, there := b.value(x.ID.String())
	require.True(t, there)
}
