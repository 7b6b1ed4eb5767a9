// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// target is one kind of database, and how it says what the tests want to say.
type target struct {
	database                Database
	value                   func(expression string) string // a query with one row of one column
	insert, count, numbers  string                         // of a table t(id, note); numbers answers with many rows
	fail                    string
	ended                   string // the text of a statement that ends the transaction by a detour
	valuesInto, valuesAsked string // typed arguments into a table v, and back
}

func begin(t *testing.T, d Database) Session {
	t.Helper()
	s, err := d.Begin(t.Context(), txn.XID{Cluster: 1, ID: txn.NewID(time.Now())})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Rollback(context.Background()) })
	return s
}

func do(t *testing.T, s Session, text string, args ...Value) Result {
	t.Helper()
	r, err := s.Do(t.Context(), Work{Verb: Execute, Text: text, Args: args}, Limits{})
	require.NoError(t, err, text)
	return r
}

func failing(t *testing.T, s Session, w Work, limits Limits) error {
	t.Helper()
	_, err := s.Do(t.Context(), w, limits)
	require.Error(t, err, w.Text)
	return err
}

func commit(t *testing.T, s Session) {
	t.Helper()
	vote, _, err := s.Prepare(t.Context())
	require.NoError(t, err)
	if vote == txn.VoteYes {
		_, err = s.Commit(t.Context())
		require.NoError(t, err)
	}
}

func openPostgres(t *testing.T) target {
	db := testdb.Postgres(t)
	r, err := postgres.Open(t.Context(), "orders", db.DSN("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	d := Postgres(r)
	s := begin(t, d)
	do(t, s, "create table t (id bigint primary key, note text)")
	do(t, s, "create table v (a boolean, b bigint, c numeric, d double precision, e text, f bytea, g timestamptz, h "+
		"jsonb, i text)")
	do(t, s, "create procedure ends() language plpgsql as $$ begin commit; end $$")
	commit(t, s)
	return target{
		database: d, value: func(e string) string { return "select " + e },
		insert: "insert into t values ($1, $2)", count: "select count(*) from t",
		numbers: "select n, repeat('x', 100) from generate_series(1, 20000) n",
		fail:    "select 1/0", ended: "call ends()",
		valuesInto: "insert into v values ($1, $2, $3, $4, $5, $6, $7, $8, $9)", valuesAsked: "select * from v",
	}
}

func openMySQL(t *testing.T, db *testdb.Server) target {
	require.NoError(t, db.Exec(t.Context(), "", "create database test character set utf8mb4"))
	r, err := mysql.Open("billing", db.DSN("test"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close() })
	require.NoError(t, db.Exec(t.Context(), "test", "create table t (id bigint primary key, note text)",
		"create table v (a boolean, b bigint, c decimal(65, 10), d double, e text, f blob, g datetime(6), h json, i "+
			"text)"))
	return target{
		database: MySQL(r), value: func(e string) string { return "select " + e },
		insert: "insert into t values (?, ?)", count: "select count(*) from t",
		numbers:    "select a.help_topic_id from mysql.help_topic a, mysql.help_topic b limit 20000",
		fail:       "select no_such_column from t",
		valuesInto: "insert into v values (?, ?, ?, ?, ?, ?, ?, ?, ?)", valuesAsked: "select * from v",
	}
}

// onEach runs a test on every database that takes SQL.
func onEach(t *testing.T, test func(*testing.T, target)) {
	t.Run("postgres", func(t *testing.T) { test(t, openPostgres(t)) })
	t.Run("mariadb", func(t *testing.T) { test(t, openMySQL(t, testdb.MariaDB(t))) })
	t.Run("mysql", func(t *testing.T) { test(t, openMySQL(t, testdb.MySQL(t))) })
}

// Values go in and come back as they were, whatever they are.
func TestValuesSurvive(t *testing.T) {
	onEach(t, func(t *testing.T, db target) {
		s := begin(t, db.database)
		args := []Value{
			OfBool(true), OfInt(-9223372036854775808), {Decimal, "12345678901234567890123456789.0123456789"},
			OfFloat(0.1),
			OfText("naïve 'quoted' \\ \U0001F600"), OfBytes([]byte{0, 1, 0xff, '\''}),
			{Time, "2026-01-31T23:59:59.123456Z"}, {JSON, `{"a": [1, null]}`}, {},
		}
		r := do(t, s, db.valuesInto, args...)
		require.EqualValues(t, 1, r.Affected)
		for range 2 { // with arguments a server may answer in another format than without
			r = do(t, s, db.valuesAsked)
			require.Len(t, r.Rows, 1)
			row := r.Rows[0]
			require.Contains(t, []Value{OfBool(true), OfInt(1)}, row[0])
			require.Equal(t, args[1], row[1])
			require.Equal(t, args[2], row[2])
			require.Equal(t, args[3], row[3])
			require.Equal(t, args[4], row[4])
			require.Equal(t, args[5], row[5])
			require.Equal(t, Time, row[6].Kind)
			require.Equal(t, "2026-01-31T23:59:59.123456", strings.TrimSuffix(row[6].Text, "Z"))
			require.Contains(t, []Kind{JSON, Text}, row[7].Kind) // MariaDB's JSON is a text
			require.JSONEq(t, args[7].Text, row[7].Text)
			require.Equal(t, Value{}, row[8])
			db.valuesAsked += " where b < 0"
		}
		commit(t, s)
	})
}

func TestPostgresValues(t *testing.T) {
	db := openPostgres(t)
	s := begin(t, db.database)
	for expression, want := range map[string]Value{
		"null::int": {}, "9007199254740993::bigint": OfInt(9007199254740993), "1::smallint": OfInt(1),
		"'NaN'::float8": {Float, "NaN"}, "'-Infinity'::float8": {Float, "-Inf"}, "0.1::real": {Float, "0.1"},
		"1e40::numeric": {Decimal, "10000000000000000000000000000000000000000"}, "1.500::numeric": {Decimal, "1.500"},
		"'NaN'::numeric":    OfText("NaN"),
		"date '2026-02-28'": {Time, "2026-02-28"}, "time '01:02:03.5'": {Time, "01:02:03.5"},
		"timetz '01:02:03+02'":                   {Time, "01:02:03+02:00"},
		"timestamp '1969-12-31 23:59:59.999999'": {Time, "1969-12-31T23:59:59.999999"},
		"timestamptz '2026-01-01 00:00:00+02'":   {Time, "2025-12-31T22:00:00Z"},
		"timestamptz 'infinity'":                 OfText("infinity"), "date '-infinity'": OfText("-infinity"),
		"interval '1 day 2 hours'": OfText("1 day 02:00:00"), "array[1,2]": OfText("{1,2}"), "false": OfBool(false),
		"'6f1c1b7e-0000-4000-8000-000000000001'::uuid": OfText("6f1c1b7e-0000-4000-8000-000000000001"),
		"''::bytea": OfBytes(nil),
	} {
		r := do(t, s, db.value(expression))
		require.Equal(t, [][]Value{{want}}, r.Rows, expression)
	}
	require.Equal(t, []Column{{"n", "bigint"}}, do(t, s, "select 1::bigint as n").Columns)
	// The settings of the session change nothing of what is read.
	do(t, s, "set local datestyle = 'SQL, DMY'")
	do(t, s, "set local bytea_output = 'escape'")
	require.Equal(t, [][]Value{{{Time, "2026-02-28"}, OfBytes([]byte("a\\b"))}},
		do(t, s, `select date '2026-02-28', '\x615c62'::bytea`).Rows)
}

func TestMySQLValues(t *testing.T) {
	db := openMySQL(t, testdb.MariaDB(t))
	s := begin(t, db.database)
	for expression, want := range map[string]Value{
		"null": {}, "9007199254740993": OfInt(9007199254740993), "18446744073709551615": OfUint(1<<64 - 1),
		"cast(1.50 as decimal(5,2))": {Decimal, "1.50"}, "cast('2026-02-28' as date)": {Time, "2026-02-28"},
		"cast('01:02:03.5' as time(1))": {Time, "01:02:03.5"}, "cast('800:00:00' as time)": OfText("800:00:00"),
		"cast('a' as binary)":                     OfBytes([]byte("a")),
		"cast('2026-02-28 01:02:03' as datetime)": {Time, "2026-02-28T01:02:03"}, "_utf8mb4'é'": OfText("é"),
	} {
		require.Equal(t, [][]Value{{want}}, do(t, s, db.value(expression)).Rows, expression)
	}
}

// A result that is too large is an error and never memory, and what its caller did not see does not
// commit.
func TestResultsHaveLimits(t *testing.T) {
	onEach(t, func(t *testing.T, db target) {
		for _, limits := range []Limits{{}, {Rows: 10}, {Bytes: 100}} {
			s := begin(t, db.database)
			do(t, s, db.insert, OfInt(1), OfText("a"))
			err := failing(t, s, Work{Verb: Execute, Text: db.numbers}, limits)
			require.ErrorIs(t, err, ErrTooLarge)
			require.Contains(t, err.Error(), "WHERE or LIMIT")
			require.ErrorIs(t, failing(t, s, Work{Verb: Execute, Text: db.count}, limits), ErrTooLarge)
			vote, _, err := s.Prepare(t.Context())
			require.ErrorIs(t, err, ErrTooLarge)
			require.Equal(t, txn.VoteNo, vote)
			after := begin(t, db.database)
			require.Equal(t, [][]Value{{OfInt(0)}}, do(t, after, db.count).Rows)
		}
		s := begin(t, db.database)
		_, err := s.Do(t.Context(), Work{Verb: Savepoint, Text: "before"}, Limits{})
		require.NoError(t, err)
		require.ErrorIs(t, failing(t, s, Work{Verb: Execute, Text: db.numbers}, Limits{}), ErrTooLarge)
		require.ErrorIs(t, failing(t, s, Work{Verb: Savepoint, Text: "before"}, Limits{}), ErrTooLarge)
		_, err = s.Do(t.Context(), Work{Verb: RollbackTo, Text: "before"}, Limits{})
		require.NoError(t, err)
		do(t, s, db.insert, OfInt(1), OfText("a"))
		commit(t, s)
	})
}

// Savepoints undo what came after them, and heal a statement that failed.
func TestSavepoints(t *testing.T) {
	onEach(t, func(t *testing.T, db target) {
		s := begin(t, db.database)
		point := func(v Verb, name string) {
			_, err := s.Do(t.Context(), Work{Verb: v, Text: name}, Limits{})
			require.NoError(t, err)
		}
		do(t, s, db.insert, OfInt(1), OfText("a"))
		point(Savepoint, "a")
		do(t, s, db.insert, OfInt(2), OfText("b"))
		point(RollbackTo, "a")
		err := failing(t, s, Work{Verb: Execute, Text: db.fail}, Limits{})
		require.NotErrorIs(t, err, ErrRefused)
		point(RollbackTo, "a")
		do(t, s, db.insert, OfInt(3), OfText("c"))
		require.ErrorIs(t, failing(t, s, Work{Verb: RollbackTo, Text: "b"}, Limits{}), ErrRefused)
		require.ErrorIs(t, failing(t, s, Work{Verb: Savepoint, Text: "a b"}, Limits{}), ErrRefused)
		commit(t, s)
		require.Equal(t, [][]Value{{OfInt(2)}}, do(t, begin(t, db.database), db.count).Rows)
	})
}

// Wrong arguments and statements are errors that doom the branch; refusals are not.
func TestBadStatements(t *testing.T) {
	onEach(t, func(t *testing.T, db target) {
		for _, w := range []Work{
			{Verb: Execute, Text: db.insert, Args: []Value{OfInt(1)}},
			{Verb: Execute, Text: db.insert, Args: []Value{OfText("one"), OfText("x")}},
			{Verb: Execute, Text: db.insert, Args: []Value{{Decimal, "1e30"}, OfText("x")}},
			{Verb: Execute, Text: "selec 1"},
		} {
			s := begin(t, db.database)
			do(t, s, db.insert, OfInt(7), OfText("a"))
			require.ErrorIs(t, failing(t, s, Work{Verb: Execute, Text: "commit"}, Limits{}), ErrRefused)
			require.NotErrorIs(t, failing(t, s, w, Limits{}), ErrRefused)
			vote, _, err := s.Prepare(t.Context())
			require.Error(t, err, "%v", w)
			require.Equal(t, txn.VoteNo, vote)
			require.NotErrorIs(t, err, adapters.ErrTorn)
		}
		s := begin(t, db.database)
		require.Equal(t, [][]Value{{OfInt(0)}}, do(t, s, db.count).Rows)
		require.ErrorIs(t, failing(t, s, Work{Verb: Execute, Text: "commit"}, Limits{}), ErrRefused)
		do(t, s, db.insert, OfInt(1), OfText("a"))
		commit(t, s)
	})
}

func TestPebbleCommands(t *testing.T) {
	r, err := pebble.Open("ledger", filepath.Join(t.TempDir(), "ledger"))
	require.NoError(t, err)
	defer r.Close()
	d := Pebble(r)
	s := begin(t, d)
	require.Empty(t, do(t, s, "get alice").Rows)
	require.Equal(t, [][]Value{{OfInt(500)}}, do(t, s, "add alice 500").Rows)
	require.Equal(t, [][]Value{{OfInt(400)}}, do(t, s, "add ? ?", OfText("alice"), OfInt(-100)).Rows)
	do(t, s, "set ? ?", OfText("name"), OfBytes([]byte{0, 0xff}))
	_, err = s.Do(t.Context(), Work{Verb: Savepoint, Text: "a"}, Limits{})
	require.NoError(t, err)
	do(t, s, "add alice 1")
	do(t, s, "add alice 1")
	do(t, s, "delete name")
	do(t, s, "set new x")
	_, err = s.Do(t.Context(), Work{Verb: RollbackTo, Text: "a"}, Limits{})
	require.NoError(t, err)
	for text, says := range map[string]string{
		"put alice 1": `"put alice 1" is not a command of this store: it was not carried out; want ` +
			`get KEY, set KEY VALUE, add KEY NUMBER or delete KEY, each operand a word or ?`,
		"get": `"get" is not a command of this store: it was not carried out; want get KEY, ` +
			`set KEY VALUE, add KEY NUMBER or delete KEY, each operand a word or ?`,
		"get ?": "the command has 1 places for arguments and got 0: it was not carried out; " +
			"send as many as it has ?",
		"add alice many": `"many" is not a 64-bit integer: the command was not carried out; ` +
			`send one`,
		"add name 1": `the value of "name" is not a number: the command was not carried out; use set`,
		"add alice 9223372036854775807": "400 and 9223372036854775807 have a sum beyond 64 bits: the command was " +
			"not carried out; add less",
		"": string(refusedEmpty),
	} {
		err := failing(t, s, Work{Verb: Execute, Text: text}, Limits{})
		require.ErrorIs(t, err, ErrRefused)
		require.EqualError(t, err, says)
	}
	commit(t, s)
	s = begin(t, d)
	require.Equal(t, [][]Value{{OfBytes([]byte("400"))}}, do(t, s, "get alice").Rows)
	require.Equal(t, [][]Value{{OfBytes([]byte{0, 0xff})}}, do(t, s, "get name").Rows)
	require.Empty(t, do(t, s, "get new").Rows)
	vote, _, err := s.Prepare(t.Context())
	require.NoError(t, err)
	require.Equal(t, txn.VoteReadOnly, vote)
}

// A procedure that commits is found by the adapter at the vote, not by words.
func TestAProcedureThatEndsTheTransaction(t *testing.T) {
	db := openPostgres(t)
	s := begin(t, db.database)
	do(t, s, db.insert, OfInt(1), OfText("a"))
	_, err := s.Do(t.Context(), Work{Verb: Execute, Text: db.ended}, Limits{})
	vote, _, voted := s.Prepare(t.Context())
	require.Equal(t, txn.VoteNo, vote)
	require.Error(t, errors.Join(err, voted))
	after := begin(t, db.database)
	count := do(t, after, db.count).Rows[0][0]
	require.Equal(t, errors.Is(voted, adapters.ErrTorn), count == OfInt(1), "torn exactly if it is committed: %v",
		voted)
}
