// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"errors"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3"
)

// statement is what SQLite says, while it compiles a statement of the application, that this does.
type statement struct {
	writes  bool
	lasting bool // it leaves something in its connection
	save    string
	point   string // the savepoint of save, in lower case
	refused error  // why it is not executed
}

// What save may be, in SQLite's words.
const (
	saves    = "BEGIN"
	releases = "RELEASE"
	goesBack = "ROLLBACK"
)

var (
	errEnds = errors.New("BEGIN, COMMIT and ROLLBACK are not allowed inside a branch: let the global transaction end " +
		"it, or use SAVEPOINT")
	errAttach = errors.New("ATTACH and DETACH are not allowed inside a branch: open the other file as a resource of " +
		"its own")
	errPragma = errors.New("a PRAGMA that sets something for the connection is not allowed inside a branch: give it " +
		"to the file, outside of one")
	errReserved = errors.New("tables that begin with " + reserved + " are concord's: give your own another name")
)

// asking are pragmas with an argument that change nothing.
var asking = []string{"collation_list", "foreign_key_check", "foreign_key_list", "index_info", "index_list",
	"index_xinfo", "integrity_check", "quick_check", "table_info", "table_list", "table_xinfo"}

// transactional are pragmas whose argument is part of the transaction.
var transactional = []string{"application_id", "defer_foreign_keys", "user_version"}

// acting are pragmas that do something without an argument.
var acting = []string{"incremental_vacuum", "optimize", "shrink_memory", "wal_checkpoint"}

// authorize is SQLite's question about each thing that a statement does.
func (l *link) authorize(action sqlite3.AuthorizerActionCode, third, fourth, schema, _ string,
) sqlite3.AuthorizerReturnCode {
	if l.ours {
		return sqlite3.AUTH_OK
	}
	k := l.kind
	if k == nil {
		k = &statement{} // compiled again, after a change of the schema: it was looked at before
	}
	if err := k.add(action, third, fourth); err != nil {
		k.refused = err
		return sqlite3.AUTH_DENY
	}
	if schema == "temp" && k.writes {
		k.lasting = true
	}
	return sqlite3.AUTH_OK
}

func (k *statement) add(action sqlite3.AuthorizerActionCode, third, fourth string) error {
	switch action {
	case sqlite3.AUTH_SELECT, sqlite3.AUTH_READ, sqlite3.AUTH_FUNCTION, sqlite3.AUTH_RECURSIVE:
		return nil
	case sqlite3.AUTH_TRANSACTION:
		return errEnds
	case sqlite3.AUTH_ATTACH, sqlite3.AUTH_DETACH:
		return errAttach
	case sqlite3.AUTH_SAVEPOINT:
		k.save, k.point = third, strings.ToLower(fourth)
		return nil
	case sqlite3.AUTH_PRAGMA:
		return k.pragma(strings.ToLower(third), fourth)
	case sqlite3.AUTH_ALTER_TABLE:
		third = fourth
	case sqlite3.AUTH_CREATE_TEMP_INDEX, sqlite3.AUTH_CREATE_TEMP_TABLE, sqlite3.AUTH_CREATE_TEMP_TRIGGER,
		sqlite3.AUTH_CREATE_TEMP_VIEW:
		k.lasting = true
	}
	k.writes = true
	if strings.HasPrefix(strings.ToLower(third), reserved) {
		return errReserved
	}
	return nil
}

func (k *statement) pragma(name, argument string) error {
	switch {
	case slices.Contains(acting, name):
		return errPragma
	case argument == "" || slices.Contains(asking, name):
		return nil
	case slices.Contains(transactional, name):
		k.writes = true
		return nil
	}
	return errPragma
}
