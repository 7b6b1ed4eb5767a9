// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/mysql/sqltext"
	"github.com/concordtx/concord/txn"
)

func TestStatements(t *testing.T) { tellAll(t, statementStories) }

const insertDup = "INSERT INTO kv VALUES ('dup0', 2)"

var statementStories = []story{
	{"comments do not make a read a write, nor a session dirty", func(t *testing.T, w *world) {
		w.seed("comment")
		r := w.open()
		ids := map[uint64]bool{}
		for _, query := range []string{
			"SELECT v FROM kv WHERE k = 'comment'",
			"-- name: GetX :one\nSELECT v FROM kv WHERE k = 'comment'",
			"# name: GetX :one\nSELECT v FROM kv WHERE k = 'comment'",
			"/* name: GetX :one */ SELECT v FROM kv WHERE k = 'comment'",
			"SELECT v FROM kv WHERE k = 'comment' " +
				"/*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01',route='for;update'*/",
			"SELECT /*+ MAX_EXECUTION_TIME(10000) */ v FROM kv WHERE k = 'comment'",
			"(SELECT v FROM kv WHERE k = 'comment')",
			"WITH x AS (SELECT v FROM kv WHERE k = 'comment') SELECT v FROM x",
			"SHOW TABLES LIKE 'kv'",
			"EXPLAIN FORMAT=JSON SELECT v FROM kv WHERE k = 'comment'",
		} {
			s := w.begin(r, newXID())
			var v any
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, query).Scan(&v), query)
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			if !strings.HasPrefix(query, "SHOW") { // the servers count the rows of its answer as written
				require.Equal(t, txn.VoteReadOnly, vote, query)
			}
			require.NoError(t, s.Rollback(w.ctx))
			ids[s.link.server.connection] = true
		}
		s := w.begin(r, newXID())
		_, err := w.tx(s).ExecContext(w.ctx, "-- name: SetX :exec\n# and\n/* more */ UPDATE kv SET v = 2 WHERE k = "+
			"'comment'")
		require.NoError(t, err)
		require.NoError(t, s.CommitOnePhase(w.ctx))
		ids[s.link.server.connection] = true
		w.requireValue("comment", 2)
		require.Len(t, ids, 1, "one session did it all")
	}},
	{"what an executable comment does is seen", func(t *testing.T, w *world) {
		w.seed("exec")
		for _, query := range []string{"SELECT v FROM kv WHERE k = 'exec' /*!50000 FOR UPDATE */",
			"/*! SELECT v FROM kv WHERE k = 'exec' FOR UPDATE */"} {
			s := w.begin(w.open(), newXID())
			var v int64
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, query).Scan(&v))
			vote, _, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote, query)
			require.NoError(t, s.Rollback(w.ctx))
		}
	}},
	{"a user variable does not reach the next branch", func(t *testing.T, w *world) {
		r := w.open()
		for _, query := range []string{"SELECT 1 INTO @leak", "SELECT @leak := 1", "SET @leak = 1"} {
			s := w.begin(r, newXID())
			_, err := w.tx(s).ExecContext(w.ctx, query)
			require.NoError(t, err)
			require.NoError(t, s.CommitOnePhase(w.ctx))
			s = w.begin(r, newXID())
			var v sql.NullInt64
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT @leak").Scan(&v))
			require.False(t, v.Valid, query)
			require.NoError(t, s.Rollback(w.ctx))
		}
	}},
	{"a rollback to a savepoint that is older than the error heals the branch", func(t *testing.T, w *world) {
		w.seed("dup0")
		for i, texts := range [][]string{
			{"SAVEPOINT a", insertDup, "ROLLBACK TO SAVEPOINT a"},
			{"SAVEPOINT a", insertDup, "ROLLBACK TO a"},
			{"savepoint `Mixed Case`", "ROLLBACK TO `Mixed Case`"}, // no error, and a name that is not compared
			{"SAVEPOINT MiXed", insertDup, "ROLLBACK WORK TO SAVEPOINT `mIxed`;"},
			{"SAVEPOINT `a-b.c`", insertDup, "/* x */ ROLLBACK /* y */ TO `A-B.C` -- z"},
			{"SAVEPOINT a", "SAVEPOINT b", insertDup, "ROLLBACK TO a", "SAVEPOINT b", insertDup, "ROLLBACK TO b"},
			{"SAVEPOINT a", "SAVEPOINT b", "RELEASE SAVEPOINT b", insertDup, "ROLLBACK TO a"},
			{"SAVEPOINT a", "INSERT INTO kv VALUES ('healed', 1)", "SAVEPOINT a", insertDup, "ROLLBACK TO a",
				"DELETE FROM kv WHERE k = 'healed'"},
			{"SAVEPOINT a", "SELECT * FROM nowhere", "ROLLBACK TO a"},
			{"SAVEPOINT a", "COMMIT", "ROLLBACK TO a"},
			{"SAVEPOINT a", "CREATE TABLE x (i INT)", "ROLLBACK TO a"},
			{"SAVEPOINT a", "CALL nobody()", "ROLLBACK TO a"},
		} {
			for _, prepared := range []bool{false, true} {
				s := w.begin(w.open(), newXID())
				key := fmt.Sprint("heal", i, prepared)
				require.NoError(t, write(w.ctx, s, key, 1))
				tx := w.tx(s)
				for _, text := range texts {
					err := w.send(tx, text, prepared)
					if strings.HasPrefix(strings.ToUpper(text), "INSERT INTO KV VALUES ('DUP0'") {
						require.True(t, isCode(err, 1062), "%v", err)
					}
				}
				require.NoError(t, write(w.ctx, s, key+"after", 1), "%q", texts)
				vote, _, err := s.Prepare(w.ctx)
				require.NoError(t, err, "%q", texts)
				require.Equal(t, txn.VoteYes, vote)
				_, err = s.Commit(w.ctx)
				require.NoError(t, err)
				w.requireValue(key, 1)
				w.requireValue(key+"after", 1)
				w.requireAbsent("healed")
			}
		}
		w.requireValue("dup0", 1)
	}},
	{"nothing else heals a branch", func(t *testing.T, w *world) {
		w.seed("dup0")
		for _, texts := range [][]string{
			{insertDup, "SAVEPOINT a", "ROLLBACK TO a"}, // set after the error
			{"SAVEPOINT a", "RELEASE SAVEPOINT a", insertDup, "ROLLBACK TO a"},
			{"SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a", insertDup, "ROLLBACK TO b"},
			{"SAVEPOINT a", "SAVEPOINT b", "RELEASE SAVEPOINT a", insertDup, "ROLLBACK TO b"},
			{"SAVEPOINT a", insertDup, "ROLLBACK"},
			{"SAVEPOINT a", insertDup, "ROLLBACK TO b"},
			{"SAVEPOINT a", insertDup, "RELEASE SAVEPOINT a"},
			{"SAVEPOINT ä", insertDup, "ROLLBACK TO ä"}, // the servers take it for a, or not
			{"SAVEPOINT a", "INSERT INTO kv VALUES ('stays', 1); SAVEPOINT a; " + insertDup, "ROLLBACK TO a"},
			{"SAVEPOINT a", "SAVEPOINT a; DO 1", insertDup, "ROLLBACK TO a"},
			{"SELECT 1; SAVEPOINT a", insertDup, "ROLLBACK TO a"},
			{"SAVEPOINT a", "PREPARE p FROM 'INSERT INTO kv VALUES (''dup0'', 1)'", "EXECUTE p", "ROLLBACK TO a"},
		} {
			r := w.openMulti(t)
			s := w.begin(r, newXID())
			require.NoError(t, write(w.ctx, s, "unhealed", 1))
			tx := w.tx(s)
			var last error
			for _, text := range texts {
				_, last = tx.ExecContext(w.ctx, text)
			}
			require.Error(t, last, "%q", texts)
			require.Error(t, write(w.ctx, s, "unhealed", 1), "%q", texts)
			vote, _, err := s.Prepare(w.ctx)
			require.Equal(t, txn.VoteNo, vote, "%q", texts)
			require.Error(t, err)
			require.NotErrorIs(t, err, adapters.ErrTorn)
			require.NoError(t, r.Close())
			w.requireAbsent("unhealed")
		}
		s := w.begin(w.open(), newXID())
		tx := w.tx(s)
		require.NoError(t, w.send(tx, "SAVEPOINT a", false))
		require.NoError(t, tx.Rollback())
		require.Error(t, w.send(tx, "ROLLBACK TO a", false))
	}},
	{"an error that rolled the whole transaction back is not healed", func(t *testing.T, w *world) {
		w.seed("dead1", "dead2")
		r := w.open()
		s1, s2 := w.begin(r, newXID()), w.begin(r, newXID())
		txs := map[*session]*sql.Tx{s1: w.tx(s1), s2: w.tx(s2)}
		for _, tx := range txs {
			require.NoError(t, w.send(tx, "SAVEPOINT a", false))
		}
		require.NoError(t, write(w.ctx, s1, "dead1", 7))
		require.NoError(t, write(w.ctx, s2, "dead2", 7))
		first := make(chan error, 1)
		go func() { first <- write(w.ctx, s1, "dead2", 8) }()
		w.awaitWait(s1)
		err2 := write(w.ctx, s2, "dead1", 8)
		err1 := <-first
		victim, other := s1, s2
		if err1 == nil {
			victim, other = s2, s1
		}
		require.True(t, isCode(err1, codeDeadlock) || isCode(err2, codeDeadlock), "%v / %v", err1, err2)
		require.Error(t, w.send(txs[victim], "ROLLBACK TO a", false))
		vote, _, err := victim.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.True(t, isCode(err, codeDeadlock), "%v", err)
		require.NotErrorIs(t, err, adapters.ErrTorn, "the server did it, and not the application")
		require.NoError(t, other.CommitOnePhase(w.ctx))
	}},
	{"a deadlock in a procedure that takes no notice of it is an abort, not a torn branch", func(t *testing.T,
		w *world) {
		w.seed("proc1", "proc2")
		w.run(database, "CREATE PROCEDURE deaf() BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; UPDATE "+
			"kv SET v = 8 WHERE k = 'proc2'; END")
		r := w.open()
		victim, other := w.work(r, newXID(), "proc1"), w.begin(r, newXID())
		// The server chooses the one that changed less.
		require.NoError(t, w.send(w.tx(other), "INSERT INTO kv VALUES ('heavy1', 1), ('heavy2', 1), ('heavy3', 1), "+
			"('heavy4', 1)", false))
		require.NoError(t, write(w.ctx, other, "proc2", 9))
		called := make(chan error, 1)
		go func() { called <- w.send(w.tx(victim), "CALL deaf()", false) }()
		w.awaitWait(victim)
		require.NoError(t, write(w.ctx, other, "proc1", 9))
		require.NoError(t, <-called, "the procedure swallowed it")
		vote, _, err := victim.Prepare(w.ctx)
		require.Equal(t, txn.VoteNo, vote)
		require.Error(t, err)
		require.NotErrorIs(t, err, adapters.ErrTorn)
		require.NotContains(t, err.Error(), "DDL")
		require.NoError(t, other.CommitOnePhase(w.ctx))
		w.requireValue("proc1", 9)
	}},
	{"an error that the application ignored is named as such, without advice for another cause", func(t *testing.T,
		w *world) {
		w.seed("dup0")
		for _, text := range []string{insertDup, "SELECT * FROM nowhere", "INSERT INTO nowhere VALUES (1)",
			"CALL nobody()"} {
			for _, end := range []func(*session) error{
				func(s *session) error { _, _, err := s.Prepare(w.ctx); return err },
				func(s *session) error { return s.CommitOnePhase(w.ctx) },
			} {
				s := w.work(w.open(), newXID(), "ignored")
				told := w.send(w.tx(s), text, false)
				require.Error(t, told)
				require.Contains(t, s.Failures(), told)
				err := end(s)
				require.ErrorIs(t, err, told)
				require.ErrorContains(t, err, "the application ignored an error")
				require.True(t, strings.HasSuffix(err.Error(), told.Error()), "%v", err)
			}
		}
		w.requireAbsent("ignored")
	}},
	{"a branch has the level and the limits that it asks for, and the next one its own", func(t *testing.T, w *world) {
		w.seed("level", "held")
		for _, plain := range []bool{false, true} {
			r := w.openCut(w.DSN(database), &cutter{}, plain)
			holder := w.work(w.open(), newXID(), "held")
			with := func(o TxOptions) (*session, *sql.Tx) {
				s := w.begin(r, newXID())
				tx, err := r.TxWith(w.ctx, adaptertest.Enlisted(s), o)
				require.NoError(t, err)
				return s, tx
			}
			read := func(tx *sql.Tx) (v int64) {
				require.NoError(t, tx.QueryRowContext(w.ctx, "SELECT v FROM kv WHERE k = 'level'").Scan(&v))
				return v
			}
			committed, tx := with(TxOptions{Isolation: sql.LevelReadCommitted, LockTimeout: time.Second})
			require.EqualValues(t, 1, read(tx))
			w.run(database, "UPDATE kv SET v = 2 WHERE k = 'level'")
			require.EqualValues(t, 2, read(tx))
			began := time.Now()
			err := w.send(tx, "UPDATE kv SET v = 3 WHERE k = 'held'", false)
			require.True(t, isCode(err, codeLockWaitTimeout), "%v", err)
			require.Less(t, time.Since(began), 8*time.Second)
			require.NoError(t, committed.Rollback(w.ctx))

			repeatable, tx := with(TxOptions{})
			var limit int
			require.NoError(t, tx.QueryRowContext(w.ctx, "SELECT @@innodb_lock_wait_timeout").Scan(&limit))
			require.Equal(t, 10, limit)
			require.EqualValues(t, 2, read(tx))
			w.run(database, "UPDATE kv SET v = 1 WHERE k = 'level'")
			require.EqualValues(t, 2, read(tx), "the default is repeatable read")
			if !plain { // there nobody knows what a branch that was rolled back has left in its session
				require.Equal(t, committed.link, repeatable.link, "the same session")
			}
			_, err = r.TxWith(w.ctx, adaptertest.Enlisted(repeatable), TxOptions{ReadOnly: true})
			require.ErrorIs(t, err, errLateOptions)
			require.NoError(t, repeatable.Rollback(w.ctx))

			readOnly, tx := with(TxOptions{ReadOnly: true, Isolation: sql.LevelSerializable})
			err = w.send(tx, "UPDATE kv SET v = 3 WHERE k = 'level'", false)
			require.True(t, isCode(err, 1792), "%v", err)
			require.NoError(t, readOnly.Rollback(w.ctx))
			readOnly, tx = with(TxOptions{ReadOnly: true})
			require.EqualValues(t, 1, read(tx))
			vote, _, err := readOnly.Prepare(w.ctx)
			require.NoError(t, err)
			require.Equal(t, txn.VoteReadOnly, vote)
			require.NoError(t, holder.Rollback(w.ctx))

			s := w.begin(r, newXID())
			for _, wrong := range []TxOptions{{Isolation: sql.LevelSnapshot}, {LockTimeout: -1}} {
				_, err = r.TxWith(w.ctx, adaptertest.Enlisted(s), wrong)
				require.Error(t, err)
			}
			for _, late := range []string{"SET TRANSACTION READ ONLY", "SET SESSION TRANSACTION ISOLATION LEVEL " +
				"SERIALIZABLE", "SET @@session.transaction_isolation = 'SERIALIZABLE'"} {
				s := w.begin(r, newXID())
				require.ErrorIs(t, w.send(w.tx(s), late, false), sqltext.ErrLevel)
				require.NoError(t, s.Rollback(w.ctx))
			}
		}
	}},
	{"limits of the server that are stricter stay", func(t *testing.T, w *world) {
		for name, limits := range map[string]map[string]string{
			"stricter": {"innodb_lock_wait_timeout": "1", "lock_wait_timeout": "2", "wait_timeout": "20"},
			"looser":   {"innodb_lock_wait_timeout": "50", "lock_wait_timeout": "86400", "wait_timeout": "28800"},
		} {
			cfg, err := sqldriver.ParseDSN(w.DSN(database))
			require.NoError(t, err)
			cfg.Params = limits
			connector, err := NewConnector(cfg)
			require.NoError(t, err)
			r := NewWithOptions("db", connector, Options{LockTimeout: 5 * time.Second, Lease: time.Minute})
			s := w.begin(r, newXID())
			var got [3]string
			require.NoError(t, w.tx(s).QueryRowContext(w.ctx, "SELECT @@innodb_lock_wait_timeout, "+
				"@@lock_wait_timeout, @@wait_timeout").Scan(&got[0], &got[1], &got[2]))
			require.NoError(t, s.Rollback(w.ctx))
			if name == "stricter" {
				require.Equal(t, [3]string{"1", "2", "20"}, got)
				require.Equal(t, 20*time.Second, s.link.lease)
			} else {
				require.Equal(t, [3]string{"5", "5", "60"}, got)
			}
			require.NoError(t, r.onServer(w.ctx, func(c *sql.Conn, _ server) error {
				return c.QueryRowContext(w.ctx, "SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout").Scan(&got[0],
					&got[1])
			}))
			if name == "stricter" {
				require.Equal(t, "1 2", got[0]+" "+got[1])
			} else {
				require.Equal(t, "5 5", got[0]+" "+got[1])
			}
			require.NoError(t, r.Close())
		}
	}},
	{"rows in tables without transactions that stay after a rollback are told of", func(t *testing.T, w *world) {
		engines := []string{"MyISAM", "MEMORY", "CSV"}
		if w.Flavor() == "mariadb" {
			engines = append(engines, "Aria")
		} else {
			engines = append(engines, "ARCHIVE")
		}
		for _, plain := range []bool{false, true} {
			r := w.openCut(w.DSN(database), &cutter{}, plain)
			for _, engine := range engines {
				table := "stays_" + engine
				w.run(database, "CREATE TABLE IF NOT EXISTS "+table+" (i INT NOT NULL) ENGINE="+engine)
				for name, end := range map[string]func(*session) error{
					"rolled back": func(s *session) error { return s.Rollback(w.ctx) },
					"prepared and rolled back": func(s *session) error {
						vote, _, err := s.Prepare(w.ctx)
						require.NoError(t, err)
						require.Equal(t, txn.VoteYes, vote)
						return s.Rollback(w.ctx)
					},
					"voted no": func(s *session) error {
						require.Error(t, w.send(w.tx(s), "SELECT * FROM nowhere", false))
						vote, _, err := s.Prepare(w.ctx)
						require.Equal(t, txn.VoteNo, vote)
						require.ErrorIs(t, s.Rollback(w.ctx), adapters.ErrTorn)
						return err
					},
					"one phase": func(s *session) error {
						require.Error(t, w.send(w.tx(s), "SELECT * FROM nowhere", false))
						err := s.CommitOnePhase(w.ctx)
						require.NotErrorIs(t, err, adapters.ErrNotCommitted)
						return err
					},
				} {
					s := w.begin(r, newXID())
					require.NoError(t, w.send(w.tx(s), "INSERT INTO "+table+" VALUES (1)", false))
					require.NoError(t, write(w.ctx, s, "trans", 1))
					require.ErrorIs(t, end(s), adapters.ErrTorn, "%s, %s", engine, name)
					w.requireAbsent("trans")
				}
			}
			// Also where the session keeps no warnings.
			s := w.begin(r, newXID())
			require.NoError(t, w.send(w.tx(s), "SET max_error_count = 0", false))
			require.NoError(t, w.send(w.tx(s), "INSERT INTO stays_MyISAM VALUES (1)", false))
			require.NoError(t, write(w.ctx, s, "trans", 1))
			require.ErrorIs(t, s.Rollback(w.ctx), adapters.ErrTorn)
			s = w.begin(w.openCut(w.DSN(database)+"&max_error_count=0", &cutter{}, plain), newXID())
			require.NoError(t, w.send(w.tx(s), "INSERT INTO stays_MyISAM VALUES (1)", false))
			require.ErrorIs(t, s.Rollback(w.ctx), adapters.ErrTorn)
			// And of nothing else.
			s = w.work(r, newXID(), "trans")
			require.NoError(t, s.Rollback(w.ctx))
			s = w.begin(r, newXID())
			require.NoError(t, w.send(w.tx(s), "SET max_error_count = 0", false))
			require.NoError(t, write(w.ctx, s, "trans", 1))
			require.NoError(t, s.Rollback(w.ctx))
		}
		report, err := w.open().Check(w.ctx)
		require.NoError(t, err)
		require.True(t, report.OK(), "%+v", report.Findings)
		require.Contains(t, fmt.Sprint(report.Findings), "stays_MyISAM")
	}},
	{"several goroutines that share a *sql.Tx commit all of their work, or nothing", func(t *testing.T, w *world) {
		s := w.begin(w.open(), newXID())
		tx := w.tx(s)
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for j := range 5 {
					_, _ = tx.ExecContext(w.ctx, "INSERT INTO kv VALUES (?, ?)", fmt.Sprint("many", i, "-", j),
						i) // its error is ignored
					var n int
					_ = tx.QueryRowContext(w.ctx, "SELECT COUNT(*) FROM kv").Scan(&n)
				}
			})
		}
		group.Wait()
		want := 40
		if vote, _, err := s.Prepare(w.ctx); err != nil { // one had rows open when another came
			require.Equal(t, txn.VoteNo, vote)
			want = 0
		} else {
			_, err = s.Commit(w.ctx)
			require.NoError(t, err)
		}
		var n int
		require.NoError(t, w.admin.QueryRowContext(w.ctx, "SELECT COUNT(*) FROM kv WHERE k LIKE 'many%'").Scan(&n))
		require.Equal(t, want, n)
	}},
}

// send executes a text, or prepares it first.
func (w *world) send(tx *sql.Tx, text string, prepare bool) error {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	if _, dml := strings.CutPrefix(text, "INSERT"); prepare && (dml ||
		w.Flavor() == "mariadb") { // MySQL prepares no SAVEPOINT
		st, err := tx.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		defer st.Close()
		_, err = st.ExecContext(ctx)
		return err
	}
	_, err := tx.ExecContext(ctx, text)
	return err
}
