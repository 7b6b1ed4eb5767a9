// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestPrepareInAnAbortedTransactionAnswersTagRollbackAndNoError(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	_, err := s.opened().Exec(b.ctx, "select 1/0")
	require.Error(t, err)
	tag, err := run(b.ctx, s.conn.Conn().PgConn(), prepareText(x))
	require.NoError(t, err)
	require.Equal(t, "ROLLBACK", tag) // this is why Prepare compares the tag
	b.votesNo(s, "")
}

func TestPrepareBranchReportsWhatTheServerAnswered(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	_, err := s.opened().Exec(b.ctx, "select 1/0")
	require.Error(t, err)
	_, err = prepareBranch(b.ctx, s.conn.Conn().PgConn(), s.question(), prepareText(x))
	require.Equal(t, "25P02", sqlState(err))
	b.votesNo(s, "")

	s, x = b.work()
	end, err := prepareBranch(b.ctx, s.conn.Conn().PgConn(), s.question(), prepareText(x))
	require.NoError(t, err)
	require.Equal(t, "PREPARE TRANSACTION", end.tag)
	require.Equal(t, "app", end.role)
	require.NotEmpty(t, end.number)
	found, err := b.Rollback(b.ctx, x, txn.Branch{})
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	require.NoError(t, s.Rollback(b.ctx))
}

func TestCommitBranchKnowsTheNumberBeforeItCommits(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	b.do(s, "insert into child values ('nobody')")
	end, err := commitBranch(b.ctx, s.conn.Conn().PgConn(), s.server.mark)
	require.Equal(t, "23503", sqlState(err))
	require.NotEmpty(t, end.number)
	require.False(t, end.early)
	require.NoError(t, s.Rollback(b.ctx))

	s, _ = b.work()
	_, err = s.opened().Exec(b.ctx, "select 1/0")
	require.Error(t, err)
	end, err = commitBranch(b.ctx, s.conn.Conn().PgConn(), s.server.mark)
	require.Equal(t, "25P02", sqlState(err))
	require.True(t, end.early)
	b.votesNo(s, "")
}

func TestVoteNoNamesTheFirstStatementThatFailed(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	require.Error(t, do(b.ctx, s, "select 1/0"))
	require.Error(t, do(b.ctx, s, "select 1"))
	err := b.votesNo(s, "22012")
	var answer *pgconn.PgError
	require.ErrorAs(t, err, &answer)

	s, _ = b.work()
	rows, err := handleOf(t, s).Query(b.ctx, "select 1/(2-i) from generate_series(1,3) i")
	require.NoError(t, err)
	for rows.Next() {
	}
	b.votesNo(s, "22012")
}

func TestSavepointThatIsRolledBackHealsTheBranch(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	tx := handleOf(t, s)
	nested, err := tx.Begin(b.ctx)
	require.NoError(t, err)
	_, err = nested.Exec(b.ctx, "select 1/0")
	require.Error(t, err)
	require.NoError(t, nested.Rollback(b.ctx))
	require.ErrorIs(t, nested.Rollback(b.ctx), pgx.ErrTxClosed)
	nested, err = tx.Begin(b.ctx)
	require.NoError(t, err)
	_, err = nested.Exec(b.ctx, "update account set v = 5 where k = $1", x.ID.String())
	require.NoError(t, err)
	require.NoError(t, nested.Commit(b.ctx))
	require.NoError(t, tx.Commit(b.ctx))
	b.prepare(s)
	_, err = s.Commit(b.ctx)
	require.NoError(t, err)
	v, found := b.value(x.ID.String())
	require.True(t, found)
	require.Equal(t, int64(5), v)
}

// Errors that PREPARE TRANSACTION itself answers. The server has rolled back.
func TestWhatCannotBePreparedVotesNo(t *testing.T) {
	b := newBank(t)
	for _, c := range []struct {
		name, code string
		sql        []string
	}{
		{"deferred foreign key", "23503", []string{"insert into child values ('nobody')"}},
		{"temporary table", "0A000", []string{"create temporary table mine (i int) on commit drop"}},
		{"notify", "0A000", []string{"notify channel"}},
		{"notify by a function", "0A000", []string{"select pg_notify('channel', 'x')"}},
		{"listen", "0A000", []string{"listen channel"}},
		{"cursor with hold", "0A000", []string{"declare c cursor with hold for select 1"}},
		{"exported snapshot", "0A000", []string{"select pg_export_snapshot()"}},
		{"advisory lock on two levels", "0A000",
			[]string{"select pg_advisory_lock(7)", "select pg_advisory_xact_lock(7)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, x := b.work()
			for _, sql := range c.sql {
				b.do(s, sql)
			}
			err := b.votesNo(s, c.code)
			if c.code == "0A000" {
				require.ErrorContains(t, err, "keep what the message names")
			}
			_, found := b.value(x.ID.String())
			require.False(t, found)
		})
	}
}

func TestSerializationFailureAtPrepareVotesNo(t *testing.T) {
	b := newBank(t)
	x, y := newXID(), newXID()
	one, two := b.begin(x), b.begin(y)
	for _, s := range []*session{one, two} {
		require.NoError(t, s.configure(b.ctx, TxOptions{Isolation: pgx.Serializable}))
		b.do(s, "select sum(v) from account")
	}
	require.NoError(t, write(b.ctx, one, x.ID.String(), 1))
	require.NoError(t, write(b.ctx, two, y.ID.String(), 1))
	require.NoError(t, one.CommitOnePhase(b.ctx))
	err := b.votesNo(two, "40001")
	require.ErrorContains(t, err, "run the global transaction again")
	require.True(t, b.Transient(err))
}

func TestNameInUseVotesNo(t *testing.T) {
	b := newBank(t, WithLockTimeout(100*time.Millisecond))
	first, x, _ := b.prepared()
	second := b.begin(x)
	require.NoError(t, write(b.ctx, second, "another "+x.ID.String(), 1))
	vote, _, err := second.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.Equal(t, "55P03", sqlState(err), "the marker of the other is not committed")
	found, err := first.Commit(b.ctx) // the branch that has the name is unharmed
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	_, there := b.value(x.ID.String())
	require.True(t, there)
	second = b.begin(x)
	require.NoError(t, write(b.ctx, second, "another "+x.ID.String(), 1))
	require.ErrorContains(t, b.votesNo(second, "23505"), "has committed already")
}

// As an ordinary branch it is refused with both ways out.
func TestServerWithoutPreparedTransactionsIsALastResource(t *testing.T) {
	b := bankWith(t, testdb.WithSetting("max_prepared_transactions", "0"))
	b.ctx = context.Background() // each case has its own deadline
	s, _ := b.work()
	err := b.votesNo(s, "55000")
	require.ErrorContains(t, err, "set max_prepared_transactions above 0 and restart the server, or name this "+
		"database in WithLastResource")
	report, err := b.Check(b.ctx)
	require.NoError(t, err)
	require.True(t, report.OK(), "%+v", report)
	require.Equal(t, "max_prepared_transactions is 0", report.NotBranch)
	require.Empty(t, report.NotLast)
	f := findingOf(t, report, "max_prepared_transactions")
	require.Contains(t, f.Detail, "it takes part as the last resource or alone")
	require.NotEmpty(t, f.Fix)

	target := b.target()
	target.NoPrepare, target.Foreign = true, nil
	adaptertest.Run(t, target)
}

// What the login of a node may not write, or make room for, it cannot settle.
func TestCheckSaysWhyADatabaseIsNoLastResource(t *testing.T) {
	b := bankWith(t)
	notLast := func(r *Resource) string {
		report, err := r.Check(b.ctx)
		require.NoError(t, err)
		require.Empty(t, report.NotBranch)
		return report.NotLast
	}
	require.Empty(t, notLast(b.Resource))
	require.Equal(t, errLastMarker.Error(), notLast(New("bank", b.pool, WithoutMarker())))
	require.NoError(t, b.db.Exec(b.ctx, "", "alter table concord.branch drop column decision"))
	require.Equal(t, "the marker table comes from an earlier release: have its owner run "+AddDecisions,
		notLast(b.as("app", "")))
	require.Empty(t, notLast(b.as("postgres", "")), "the owner adds it")
	require.NoError(t, b.db.Exec(b.ctx, "", AddDecisions, "revoke insert on concord.branch from app"))
	require.Equal(t, "app may not write concord.branch", notLast(b.as("app", "")))
}

func TestFullTableOfPreparedTransactionsVotesNoAndTheCheckSaysWhy(t *testing.T) {
	b := bankWith(t, testdb.WithSetting("max_prepared_transactions", "1"))
	first, _, _ := b.prepared()
	second, _ := b.work()
	vote, _, err := second.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.Equal(t, "53200", sqlState(err))
	require.ErrorContains(t, err, "raise max_prepared_transactions")
	report, err := b.Check(b.ctx)
	require.NoError(t, err)
	require.True(t, report.OK(), "what is prepared can be finished: %+v", report)
	f := findingOf(t, report, "max_prepared_transactions")
	require.Equal(t, "1 of 1 in use", f.Detail)
	require.Contains(t, f.Fix, "concord recover")
	require.NoError(t, first.Rollback(b.ctx))
	b.clean()
}

func bankWith(t *testing.T, options ...testdb.Option) *bank {
	db := testdb.Postgres(t, options...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, furnish(ctx, db))
	return bankOf(t, db)
}

func TestBranchThatWroteNothingVotesReadOnly(t *testing.T) {
	b := newBank(t)
	seed, x := b.work()
	require.NoError(t, seed.CommitOnePhase(b.ctx))
	for name, sql := range map[string]string{
		"nothing": "",
		"reads":   "select count(*) from account",
	} {
		t.Run(name, func(t *testing.T) {
			s := b.begin(newXID())
			if sql != "" {
				b.do(s, sql)
			}
			vote, _, err := s.Prepare(b.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteReadOnly, vote)
			b.clean()
		})
	}
	t.Run("row locks are kept: it is a write", func(t *testing.T) {
		s := b.begin(newXID())
		b.do(s, "select v from account where k = $1 for update", x.ID.String())
		b.prepare(s)
		_, err := b.admin.Exec(b.ctx, "select from account where k = $1 for update nowait", x.ID.String())
		require.Equal(t, "55P03", sqlState(err))
		require.NoError(t, s.Rollback(b.ctx))
	})
	for sql, waits := range map[string]string{
		"select pg_advisory_xact_lock(1)":        "select pg_advisory_xact_lock_shared(1)",
		"select pg_try_advisory_xact_lock(1)":    "select pg_advisory_xact_lock_shared(1)",
		"lock table account in exclusive mode":   "lock table account in exclusive mode",
		"lock table account in row share mode":   "lock table account in exclusive mode",
		"select pg_advisory_xact_lock_shared(1)": "select pg_advisory_xact_lock(1)",
	} {
		t.Run("what keeps others out is kept: "+sql, func(t *testing.T) {
			s := b.begin(newXID())
			b.do(s, sql)
			b.prepare(s)
			_, err := b.admin.Exec(b.ctx, "begin; set local lock_timeout = 10; "+waits+"; commit")
			require.Equal(t, "55P03", sqlState(err))
			require.NoError(t, s.Rollback(b.ctx))
			_, err = b.admin.Exec(b.ctx, waits)
			require.True(t, err == nil || sqlState(err) == "25P01", "%v", err) // LOCK wants a transaction
		})
	}
}

// A branch that wrote is never taken for one that did not, whatever the way it wrote.
func TestEveryWayToWriteIsAWrite(t *testing.T) {
	b := newBank(t)
	key := func() string { return newXID().ID.String() }
	for name, work := range map[string]func(pgx.Tx) error{
		"query returning": func(tx pgx.Tx) error {
			var v int64
			return tx.QueryRow(b.ctx, "insert into account values ($1, 1) returning v", key()).Scan(&v)
		},
		"batch": func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue("insert into account values ($1, 1)", key())
			batch.Queue("select 1")
			return tx.SendBatch(b.ctx, batch).Close()
		},
		"batch, read one by one": func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue("insert into account values ($1, 1)", key())
			results := tx.SendBatch(b.ctx, batch)
			defer results.Close()
			_, err := results.Exec()
			return err
		},
		"copy": func(tx pgx.Tx) error {
			_, err := tx.CopyFrom(b.ctx, pgx.Identifier{"account"}, []string{"k", "v"},
				pgx.CopyFromRows([][]any{{key(), 1}}))
			return err
		},
		"large object": func(tx pgx.Tx) error {
			objects := tx.LargeObjects()
			_, err := objects.Create(b.ctx, 0)
			return err
		},
		"common table expression": func(tx pgx.Tx) error {
			_, err := tx.Exec(b.ctx, "with w as (insert into account values ($1, 1) returning 1) select * from w",
				key())
			return err
		},
		"do block": func(tx pgx.Tx) error {
			_, err := tx.Exec(b.ctx, "do $$ begin insert into account values ('"+key()+"', 1); end $$")
			return err
		},
		"sequence of statements in a savepoint": func(tx pgx.Tx) error {
			return pgx.BeginFunc(b.ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(b.ctx, "insert into account values ($1, 1)", key())
				return err
			})
		},
		"ddl": func(tx pgx.Tx) error {
			_, err := tx.Exec(b.ctx, `create table "`+key()+`" ()`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := b.begin(newXID())
			require.NoError(t, work(handleOf(t, s)))
			branch := b.prepare(s)
			_, err := parseEvidence(branch.Evidence)
			require.NoError(t, err)
			require.NoError(t, s.Rollback(b.ctx))
			b.clean()
		})
	}
}

func TestRollbackOfThePartDoomsTheWhole(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	tx := handleOf(t, s)
	require.NoError(t, tx.Rollback(b.ctx))
	require.ErrorIs(t, tx.Rollback(b.ctx), pgx.ErrTxClosed)
	_, err := tx.Exec(b.ctx, "select 1")
	require.ErrorIs(t, err, pgx.ErrTxClosed)
	require.ErrorIs(t, do(b.ctx, s, "select 1"), errRollbackOnly)
	require.ErrorIs(t, b.votesNo(s, ""), errRollbackOnly)

	s, x = b.work()
	require.NoError(t, handleOf(t, s).Rollback(b.ctx))
	require.ErrorIs(t, s.CommitOnePhase(b.ctx), adapters.ErrNotCommitted)
	_, found := b.value(x.ID.String())
	require.False(t, found)
}

func TestCommitOfAPartLeavesTheBranchOpenForOthers(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	first, second := handleOf(t, s), handleOf(t, s)
	require.NoError(t, first.Commit(b.ctx))
	_, err := first.Exec(b.ctx, "select 1")
	require.ErrorIs(t, err, pgx.ErrTxClosed)
	_, err = first.Query(b.ctx, "select 1")
	require.ErrorIs(t, err, pgx.ErrTxClosed)
	require.ErrorIs(t, first.QueryRow(b.ctx, "select 1").Scan(new(int)), pgx.ErrTxClosed)
	require.ErrorIs(t, first.SendBatch(b.ctx, &pgx.Batch{}).Close(), pgx.ErrTxClosed)
	require.ErrorIs(t, first.Rollback(b.ctx), pgx.ErrTxClosed) // the deferred one
	_, found := b.value(x.ID.String())
	require.False(t, found)
	_, err = second.Exec(b.ctx, "update account set v = 2 where k = $1", x.ID.String())
	require.NoError(t, err)
	require.NoError(t, s.CommitOnePhase(b.ctx))
	_, err = second.Exec(b.ctx, "select 1")
	require.ErrorIs(t, err, adapters.ErrBranchEnded)
	require.ErrorIs(t, err, pgx.ErrTxClosed)
	v, _ := b.value(x.ID.String())
	require.Equal(t, int64(2), v)
}

func TestCommitOfAPartWhoseStatementFailedSaysSo(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	require.Error(t, do(b.ctx, s, "select 1/0"))
	err := handleOf(t, s).Commit(b.ctx)
	require.ErrorIs(t, err, pgx.ErrTxCommitRollback)
	require.Equal(t, "22012", sqlState(err))
	b.votesNo(s, "22012")
}

func TestStatementThatEndsTheTransactionDoomsTheBranch(t *testing.T) {
	b := newBank(t)
	for _, sql := range []string{"commit", "rollback", "commit and chain", "prepare transaction 'theirs'"} {
		t.Run(sql, func(t *testing.T) {
			s, _ := b.work()
			b.do(s, sql)
			if sql == "prepare transaction 'theirs'" {
				defer func() {
					_, err := b.admin.Exec(b.ctx, "rollback prepared 'theirs'")
					require.NoError(t, err)
				}()
			}
			require.ErrorContains(t, b.votesNo(s, ""), "leave COMMIT")
		})
	}
}

func TestLargeObjectsOfAnEndedBranchAreClosed(t *testing.T) {
	b := newBank(t)
	s, _ := b.work()
	objects := handleOf(t, s)
	taken := objects.LargeObjects()
	require.NoError(t, s.CommitOnePhase(b.ctx))
	_, err := taken.Create(b.ctx, 0)
	require.ErrorIs(t, err, pgx.ErrTxClosed)
	b.clean()
	require.Equal(t, pgx.LargeObjects{}, objects.LargeObjects())
	require.NoError(t, b.pool.Ping(b.ctx))
}

func TestOpenRowsVoteNoAndTheConnectionIsNotUsedAgain(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	_, err := handleOf(t, s).Query(b.ctx, "select generate_series(1, 100000)")
	require.NoError(t, err)
	require.ErrorContains(t, b.votesNo(s, ""), "close Rows")
	_, found := b.value(x.ID.String())
	require.False(t, found)
}

func TestOptionsHoldForTheTransaction(t *testing.T) {
	b := newBank(t, WithLockTimeout(1234*time.Millisecond), WithIdleTimeout(time.Minute))
	s := b.begin(newXID())
	setting := func(name string) (v string) {
		require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select current_setting($1)", name).Scan(&v))
		return v
	}
	require.NoError(t, s.configure(b.ctx,
		TxOptions{Isolation: pgx.RepeatableRead, ReadOnly: true, LockTimeout: 2 * time.Second}))
	require.Error(t, s.configure(b.ctx, TxOptions{ReadOnly: true}), "the second call comes too late")
	require.Equal(t, "repeatable read", setting("transaction_isolation"))
	require.Equal(t, "on", setting("transaction_read_only"))
	require.Equal(t, "2s", setting("lock_timeout"))
	require.NoError(t, s.Rollback(b.ctx))

	s = b.begin(newXID())
	require.Equal(t, "1234ms", setting("lock_timeout"))
	require.Equal(t, "1min", setting("idle_in_transaction_session_timeout"))
	require.ErrorContains(t, s.configure(b.ctx, TxOptions{Isolation: "serializable; drop table canary"}),
		"none of PostgreSQL's")
	require.NoError(t, s.Rollback(b.ctx))
	require.Equal(t, 1, b.count("select count(*) from canary"))
	// SET LOCAL: nothing of it stays on the connection.
	var left string
	require.NoError(t, b.pool.QueryRow(b.ctx, "show lock_timeout").Scan(&left))
	require.Equal(t, "20s", left)
}

func TestLockTimeoutEndsAWaitThatNoDatabaseCouldSee(t *testing.T) {
	b := newBank(t, WithLockTimeout(50*time.Millisecond))
	holder, x := b.work()
	b.prepare(holder)
	waiter := b.begin(newXID())
	require.Equal(t, "55P03", sqlState(write(b.ctx, waiter, x.ID.String(), 2)))
	vote, _, err := waiter.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.Equal(t, "55P03", sqlState(err))
	require.NoError(t, holder.Rollback(b.ctx))
	b.clean()
}

// A hot row and a small pool: everybody who has a connection waits for a row of a
// branch that needs one to commit.
func TestPhaseTwoHasAConnectionThoughAllOthersWaitForItsRow(t *testing.T) {
	b := newBank(t)
	config := b.pool.Config()
	config.MaxConns = 2
	small, err := pgxpool.NewWithConfig(b.ctx, config)
	require.NoError(t, err)
	t.Cleanup(small.Close)
	r := New("bank", small)

	holderOf, x := r, newXID()
	holder, err := holderOf.Open(b.ctx, x)
	require.NoError(t, err)
	require.NoError(t, write(b.ctx, holder, x.ID.String(), 1))
	b.prepare(holder)
	done := make(chan error, 2)
	for range 2 {
		go func() {
			s, err := r.Open(b.ctx, newXID())
			if err == nil {
				if err = write(b.ctx, s, x.ID.String(), 2); err == nil {
					err = s.CommitOnePhase(b.ctx)
				}
			}
			done <- err
		}()
	}
	b.eventually(func() bool {
		return b.count("select count(*) from pg_stat_activity where wait_event_type = 'Lock' and usename = 'app'") == 1
	})
	found, err := holder.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestPreparedBranchGivesItsConnectionBackWhenNobodyDecides(t *testing.T) {
	b := newBank(t)
	s, x, _ := b.prepared()
	b.eventually(func() bool { return b.pool.Stat().AcquiredConns() == 0 })
	found, err := s.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
	_, there := b.value(x.ID.String())
	require.True(t, there)
}

func TestExhaustedPoolEndsWithTheContext(t *testing.T) {
	b := newBank(t)
	config := b.pool.Config()
	config.MaxConns = 1
	small, err := pgxpool.NewWithConfig(b.ctx, config)
	require.NoError(t, err)
	t.Cleanup(small.Close)
	r := New("bank", small)
	s, err := r.Open(b.ctx, newXID())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(b.ctx, 50*time.Millisecond)
	defer cancel()
	_, err = r.Open(ctx, newXID())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, s.Rollback(b.ctx))
}
