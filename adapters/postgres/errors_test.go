// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// message is an error that a user of the adapter can meet: how to get it, and what it says, with
// XID for the name of the branch and N for numbers that differ.
type message struct {
	name string
	meet func(*bank) error
	says string
}

// explained is what is said of an answer with that SQLSTATE to a command of concord.
func explained(op operation, code string) func(*bank) error {
	return func(b *bank) error {
		return b.explain(op, "prepare", &pgconn.PgError{Severity: "ERROR", Code: code, Message: "no"})
	}
}

// voted is what a vote says after that.
func voted(do func(*bank, *session)) func(*bank) error {
	return func(b *bank) error {
		s := b.begin(newXID())
		do(b, s)
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b, txn.VoteNo, vote)
		return err
	}
}

// ignored runs a statement whose error the application does not look at.
func ignored(sql string) func(*bank, *session) {
	return func(b *bank, s *session) { _ = do(b.ctx, s, sql) }
}

// wishing is what a branch says to options.
func wishing(o TxOptions, before ...string) func(*bank) error {
	return func(b *bank) error {
		s := b.begin(newXID())
		for _, sql := range before {
			b.do(s, sql)
		}
		_, err := b.TxWith(b.ctx, adaptertest.Enlisted(s), o)
		return err
	}
}

const (
	runThis = "have an administrator of the database run:\n" + CreateMarkerTable + ";\n" + markerGrants +
		"\nfor the roles of the application and of the coordinators"
	answered = `postgres "bank": prepare: ERROR: no (SQLSTATE `
	hasEnded = "a statement of the application ended the transaction of the branch: leave COMMIT, ROLLBACK and " +
		"PREPARE TRANSACTION to concord"
	gaveUp = "a statement failed and PostgreSQL gave up the transaction; your closure ignored this error: "
)

var messages = []message{
	{"a deadlock", explained(preparing, "40P01"), answered + "40P01); run the global transaction again"},
	{"the owner of a branch", explained(finishing, "42501"),
		answered + "42501); make the recovery login a member of the role that prepared the branch " +
			"(GRANT <owner> TO <login>) and, to end sessions of others, of pg_signal_backend"},
	{"a privilege", explained(asking, "42501"), answered + "42501); grant the login what the message names"},
	{"a standby", explained(finishing, "25006"),
		answered + "25006); this server is a standby: point the resource at the primary"},
	{"no prepared transactions", explained(preparing, "55000"),
		answered + "55000); set max_prepared_transactions above 0 and restart the server, or name this " +
			"database in WithLastResource"},
	{"two finish a branch", explained(finishing, "55000"),
		answered + "55000); somebody else is finishing the branch: try again"},
	{"too many prepared transactions", explained(preparing, "53200"),
		answered + `53200); raise max_prepared_transactions, and look for forgotten branches with "concord recover"`},
	{"the name of another branch", explained(preparing, "42710"),
		answered + "42710); a branch of this name is prepared already: run the work in a new global transaction"},
	{"what cannot be prepared", explained(preparing, "0A000"),
		answered + "0A000); keep what the message names out of the branch: PostgreSQL cannot prepare it"},
	{"a branch of another database", explained(finishing, "0A000"),
		answered + "0A000); the branch belongs to another database of this server: point the resource at that one"},
	{"a mistake of the adapter", explained(finishing, "25001"),
		answered + "25001); please report this as a bug of the adapter"},
	{"a password", explained(asking, "28P01"),
		answered + "28P01); check user, password and database of the resource's dsn"},
	{"a database", explained(asking, "3D000"),
		answered + "3D000); check user, password and database of the resource's dsn"},
	{"no free connection", explained(asking, "53300"),
		answered + "53300); the server has no free connection: raise max_connections or lower the pools, then try " +
			"again"},
	{"a server that ends", explained(finishing, "57P01"),
		answered + "57P01); check that the server runs and can be reached, then try again"},
	{"a connection that breaks", func(b *bank) error { return b.explain(finishing, "prepare", io.ErrUnexpectedEOF) },
		`postgres "bank": prepare: unexpected EOF; check that the server runs and can be reached, then try again`},
	{"anything else", explained(asking, "23505"), answered + "23505)"},

	{"a dsn", func(b *bank) error { _, err := Open(b.ctx, "bank", "postgres://app:s3cr3t%zz@db"); return err },
		`postgres "bank": the dsn cannot be parsed (it is not shown, because it may contain a password): write it as ` +
			`postgres://user@host:5432/database`},
	{"a dsn that verifies nobody", func(b *bank) error {
		_, err := Open(b.ctx, "bank", "postgres://app@db.example/shop?sslmode=require")
		return err
	}, `postgres "bank": the sslmode in the dsn lets anybody be the server: leave it out, which is verify-full, or ` +
		`say that this is meant with "tls: insecure" beside the dsn`},
	{"no authorities", func(b *bank) error {
		_, err := Open(b.ctx, "bank", "postgres://app@db.example/shop",
			WithTrust(security.ServerTrust{CA: "/nonexistent/ca.crt"}))
		return err
	}, `postgres "bank": tls_ca: open /nonexistent/ca.crt: no such file or directory`},
	{"a branch of another kind", func(b *bank) error { _, err := b.Tx(b.ctx, adaptertest.Enlisted(nil)); return err },
		`postgres "bank": the branch of that name belongs to another kind of resource: give each resource a name of ` +
			`its own`},
	{"a pool that is the bottleneck", func(b *bank) error {
		for range b.pool.Config().MaxConns {
			b.begin(newXID())
		}
		ctx, cancel := context.WithTimeout(b.ctx, time.Millisecond)
		defer cancel()
		_, err := b.Open(ctx, newXID())
		return err
	}, `postgres "bank": begin XID: no connection of the pool became free in Nms: all N are in use: a branch keeps ` +
		`one until its global transaction ends, ` +
		"so a transaction begun inside another needs a second one: raise pool_max_conns, or end the outer " +
		"transaction first: context deadline exceeded"},
	{"a branch is open when the resource is closed", func(b *bank) error {
		r, err := Open(b.ctx, "bank", shared.DSN("postgres"))
		require.NoError(b, err)
		s, err := r.Open(b.ctx, newXID())
		require.NoError(b, err)
		defer func() { require.NoError(b, s.Rollback(b.ctx)) }()
		return r.Close()
	}, `postgres "bank": close: 1 connections are still in use: end the transactions first`},
	{"an isolation level", wishing(TxOptions{Isolation: "chaos"}),
		`postgres "bank": set options of XID: isolation level "chaos" is none of PostgreSQL's: use the constants of ` +
			`pgx, such as pgx.Serializable`},
	{"late options", wishing(TxOptions{ReadOnly: true}, "select 1"),
		`postgres "bank": set options of XID: the branch has already run statements: give the options with the ` +
			`first call of TxWith`},
	{"copy through a statement", func(b *bank) error { return do(b.ctx, b.begin(newXID()), "copy account from stdin") },
		`postgres "bank": COPY FROM STDIN waits for data that nobody sends: use CopyFrom of the pgx.Tx that ` +
			`Resource.Tx returns`},
	{"a named argument", func(b *bank) error {
		_, err := sqlOf(b, b.begin(newXID())).Exec("select $1", sql.Named("k", 1))
		return err
	}, `sql: converting argument with name "k" type: postgres "bank": argument "k" is named, but PostgreSQL ` +
		`numbers its arguments: write $1`},
	{"a named argument, ignored", voted(func(b *bank, s *session) {
		_,
			_ = sqlOf(b, s).Exec("select $1", sql.Named("k", 1))
	}),
		`postgres "bank": prepare XID: a statement was never sent; your closure ignored this error: argument "k" ` +
			`is named, but PostgreSQL numbers its arguments: write $1`},
	{"a time that Go has not got", func(b *bank) error {
		return sqlOf(b, b.begin(newXID())).QueryRow("select 'infinity'::timestamptz").Scan(new(time.Time))
	}, `column "timestamptz": cannot scan Infinity into *time.Time`},
	{"evidence", func(b *bank) error { return b.Validate(txn.Branch{Evidence: "x"}) },
		"evidence: the record of the branch is not in a form that this version writes: run the newest version of " +
			"concord on all nodes"},
	{"a holder", func(b *bank) error { return b.Validate(txn.Branch{Holder: "x"}) },
		"holder: the record of the branch is not in a form that this version writes: run the newest version of " +
			"concord on all nodes"},

	{"an ignored error", voted(ignored("select 1/0")),
		`postgres "bank": prepare XID: ` + gaveUp + "ERROR: division by zero (SQLSTATE 22012)"},
	{"a statement after that", func(b *bank) error {
		s := b.begin(newXID())
		tx := handleOf(b, s)
		_, _ = tx.Exec(b.ctx, "select 1/0")
		return tx.Commit(b.ctx)
	}, `postgres "bank": commit unexpectedly resulted in rollback: ` + gaveUp +
		"ERROR: division by zero (SQLSTATE 22012)"},
	{"the only branch, with an ignored error", func(b *bank) error {
		s := b.begin(newXID())
		_ = do(b.ctx, s, "select 1/0")
		return s.CommitOnePhase(b.ctx)
	}, `postgres "bank": commit XID in one phase: ` + adapters.ErrNotCommitted.Error() + ": " + gaveUp +
		"ERROR: division by zero (SQLSTATE 22012)"},
	{"a rollback by the application", voted(func(b *bank,
		s *session) {
		require.NoError(b, handleOf(b, s).Rollback(b.ctx))
	}),
		`postgres "bank": prepare XID: the application rolled back its part of the work`},
	{"a ROLLBACK by the application", voted(ignored("rollback")), `postgres "bank": prepare XID: ` + hasEnded},
	{"a result that is open", voted(func(b *bank, s *session) {
		_, err := handleOf(b, s).Query(b.ctx, "select generate_series(1, 3)")
		require.NoError(b, err)
	}), `postgres "bank": prepare XID: a result is still open: close Rows, BatchResults and the like before the ` +
		`commit`},
	{"a temporary table", voted(func(b *bank, s *session) { b.do(s, "create temporary table passing (k int)") }),
		`postgres "bank": prepare XID: ERROR: cannot PREPARE a transaction that has operated on temporary objects ` +
			`(SQLSTATE 0A000); ` +
			"keep what the message names out of the branch: PostgreSQL cannot prepare it"},
	{"a broken connection", voted(func(b *bank, s *session) {
		b.do(s, "select 1")
		_ = s.pgx.PgConn().Conn().Close()
		_ = do(b.ctx, s, "select 1")
	}), `postgres "bank": prepare XID: the connection broke; your closure ignored this error: write failed: write ` +
		`tcp ADDR->ADDR: use of closed network connection`},
	{"work in a branch that has ended", func(b *bank) error {
		s := b.begin(newXID())
		require.NoError(b, s.Rollback(b.ctx))
		_, err := b.Tx(b.ctx, adaptertest.Enlisted(s))
		return err
	}, `postgres "bank": tx is closed: ` + adapters.ErrBranchEnded.Error()},
	{"a second vote", func(b *bank) error {
		s := b.begin(newXID())
		require.NoError(b, s.Rollback(b.ctx))
		_, _, err := s.Prepare(b.ctx)
		return err
	}, `postgres "bank": prepare XID: ` + adapters.ErrBranchEnded.Error()},
	{"a commit before the vote", func(b *bank) error { _, err := b.begin(newXID()).Commit(b.ctx); return err },
		`postgres "bank": commit XID: it is not prepared: call Prepare first`},
	{"a commit of what still runs", func(b *bank) error { _, err := committedAs(inProgress); return err },
		"the branch is not listed and its transaction is still running: try again"},
	{"a rollback of what still runs", func(b *bank) error {
		_, err := abortAgain(b.ctx, nil, newXID(), txn.Branch{}, inProgress)
		return err
	}, "the branch is not listed, its transaction is still running and its session is not known: try again"},
	{"a session behind a pooler", func(b *bank) error { return b.endOwn(b.ctx, newXID(), holder{}) },
		"the connection broke, and behind a pooler its session cannot be identified; the orphan scan will look for " +
			"the branch"},
	{"COMMIT by the application", voted(func(b *bank, s *session) { b.do(s, "select 1"); _ = do(b.ctx, s, "commit") }),
		`postgres "bank": prepare XID: ` + hasEnded + ": " + adapters.ErrTorn.Error() +
			": the application's own statements may have committed what the branch did before: look at the data " +
			"before " +
			"you run it again"},
	{"RESET ALL by the application", voted(func(b *bank,
		s *session) {
		b.do(s, "insert into account values ('reset', 1)")
		b.do(s, "reset all")
	}), `postgres "bank": prepare XID: the transaction is not the one that the branch began: the application ended ` +
		`that one (ROLLBACK AND CHAIN does) ` +
		"or reset its settings (RESET ALL does): leave COMMIT, ROLLBACK and PREPARE TRANSACTION to concord"},
	{"a second statement at once", func(b *bank) error {
		s := b.begin(newXID())
		tx := handleOf(b, s)
		rows, err := tx.Query(b.ctx, "select generate_series(1, 3)")
		require.NoError(b, err)
		defer rows.Close()
		_, err = tx.Exec(b.ctx, "select 1")
		return err
	}, `postgres "bank": a result is still open: close Rows, BatchResults and the like before the next statement, ` +
		`and scan each Row`},
	{"a second statement meanwhile", func(b *bank) error {
		s := b.sleeping()
		ctx, cancel := context.WithTimeout(b.ctx, time.Millisecond)
		defer cancel()
		return do(ctx, s, "select 1")
	}, `postgres "bank": wait for another statement of the branch: context deadline exceeded`},
	{"a statement that runs at the vote", func(b *bank) error { _, _, err := b.sleeping().Prepare(b.ctx); return err },
		`postgres "bank": prepare XID: a statement of the application was still running: wait for all goroutines ` +
			`that work in the branch before you return`},
	{"a first argument that is none", voted(func(b *bank,
		s *session) {
		_ = do(b.ctx, s, "select $1::int", struct{}{})
	}),
		`postgres "bank": prepare XID: the first statement failed: failed to encode args[0]: unable to encode ` +
			`struct {}{} into binary format for int4 (OID 23): cannot find encode plan`},
	{"an argument that is none", voted(func(b *bank, s *session) {
		b.do(s, "select 1")
		_ = do(b.ctx, s, "select $1::int", struct{}{})
	}), `postgres "bank": prepare XID: a statement was never sent; your closure ignored this error: ` +
		"failed to encode args[0]: unable to encode struct {}{} into binary format for int4 (OID 23): cannot find " +
		"encode plan"},
	{"raw bytes of one row", func(b *bank) error {
		var raw pgtype.DriverBytes
		return handleOf(b, b.begin(newXID())).QueryRow(b.ctx, "select 'x'").Scan(&raw)
	}, "cannot scan into *pgtype.DriverBytes from QueryRow"},
	{"no table for the evidence", func(b *bank) error {
		b.run("drop database if exists bare", "create database bare")
		r := b.as("stranger", "bare")
		_, err := r.Open(b.ctx, newXID())
		return err
	}, `postgres "bank": begin XID: the evidence of branches has no table: ERROR: permission denied for database ` +
		`bare (SQLSTATE 42501); ` + runThis},
	{"a table for the evidence that a role may not write", func(b *bank) error {
		b.run("drop database if exists shut", "create database shut")
		admin := newPool(b, b.db.DSN("shut"))
		_, err := admin.Exec(b.ctx, CreateMarkerTable, pgx.QueryExecModeSimpleProtocol)
		require.NoError(b, err)
		_, err = b.as("stranger", "shut").Open(b.ctx, newXID())
		return err
	}, `postgres "bank": begin XID: the evidence of branches: the role stranger may not write concord.branch; ` +
		runThis},
	{"a branch that says too late that it only reads", voted(func(b *bank, s *session) {
		b.do(s, "set transaction read only")
		b.do(s, "select pg_postmaster_start_time()")
	}), madeReadOnly},
	{"a branch that has written before it says so", voted(func(b *bank, s *session) {
		b.do(s, "insert into account values ('mine', 1)")
		b.do(s, "set transaction read only")
	}), madeReadOnly},
	{"the name of a branch that has committed", func(b *bank) error {
		first, x, _ := b.prepared()
		_, err := first.Commit(b.ctx)
		require.NoError(b, err)
		second := b.begin(x)
		require.NoError(b, write(b.ctx, second, "another "+x.ID.String(), 1))
		_, _, err = second.Prepare(b.ctx)
		return err
	}, `postgres "bank": prepare XID: a branch of this name has committed already: run the work in a new global ` +
		`transaction: ` +
		`ERROR: duplicate key value violates unique constraint "branch_pkey" (SQLSTATE 23505)`},
	{"the branch of another role", func(b *bank) error {
		s, x, branch := b.prepared()
		b.Cleanup(func() { require.NoError(b, s.Rollback(context.Background())) })
		_, err := b.as("stranger", "").Commit(b.ctx, x, branch)
		return err
	}, `postgres "bank": commit XID: become the role "app" that prepared it: ERROR: permission denied to set role ` +
		`"app" (SQLSTATE 42501); make the recovery login a member of the role ` +
		"that prepared the branch (GRANT <owner> TO <login>) and, to end sessions of others, of pg_signal_backend"},
	{"the session of another role", func(b *bank) error {
		s, x := b.work()
		_, err := b.as("stranger", "").Rollback(b.ctx, x, txn.Branch{Holder: s.server.holder.String()})
		return err
	}, `postgres "bank": abort XID: process N may be the session of the branch, but this login may not see it: ` +
		`GRANT pg_read_all_stats and pg_signal_backend, or the role that prepared, to it`},
	{"the session of another branch", func(b *bank) error {
		s, _ := b.work()
		return b.with(b.ctx, func(conn *pgx.Conn) error {
			_, err := abortAgain(b.ctx, conn, newXID(),
				txn.Branch{Holder: s.server.holder.String(), Evidence: "another"}, inProgress)
			return err
		})
	}, "the branch is not listed, its transaction is still running and it is not that of the session which is said " +
		"to hold it: try again"},
	{"a last resource without evidence", func(b *bank) error {
		return bankOf(b.T, b.db, WithoutMarker()).begin(newXID()).BeLast(b.ctx)
	}, `postgres "bank": make XID the last resource: a last resource decides by its marker: leave out WithoutMarker`},
	{"a last resource that may sleep", func(b *bank) error {
		return bankOf(b.T, b.db, WithIdleTimeout(0)).begin(newXID()).BeLast(b.ctx)
	}, `postgres "bank": make XID the last resource: a session that decides must not sleep for ever: set an ` +
		`idle_in_transaction_session_timeout, or leave out WithIdleTimeout(0)`},
	{"a last resource that was settled", func(b *bank) error {
		s := b.begin(newXID())
		require.NoError(b, s.BeLast(b.ctx))
		_, err := b.Settle(b.ctx, s.x.Cluster, s.x.ID)
		require.NoError(b, err)
		return s.CommitLast(b.ctx, txn.LastMarker{Decision: txn.Commit})
	}, `postgres "bank": commit XID as the last resource: not committed: the cluster was asked for the outcome ` +
		`before the commit, and has aborted it in its last resource: run it again`},
	{"a last resource that may not write", func(b *bank) error {
		s := b.begin(newXID())
		require.NoError(b, s.BeLast(b.ctx))
		b.do(s, "insert into account values ('mine', 1)")
		b.do(s, "set transaction read only")
		return s.CommitLast(b.ctx, txn.LastMarker{Decision: txn.Commit})
	}, `postgres "bank": commit XID as the last resource: not committed: the transaction is read only, so nothing ` +
		`can be decided there: leave out what makes it so (TxOptions.ReadOnly, SET TRANSACTION READ ONLY, ` +
		`default_transaction_read_only), or use a database that accepts writes as the last resource: ` +
		"ERROR: cannot execute INSERT in a read-only transaction (SQLSTATE 25006)"},
	{"a rollback of what others have committed", func(b *bank) error {
		s, x, branch := b.prepared()
		found, err := b.as("app", "").Commit(b.ctx, x, branch)
		require.NoError(b, err)
		require.Equal(b, txn.Done, found)
		return s.Rollback(b.ctx)
	}, `postgres "bank": roll back XID: ` + adapters.ErrTorn.Error() +
		`: it was committed; "concord tx get GID" shows who decided that`},
}

const madeReadOnly = `postgres "bank": prepare XID: the transaction has been made read only, so the branch cannot ` +
	`leave its evidence: if it changes something, leave out what makes it so (SET TRANSACTION READ ONLY, ` +
	`default_transaction_read_only); if all that it does is read, declare that with TxOptions.ReadOnly: ` +
	"ERROR: cannot execute INSERT in a read-only transaction (SQLSTATE 25006)"

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"this server is a standby and lists nothing: point the resource at the primary": "wants a standby",
	"postgres %q: open: %w; check the pool settings in the dsn": "pgx finds that when it reads " +
		"the dsn",
	"this server accepts no writes, so nothing can be decided there: point the resource at the primary": "wants " +
		"a standby",
	"the marker table comes from an earlier release: have its owner run %q: %w": timing,
	"PostgreSQL answered %q":                    surprise,
	"pg_xact_status answered %q":                surprise,
	"%d answers to one statement":               surprise,
	"%d rows instead of a transaction number":   surprise,
	"postgres %q: work in %s: %w":               "a *sql.DB over a branch opens nothing that could fail",
	"this driver must be called with a context": "database/sql does not call without",
	"the batch is closed already": "what pgx says: a handle takes it for no error, or has it from the " +
		"application",
	"end the session of the branch: %w":                                                                  timing,
	"the session of the branch (process %d) was told to end and is still there: try again":               timing,
	"a call of the application does not return: end whatever it waits for, such as the source of a COPY": timing,
	"nobody can tell whether it is committed":                                                            timing,
	"%w; and something of it may be left, which the orphan scan will end: %w":                            timing,
}

// Why a text has no row.
const (
	surprise = "no server has ever answered so"
	timing   = "wants a server or a connection that fails at one moment, which other tests see to"
)

// sleeping is a session in the middle of a statement.
func (b *bank) sleeping() *session {
	s := b.begin(newXID())
	b.do(s, "select 1")
	go func() { _ = do(b.ctx, s, "select pg_sleep(30)") }() // ends with the branch
	b.busy(s)
	return s
}

var (
	anXID   = regexp.MustCompile(`concord-[0-9a-f]{8}-[0-9A-Z]{26}-[0-9a-f]{2}`)
	anID    = regexp.MustCompile(`\b[0-7][0-9A-Z]{25}\b`)
	anAddr  = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)
	aNumber = regexp.MustCompile(`(process |in |all )[0-9.]+`)
)

func TestWhatErrorsSay(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(newBank(t))
			require.Error(t, err)
			text := anXID.ReplaceAllString(err.Error(), "XID")
			text = aNumber.ReplaceAllString(anAddr.ReplaceAllString(anID.ReplaceAllString(text, "GID"), "ADDR"),
				"${1}N")
			require.Equal(t, m.says, text)
		})
	}
	said.CheckIn(t, []string{".", "sqltext"}, rows, withoutRow, "because")
}

// What Check finds is read by who can change it: each has a fix where one is needed.
func TestWhatFindingsSay(t *testing.T) {
	now, yes, no := time.Now(), true, false
	for _, c := range []struct {
		name string
		is   state
		says []string
	}{
		{"fit", state{number: 170000, version: "17.0", fsync: true, allowed: 200, login: "app", marker: &yes,
			mayMark:   true,
			maySignal: true, mayWatch: true, noticesLostPeer: true, now: now}, []string{
			"version: 17.0", "role of the server: primary", "fsync: on", "max_prepared_transactions: 0 of 200 in use",
			"finishing branches of other roles: app may finish everything that is prepared " +
				"now", "concord.branch: there",
			"ending sessions of others: allowed", "deadlocks with other databases: found",
			"oldest prepared branch: 0s", "oldest prepared transaction of the server: 0 transactions ago",
			"lost clients: noticed while a statement runs"}},
		{"fit, but for a row of its own", state{number: 170000, version: "17.0", fsync: true, allowed: 200,
			login:  "app",
			marker: &yes, maySignal: true, mayWatch: true, noticesLostPeer: true, now: now}, []string{
			"version: 17.0", "role of the server: primary", "fsync: on", "max_prepared_transactions: 0 of 200 in use",
			"finishing branches of other roles: app may finish everything that is prepared now",
			"concord.branch: there; app may not write its own row in it, so a database that was set back would not " +
				"be " +
				`recognised; GRANT INSERT ON concord.branch TO "app"`,
			"ending sessions of others: allowed", "deadlocks with other databases: found",
			"oldest prepared branch: 0s", "oldest prepared transaction of the server: 0 transactions ago",
			"lost clients: noticed while a statement runs"}},
		{"nothing is", state{marker: &no, number: 130000, version: "13.1", standby: true, login: "app", horizon: 2e8,
			now: now, ours: []adapters.Prepared{{Since: now.Add(-time.Hour)}},
			foreign: []string{"shop"}, mighty: []string{"postgres"}, gone: 2}, []string{
			"PROBLEM version: 13.1; upgrade to PostgreSQL 14 or newer",
			"PROBLEM role of the server: standby; point the resource at the primary",
			"PROBLEM fsync: off: a prepared branch does not survive a crash; set fsync = on and restart",
			"max_prepared_transactions: 0: prepared transactions are disabled, so it takes part as the last resource " +
				"or alone; set max_prepared_transactions = 200 (at least the sum of all pools) and restart",
			`finishing branches of other roles: app is not a member of shop; branches are prepared by postgres, ` +
				`who may do anything; 2 branches belong to roles that no longer exist; GRANT "shop" TO "app"; if ` +
				`these are roles of your applications; give applications roles of their own that are not ` +
				`superusers, and end by hand what is prepared; end those by hand`,
			`PROBLEM concord.branch: app may not read and remove the markers of branches; GRANT USAGE ON SCHEMA ` +
				`concord TO "app"; GRANT SELECT, DELETE ON concord.branch TO "app"`,
			`ending sessions of others: app may end only sessions of its own roles; GRANT pg_signal_backend TO "app"`,
			`deadlocks with other databases: found only among sessions of app's own roles: others last until ` +
				`a lock timeout; GRANT pg_read_all_stats TO "app"`,
			`oldest prepared branch: 1h0m0s; see what it waits for with "concord recover"`,
			"oldest prepared transaction of the server: 200000000 transactions ago; end it: it holds back vacuum " +
				"for the whole server (select * from pg_prepared_xacts order by prepared)",
			"lost clients: noticed only when a statement has ended; set client_connection_check_interval = '1s'"}},
		{"full", state{number: 170000, version: "17.0", fsync: true, allowed: 2, used: 2, login: "app", maySignal: true,
			noticesLostPeer: true, now: now}, []string{
			"version: 17.0", "role of the server: primary", "fsync: on",
			`max_prepared_transactions: 2 of 2 in use; set max_prepared_transactions = 200 (at least the sum of all ` +
				`pools) and restart, and look for forgotten branches with "concord recover"`,
			"finishing branches of other roles: app may finish everything that is prepared now",
			"concord.branch: missing: the first branch creates it, if its role is allowed to; " + CreateMarkerTable,
			"ending sessions of others: allowed",
			`deadlocks with other databases: found only among sessions of app's own roles: others last until ` +
				`a lock timeout; GRANT pg_read_all_stats TO "app"`,
			"oldest prepared branch: 0s", "oldest prepared transaction of the server: 0 transactions ago",
			"lost clients: noticed while a statement runs"}},
	} {
		var all []string
		for _, f := range c.is.findings() {
			text := fmt.Sprintf("%s: %s", f.What, f.Detail)
			if f.Problem {
				text = "PROBLEM " + text
			}
			if f.Fix != "" {
				text += "; " + f.Fix
			}
			all = append(all, text)
		}
		require.Equal(t, c.says, all, c.name)
	}
}
