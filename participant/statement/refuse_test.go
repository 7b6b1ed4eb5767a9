// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What words tell is refused before it is sent, with a next step; what they do not is left to the
// server and to the adapters.
func TestTextsThatAreNotSent(t *testing.T) {
	for _, c := range []struct {
		text            string
		postgres, mysql error // nil: it is sent
	}{
		{"select 1", nil, nil},
		{"select 1;", nil, nil},
		{" -- a comment\n/* and another */ select 1 ; -- the end", nil, nil},
		{"commit", refusedEnd, refusedEnd},
		{"/* x */ COMMIT AND CHAIN", refusedEnd, refusedEnd},
		{"rollback", refusedEnd, refusedEnd},
		{"ROLLBACK TO SAVEPOINT a", refusedSavepoint, refusedSavepoint},
		{"rollback work to a", refusedSavepoint, refusedSavepoint},
		{"savepoint a", refusedSavepoint, refusedSavepoint},
		{"release a", refusedSavepoint, refusedSavepoint},
		{"begin", refusedEnd, refusedEnd},
		{"start transaction", refusedEnd, refusedEnd},
		{"end", refusedEnd, nil},
		{"abort", refusedEnd, nil},
		{"prepare transaction 'x'", refusedXA, nil},
		{"discard all", refusedReset, nil},
		{"DISCARD TEMP", refusedReset, nil},
		{"reset all", refusedReset, nil},
		{"reset work_mem", nil, nil},
		{"deallocate all", refusedReset, nil},
		{"deallocate /* it */ prepare all", refusedReset, nil},
		{"deallocate q", nil, nil},
		{"commit prepared 'x'", refusedXA, refusedEnd},
		{"rollback prepared 'x'", refusedXA, refusedEnd},
		{"prepare q as select 1", nil, nil},
		{"xa commit 'x'", nil, refusedXA},
		{"XA RECOVER", nil, refusedXA},
		{"set autocommit = 1", nil, refusedCommitBy},
		{"SET SESSION autocommit=0, x = 1", nil, refusedCommitBy},
		{"set @@session.autocommit = 1", nil, refusedCommitBy},
		{"set completion_type = 1", nil, refusedCommitBy},
		{"create table t (id int)", nil, refusedDDL},
		{"create temporary table t (id int)", nil, nil},
		{"drop table t", nil, refusedDDL},
		{"truncate t", nil, refusedDDL},
		{"lock tables t write", nil, refusedDDL},
		{"/*!50000 commit */", refusedEmpty, refusedEnd},
		{"copy t from stdin", refusedCopy, nil},
		{"notify x", refusedCopy, nil},
		{"select 1; select 2", refusedSeveral, refusedSeveral},
		{"select ';'; commit", refusedSeveral, refusedSeveral},
		{"select 'a''b;c'", nil, nil},
		{`select "a;b"`, nil, nil},
		{"select $$a;b$$", nil, refusedSeveral},
		{"select $1, $tag$ ; $tag$", nil, refusedSeveral},
		{"select /* ; */ 1", nil, nil},
		{"select 1 # ; 2", refusedSeveral, nil},
		{`select 'a\'; commit`, refusedSeveral, nil}, // one string without an end, where backslashes escape
		{`select E'a\'; b'`, nil, nil},
		{"", refusedEmpty, refusedEmpty},
		{" ; ", refusedEmpty, refusedEmpty},
		{"-- nothing", refusedEmpty, refusedEmpty},
	} {
		require.Equal(t, c.postgres, refusePostgres(c.text), "PostgreSQL: %s", c.text)
		require.Equal(t, c.mysql, refuseMySQL(c.text), "MySQL: %s", c.text)
	}
}

func TestWorkIsReadBackAsItWasWritten(t *testing.T) {
	w := Work{Verb: Execute, Text: "insert", Args: []Value{
		{}, OfBool(true), OfInt(-1 << 63), OfUint(1<<64 - 1), OfFloat(1e300), {Decimal, "12345678901234567890.10"},
		OfText("é"), OfBytes([]byte{0, 0xff}), {Time, "2026-01-31T23:59:59.5Z"}, {JSON, "{}"},
	}}
	b := w.AppendBinary(nil)
	parsed, err := ParseWork(b)
	require.NoError(t, err)
	require.Equal(t, w, parsed)
	for n := range b {
		_, err := ParseWork(b[:n])
		require.ErrorIs(t, err, ErrBadWork)
	}
	_, err = ParseWork(append(b, 0))
	require.ErrorIs(t, err, ErrBadWork)
	other := w
	other.Args = other.Args[:2]
	require.NotEqual(t, w.Sum(), other.Sum())
}

func TestValuesThatAreNone(t *testing.T) {
	for _, c := range []struct {
		value Value
		says  string
	}{
		{Value{Decimal, "1,5"}, `"1,5" is not a valid decimal: want digits such as -12.50`},
		{Value{Time, "tomorrow"}, `"tomorrow" is not a valid time: want a time such as 2026-01-31T23:59:59.5Z, ` +
			`2026-01-31 or 23:59:59`},
		{Value{Text, "\xff"}, "a text is not valid UTF-8: send it as bytes"},
		{Value{Kind(77), ""}, "a value is of kind 77, which this version does not know: run the newest version of " +
			"concord on the agent"},
		{Value{Int, "9223372036854775808"}, `"9223372036854775808" is not a valid int: want an integer of at most ` +
			`64 bits`},
	} {
		require.EqualError(t, c.value.Check(), c.says)
	}
}
