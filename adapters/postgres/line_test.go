// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func TestStatementsOfSeveralGoroutinesWaitForEachOther(t *testing.T) {
	for mode, exec := range map[string]pgx.QueryExecMode{"cached": pgx.QueryExecModeCacheStatement,
		"simple": pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode, func(t *testing.T) {
			b, _ := countedBank(t, exec)
			for range 5 {
				s := b.begin(newXID())
				tx := handleOf(t, s)
				var keys []string
				var group sync.WaitGroup
				errs := make(chan error, 100)
				each := func(do func(key string) error) {
					for range 3 {
						key := newXID().ID.String()
						keys = append(keys, key)
						group.Go(func() { errs <- do(key) })
					}
				}
				each(func(key string) error { _, err := tx.Exec(b.ctx, insertAccount, key, 1); return err })
				each(func(key string) error {
					_, err := tx.Exec(b.ctx, "insert into account values ('"+key+"', 1)")
					return err
				})
				each(func(key string) error {
					return tx.QueryRow(b.ctx, insertAccount+" returning v", key, 1).Scan(new(int64))
				})
				each(func(key string) error {
					_, err := tx.CopyFrom(b.ctx, pgx.Identifier{"account"}, []string{"k", "v"},
						pgx.CopyFromRows([][]any{{key, 1}}))
					return err
				})
				group.Wait()
				close(errs)
				for err := range errs {
					require.NoError(t, err)
				}
				b.prepare(s)
				_, err := s.Commit(b.ctx)
				require.NoError(t, err)
				require.Equal(t, len(keys), b.count("select count(*) from account where k = any($1)", keys))
			}
		})
	}
}

// Rows and batches that are open cannot be waited for: who reads them may be who wants to
// send the next statement.
func TestAStatementBesideAnOpenResultIsRefusedAndMissed(t *testing.T) {
	b := newBank(t)
	for name, open := range map[string]func(pgx.Tx) (closing func()){
		"rows": func(tx pgx.Tx) func() {
			rows, err := tx.Query(b.ctx, "select generate_series(1, 10)")
			require.NoError(t, err)
			return rows.Close
		},
		"a batch": func(tx pgx.Tx) func() {
			batch := &pgx.Batch{}
			batch.Queue("select 1")
			answers := tx.SendBatch(b.ctx, batch)
			return func() { require.NoError(t, answers.Close()) }
		},
		"rows of a batch": func(tx pgx.Tx) func() {
			batch := &pgx.Batch{}
			batch.Queue("select 1")
			answers := tx.SendBatch(b.ctx, batch)
			rows, err := answers.Query()
			require.NoError(t, err)
			return func() { rows.Close(); require.NoError(t, answers.Close()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, x := b.work()
			tx := handleOf(t, s)
			closing := open(tx)
			require.ErrorContains(t, write(b.ctx, s, "beside "+x.ID.String(), 1), "a result is still open")
			require.ErrorContains(t, tx.QueryRow(b.ctx, "select 1").Scan(new(int)), "a result is still open")
			_, err := tx.Begin(b.ctx)
			require.ErrorContains(t, err, "a result is still open")
			closing()
			b.do(s, "select 1")
			require.ErrorContains(t, b.votesNo(s, ""), "your closure ignored this error: a result is still open")
			_, found := b.value(x.ID.String())
			require.False(t, found)
		})
	}
	t.Run("rows end with their batch", func(t *testing.T) {
		s, _ := b.work()
		batch := &pgx.Batch{}
		batch.Queue("select generate_series(1, 10)")
		answers := handleOf(t, s).SendBatch(b.ctx, batch)
		rows, err := answers.Query()
		require.NoError(t, err)
		require.True(t, rows.Next())
		require.NoError(t, answers.Close())
		require.NoError(t, answers.Close())
		require.False(t, rows.Next())
		rows.Close()
		b.do(s, "select 1")
		b.prepare(s)
		require.NoError(t, s.Rollback(b.ctx))
	})
	t.Run("an older savepoint heals it", func(t *testing.T) {
		s, _ := b.work()
		tx := handleOf(t, s)
		nested, err := tx.Begin(b.ctx)
		require.NoError(t, err)
		rows, err := nested.Query(b.ctx, "select 1")
		require.NoError(t, err)
		require.Error(t, do(b.ctx, s, "select 1"))
		rows.Close()
		require.NoError(t, nested.Rollback(b.ctx))
		b.prepare(s)
		require.NoError(t, s.Rollback(b.ctx))
	})
	t.Run("a younger savepoint does not", func(t *testing.T) {
		s, _ := b.work()
		tx := handleOf(t, s)
		_, err := tx.Exec(b.ctx, "select $1::int, $2::int", 1)
		require.Error(t, err)
		for _, sql := range []string{"savepoint a", "rollback to a", "release a"} {
			b.do(s, sql)
		}
		nested, err := tx.Begin(b.ctx)
		require.NoError(t, err)
		require.NoError(t, nested.Rollback(b.ctx))
		require.ErrorContains(t, b.votesNo(s, ""), "never sent")
	})
	t.Run("one that was released does not", func(t *testing.T) {
		s, _ := b.work()
		b.do(s, "savepoint a")
		b.do(s, "savepoint b")
		_, err := handleOf(t, s).Exec(b.ctx, "select $1::int, $2::int", 1)
		require.Error(t, err)
		b.do(s, "release b")
		b.do(s, "savepoint b")
		b.do(s, "rollback to b")
		require.ErrorContains(t, b.votesNo(s, ""), "never sent")
	})
	t.Run("one that was set again in a text with others does not", func(t *testing.T) {
		s, _ := b.work()
		b.do(s, "savepoint a")
		_, err := handleOf(t, s).Exec(b.ctx, "select $1::int, $2::int", 1)
		require.Error(t, err)
		b.do(s, "release a; savepoint a")
		b.do(s, "rollback to a")
		require.ErrorContains(t, b.votesNo(s, ""), "never sent")
	})
}

// unwritten cannot be rewritten.
type unwritten struct{}

func (unwritten) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return "", nil, errors.New("cannot be rewritten")
}

func TestABranchDoesNotCommitWithoutABatchThatWasNeverSent(t *testing.T) {
	b := newBank(t)
	over, cancel := context.WithCancel(b.ctx)
	cancel()
	insert := func(ctx context.Context, tx pgx.Tx, args ...any) pgx.BatchResults {
		batch := &pgx.Batch{}
		batch.Queue("insert into account values ($1, 1)", args...)
		return tx.SendBatch(ctx, batch)
	}
	for name, ignored := range map[string]func(pgx.Tx) error{
		"closed": func(tx pgx.Tx) error { return insert(over, tx, "never").Close() },
		"read": func(tx pgx.Tx) error {
			results := insert(over, tx, "never")
			_, err := results.Exec()
			return errors.Join(err, results.Close())
		},
		"not rewritten": func(tx pgx.Tx) error { return insert(b.ctx, tx, unwritten{}).Close() },
		"behind a value that nobody could read": func(tx pgx.Tx) error {
			var n int
			require.Error(t, tx.QueryRow(b.ctx, "select 'x'").Scan(&n))
			return insert(over, tx, "never").Close()
		},
	} {
		s, x := b.work()
		require.NoError(t, insert(b.ctx, handleOf(t, s), x.ID.String()+"-2").Close(), "the server knows the text now")
		require.Error(t, ignored(handleOf(t, s)), name)
		require.ErrorContains(t, b.votesNo(s, ""), "a statement was never sent", name)
	}
}

func TestRollbackWhileTheApplicationWorks(t *testing.T) {
	b := newBank(t)
	// The application closes reading when it has read a row, which the database cannot tell; hung is closed when the
	// branch has been rolled back. What it must not see it wraps in wrong: it runs on a goroutine of its own.
	var hung, reading chan struct{}
	wrong := errors.New("not what the application should see")
	never := pgx.CopyFromFunc(func() ([]any, error) { <-hung; return nil, errors.New("over") })
	for name, work := range map[string]struct {
		do    func(context.Context, pgx.Tx) error
		state string // of the session meanwhile
	}{
		"a first statement": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select pg_sleep($1)", 600)
			return err
		}, "active"},
		"a query": {func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, "select 1 from pg_sleep(600)").Scan(new(int))
		}, "active"},
		"a batch": {func(ctx context.Context, tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue("select pg_sleep(600)")
			return tx.SendBatch(ctx, batch).Close()
		}, "active"},
		"rows that nobody reads": {func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "select i, repeat('x', 1000) from generate_series(1, 1000000) as i")
			if err != nil {
				return err
			}
			<-hung
			if rows.Next() {
				return fmt.Errorf("%w: a row of a branch that has ended", wrong)
			}
			rows.Close()
			if rows.Scan(new(int), new(string)) == nil {
				return fmt.Errorf("%w: a value of a branch that has ended", wrong)
			}
			return rows.Err()
		}, "active"},
		"rows that were read": {func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "select i from generate_series(1, 10) as i")
			if err != nil {
				return err
			}
			if !rows.Next() {
				return fmt.Errorf("%w: no row: %w", wrong, rows.Err())
			}
			close(reading)
			<-hung
			if rows.Next() {
				return fmt.Errorf("%w: a row of a branch that has ended", wrong)
			}
			return rows.Err()
		}, "idle in transaction"},
		"a copy whose source hangs": {func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"account"}, []string{"k", "v"}, never)
			return err
		}, "active"},
	} {
		t.Run(name, func(t *testing.T) {
			hung, reading = make(chan struct{}), make(chan struct{})
			s, x := b.begin(newXID()), newXID()
			if name != "a first statement" {
				require.NoError(t, write(b.ctx, s, x.ID.String(), 1))
			}
			answer := make(chan error, 1)
			tx := handleOf(t, s)
			go func() { answer <- work.do(context.Background(), tx) }()
			if work.state == "idle in transaction" {
				require.NoError(t, first(t, reading, answer))
			}
			pid := int32(s.server.holder.pid)
			b.eventually(func() bool {
				return b.count("select count(*) from pg_stat_activity where pid = $1 and state = $2 and query not "+
					"like 'insert%'", pid, work.state) == 1
			})
			require.NoError(t, s.Rollback(b.ctx))
			require.Zero(t, b.count("select count(*) from pg_stat_activity where pid = $1 and state <> 'idle'", pid))
			_, err := b.admin.Exec(b.ctx,
				"set lock_timeout = 1; insert into account values ('"+x.ID.String()+"', 7); set lock_timeout = 0")
			require.NoError(t, err, "its locks are free")
			close(hung)
			err = first(t, nil, answer)
			require.Error(t, err)
			require.NotErrorIs(t, err, wrong)
			require.ErrorIs(t, do(b.ctx, s, "select 1"), adapters.ErrBranchEnded)
			b.clean()
		})
	}
}

// first is the answer, or nil if the event comes before it.
func first(t *testing.T, event <-chan struct{}, answer <-chan error) error {
	t.Helper()
	select {
	case <-event:
		return nil
	case err := <-answer:
		return err
	case <-time.After(patience):
		require.FailNow(t, "the application hangs")
		return nil
	}
}

func TestAVoteWhileAStatementStillRunsIsNo(t *testing.T) {
	b := newBank(t)
	for _, end := range []func(*session) error{
		func(s *session) error {
			vote, _, err := s.Prepare(b.ctx)
			require.Equal(t, txn.VoteNo, vote)
			return err
		},
		func(s *session) error {
			err := s.CommitOnePhase(b.ctx)
			require.ErrorIs(t, err, adapters.ErrNotCommitted)
			return err
		},
	} {
		s, x := b.work()
		answer := make(chan error, 1)
		go func() { answer <- do(context.Background(), s, "select pg_sleep(600)") }()
		b.busy(s)
		require.ErrorContains(t, end(s), "still running")
		require.Error(t, <-answer)
		_, found := b.value(x.ID.String())
		require.False(t, found)
		b.clean()
	}
}

// The network is away: the statement cannot be cancelled, and nobody can be asked. The
// session is ended by the next one who may.
func TestASessionThatCouldNotBeEndedIsEndedLater(t *testing.T) {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	var away atomic.Bool
	config, err := pgxpool.ParseConfig(shared.UserDSN("app", "", ""))
	require.NoError(t, err)
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if away.Load() {
			return nil, errors.New("the network is away")
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	b := newBank(t)
	b.Resource = New("bank", pool)

	s, x := b.work()
	answer := make(chan error, 1)
	go func() { answer <- do(context.Background(), s, "select pg_sleep(600)") }()
	b.busy(s)
	away.Store(true)
	vote, branch, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.ErrorContains(t, err, "something of it may be left")
	require.Error(t, <-answer)
	pid := int32(s.server.holder.pid)
	require.Equal(t, 1, b.count("select count(*) from pg_stat_activity where pid = $1", pid))

	// Somebody else who is told of the session does not end it.
	found, err := b.as("recovery", "").Rollback(b.ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, found)
	require.Equal(t, 1, b.count("select count(*) from pg_stat_activity where pid = $1", pid))

	away.Store(false)
	b.eventually(func() bool {
		return s.Rollback(b.ctx) == nil
	})
	require.NoError(t, s.Rollback(b.ctx), "it knows now")
	require.Zero(t, b.count("select count(*) from pg_stat_activity where pid = $1", pid))
	b.clean()
}

// A name is no proof: whoever sends a commit request can write down anybody's session.
func TestASessionThatIsNotSeenAtWorkOnTheBranchIsNotEnded(t *testing.T) {
	b := newBank(t)
	recovery := b.as("recovery", "")
	victim, _ := b.work()
	other, _ := b.work()
	evidenceOf := func(s *session) string {
		number, role, err := askNumber(b.ctx, s.pgx.PgConn(), s.server.mark)
		require.NoError(t, err)
		return evidence{true, number, s.server.system, s.server.timeline, s.server.database, role}.String()
	}
	holder := victim.server.holder.String()
	settled, y := b.work()
	past := evidenceOf(settled)
	require.NoError(t, settled.Rollback(b.ctx))

	for name, c := range map[string]struct {
		x      txn.XID
		branch txn.Branch
		err    string
	}{
		"a made-up branch":      {newXID(), txn.Branch{No: 1, Holder: holder}, ""},
		"a branch that is over": {y, txn.Branch{No: 1, Holder: holder, Evidence: past}, ""},
		"the transaction of somebody else": {newXID(),
			txn.Branch{No: 1, Holder: holder, Evidence: evidenceOf(other)}, "try again"},
		"a process id that is nobody's": {newXID(), txn.Branch{No: 1, Holder: "v1;pid=4294967295;start=1"}, ""},
		"the right process of another moment": {newXID(),
			txn.Branch{No: 1, Holder: "v1;pid=" + holder[len("v1;pid="):len(holder)-1] + "0"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := recovery.Rollback(b.ctx, c.x, c.branch)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
			} else {
				require.NoError(t, err)
				require.Equal(t, txn.AlreadyDone, found)
			}
			b.do(victim, "select 1")
			b.do(other, "select 1")
		})
	}
	t.Run("a session that prepares another branch", func(t *testing.T) {
		s, x := b.work()
		b.do(s, "insert into slowly values ('x')")
		ctx, cancel := context.WithCancel(b.ctx)
		votes := make(chan txn.Vote, 1)
		go func() {
			vote, _, _ := s.Prepare(ctx)
			votes <- vote
		}()
		b.waitsInPrepare(x)
		found, err := recovery.Rollback(b.ctx, newXID(), txn.Branch{Holder: s.server.holder.String()})
		require.NoError(t, err)
		require.Equal(t, txn.AlreadyDone, found)
		b.waitsInPrepare(x) // it still does
		cancel()
		require.Equal(t, txn.VoteNo, <-votes)
	})
	require.NoError(t, victim.Rollback(b.ctx))
	require.NoError(t, other.Rollback(b.ctx))
	b.clean()
}

func TestAStatementWaitsForTheScanOfARow(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	tx := handleOf(t, s)
	pending := tx.QueryRow(b.ctx, "select 1")
	second := make(chan error, 1)
	go func() { second <- do(b.ctx, s, "select 1") }()
	select {
	case err := <-second:
		require.NoError(t, err)
		t.Fatal("it did not wait")
	case <-time.After(50 * time.Millisecond): // it may not even have begun; then this shows nothing
	}
	require.NoError(t, pending.Scan(new(int)))
	require.NoError(t, <-second)
	b.prepare(s)
	require.NoError(t, s.Rollback(b.ctx))
}
