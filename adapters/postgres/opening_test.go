// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

const insertAccount = "insert into account values ($1, $2)"

// firstStatements are ways to write a key with the first statement of a branch.
var firstStatements = map[string]struct {
	do  func(context.Context, pgx.Tx, string) error
	own bool // the transaction opens in a round trip of its own
}{
	"exec": {do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Exec(ctx, insertAccount, key, 1)
		return err
	}},
	"exec with named arguments": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Exec(ctx, "insert into account values (@k, @v)", pgx.NamedArgs{"k": key, "v": 1})
		return err
	}},
	"several statements without arguments": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Exec(ctx, "select 1; insert into account values ('"+key+"', 1)")
		return err
	}},
	"exec with an option of pgx": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Exec(ctx, insertAccount, pgx.QueryExecModeExec, key, 1)
		return err
	}},
	"query": {do: func(ctx context.Context, tx pgx.Tx, key string) error {
		rows, err := tx.Query(ctx, insertAccount+" returning v", key, 1)
		if err != nil {
			return err
		}
		_, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}},
	"query with named arguments": {do: func(ctx context.Context, tx pgx.Tx, key string) error {
		return tx.QueryRow(ctx, "insert into account values (@k, @v) returning v",
			pgx.NamedArgs{"k": key, "v": 1}).Scan(new(int64))
	}},
	"query row": {do: func(ctx context.Context, tx pgx.Tx, key string) error {
		return tx.QueryRow(ctx, insertAccount+" returning v", key, 1).Scan(new(int64))
	}},
	"batch": {do: func(ctx context.Context, tx pgx.Tx, key string) error {
		called := false
		b := &pgx.Batch{}
		b.Queue("select $1::int", 1).QueryRow(func(row pgx.Row) error { called = true; return row.Scan(new(int)) })
		b.Queue(insertAccount, key, 1)
		answers := tx.SendBatch(ctx, b)
		if answers.Tx() != nil || called {
			panic("the transaction is concord's, and nothing was read yet")
		}
		err := answers.Close()
		if err == nil && !called {
			panic("the function of the query was not called")
		}
		return err
	}},
	"copy": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.CopyFrom(ctx, pgx.Identifier{"account"}, []string{"k", "v"}, pgx.CopyFromRows([][]any{{key, 1}}))
		return err
	}},
	"savepoint": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, insertAccount, key, 1)
			return err
		})
	}},
	"a statement prepared by name": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		if _, err := tx.Prepare(ctx, "named", insertAccount); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "named", key, 1)
		return err
	}},
	"past the handle": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		_, err := tx.Conn().Exec(ctx, insertAccount, key, 1)
		return err
	}},
	"large object": {own: true, do: func(ctx context.Context, tx pgx.Tx, key string) error {
		objects := tx.LargeObjects()
		if _, err := objects.Create(ctx, 0); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertAccount, key, 1)
		return err
	}},
}

func TestEveryFirstStatementIsInsideTheBranch(t *testing.T) {
	for mode, exec := range map[string]pgx.QueryExecMode{
		"statements cached": pgx.QueryExecModeCacheStatement, "descriptions cached": pgx.QueryExecModeCacheDescribe,
		"described": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec,
		"simple protocol": pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(mode, func(t *testing.T) {
			b, _ := countedBank(t, exec)
			for name, first := range firstStatements {
				t.Run(name, func(t *testing.T) {
					x := newXID()
					key := x.ID.String()
					s := b.begin(x)
					require.NoError(t, first.do(b.ctx, handleOf(t, s), key))
					require.NoError(t, do(b.ctx, s, "update account set v = v + 1 where k = $1", key))
					_, found := b.value(key)
					require.False(t, found, "it is visible before the commit")
					require.NoError(t, s.Rollback(b.ctx))
					b.clean()
					_, found = b.value(key)
					require.False(t, found, "it was outside of the branch")

					s = b.begin(newXID())
					require.NoError(t, first.do(b.ctx, handleOf(t, s), key))
					b.prepare(s)
					finish, err := s.Commit(b.ctx)
					require.NoError(t, err)
					require.Equal(t, txn.Done, finish)
					v, found := b.value(key)
					require.True(t, found)
					require.EqualValues(t, 1, v)
					b.clean()
				})
			}
		})
	}
}

func TestABranchIsOneRoundTripForItsStatementOneForItsVoteAndOneForItsEnd(t *testing.T) {
	b, trips := countedBank(t, pgx.QueryExecModeCacheStatement)
	for _, name := range []string{"exec", "query", "query row", "query with named arguments", "batch"} {
		first := firstStatements[name]
		require.False(t, first.own)
		for range 2 { // statements are known afterwards
			s := b.begin(newXID())
			require.NoError(t, first.do(b.ctx, handleOf(t, s), newXID().ID.String()))
			require.NoError(t, s.Rollback(b.ctx))
		}
		s := b.begin(newXID())
		require.NoError(t, s.configure(b.ctx, TxOptions{Isolation: pgx.RepeatableRead, LockTimeout: time.Second}))
		require.NoError(t, s.Rollback(b.ctx))
		trips.Store(0)
		s = b.begin(newXID())
		require.Zero(t, trips.Load(), name)
		require.NoError(t, first.do(b.ctx, handleOf(t, s), newXID().ID.String()))
		require.EqualValues(t, 1, trips.Swap(0), name)
		if name == "query" || name == "query row" || name == "query with named arguments" || name == "batch" {
			require.NoError(t, s.Rollback(b.ctx)) // whether those wrote is a question of its own
			continue
		}
		b.prepare(s)
		require.EqualValues(t, 1, trips.Swap(0), name)
		_, err := s.Commit(b.ctx)
		require.NoError(t, err)
		require.EqualValues(t, 1, trips.Swap(0), name)
	}
}

func TestABranchWithoutStatementsCostsNothing(t *testing.T) {
	b, trips := countedBank(t, pgx.QueryExecModeCacheStatement)
	require.NoError(t, b.begin(newXID()).Rollback(b.ctx))
	warm := b.begin(newXID())
	b.do(warm, "select 1")
	require.NoError(t, warm.Rollback(b.ctx))
	trips.Store(0)
	s := b.begin(newXID())
	tx := handleOf(t, s)
	require.NoError(t, tx.SendBatch(b.ctx, &pgx.Batch{}).Close())
	require.EqualValues(t, 1, trips.Swap(0), "an empty batch opens the branch, as pgx has it")
	require.NoError(t, s.Rollback(b.ctx))
	trips.Store(0)

	s = b.begin(newXID())
	require.NoError(t, s.configure(b.ctx, TxOptions{ReadOnly: true}))
	require.NoError(t, handleOf(t, s).Commit(b.ctx))
	vote, _, err := s.Prepare(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.VoteReadOnly, vote)
	s = b.begin(newXID())
	require.NoError(t, s.CommitOnePhase(b.ctx))
	require.ErrorIs(t, s.CommitOnePhase(b.ctx), adapters.ErrBranchEnded)
	require.NoError(t, b.begin(newXID()).Rollback(b.ctx))
	s = b.begin(newXID())
	require.NoError(t, handleOf(t, s).Rollback(b.ctx))
	require.ErrorIs(t, s.CommitOnePhase(b.ctx), adapters.ErrNotCommitted)
	require.Zero(t, trips.Load())
	b.clean()
}

func TestARefusedFirstStatementDoomsTheBranch(t *testing.T) {
	for mode, exec := range map[string]pgx.QueryExecMode{"cached": pgx.QueryExecModeCacheStatement,
		"simple": pgx.QueryExecModeSimpleProtocol} {
		b, _ := countedBank(t, exec)
		key := newXID().ID.String()
		for what, refused := range map[string]struct {
			sql, code string
			args      []any
		}{
			"it cannot be parsed":      {"inzert into account values ($1, 1)", "42601", []any{key}},
			"its table is not there":   {"insert into nowhere values ($1)", "42P01", []any{key}},
			"it fails when it runs":    {"select 1 / ($1::int)", "22012", []any{0}},
			"it breaks a constraint":   {"insert into account values ($1, null)", "23502", []any{key}},
			"it has no privilege":      {"insert into canary values ($1)", "42501", []any{true}},
			"it is a query that fails": {"select v / 0 from (select $1::int as v) as t", "22012", []any{1}},
		} {
			t.Run(mode+": "+what, func(t *testing.T) {
				s := b.begin(newXID())
				_, err := handleOf(t, s).Exec(b.ctx, refused.sql, refused.args...)
				require.Equal(t, refused.code, sqlState(err), "%v", err)
				require.Error(t, do(b.ctx, s, insertAccount, key, 1), "nothing may run outside of a transaction")
				b.votesNo(s, refused.code)

				s = b.begin(newXID())
				err = handleOf(t, s).QueryRow(b.ctx, refused.sql, refused.args...).Scan(new(int))
				require.Equal(t, refused.code, sqlState(err), "%v", err)
				require.ErrorIs(t, s.CommitOnePhase(b.ctx), adapters.ErrNotCommitted)

				s = b.begin(newXID())
				batch := &pgx.Batch{}
				batch.Queue(insertAccount, key, 1)
				batch.Queue(refused.sql, refused.args...)
				err = handleOf(t, s).SendBatch(b.ctx, batch).Close()
				require.Equal(t, refused.code, sqlState(err), "%v", err)
				require.Error(t, do(b.ctx, s, insertAccount, key, 1))
				b.votesNo(s, refused.code)
				_, found := b.value(key)
				require.False(t, found)
			})
		}
	}
}

func TestWhatWasNeverSentIsMissedAtTheVote(t *testing.T) {
	b := newBank(t)
	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	for name, opened := range map[string]bool{"first": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			x := newXID()
			s := b.begin(x)
			if opened {
				b.do(s, "select 1")
			}
			_, err := handleOf(t, s).Exec(ended, insertAccount, "key", 1)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, handleOf(t, s).QueryRow(ended, "select $1::int", 1).Scan(new(int)), context.Canceled)
			require.NoError(t, write(b.ctx, s, x.ID.String(), 1)) // the application took no notice
			require.ErrorIs(t, b.votesNo(s, ""), context.Canceled)
			_, found := b.value(x.ID.String())
			require.False(t, found)
		})
	}
}

// pgx gives up the connection of a batch whose arguments it cannot send.
func TestArgumentsThatCannotBeSentLoseTheBranch(t *testing.T) {
	b := newBank(t)
	for what, args := range map[string][]any{"one that has no form": {"key", struct{}{}}, "too few": {"key"}} {
		s := b.begin(newXID())
		_, err := handleOf(t, s).Exec(b.ctx, insertAccount, args...)
		require.Error(t, err, what)
		require.Empty(t, sqlState(err), what)
		require.NotContains(t, err.Error(), "batch", "the application sent none")
		require.Error(t, write(b.ctx, s, "key", 1), what)
		b.votesNo(s, "")
		_, found := b.value("key")
		require.False(t, found, what)
	}
}

func TestALimitThatTheServerRefusesIsTheErrorOfTheFirstStatement(t *testing.T) {
	b := newBankAt(t, "&lock_timeout=0", WithLockTimeout(10_000*time.Hour))
	for name, first := range firstStatements {
		if name == "past the handle" || name == "large object" {
			continue // they have no error of their own; see below
		}
		s := b.begin(newXID())
		err := first.do(b.ctx, handleOf(t, s), "limit")
		require.Equal(t, "22023", sqlState(err), "%s: %v", name, err)
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(t, txn.VoteNo, vote, name)
		require.Error(t, err)
	}
	s := b.begin(newXID())
	_, err := handleOf(t, s).Conn().Exec(b.ctx, insertAccount, "limit", 1)
	require.Error(t, err, "outside of the branch nothing may run")
	vote, _, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.Equal(t, "22023", sqlState(err))
	_, found := b.value("limit")
	require.False(t, found)
	b.clean()
}

func TestASessionThatDiesBeforeItsFirstStatementLosesTheBranch(t *testing.T) {
	b := newBank(t)
	for name, first := range firstStatements {
		if name == "large object" {
			continue // the zero value panics
		}
		s := b.begin(newXID())
		_, err := b.admin.Exec(b.ctx, "select pg_terminate_backend($1, 5000)", int32(s.pgx.PgConn().PID()))
		require.NoError(t, err)
		tx := handleOf(t, s)
		require.Error(t, first.do(b.ctx, tx, "dead"), name)
		require.Error(t, do(b.ctx, s, insertAccount, "dead", 1), name)
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(t, txn.VoteNo, vote, name)
		require.Error(t, err, name)
		_, found := b.value("dead")
		require.False(t, found, name)
	}
	b.clean()
}

func TestAContextThatEndsDuringTheFirstStatementEndsTheSession(t *testing.T) {
	b := newBank(t)
	s, x := b.begin(newXID()), newXID()
	pid := int32(s.pgx.PgConn().PID())
	ctx, cancel := context.WithCancel(b.ctx)
	failed := make(chan error, 1)
	tx := handleOf(t, s)
	go func() {
		_, err := tx.Exec(ctx,
			"with w as (insert into account values ($1, 1) returning 1) select pg_sleep(60) from w", x.ID.String())
		failed <- err
	}()
	b.eventually(func() bool {
		return b.count("select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", pid) == 1
	})
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Error(t, do(b.ctx, s, "select 1"))
	vote, _, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.Error(t, err)
	require.Zero(t, b.count("select count(*) from pg_stat_activity where pid = $1", pid), "the session is still there")
	_, found := b.value(x.ID.String())
	require.False(t, found)
	b.clean()
}

func TestRowsOfTheFirstQueryHoldTheSessionUntilTheyAreClosed(t *testing.T) {
	b := newBank(t)
	s := b.begin(newXID())
	rows, err := handleOf(t, s).Query(b.ctx, "select generate_series(1, $1)", 100_000)
	require.NoError(t, err)
	require.True(t, rows.Next())
	rows.Close()
	require.NoError(t, rows.Err())
	require.Equal(t, "SELECT 100000", rows.CommandTag().String())
	require.NoError(t, do(b.ctx, s, "select 1"))
	vote, _, err := s.Prepare(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.VoteReadOnly, vote)

	s = b.begin(newXID())
	rows, err = handleOf(t, s).Query(b.ctx, "select generate_series(1, $1)", 100_000)
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.ErrorContains(t, do(b.ctx, s, "select 1"), "a result is still open")
	rows.Close()
	require.NoError(t, do(b.ctx, s, "select 1"))
	require.ErrorContains(t, b.votesNo(s, ""), "your closure ignored this error: a result is still open")

	s = b.begin(newXID())
	_, err = handleOf(t, s).Query(b.ctx, "select generate_series(1, $1)", 100_000)
	require.NoError(t, err)
	require.ErrorContains(t, b.votesNo(s, ""), "result is still open")
}

func TestAFirstStatementThatEndsTheTransactionDooms(t *testing.T) {
	b := newBank(t)
	s := b.begin(newXID())
	batch := &pgx.Batch{}
	batch.Queue(insertAccount, newXID().ID.String(), 1)
	batch.Queue("rollback")
	require.NoError(t, handleOf(t, s).SendBatch(b.ctx, batch).Close())
	require.ErrorContains(t, b.votesNo(s, ""), "leave COMMIT, ROLLBACK and PREPARE TRANSACTION to concord")
}

func TestLimitsThatTheSessionHasAlreadyAreNotSetAgain(t *testing.T) {
	b := newBank(t)
	pool := newPool(t, b.db.UserDSN("app", "", "")+"&lock_timeout=10s&idle_in_transaction_session_timeout=5min")
	for want, r := range map[int]*Resource{
		0: New("bank", pool),
		1: New("bank", pool, WithLockTimeout(time.Second)),
		2: New("bank", pool, WithLockTimeout(time.Second), WithIdleTimeout(time.Second)),
	} {
		opened, err := r.Open(b.ctx, newXID())
		require.NoError(t, err)
		s := opened.(*session)
		require.Len(t, s.limits, want)
		var lock, idle string
		require.NoError(t, handleOf(t, s).QueryRow(b.ctx,
			"select current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')").Scan(
			&lock, &idle))
		require.Equal(t, []string{[]string{"10s", "1s", "1s"}[want], []string{"5min", "5min", "1s"}[want]},
			[]string{lock, idle})
		require.NoError(t, s.Rollback(b.ctx))
	}
}

func TestStatementsThatWereDeallocatedCostOneBranchAtMost(t *testing.T) {
	b, _ := countedBank(t, pgx.QueryExecModeCacheStatement)
	s := b.begin(newXID())
	b.do(s, insertAccount, newXID().ID.String(), 1)
	require.NotNil(t, s.server.vote)
	_, err := b.admin.Exec(b.ctx, "create or replace function forgets() returns void language plpgsql as "+
		"'begin execute ''deallocate all''; end'")
	require.NoError(t, err)
	b.do(s, "select forgets()")
	b.votesNo(s, codeNoStatement)
	s = b.begin(newXID())
	require.Nil(t, s.server.vote)
	b.do(s, "insert into account values ('"+newXID().ID.String()+"', 1)")
	b.prepare(s)
	require.NoError(t, s.Rollback(b.ctx))
	b.clean()
}

// pgx remembers what it has prepared for the application: a connection that has forgotten it would fail branch after
// branch, one for each statement.
func TestAConnectionWhoseStatementsAreGoneIsNotUsedAgain(t *testing.T) {
	for _, text := range []string{"deallocate all", "DEALLOCATE PREPARE ALL"} {
		b, _ := countedBank(t, pgx.QueryExecModeCacheStatement)
		s := b.begin(newXID())
		b.do(s, insertAccount, newXID().ID.String(), 1)
		b.do(s, text)
		require.NoError(t, s.Rollback(b.ctx))
		s = b.begin(newXID())
		b.do(s, insertAccount, newXID().ID.String(), 1)
		b.prepare(s)
		require.NoError(t, s.Rollback(b.ctx))
		b.clean()
	}
}

// countedBank counts what the application's connections write. Each write is a round trip.
func countedBank(t *testing.T, mode pgx.QueryExecMode) (*bank, *atomic.Int64) {
	if shared == nil {
		t.Skip("PostgreSQL: NOT RUN (not installed)")
	}
	var trips atomic.Int64
	config, err := pgxpool.ParseConfig(shared.UserDSN("app", "", ""))
	require.NoError(t, err)
	config.ConnConfig.DefaultQueryExecMode = mode
	config.MaxConns = 4
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return countedConn{c, &trips}, err
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	b := newBank(t)
	b.Resource = New("bank", pool)
	return b, &trips
}

type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}
