// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// hostile is what SQL and pgx allow an application to do to the transaction of its branch.
func hostile(b *bank) []adaptertest.Hostile {
	sql := func(texts ...string) func(context.Context, adapters.Session) error {
		return func(ctx context.Context, s adapters.Session) error {
			var errs []error
			for _, text := range texts {
				errs = append(errs, do(ctx, s, text))
			}
			return errors.Join(errs...)
		}
	}
	handled := func(work func(context.Context, pgx.Tx) error) func(context.Context, adapters.Session) error {
		return func(ctx context.Context, s adapters.Session) error {
			tx, err := s.(*session).r.Tx(ctx, adaptertest.Enlisted(s))
			if err != nil {
				return err
			}
			return work(ctx, tx)
		}
	}
	batch := func(texts ...string) func(context.Context, adapters.Session) error {
		return handled(func(ctx context.Context, tx pgx.Tx) error {
			batch := &pgx.Batch{}
			for _, text := range texts {
				batch.Queue(text)
			}
			return tx.SendBatch(ctx, batch).Close()
		})
	}
	raw := func(text string) func(context.Context, adapters.Session) error {
		return handled(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Conn().PgConn().Exec(ctx, text).ReadAll()
			return err
		})
	}
	query := func(text string, args ...any) func(context.Context, adapters.Session) error {
		return handled(func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, text, args...)
			if err == nil {
				rows.Close()
				err = rows.Err()
			}
			return err
		})
	}
	named := func(text string) func(context.Context, adapters.Session) error {
		return handled(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Prepare(ctx, "innocent", text); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "innocent")
			_, _ = tx.Exec(ctx, "deallocate innocent")
			return err
		})
	}
	// unread sends a batch with a statement that the connection knew by name before the branch, and reads none of
	// the answers itself.
	unread := func(text string, first func(*pgx.Batch)) func(context.Context, adapters.Session) error {
		return func(ctx context.Context, s adapters.Session) error {
			name := "known_" + s.(*session).x.ID.String()
			if _, err := s.(*session).pgx.Prepare(ctx, name, text); err != nil {
				return err
			}
			return handled(func(ctx context.Context, tx pgx.Tx) error {
				batch := &pgx.Batch{}
				first(batch)
				batch.Queue(name)
				return tx.SendBatch(ctx, batch).Close()
			})(ctx, s)
		}
	}
	one := func(b *pgx.Batch) { b.Queue("select 1") }
	fails := func(b *pgx.Batch) {
		b.Queue("select 1").Exec(func(pgconn.CommandTag) error { return errors.New("the application's own") })
	}
	rollBackTheirs := func(t testing.TB) {
		// It was prepared only if the branch had begun.
		_, err := b.admin.Exec(context.Background(), "rollback prepared 'theirs'")
		if sqlState(err) != codeUndefinedObject {
			require.NoError(t, err)
		}
	}

	const stray = "insert into account values (gen_random_uuid()::text, 1)"
	const (
		harmless = adaptertest.Harmless
		spoiled  = adaptertest.Spoiled
		torn     = adaptertest.Torn
	)
	return []adaptertest.Hostile{
		{Name: "savepoints", Do: sql("savepoint a", "insert into account values (gen_random_uuid()::text, 1)",
			"rollback to a", "release a"), Damage: harmless},
		{Name: "savepoints with names that pgx and concord would use",
			Do: sql("savepoint sp_1", "savepoint concord", "rollback to sp_1", "savepoint sp_1"), Damage: harmless},
		{Name: "savepoints of all kinds in one text",
			Do:     sql("savepoint a; savepoint a; rollback to savepoint a; release a; release savepoint a"),
			Damage: harmless},
		{Name: "an error that a savepoint heals", Do: handled(func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "savepoint a"); err != nil {
				return err
			}
			_, _ = tx.Exec(ctx, "select 1/0")
			_, err := tx.Exec(ctx, "rollback to a")
			return err
		}), Damage: harmless},
		{Name: "a nested transaction that is rolled back", Do: handled(func(ctx context.Context, tx pgx.Tx) error {
			nested, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			_, _ = nested.Exec(ctx, "select 1/0")
			return nested.Rollback(ctx)
		}), Damage: harmless},
		{Name: "begin within", Do: sql("begin", "start transaction"), Damage: harmless},
		{Name: "settings", Do: sql("set local work_mem = '1MB'", "set work_mem = '2MB'",
			"set constraints all immediate", "reset work_mem",
			"select set_config('app.tenant', 'x', true)"), Damage: harmless},
		{Name: "words that end nothing",
			Do: sql("select 'a; commit' as \"; rollback\", $$;commit;$$ /* ; commit */ -- ; commit",
				"do $$ begin null; end; $$"), Damage: harmless},
		{Name: "a block that commits inside",
			Do: sql("do $$ begin insert into account values ('in a block', 1); commit; end $$"), Damage: spoiled},
		{Name: "a procedure that commits", Do: sql("call commits()"), Damage: spoiled},
		{Name: "a procedure that rolls back", Do: sql("call rolls_back()"), Damage: spoiled},
		{Name: "a procedure that commits, called behind a commit", Do: sql("commit; call commits(); begin"),
			Damage: torn},
		{Name: "settings that are reset", Do: sql("reset all"), Damage: spoiled},
		{Name: "discard all", Do: sql("discard all"), Damage: spoiled},
		{Name: "a failed statement", Do: sql("select 1/0"), Damage: spoiled},
		{Name: "a failed statement and a commit", Do: sql("select 1/0", "commit"), Damage: spoiled},
		{Name: "a savepoint that is not there", Do: sql("rollback to nowhere"), Damage: spoiled},
		{Name: "a savepoint that is set after the error", Do: handled(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select $1::int", "no number")
			return errors.Join(err, sql1(ctx, tx, "savepoint a"), sql1(ctx, tx, "rollback to a"),
				sql1(ctx, tx, "release a"))
		}), Damage: spoiled},

		{Name: "rollback", Do: sql("rollback"), Damage: spoiled},
		{Name: "abort", Do: sql("abort"), Damage: spoiled},
		{Name: "rollback and begin", Do: sql("rollback; begin"), Damage: spoiled},
		{Name: "rollback, and begin as if nothing were", Do: sql("rollback", "begin"), Damage: spoiled},
		{Name: "rollback and chain", Do: sql("rollback and chain"), Damage: spoiled},
		{Name: "rollback and chain twice", Do: sql("rollback and chain", "/* again */ ROLLBACK AND CHAIN"),
			Damage: spoiled},
		{Name: "rollback and chain by a query", Do: query("rollback and chain"), Damage: spoiled},
		{Name: "rollback and chain in the simple protocol",
			Do: query("rollback and chain", pgx.QueryExecModeSimpleProtocol), Damage: spoiled},
		{Name: "rollback and chain in a batch", Do: batch("select 1", "rollback and chain"), Damage: spoiled},
		{Name: "rollback and chain past the handle", Do: raw("rollback and chain"), Damage: adaptertest.Unproven},
		{Name: "rollback and chain prepared by name", Do: named("rollback and chain"), Damage: spoiled},
		{Name: "rollback and chain behind a savepoint", Do: sql("savepoint a", "rollback and chain", "savepoint a"),
			Damage: spoiled},
		{Name: "rollback and chain in a nested transaction", Do: handled(func(ctx context.Context, tx pgx.Tx) error {
			return pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error { return sql1(ctx, nested, "rollback and chain") })
		}), Damage: spoiled},
		{Name: "rollback, begin, and a mark by guess", Do: sql("rollback; begin; set local concord.branch = 1"),
			Damage: spoiled},
		{Name: "rollback, a mark that stays, and begin", Do: sql("rollback; set concord.branch = 1; begin"),
			Damage: spoiled},
		{Name: "rollback and chain in a batch by a name, not read", Do: unread("rollback and chain", one),
			Damage: spoiled},
		{Name: "rollback, begin and fail", Do: sql("rollback; begin; select 1/0"), Damage: spoiled},
		{Name: "rollback, and a setting made as concord does", Do: sql("rollback; begin", "reset concord.branch"),
			Damage: spoiled},

		{Name: "rollback, and work outside of any transaction", Do: sql("rollback; " + stray), Damage: torn},
		{Name: "rollback, and work outside of any transaction in a batch", Do: batch("rollback", stray), Damage: torn},
		{Name: "rollback and commit something else, if it could",
			Do: sql("rollback and chain", stray, "commit and chain"), Damage: spoiled},
		{Name: "rollback and commit something else in a batch",
			Do: batch("rollback and chain", stray, "commit and chain"), Damage: torn},
		{Name: "rollback and commit something else at once", Do: sql("rollback; begin; " + stray + "; commit; begin"),
			Damage: torn},
		{Name: "fail and commit something else, if it could",
			Do: sql("select 1/0", "rollback and chain", stray, "commit and chain"), Damage: spoiled},
		{Name: "work past the handle", Do: raw(stray), Damage: harmless},
		{Name: "a failure past the handle", Do: raw("select 1/0"), Damage: adaptertest.Unproven},
		{Name: "a failure of a statement of somebody who took the connection",
			Do: handled(func(ctx context.Context, tx pgx.Tx) error {
				_ = tx.Conn().TypeMap()
				return sql1(ctx, tx, "select 1/0")
			}), Damage: spoiled},
		{Name: "a failure in a text with an end in it",
			Do: sql("savepoint a; rollback to a; " + stray + "; begin; select 1/0"), Damage: spoiled},

		{Name: "commit", Do: sql("commit"), Damage: torn},
		{Name: "end", Do: sql("END TRANSACTION"), Damage: torn},
		{Name: "commit and begin", Do: sql("commit; begin"), Damage: torn},
		{Name: "commit, and begin as if nothing were", Do: sql("commit", "begin"), Damage: torn},
		{Name: "commit and chain", Do: sql("commit and chain"), Damage: torn},
		{Name: "commit and chain by a query", Do: query("commit and chain"), Damage: torn},
		{Name: "commit and begin in the simple protocol", Do: query("commit; begin", pgx.QueryExecModeSimpleProtocol),
			Damage: torn},
		{Name: "commit and chain in a batch", Do: batch("select 1", "commit and chain", "select 2"), Damage: torn},
		{Name: "commit and begin past the handle", Do: raw("commit; begin"), Damage: torn},
		{Name: "commit, begin and fail", Do: sql("commit; begin; select 1/0"), Damage: torn},
		{Name: "commit, begin and fail past the handle", Do: raw("commit; begin; select 1/0"), Damage: torn},
		{Name: "commit prepared by name", Do: named("commit and chain"), Damage: torn},
		{Name: "commit, begin, and a mark by guess", Do: sql("commit; begin; set local concord.branch = 1"),
			Damage: torn},
		{Name: "commit in a batch by a name, not read", Do: unread("commit", one), Damage: torn},
		{Name: "commit and chain in a batch by a name, not read", Do: unread("commit and chain", one), Damage: torn},
		{Name: "commit and chain in a batch, behind a callback that fails", Do: unread("commit and chain", fails),
			Damage: torn},
		{Name: "commit and chain in a batch by a name, behind callbacks that read",
			Do: unread("commit and chain", func(b *pgx.Batch) {
				b.Queue("select 1").Query(func(rows pgx.Rows) error { return rows.Err() })
				b.Queue("select 2").QueryRow(func(pgx.Row) error { return nil })
			}), Damage: torn},
		{Name: "commit, and die", Do: sql("commit; select pg_terminate_backend(pg_backend_pid())"), Damage: torn},
		{Name: "commit and rollback and begin", Do: sql("commit; begin; rollback; begin"), Damage: torn},
		{Name: "commit and a savepoint", Do: sql("commit; begin; savepoint a; rollback to a"), Damage: torn},
		{Name: "commit and chain with the isolation kept", Do: sql("commit and chain; select 1; commit and chain"),
			Damage: torn},
		{Name: "commit in a rewritten query", Do: handled(func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select 1", rewriter("commit; begin"))
			return err
		}), Damage: torn},
		{Name: "prepare transaction by hand", Do: sql("prepare transaction 'theirs'"), Damage: torn,
			After: rollBackTheirs},
		{Name: "prepare transaction by hand and begin", Do: sql("prepare transaction 'theirs'; begin"), Damage: torn,
			After: rollBackTheirs},
		{Name: "prepare transaction under the name of the branch",
			Do: func(ctx context.Context, s adapters.Session) error {
				return do(ctx, s, prepareText(s.(*session).x))
			}, Damage: spoiled},
		{Name: "prepare transaction under the name of the branch and begin",
			Do: func(ctx context.Context, s adapters.Session) error {
				return do(ctx, s, prepareText(s.(*session).x)+"; begin")
			}, Damage: adaptertest.Unproven},
		{Name: "prepare transaction by hand, begin and fail",
			Do: sql("prepare transaction 'theirs'; begin; select 1/0"), Damage: torn, After: rollBackTheirs},
	}
}

// A write to a foreign table has no transaction number, and PREPARE refuses it. It is no read, however it is
// written and whether or not its answer is read.
func TestAWriteToAForeignTableIsNoRead(t *testing.T) {
	b := newBank(t)
	port := strconv.Itoa(b.db.Port())
	for _, text := range []string{"create extension if not exists postgres_fdw",
		"create server if not exists elsewhere foreign data wrapper postgres_fdw options (host '127.0.0.1', port '" +
			port +
			"', dbname 'postgres')",
		"create user mapping if not exists for app server elsewhere options (user 'app', password_required 'false')",
		"grant usage on foreign server elsewhere to app",
		"create table if not exists theirs (k text)", "grant all on theirs to app",
		"create foreign table if not exists ft (k text) server elsewhere options (schema_name 'public', table_name " +
			"'theirs')",
		"grant all on ft to app"} {
		_, err := b.admin.Exec(b.ctx, text)
		require.NoError(t, err, text)
	}
	exec := func(text string) func(pgx.Tx) error {
		return func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, text); return err }
	}
	for name, work := range map[string]func(pgx.Tx) error{
		"plain":         exec("insert into ft values ('x')"),
		"with":          exec("with x as (insert into ft values ('x') returning 1) select count(*) from x"),
		"explain":       exec("explain analyze insert into ft values ('x')"),
		"explain (...)": exec("explain (analyze, costs off) delete from ft"),
		"batch that nobody reads": func(tx pgx.Tx) error {
			batch := &pgx.Batch{}
			batch.Queue("insert into ft values ('x')")
			return tx.SendBatch(b.ctx, batch).Close()
		},
	} {
		for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.Serializable} {
			t.Run(name+" "+string(level), func(t *testing.T) {
				s := b.begin(newXID())
				require.NoError(t, s.configure(b.ctx, TxOptions{Isolation: level}))
				require.NoError(t, work(handleOf(t, s)))
				require.False(t, s.OnlyRead())
				vote, _, err := s.Prepare(b.ctx)
				require.Equal(t, txn.VoteNo, vote)
				require.ErrorContains(t, err, "postgres_fdw")
				require.NotErrorIs(t, err, adapters.ErrTorn)
				require.NoError(t, s.Rollback(b.ctx))
				require.Zero(t, b.count("select count(*) from theirs"))
				b.clean()
			})
		}
	}
}

// A commit of a serializable branch that only read would say what its views say, before the decision.
func TestNothingLeavesASerializableReader(t *testing.T) {
	b := newBank(t)
	for _, text := range []string{
		"create or replace function tells() returns int language sql as $$ select 1 from pg_notify('gossip', 'x') $$",
		"create or replace view gossip as select tells()", "grant all on gossip to app"} {
		_, err := b.admin.Exec(b.ctx, text)
		require.NoError(t, err, text)
	}
	listener, err := b.admin.Acquire(b.ctx)
	require.NoError(t, err)
	defer listener.Release()
	_, err = listener.Exec(b.ctx, "listen gossip")
	require.NoError(t, err)
	s := b.begin(newXID())
	require.NoError(t, s.configure(b.ctx, TxOptions{Isolation: pgx.Serializable}))
	b.do(s, "select * from gossip")
	vote, _, err := s.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote, "PREPARE refuses what has notified")
	require.Error(t, err)
	require.NoError(t, s.Rollback(b.ctx))
	_, err = listener.Exec(b.ctx, "notify gossip, 'the end'")
	require.NoError(t, err)
	heard, err := listener.Conn().WaitForNotification(b.ctx)
	require.NoError(t, err)
	require.Equal(t, "the end", heard.Payload, "nobody hears of an aborted branch")

	reader := b.begin(newXID())
	require.NoError(t, reader.configure(b.ctx, TxOptions{Isolation: pgx.Serializable}))
	b.do(reader, "select count(*) from account")
	b.prepare(reader)
	require.NoError(t, reader.Rollback(b.ctx))
	b.clean()
}

// What the application's own SQL may have committed is never called aborted, also when the server that
// could tell is away, and is ended when it is back.
func TestABranchThatMayBeCommittedIsTornAlsoWhenNobodyCanBeAsked(t *testing.T) {
	db := testdb.Postgres(t)
	require.NoError(t, furnish(t.Context(), db))
	b := bankOf(t, db)
	for _, text := range []string{"commit; begin", "rollback and chain"} {
		s, _ := b.work()
		b.do(s, text)
		b.kill(s)
		require.NoError(t, db.Pause())
		ctx, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
		err := s.Rollback(ctx)
		cancel()
		require.ErrorIs(t, err, adapters.ErrTorn, text)
		require.False(t, adapters.Ended(err), "it may be called again")
		require.NoError(t, db.Resume())
		err = s.Rollback(b.ctx)
		require.True(t, adapters.Ended(err))
		require.Equal(t, text == "commit; begin", errors.Is(err, adapters.ErrTorn), "%v", err)
	}
	s, _ := b.work() // nothing of this can be committed
	b.kill(s)
	require.NoError(t, db.Pause())
	ctx, cancel := context.WithTimeout(b.ctx, 200*time.Millisecond)
	defer cancel()
	err := s.Rollback(ctx)
	require.NoError(t, db.Resume())
	require.NotErrorIs(t, err, adapters.ErrTorn)
	require.NoError(t, s.Rollback(b.ctx))
}

func sql1(ctx context.Context, tx pgx.Tx, text string) error {
	_, err := tx.Exec(ctx, text)
	return err
}

// rewriter makes another statement of any.
type rewriter string

func (r rewriter) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	return string(r), nil, nil
}

const canary = "c4n4ry-p4ss"

func TestPasswordIsInNoError(t *testing.T) {
	for _, dsn := range []string{
		"postgres://app:" + canary + "%zz@127.0.0.1/bank",
		"postgres://app:" + canary + "@127.0.0.1:port/bank",
		"postgres://app:" + canary + "@127.0.0.1/bank?sslmode=" + canary,
		"postgres://app:" + canary + "@127.0.0.1/bank?pool_max_conns=" + canary,
		"host=127.0.0.1 password='" + canary,
		"host=127.0.0.1 password=" + canary + " port=" + canary,
		canary,
	} {
		_, err := Open(context.Background(), "bank", dsn)
		require.Error(t, err, "%s", strings.ReplaceAll(dsn, canary, "*"))
		require.NotContains(t, err.Error(), canary)
		require.ErrorContains(t, err, "write it as postgres://")
	}

	b := bankWith(t, testdb.WithPasswords())
	every := func(user string) {
		r, err := Open(b.ctx, "bank", b.db.UserDSN(user, canary, ""))
		require.NoError(t, err)
		defer r.Close()
		var errs []error
		note := func(err error) { errs = append(errs, err) }
		_, err = r.Identity(b.ctx)
		note(err)
		_, err = r.Recover(b.ctx)
		note(err)
		_, err = r.Check(b.ctx)
		note(err)
		_, err = r.Open(b.ctx, newXID())
		note(err)
		_, err = r.Commit(b.ctx, newXID(), txn.Branch{})
		note(err)
		_, err = r.Rollback(b.ctx, newXID(), txn.Branch{})
		note(err)
		for _, err := range errs {
			require.Error(t, err)
			require.NotContains(t, err.Error(), canary)
			require.ErrorContains(t, err, "check ") // the next step
		}
	}
	every("app") // wrong password
	require.NoError(t, b.db.Exec(b.ctx, "", "alter role app password '"+canary+"'"))
	require.NoError(t, b.db.Stop())
	every("app") // nobody listens
	require.NoError(t, b.db.Start())
	b.admin.Reset()
	b.Resource = New("bank", b.admin)
}

func TestOpenDoesNotConnect(t *testing.T) {
	r, err := Open(context.Background(), "bank", "postgres://app@127.0.0.1:1/bank")
	require.NoError(t, err)
	require.NoError(t, r.Close())
}

func TestEvidenceAndHolderRoundTrip(t *testing.T) {
	e := evidence{true, "18446744073709551615", "7301234567890123456", "0000002A", "16384", `we;rd "röle"` + "\n="}
	got, err := parseEvidence(e.String())
	require.NoError(t, err)
	require.Equal(t, e, got)
	h, err := parseHolder(holder{4294967295, 1700000000123456}.String())
	require.NoError(t, err)
	require.Equal(t, holder{4294967295, 1700000000123456}, h)
	require.Empty(t, holder{}.String())
	for _, bad := range []string{"", "v1", e.String() + ";", " " + e.String(),
		strings.Replace(e.String(), "v2", "v3", 1), strings.Replace(e.String(), "0000002A", "0000002a", 1)} {
		_, err := parseEvidence(bad)
		require.ErrorIs(t, err, errEvidence, "%q", bad)
	}
	for _, bad := range []string{"", "v1;pid=0;start=1", "v1;pid=4294967296;start=1", "v1;pid=01;start=1",
		"v1;pid=1;start=1\n"} {
		_, err := parseHolder(bad)
		require.ErrorIs(t, err, errEvidence, "%q", bad)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("v1;xid8=1;system=2;timeline=00000001;db=3;role=app")
	f.Add("v1;pid=1;start=2")
	f.Fuzz(func(t *testing.T, s string) {
		if e, err := parseEvidence(s); err == nil {
			require.Equal(t, s, e.String())
		}
		if h, err := parseHolder(s); err == nil {
			require.Equal(t, s, h.String())
		}
	})
}

// A rogue server refuses TLS and asks for the password as it is. It does not get it.
func TestARogueServerDoesNotGetThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	got := make(chan string, 8)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go rogue(conn, got)
		}
	}()
	r, err := Open(t.Context(), "orders", "postgres://app:s3cr3t@"+l.Addr().String()+"/shop?connect_timeout=5")
	require.NoError(t, err)
	_, err = r.Identity(t.Context())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "s3cr3t")
	require.NoError(t, r.Close())
	require.Equal(t, "nothing", <-got)
}

// rogue asks one client for its password, and says what it got.
func rogue(conn net.Conn, got chan<- string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := pgproto3.NewBackend(conn, conn)
	for {
		m, err := b.ReceiveStartupMessage()
		if err != nil {
			return
		}
		if _, ok := m.(*pgproto3.SSLRequest); ok {
			if _, err := conn.Write([]byte("N")); err != nil {
				return
			}
			continue
		}
		break
	}
	b.Send(&pgproto3.AuthenticationCleartextPassword{})
	if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return
	}
	m, err := b.Receive()
	if p, ok := m.(*pgproto3.PasswordMessage); err == nil && ok {
		got <- p.Password
		return
	}
	got <- "nothing"
}

// Whom the data source name lets verify the server may be asked in any way.
func TestAVerifiedServerMayAskForThePassword(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://a:b@h/d": "!password", "postgres://a:b@h/d?sslmode=require": "!password",
		"postgres://a:b@h/d?sslmode=disable":                       "!password",
		"postgres://a:b@h/d?sslmode=verify-full":                   "",
		"postgres://a:b@h/d?sslmode=disable&require_auth=password": "password",
	} {
		c, err := pgx.ParseConfig(dsn)
		require.NoError(t, err)
		guardPassword(c)
		require.Equal(t, want, c.RequireAuth, dsn)
	}
}
