// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func TestAnIDIsAnArgumentAndIsScanned(t *testing.T) {
	b := newBank(t)
	s, x := b.work()
	b.do(s, "create temporary table stored (id text, fixed char(26))")
	b.do(s, "insert into stored values ($1, $2), ($3, null)", x.ID, x.ID, txn.ID{})
	var id, fixed, none txn.ID
	require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select id, fixed from stored where id = $1", x.ID).Scan(&id,
		&fixed))
	require.Equal(t, []txn.ID{x.ID, x.ID}, []txn.ID{id, fixed})
	none = x.ID
	require.NoError(t, handleOf(t, s).QueryRow(b.ctx, "select id from stored where id is null").Scan(&none))
	require.True(t, none.IsZero())
	require.NoError(t, s.Rollback(b.ctx))
}

func TestWhatPassesIsTransient(t *testing.T) {
	b := newBank(t, WithLockTimeout(50*time.Millisecond))
	holder, x := b.work()
	waiting := b.begin(newXID())
	err := write(b.ctx, waiting, x.ID.String(), 2)
	require.Equal(t, "55P03", sqlState(err), "%v", err)
	require.True(t, b.Transient(fmt.Errorf("transfer: %w", err)))
	vote, _, err := waiting.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.True(t, b.Transient(err))

	err = do(b.ctx, holder, "insert into account values ($1, 2)", x.ID.String())
	require.Equal(t, "23505", sqlState(err), "%v", err)
	require.False(t, b.Transient(err))
	require.False(t, b.Transient(b.ctx.Err()))
	require.NoError(t, holder.Rollback(b.ctx))
}

func TestTheVictimOfADeadlockIsTransient(t *testing.T) {
	b := newBank(t)
	one, x := b.work()
	two, y := b.work()
	first := make(chan error, 1)
	go func() { first <- write(b.ctx, one, y.ID.String(), 2) }()
	b.busy(one)
	err := write(b.ctx, two, x.ID.String(), 2)
	if err == nil {
		require.NoError(t, two.Rollback(b.ctx))
		err = <-first
	}
	require.Equal(t, "40P01", sqlState(err), "%v", err)
	require.True(t, b.Transient(err))
	require.NoError(t, two.Rollback(b.ctx))
	require.NoError(t, one.Rollback(b.ctx))
}

func TestOnlyEvidenceOfThisAdapterIsValid(t *testing.T) {
	r := &Resource{name: "bank"}
	e := evidence{true, "18446744073709551615", "7301234567890123456", "0000002A", "16384", "app"}
	good := txn.Branch{Evidence: e.String(), Holder: holder{pid: 4711, start: 1_700_000_000_123_456}.String()}
	require.NoError(t, r.Validate(good))
	require.NoError(t, r.Validate(txn.Branch{}), "neither has to be there")
	with := func(old, new string) string { return strings.Replace(e.String(), old, new, 1) }
	for _, evidence := range []string{"poison", "v1", with("v2", "v3"),
		with("18446744073709551615", "18446744073709551616"),
		with("18446744073709551615", "007"), with("7301234567890123456", "99999999999999999999"),
		with("16384", "4294967296"),
		e.String() + "'; drop table t; --", strings.Repeat("a", 1<<20)} {
		b := good
		b.Evidence = evidence
		require.ErrorIs(t, r.Validate(b), errEvidence, "%.80q", evidence)
	}
	for _, holder := range []string{"4711", "v1;pid=0;start=1", "v1;pid=2147483648;start=1", "v1;pid=1;start=1;",
		good.Evidence} {
		b := good
		b.Holder = holder
		require.ErrorIs(t, r.Validate(b), errEvidence, "%q", holder)
	}
}

// FuzzValidate takes what anybody may say of a branch.
func FuzzValidate(f *testing.F) {
	f.Add("v1;xid8=1;system=2;timeline=00000001;db=3;role=app", "v1;pid=1;start=2")
	f.Add("v2;xid8=1;system=2;timeline=00000001;db=3;role=app", "")
	f.Add("poison", "7@1@0123456789abcdef")
	f.Fuzz(func(t *testing.T, evidence, holder string) {
		if (&Resource{}).Validate(txn.Branch{Evidence: evidence, Holder: holder}) != nil {
			return
		}
		if evidence != "" {
			e, err := parseEvidence(evidence)
			require.NoError(t, err)
			require.Equal(t, evidence, e.String())
		}
		if holder != "" {
			h, err := parseHolder(holder)
			require.NoError(t, err)
			require.Equal(t, holder, h.String())
		}
	})
}

// Whatever call of the handle told the application of an error, the session knows it: so the
// global transaction can name the resource.
func TestTheSessionKnowsTheErrorsOfEveryCall(t *testing.T) {
	b := newBank(t)
	const twice = "insert into account values ($1, 1), ($1, 2)"
	for name, call := range map[string]func(pgx.Tx) error{
		"exec":         func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, twice, "k"); return err },
		"exec, simple": func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, "selec"); return err },
		"query": func(tx pgx.Tx) error {
			rows,
				_ := tx.Query(b.ctx, twice, "k")
			rows.Close()
			return rows.Err()
		},
		"query row": func(tx pgx.Tx) error { return tx.QueryRow(b.ctx, "select 1 / $1::int", 0).Scan(new(int)) },
		"scan":      func(tx pgx.Tx) error { return tx.QueryRow(b.ctx, "select 'x'::text").Scan(new(int)) },
		"batch": func(tx pgx.Tx) error {
			q := &pgx.Batch{}
			q.Queue(twice, "k")
			return tx.SendBatch(b.ctx,
				q).Close()
		},
		"prepare":  func(tx pgx.Tx) error { _, err := tx.Prepare(b.ctx, "s", "selec"); return err },
		"argument": func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, twice, struct{}{}); return err },
		"copy": func(tx pgx.Tx) error {
			_, err := tx.CopyFrom(b.ctx, pgx.Identifier{"nowhere"}, []string{"k"}, pgx.CopyFromRows(nil))
			return err
		},
		"savepoint": func(tx pgx.Tx) error { _, _ = tx.Exec(b.ctx, "selec"); _, err := tx.Begin(b.ctx); return err },
		"in a savepoint": func(tx pgx.Tx) error {
			n, err := tx.Begin(b.ctx)
			require.NoError(t, err)
			_, err = n.Exec(b.ctx, twice, "k")
			return err
		},
		"commit": func(tx pgx.Tx) error { _, _ = tx.Exec(b.ctx, "selec"); return tx.Commit(b.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			s := b.begin(newXID())
			err := call(handleOf(t, s))
			require.Error(t, err)
			requireTold(t, s, fmt.Errorf("place the order: %w", err))
			require.NoError(t, s.Rollback(b.ctx))
			requireTold(t, s, err)
		})
	}
}

func findingOf(t *testing.T, r adapters.Report, what string) adapters.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.What == what {
			return f
		}
	}
	t.Fatalf("nothing is said about %s: %+v", what, r.Findings)
	return adapters.Finding{}
}

// Anybody can prepare something that has our form. It is shown, and no reason to take the
// database out of service; nor is a reason to make anybody a superuser.
func TestBranchThatOnlyASuperuserCouldFinishIsNotJudged(t *testing.T) {
	b := newBank(t)
	for name, as := range map[string]string{"a superuser": "postgres", "who may become one": "deputy",
		"a role that is there no more": "ghost"} {
		t.Run(name, func(t *testing.T) {
			b.run("drop role if exists deputy, ghost", "create role deputy", "grant postgres to deputy",
				"create role ghost")
			x := newXID()
			x.Cluster++
			b.run("begin; set local role " + as + "; select pg_current_xact_id(); prepare transaction '" + x.String() +
				"'")
			if as == "ghost" {
				b.run("drop role ghost")
			}
			recovery := b.as("recovery", "")
			report, err := recovery.Check(b.ctx)
			require.NoError(t, err)
			require.True(t, report.OK(), "%+v", report)
			f := findingOf(t, report, "finishing branches of other roles")
			require.NotEmpty(t, f.Fix)
			require.Contains(t, f.Fix, "by hand")
			require.NotContains(t, f.Fix, "GRANT")
			b.run("rollback prepared '" + x.String() + "'")
		})
	}
}

// run runs statements as the superuser.
func (b *bank) run(statements ...string) {
	b.Helper()
	for _, sql := range statements {
		_, err := b.admin.Exec(b.ctx, sql, pgx.QueryExecModeSimpleProtocol)
		require.NoError(b, err, sql)
	}
}

// Whoever meets a prepared branch reads from its name which others there are, and whom it keeps
// waiting: by a row, by a table, and behind one who waits himself.
func TestInspectTellsSiblingsAndWhoIsBlocked(t *testing.T) {
	b := newBank(t, WithLockTimeout(0))
	s, x := b.work()
	s.Siblings([]txn.BranchNo{0, 1, 7})
	b.prepare(s)
	require.Equal(t, 1, b.count("select count(*) from pg_prepared_xacts where gid = $1", x.String()+"-000107"))
	left, err := b.Recover(b.ctx)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, x, left[0].XID)

	done := make(chan error, 2)
	waiter := b.begin(newXID())
	go func() { done <- write(b.ctx, waiter, x.ID.String(), 2) }()
	b.busy(waiter)
	go func() {
		_, err := b.admin.Exec(b.ctx, "alter table account add column if not exists note text")
		done <- err
	}()
	b.eventually(func() bool {
		found, err := b.Inspect(b.ctx, x)
		require.NoError(b, err)
		return len(found.Blocked) == 2
	})
	found, err := b.as("postgres", "").Inspect(b.ctx, x) // others do not see the statements of a superuser
	require.NoError(t, err)
	require.True(t, found.Prepared)
	require.False(t, found.Committed)
	require.Equal(t, []txn.BranchNo{0, 1, 7}, found.Siblings)
	require.Contains(t, found.Blocked[0].Statement, "insert into account")
	require.Contains(t, found.Blocked[1].Statement, "alter table account")
	require.Contains(t, found.Blocked[0].Session, "process ")
	require.Positive(t, found.Blocked[0].For)

	// Anybody finishes it who knows its XID alone.
	finish, err := b.Commit(b.ctx, x, txn.Branch{No: x.Branch})
	require.NoError(t, err)
	require.Equal(t, txn.Done, finish)
	require.NoError(t, <-done)
	require.NoError(t, waiter.Rollback(b.ctx))
	require.NoError(t, <-done)
	found, err = b.Inspect(b.ctx, x)
	require.NoError(t, err)
	require.True(t, found.Committed)
	require.False(t, found.Prepared)
	b.run("alter table account drop column note")
}

// Who waits is told with the name that his own session has, whom he waits for too, be that a session or a prepared
// branch, and nobody is told of before his time.
func TestWaitsAreThoseOfSessionsByTheirNames(t *testing.T) {
	b := newBank(t, WithLockTimeout(0))
	holding, x := b.work()
	asked, waits := holding.Asked()
	require.False(t, waits)
	waiter := b.begin(newXID())
	done := make(chan error, 1)
	go func() { done <- write(b.ctx, waiter, x.ID.String(), 2) }()
	b.busy(waiter)
	again, waits := waiter.Asked()
	require.True(t, waits)
	require.NotZero(t, again)
	more, _ := holding.Asked()
	require.Equal(t, asked, more, "nothing was asked meanwhile")

	var list []adapters.Wait
	listed := func() bool {
		var err error
		list, err = b.Waits(b.ctx, 0)
		require.NoError(t, err)
		return len(list) == 1
	}
	b.eventually(listed)
	require.Equal(t, waiter.SessionName(), list[0].Session)
	require.Equal(t, holding.SessionName(), list[0].For)
	require.Zero(t, list[0].Branch)
	since := list[0].Since
	require.True(t, listed())
	require.Equal(t, since, list[0].Since, "it is the same wait")
	early, err := b.Waits(b.ctx, time.Hour)
	require.NoError(t, err)
	require.Empty(t, early)
	elsewhere, err := b.as("app", "template1").Waits(b.ctx, 0)
	require.NoError(t, err)
	require.Empty(t, elsewhere, "it is another database's")

	b.prepare(holding)
	require.True(t, listed())
	require.Empty(t, list[0].For)
	require.Equal(t, x, list[0].Branch)
	_, err = holding.Commit(b.ctx)
	require.NoError(t, err)
	require.NoError(t, <-done)
	_, waits = waiter.Asked()
	require.False(t, waits)
	b.eventually(func() bool { return !listed() && len(list) == 0 })
}

func TestNamesAreReadAsTheyAreWritten(t *testing.T) {
	x := newXID()
	for _, siblings := range [][]txn.BranchNo{nil, {1}, {0, 1}, {1, 2, 255}} {
		want := name{XID: x, siblings: siblings}
		read, ours := parseName(want.String())
		require.True(t, ours)
		require.Equal(t, want, read)
	}
	many := make([]txn.BranchNo, 200)
	require.Equal(t, x.String(), name{XID: x, siblings: many}.String(), "too many for a name")
	deferred := name{XID: x, last: txn.TagOf("billing")}
	deferred.ID = x.ID.WithClass(txn.LastResource)
	read, ours := parseName(deferred.String())
	require.True(t, ours)
	require.Equal(t, deferred, read)
	for _, tail := range []string{"-", "-0001", "-0C95C7EC", "-00000000", "-0c95c7ec-", "-0c95c7ec00", " 0c95c7ec"} {
		_, ours := parseName(deferred.XID.String() + tail)
		require.False(t, ours, "%q", tail)
	}
	for _, tail := range []string{"-", "0", "-0", "-00", "-0100", "-0101", "-01'", "-0001FF", "-0001-", " 0001",
		"-01\x00"} {
		_, ours := parseName(x.String() + tail)
		require.False(t, ours, "%q", tail)
	}
}

// steps are all next steps that concord knows for its own commands.
var steps = []string{
	"make the recovery login", "grant the login", "this server is a standby", "set max_prepared_transactions",
	"somebody else is finishing",
	"raise max_prepared_transactions", "a branch of this name", "keep what the message names",
	"belongs to another database",
	"run the global transaction again",
	"please report", "check user, password", "has no free connection", "check that the server runs",
}

func TestAnIgnoredErrorOfAStatementIsShownWithoutAHintForConcordsOwnCommands(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, `create or replace function raises(code text) returns int language plpgsql as
		$$ begin raise exception 'raised' using errcode = code; end $$; create sequence if not exists counter; grant usage on counter to app`)
	require.NoError(t, err)
	for code, sql := range map[string]string{
		"42501": "select * from canary",
		"55000": "select currval('counter')",
		"42710": "select raises('42710')",
		"0A000": "select * from account for update of account nowait limit 1 offset (select 1 from account group by " +
			"grouping sets ((), ()) for update)",
		"25001": "vacuum",
		"53200": "select raises('53200')",
		"40P01": "select raises('40P01')",
		"40001": "select raises('40001')",
		"28000": "select raises('28000')",
		"3D000": "select raises('3D000')",
		"53300": "select raises('53300')",
		"57014": "select raises('57014')",
		"57P01": "select raises('57P01')",
		"08006": "select raises('08006')",
		"42704": "set role nobody_at_all",
		"22P02": "select 'x'::int",
		"26000": "execute nothing",
	} {
		t.Run(code, func(t *testing.T) {
			if code == "42704" {
				code = "22023"
			}
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
				s, _ := b.work()
				ignored := do(b.ctx, s, sql)
				require.Equal(t, code, sqlState(ignored), "%v", ignored)
				err := end(s)
				require.NotErrorIs(t, err, adapters.ErrTorn)
				require.ErrorContains(t, err, "your closure ignored this error: "+ignored.Error())
				require.True(t, strings.HasSuffix(err.Error(), ignored.Error()), "%v", err)
				for _, step := range steps {
					require.NotContains(t, err.Error(), step)
				}
			}
		})
	}
}

// Deferred triggers are the application's, though PREPARE TRANSACTION and COMMIT run them.
func TestAnErrorOfADeferredTriggerHasNoHintForConcordsOwnCommands(t *testing.T) {
	b := newBank(t)
	_, err := b.admin.Exec(b.ctx, `drop table if exists guarded; create table guarded (code text); grant all on guarded to app;
		create or replace function refuses() returns trigger language plpgsql as
			$$ begin raise exception 'refused' using errcode = new.code; end $$;
		create constraint trigger refuses after insert on guarded deferrable initially deferred for each row execute function refuses()`)
	require.NoError(t, err)
	for _, code := range []string{"42501", "55000", "42710", "0A000", "53200", "25001", "28000", "53300", "57P01",
		"42704", "22P02", "26000"} {
		for operation, end := range map[string]func(*session) error{
			"prepare": func(s *session) error { _, _, err := s.Prepare(b.ctx); return err },
			"commit":  func(s *session) error { return s.CommitOnePhase(b.ctx) },
		} {
			t.Run(code+" at "+operation, func(t *testing.T) {
				s, _ := b.work()
				b.do(s, "insert into guarded values ($1)", code)
				err := end(s)
				require.Equal(t, code, sqlState(err), "%v", err)
				for _, step := range steps {
					require.NotContains(t, err.Error(), step)
				}
				require.NotErrorIs(t, err, adapters.ErrTorn)
			})
		}
	}
}

func TestTheNextStepBelongsToTheOperation(t *testing.T) {
	all := []operation{asking, preparing, committing, finishing}
	for code, want := range map[string]map[operation]string{
		"42501": {finishing: "recovery login", asking: "grant the login"},
		"55000": {preparing: "max_prepared_transactions above 0", finishing: "somebody else"},
		"53200": {preparing: "raise max_prepared_transactions"},
		"42710": {preparing: "of this name"},
		"0A000": {preparing: "keep what the message names", finishing: "another database"},
		"25006": {finishing: "standby"},
		"25001": {finishing: "please report"},
		"40001": {preparing: "again", committing: "again"},
		"40P01": {preparing: "again", committing: "again"},
		"55P03": {preparing: "again", committing: "again"},
		"28P01": {asking: "password", preparing: "password", committing: "password", finishing: "password"},
		"3D000": {asking: "database of the", preparing: "database of the", committing: "database of the",
			finishing: "database of the"},
		"53300": {asking: "max_connections", preparing: "max_connections", committing: "max_connections",
			finishing: "max_connections"},
		"57P03": {asking: "server runs", preparing: "server runs", committing: "server runs", finishing: "server runs"},
		"23505": {},
	} {
		for _, op := range all {
			step := nextStep(op, fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code}))
			if want[op] == "" {
				require.Empty(t, step, "%s in %d", code, op)
				continue
			}
			require.Contains(t, step, want[op], "%s in %d", code, op)
		}
	}
}

// FuzzPostgresListing reads a row of pg_prepared_xacts: names of anybody.
func FuzzPostgresListing(f *testing.F) {
	f.Add(txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 3}.String(), "app")
	f.Add("x'; drop table canary; --", `a"; drop role app; --`)
	f.Add("concord-\x00\xff\\", "")
	f.Fuzz(func(t *testing.T, gid, owner string) {
		p, ours := parseListed(gid, owner, time.Time{})
		if ours {
			require.Equal(t, gid, p.XID.String(), "what is ours is written as we write it")
			require.Equal(t, owner, p.Owner)
		}
	})
}

// FuzzPostgresDSN opens a resource of any data source name, without connecting.
func FuzzPostgresDSN(f *testing.F) {
	f.Add("postgres://app:secret@127.0.0.1:5432/orders")
	f.Add("host=127.0.0.1 user=app password='a b' dbname=orders")
	f.Add("postgres://app:s%zzcret@[::1")
	f.Add("service=none sslmode=verify-full")
	f.Fuzz(func(t *testing.T, dsn string) {
		r, err := Open(context.Background(), "orders", dsn)
		if err == nil {
			require.NoError(t, r.Close())
		}
	})
}

// requireTold requires that the session knows an error.
func requireTold(t *testing.T, s *session, err error) {
	t.Helper()
	all := s.Failures()
	require.True(t, slices.ContainsFunc(all[:], func(failure error) bool {
		return failure != nil && errors.Is(err,
			failure)
	}), "%v", err)
}
