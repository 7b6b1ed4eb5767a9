// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// listen returns a function that tells what a listener has heard so far, and nothing else
// can come any more of what ended before the call.
func (b *bank) listen() func() []string {
	conn, err := pgx.Connect(b.ctx, b.db.DSN(""))
	require.NoError(b, err)
	b.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(b.ctx, "listen channel")
	require.NoError(b, err)
	return func() []string {
		// Notifications arrive in the order of the commits: the last word is ours.
		_, err := b.admin.Exec(b.ctx, "notify channel, 'last word'")
		require.NoError(b, err)
		heard := []string{}
		for {
			n, err := conn.WaitForNotification(b.ctx)
			require.NoError(b, err)
			if n.Payload == "last word" {
				return heard
			}
			heard = append(heard, n.Payload)
		}
	}
}

// Nothing that a branch did is seen outside when another branch votes no; and what it did
// arrives if the whole commits, unless its own vote said that it cannot.
func TestNothingOfABranchThatWroteNothingIsSeenUnlessTheWholeCommits(t *testing.T) {
	b := newBank(t)
	heard := b.listen()
	for _, c := range []struct {
		name string
		sql  []string
		vote txn.Vote
		code string // of a no
	}{
		{"notify", []string{"notify channel, 'x'"}, txn.VoteNo, "0A000"},
		{"notify behind a read", []string{"select 1; notify channel, 'x'"}, txn.VoteNo, "0A000"},
		{"pg_notify", []string{"select pg_notify('channel', 'x')"}, txn.VoteNo, "0A000"},
		{"pg_notify in disguise", []string{`select pg_catalog . "pg_notify" /* count */ ('channel', 'x')`}, txn.VoteNo,
			"0A000"},
		{"a function that notifies", []string{"select coalesce(says('x'), 'nothing')"}, txn.VoteNo, "0A000"},
		{"a block that notifies", []string{"do $$ begin perform says('x'); end $$"}, txn.VoteNo, "0A000"},
		{"notify in a savepoint", []string{"savepoint a", "notify channel, 'x'", "release a"}, txn.VoteNo, "0A000"},
		{"notify in a savepoint that is rolled back", []string{"savepoint a", "notify channel, 'x'", "rollback to a"},
			txn.VoteYes, ""},
		{"listen", []string{"listen other"}, txn.VoteNo, "0A000"},
		{"unlisten, and nothing was listened to", []string{"unlisten *"}, txn.VoteYes, ""},
		{"cursor with hold", []string{"declare c cursor with hold for select 1"}, txn.VoteNo, "0A000"},
		{"temporary table", []string{"create temp table mine (i int)"}, txn.VoteNo, "0A000"},
		{"exported snapshot", []string{"select pg_export_snapshot()"}, txn.VoteNo, "0A000"},
		{"a function that nobody knows", []string{"select pg_postmaster_start_time()"}, txn.VoteYes, ""},
		{"a lock of the session", []string{"select pg_advisory_lock(7)"}, txn.VoteYes, ""},
		{"a statement by name", []string{"prepare p as select 1", "execute p"}, txn.VoteYes, ""},
		{"set", []string{"set work_mem = '1MB'"}, txn.VoteReadOnly, ""},
		{"set_config", []string{"select set_config('work_mem', '1MB', false)"}, txn.VoteReadOnly, ""},
		{"a view that notifies", []string{"select * from speaker"}, txn.VoteReadOnly, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, how := range []string{"aborts", "commits"} {
				s := b.begin(newXID())
				for _, sql := range c.sql {
					b.do(s, sql)
				}
				vote, _, err := s.Prepare(b.ctx)
				require.Equal(t, c.vote, vote, "%v", err)
				if c.vote == txn.VoteNo {
					require.Equal(t, c.code, sqlState(err))
					require.ErrorContains(t, err, "keep what the message names out of the branch")
				}
				require.Empty(t, heard())
				switch {
				case vote == txn.VoteYes && how == "aborts":
					require.NoError(t, s.Rollback(b.ctx))
				case vote == txn.VoteYes:
					_, err := s.Commit(b.ctx)
					require.NoError(t, err)
				}
				require.Empty(t, heard())
				b.clean()
				b.nothingLeft()
			}
		})
	}
	t.Run("one phase delivers", func(t *testing.T) {
		s := b.begin(newXID())
		b.do(s, "select says('y')")
		require.Empty(t, heard())
		require.NoError(t, s.CommitOnePhase(b.ctx))
		require.Equal(t, []string{"y"}, heard())
		b.nothingLeft()
	})
}

// nothingLeft requires that the sessions of the pool are as new ones.
func (b *bank) nothingLeft() {
	b.Helper()
	idle := b.pool.AcquireAllIdle(b.ctx)
	for _, conn := range idle {
		var changed, locks, channels, cursors, statements int
		require.NoError(b, conn.QueryRow(b.ctx, `
select (select count(*) from pg_settings where source = 'session' and name <> 'concord.branch'
          and setting <> reset_val),
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       (select count(*) from pg_listening_channels()), (select count(*) from pg_cursors where is_holdable),
       (select count(*) from pg_prepared_statements where from_sql)`, pgx.QueryExecModeExec).
			Scan(&changed, &locks, &channels, &cursors, &statements))
		require.Equal(b, []int{0, 0, 0, 0, 0}, []int{changed, locks, channels, cursors, statements},
			"settings, locks, channels, cursors, statements")
		conn.Release()
	}
}

func TestWhatABranchLeavesInItsSessionGoesToNobodyElse(t *testing.T) {
	b := newBank(t)
	for name, sql := range map[string]string{
		"nothing":             "select 1",
		"set":                 "set work_mem = '1MB'",
		"set role":            "set role app",
		"set_config":          "select set_config('work_mem', '1MB', false)",
		"a lock":              "select pg_advisory_lock(7)",
		"a lock in a block":   "do $$ begin perform pg_advisory_lock(7); end $$",
		"a setting in one":    "do $$ begin perform set_config('work_mem', '1MB', false); end $$",
		"a statement by name": "prepare p as select 1",
		"past the handle":     "",
	} {
		for end, finish := range map[string]func(*session) error{
			"one phase": func(s *session) error { return s.CommitOnePhase(b.ctx) },
			"rollback":  func(s *session) error { return s.Rollback(b.ctx) },
			"commit": func(s *session) error {
				b.prepare(s)
				_, err := s.Commit(b.ctx)
				return err
			},
			"prepare and rollback": func(s *session) error {
				b.prepare(s)
				return s.Rollback(b.ctx)
			},
			"prepare and abandon": func(s *session) error {
				b.prepare(s)
				s.Abandon()
				_, err := b.Rollback(b.ctx, s.x, txn.Branch{})
				return err
			},
		} {
			t.Run(name+", "+end, func(t *testing.T) {
				s, _ := b.work()
				if sql == "" {
					_, err := handleOf(t, s).Conn().Exec(b.ctx, "set work_mem = '1MB'")
					require.NoError(t, err)
				} else {
					b.do(s, sql)
				}
				require.NoError(t, finish(s))
				b.clean()
				b.nothingLeft()
			})
		}
	}
}

func TestSerializableReadsAreTrueWhenTheyVote(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, "insert into account values ('batch', 1), ('receipts', 0)")
	require.NoError(t, err)
	set := func(x txn.XID) *session {
		s := b.begin(x)
		require.NoError(t, s.configure(b.ctx, TxOptions{Isolation: pgx.Serializable}))
		return s
	}
	// The batch is closed, its total is read, and a receipt of the old batch comes too late:
	// no order of the three explains what the reader saw.
	receipt, closer := set(newXID()), set(newXID())
	b.do(receipt, "select v from account where k = 'batch'")
	b.do(closer, "update account set v = 2 where k = 'batch'")
	require.NoError(t, closer.CommitOnePhase(b.ctx))
	reader := set(newXID())
	b.do(reader, "select v from account where k in ('batch', 'receipts')")
	b.prepare(reader)
	err = do(b.ctx, receipt, "update account set v = v + 1 where k = 'receipts'")
	if err == nil {
		var vote txn.Vote
		vote, _, err = receipt.Prepare(b.ctx)
		require.Equal(t, txn.VoteNo, vote)
	}
	require.Equal(t, "40001", sqlState(err), "what the reader voted for is true")
	found, err := reader.Commit(b.ctx)
	require.NoError(t, err)
	require.Equal(t, txn.Done, found)
}

func TestLimitsAreOnlyLowered(t *testing.T) {
	const lock, idle = "lock_timeout", "idle_in_transaction_session_timeout"
	for _, c := range []struct {
		name, settings string
		options        []Option
		tx             TxOptions
		lock, idle     string
	}{
		{"none", "&lock_timeout=0&idle_in_transaction_session_timeout=0", nil, TxOptions{}, "10s", "5min"},
		{"stricter", "&lock_timeout=1s&idle_in_transaction_session_timeout=20s", nil, TxOptions{}, "1s", "20s"},
		{"looser", "&lock_timeout=1min&idle_in_transaction_session_timeout=1h", nil, TxOptions{}, "10s", "5min"},
		{"stricter than asked for", "&lock_timeout=1s&idle_in_transaction_session_timeout=20s",
			[]Option{WithLockTimeout(2 * time.Second), WithIdleTimeout(time.Minute)}, TxOptions{}, "1s", "20s"},
		{"looser than asked for", "&lock_timeout=1min&idle_in_transaction_session_timeout=1h",
			[]Option{WithLockTimeout(2 * time.Second), WithIdleTimeout(time.Minute)}, TxOptions{}, "2s", "1min"},
		{"left alone", "&lock_timeout=0&idle_in_transaction_session_timeout=0",
			[]Option{WithLockTimeout(0), WithIdleTimeout(0)}, TxOptions{}, "0", "0"},
		{"stricter than the transaction asks for", "&lock_timeout=1s", nil, TxOptions{LockTimeout: 3 * time.Second},
			"1s", ""},
		{"looser than the transaction asks for", "&lock_timeout=1min", nil, TxOptions{LockTimeout: 30 * time.Second},
			"30s", ""},
		{"other limits", "&statement_timeout=77s", nil, TxOptions{}, "10s", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBankAt(t, c.settings, c.options...)
			s := b.begin(newXID())
			require.NoError(t, s.configure(b.ctx, c.tx))
			setting := func(name string) (v string) {
				require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select current_setting($1)", name).Scan(&v))
				return v
			}
			require.Equal(t, c.lock, setting(lock))
			if c.idle != "" {
				require.Equal(t, c.idle, setting(idle))
			}
			if c.name == "other limits" {
				require.Equal(t, "77s", setting("statement_timeout"))
			}
			require.NoError(t, s.Rollback(b.ctx))
		})
	}
}

func TestANestedTransactionThatWaitsForItsOwnPoolHearsOfThePool(t *testing.T) {
	b := newBankAt(t, "&pool_max_conns=1")
	outer, x := b.work()
	ctx, cancel := context.WithTimeout(b.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := b.Open(ctx, newXID())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "all 1 are in use")
	require.ErrorContains(t, err, "raise pool_max_conns")
	_, err = b.Commit(ctx, x, txn.Branch{})
	require.ErrorContains(t, err, "raise pool_max_conns")

	ended, cancel := context.WithCancel(b.ctx)
	cancel()
	require.NoError(t, outer.Rollback(b.ctx))
	_, err = b.Open(ended, newXID())
	require.ErrorIs(t, err, context.Canceled)
	require.NotContains(t, err.Error(), "pool_max_conns", "the pool was free")
}
