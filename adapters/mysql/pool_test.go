// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestMoreTransactionsThanTheServerHasConnectionsWaitForOneAnother(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...testdb.Option) *testdb.Server{"MariaDB": testdb.MariaDB,
		"MySQL": testdb.MySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t, testdb.WithSetting("max-connections", "40")))
			for _, o := range []Options{{}, {MaxOpen: 200}} { // the bound of the resource, and that of the server
				r := w.openAs(w.DSN(database), o)
				var group sync.WaitGroup
				failed := make(chan error, 120)
				for i := range 120 {
					group.Go(func() { failed <- w.transact(r, fmt.Sprint(o.MaxOpen, "-", i)) })
				}
				group.Wait()
				for range 120 {
					require.NoError(t, <-failed)
				}
				r.pool.mu.Lock()
				kept := len(r.pool.links)
				r.pool.mu.Unlock()
				require.LessOrEqual(t, kept, r.options.MaxOpen)
				require.NoError(t, r.Close())
			}
			var n int
			require.NoError(t, w.admin.QueryRowContext(w.ctx, "SELECT COUNT(*) FROM kv").Scan(&n))
			require.Equal(t, 240, n)
		})
	}
}

func (w *world) transact(r *Resource, key string) error {
	s, err := r.Open(w.ctx, newXID())
	if err != nil {
		return err
	}
	if err := write(w.ctx, s, key, 1); err != nil {
		return err
	}
	if _, _, err := s.Prepare(w.ctx); err != nil {
		return err
	}
	_, err = s.Commit(w.ctx)
	return err
}

func TestAPoolThatIsTheBottleneckIsNamed(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	r := w.openAs(w.DSN(database), Options{MaxOpen: 1})
	outer := w.work(r, newXID(), "outer")
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := r.Open(ctx, newXID()) // a transaction within another
	require.ErrorIs(t, err, ErrPoolBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "all 1 sessions of db")
	require.ErrorContains(t, err, "MaxOpen")
	require.NotContains(t, err.Error(), "check that the server runs")

	// However a branch ends, its place is free again, and free once.
	require.NoError(t, outer.Rollback(w.ctx))
	ends := []func(*session){
		func(s *session) { require.NoError(t, s.CommitOnePhase(w.ctx)) },
		func(s *session) { require.NoError(t, s.Rollback(w.ctx)); require.NoError(t, s.Rollback(w.ctx)) },
		func(s *session) { w.kill(s); require.NoError(t, s.Rollback(w.ctx)) },
		func(s *session) {
			_, b, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			s.Abandon()
			s.Abandon()
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Abort, s.xid, b))
		},
	}
	for _, end := range ends {
		end(w.work(r, newXID(), "place"))
		require.Len(t, r.pool.slots, 1)
	}
	_, err = w.openAs("root@tcp(127.0.0.1:1)/"+database, Options{MaxOpen: 1}).Open(w.ctx, newXID())
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrPoolBusy)
}

// What a routine, a trigger or a view changes in the session is seen by no statement's text.
func TestNothingInASessionOutlivesItsBranch(t *testing.T) {
	onEach(t, func(t *testing.T, w *world) {
		w.seed("state")
		w.run(database,
			"CREATE FUNCTION spoil() RETURNS INT DETERMINISTIC BEGIN SET SESSION time_zone = '+05:00'; "+
				"SET SESSION lock_wait_timeout = 77; SET SESSION sql_mode = ''; SET SESSION foreign_key_checks = 0; "+
				"SET SESSION wait_timeout = 77; SET @leak = 'leaked'; SELECT 'leaked' INTO @more; RETURN "+
				"GET_LOCK('leak', 0); END",
			"CREATE VIEW locks AS SELECT GET_LOCK('seen', 0) AS got",
			"CREATE TABLE fires (i INT)", "CREATE TRIGGER fire BEFORE INSERT ON fires FOR EACH ROW SET NEW.i = spoil()")
		texts := []string{"SELECT spoil()", "SELECT got FROM locks", "INSERT INTO fires VALUES (1)", "DO spoil()",
			"UPDATE kv SET v = spoil() WHERE k = 'state'"}
		if w.Flavor() == testdb.FlavorMariaDB {
			w.run(database, "CREATE FUNCTION temporary() RETURNS INT DETERMINISTIC MODIFIES SQL DATA BEGIN CREATE "+
				"TEMPORARY TABLE leak (i INT); RETURN 1; END")
			texts = append(texts, "SELECT temporary()")
		}
		const state = "SELECT CONCAT_WS(' ', @@time_zone, @@lock_wait_timeout, @@innodb_lock_wait_timeout, " +
			"@@wait_timeout, @@sql_mode, @@foreign_key_checks, @@autocommit, @@completion_type, " +
			"@@character_set_client, @@character_set_results, @@character_set_connection, @@collation_connection, " +
			"@@max_join_size, @@sort_buffer_size, DATABASE(), IFNULL(@leak, '-'), IFNULL(@more, '-'))"
		for _, params := range []string{"", "?charset=latin1&sort_buffer_size=262144&time_zone=%27-03:00%27",
			"?collation=utf8mb4_bin&max_join_size=12345"} {
			dsn, _, _ := strings.Cut(w.DSN(database), "?")
			for _, plain := range []bool{false, true} {
				r := w.openCut(dsn+params, &cutter{}, plain)
				ask := func() (got string, connection uint64) {
					s := w.begin(r, newXID())
					require.NoError(t, w.tx(s).QueryRowContext(w.ctx, state).Scan(&got))
					_, err := w.tx(s).ExecContext(w.ctx, "SELECT * FROM leak")
					require.True(t, isCode(err, codeNoSuchTable), "%v", err)
					require.NoError(t, s.Rollback(w.ctx))
					return got, s.link.server.connection
				}
				fresh, _ := ask()
				for _, text := range texts {
					for name, end := range map[string]func(*session) error{
						"rolled back": func(s *session) error { return s.Rollback(w.ctx) },
						"one phase":   func(s *session) error { return s.CommitOnePhase(w.ctx) },
						"two phases": func(s *session) error {
							if vote, _, err := s.Prepare(w.ctx); err != nil || vote != txn.VoteYes {
								return err
							}
							_, err := s.Commit(w.ctx)
							return err
						},
					} {
						if plain && name != "rolled back" {
							continue // the text alone tells there
						}
						s := w.begin(r, newXID())
						rows, err := w.tx(s).QueryContext(w.ctx, text)
						require.NoError(t, err, text)
						require.NoError(t, rows.Close(), text)
						require.NoError(t, end(s), text)
						w.eventually("no lock is left", func() bool {
							var n int
							require.NoError(t, w.admin.QueryRowContext(w.ctx,
								"SELECT IFNULL(IS_USED_LOCK('leak'), 0) + IFNULL(IS_USED_LOCK('seen'), 0)").Scan(&n))
							return n == 0
						})
						got, connection := ask()
						require.Equal(t, fresh, got, "%s, %s, %s", params, text, name)
						if !plain {
							require.Equal(t, s.link.server.connection, connection, "and it is the same session")
						}
					}
				}
			}
		}
	})
}
