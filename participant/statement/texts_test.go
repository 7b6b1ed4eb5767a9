// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// hidden is a session with a result that nobody has seen.
func hidden(t *testing.T) *session {
	t.Helper()
	s, err := memory.New("orders", memory.NewDisk()).Open(t.Context(), txn.XID{Cluster: 1, ID: txn.NewID(time.Now())})
	require.NoError(t, err)
	return &session{Session: s, unseen: new(Result).add(nil, &Limits{})}
}

// messages are the errors that whoever sends statements can meet, beside those of the database and of the
// adapter: how to get them, what they say, and what they wrap.
var messages = []struct {
	name string
	meet func(*testing.T) error
	says string
	is   error
}{
	{"the end of the transaction", func(*testing.T) error { return refusePostgres("commit") },
		"BEGIN, COMMIT, ROLLBACK and the like are not allowed inside a branch: the statement was not sent; commit " +
			"or roll back the global transaction instead", ErrRefused},
	{"a savepoint by SQL", func(*testing.T) error { return refusePostgres("savepoint a") },
		"savepoints inside a branch have requests of their own: the statement was not sent; ask for a savepoint, or " +
			"to roll back to one", ErrRefused},
	{"a prepared transaction", func(*testing.T) error { return refuseMySQL("xa recover") },
		"XA and prepared transactions inside a branch are reserved for concord: the statement was not sent; commit " +
			"or roll back the global transaction instead", ErrRefused},
	{"commits by a variable", func(*testing.T) error { return refuseMySQL("set autocommit = 1") },
		"autocommit and completion_type must not be changed inside a branch: the statement was not sent; leave it out",
		ErrRefused},
	{"DDL", func(*testing.T) error { return refuseMySQL("drop table t") },
		"this database allows no DDL, LOCK TABLES or GRANT inside a branch, because they commit: the statement was " +
			"not sent; run them outside", ErrRefused},
	{"two statements", func(*testing.T) error { return refuseMySQL("select 1; select 2") },
		"the text contains several statements: none was sent; send each in a request of its own", ErrRefused},
	{"no statement", func(*testing.T) error { return refuseMySQL("") },
		"the text contains no statement: nothing was sent; send one", ErrRefused},
	{"COPY", func(*testing.T) error { return refusePostgres("copy t from stdin") },
		"a branch at an agent does not support COPY, LISTEN or NOTIFY: the statement was not sent; use INSERT or " +
			"SELECT",
		ErrRefused},
	{"DISCARD", func(*testing.T) error { return refusePostgres("discard all") },
		"DISCARD, RESET ALL and DEALLOCATE ALL are not allowed inside a branch, because they would discard " +
			"concord's own state: the statement was not sent; name what is to be reset", ErrRefused},
	{"a name of a savepoint that is none", func(*testing.T) error { return CheckSavepoint("1") },
		"the name of a savepoint is not 1 to 32 letters, digits and underscores, a letter first: nothing was sent; " +
			"choose such a name", ErrRefused},
	{"work of a later version", func(t *testing.T) error {
		_, err := hidden(t).Do(t.Context(), Work{Verb: 77}, Limits{})
		return err
	}, "work of kind " + Verb(77).String() + ": run the newest version of concord on the agent: the statement was " +
		"not sent", ErrRefused},

	{"a text that is none", func(*testing.T) error { return Value{Text, "\xff"}.Check() },
		"a text is not valid UTF-8: send it as bytes", nil},
	{"a value of a later version", func(*testing.T) error { return Value{Kind(77), ""}.Check() },
		"a value is of kind 77, which this version does not know: run the newest version of concord on the agent", nil},
	{"a number that is none", func(*testing.T) error { return Value{Decimal, "1,5"}.Check() },
		`"1,5" is not a valid decimal: want digits such as -12.50`, nil},
	{"a column of an unknown form in MySQL", func(*testing.T) error { _, err := mysqlValue("POINT", 1i); return err },
		"a complex128 of type POINT is not known to this version: cast it to char", nil},

	{"no operand", func(*testing.T) error { _, err := pebbleArguments([]string{"?"}, []Value{{}}); return err },
		"an operand is null: the command was not carried out; give a value, or delete the key", ErrRefused},

	{"too many rows", func(*testing.T) error { return new(Result).add(nil, &Limits{}) },
		"more than 0 rows: the result is too large: ask for less with WHERE or LIMIT, or page by page", ErrTooLarge},
	{"too many bytes", func(*testing.T) error {
		return new(Result).add([]Value{OfText(strings.Repeat("x", 100))}, &Limits{Rows: 1, Bytes: 10})
	}, "row 1 is beyond the limit of bytes: the result is too large: ask for less with WHERE or LIMIT, or page by page",
		ErrTooLarge},
	{"work behind a result that is too large", func(t *testing.T) error { return hidden(t).seen() },
		"the branch can only be rolled back, or go back to an older savepoint: more than 0 rows: the result is too " +
			"large: ask for less with WHERE or LIMIT, or page by page", ErrTooLarge},
	{"a vote behind a result that is too large", func(t *testing.T) error {
		_, _, err := hidden(t).Prepare(t.Context())
		return err
	}, "the result of a statement was never seen: more than 0 rows: the result is too large: ask for less with " +
		"WHERE or LIMIT, or page by page", ErrTooLarge},
	{"a commit behind a result that is too large", func(t *testing.T) error {
		return hidden(t).CommitOnePhase(t.Context())
	}, "not committed: the result of a statement was never seen: more than 0 rows: the result is too large: ask for " +
		"less with WHERE or LIMIT, or page by page", adapters.ErrNotCommitted},
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t)
			require.EqualError(t, err, m.says)
			require.True(t, m.is == nil || errors.Is(err, m.is))
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, map[string]string{
		"%w; and the rollback failed: %w": "puts two errors together",
		"column %s: %w":                   "names where another error comes from",
		"a value of type %d came in a form that was not asked for: cast it to text": "no server has ever answered so",
		"damaged statement in the journal": "the journal says of the whole " +
			"entry that it is damaged",
	}, "refusal")
}
