// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"errors"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrRefused is wrapped by the error of a text that was not sent to the database: the branch is as
// it was.
var ErrRefused = errors.New("the statement was not sent")

type refusal string

func (r refusal) Error() string { return string(r) }
func (r refusal) Unwrap() error { return ErrRefused }

const (
	refusedEnd = refusal("BEGIN, COMMIT, ROLLBACK and the like are not allowed inside a branch: the statement was " +
		"not sent; commit or roll back the global transaction instead")
	refusedSavepoint = refusal("savepoints inside a branch have requests of their own: the statement was not sent; " +
		"ask for a savepoint, or to roll back to one")
	refusedXA = refusal("XA and prepared transactions inside a branch are reserved for concord: the statement was " +
		"not sent; commit or roll back the global transaction instead")
	refusedCommitBy = refusal("autocommit and completion_type must not be changed inside a branch: the statement " +
		"was not sent; leave it out")
	refusedDDL = refusal("this database allows no DDL, LOCK TABLES or GRANT inside a branch, because they commit: " +
		"the statement was not sent; run them outside")
	refusedSeveral = refusal("the text contains several statements: none was sent; send each in a request of its own")
	refusedEmpty   = refusal("the text contains no statement: nothing was sent; send one")
	refusedCopy    = refusal("a branch at an agent does not support COPY, LISTEN or NOTIFY: the statement was not " +
		"sent; use INSERT or SELECT")
	refusedReset = refusal("DISCARD, RESET ALL and DEALLOCATE ALL are not allowed inside a branch, because they " +
		"would discard concord's own state: the statement was not sent; name what is to be reset")
	refusedName = refusal("the name of a savepoint is not 1 to 32 letters, digits and underscores, a letter " +
		"first: nothing was sent; choose such a name")
)

var savepointName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,31}$`)

// CheckSavepoint returns an error unless a text can name a savepoint. It wraps ErrRefused.
func CheckSavepoint(name string) error {
	if !savepointName.MatchString(name) {
		return refusedName
	}
	return nil
}

// pointPrefix stands before the names of savepoints in SQL, so that none is a word of the language.
const pointPrefix = "sp_"

// dialect is how a database reads a text.
type dialect struct {
	dollar    bool // $tag$ quotes
	hash      bool // # begins a comment
	backslash bool // escapes in every string
	nested    bool // comments within comments
	backtick  bool
}

var (
	postgresDialect = dialect{dollar: true, nested: true}
	mysqlDialect    = dialect{hash: true, backslash: true, backtick: true}
)

// refusePostgres says why a text must not be sent, as far as its words tell.
func refusePostgres(text string) error {
	words, several := postgresDialect.read(text)
	switch {
	case several:
		return refusedSeveral
	case len(words) == 0:
		return refusedEmpty
	}
	switch words[0] {
	case "PREPARE":
		if second(words) == "TRANSACTION" {
			return refusedXA
		}
	case "COMMIT", "ROLLBACK":
		if second(words) == "PREPARED" {
			return refusedXA
		}
		if words[0] == "ROLLBACK" && backToSavepoint(words) {
			return refusedSavepoint
		}
		return refusedEnd
	case "BEGIN", "START", "END", "ABORT":
		return refusedEnd
	case "SAVEPOINT", "RELEASE":
		return refusedSavepoint
	case "COPY", "LISTEN", "NOTIFY", "UNLISTEN":
		return refusedCopy
	case "DISCARD":
		return refusedReset
	case "RESET", "DEALLOCATE":
		if words[len(words)-1] == "ALL" {
			return refusedReset
		}
	}
	return nil
}

// refuseMySQL is the same for MySQL and MariaDB.
func refuseMySQL(text string) error {
	words, several := mysqlDialect.read(text)
	switch {
	case several:
		return refusedSeveral
	case len(words) == 0:
		return refusedEmpty
	}
	switch words[0] {
	case "ROLLBACK":
		if backToSavepoint(words) {
			return refusedSavepoint
		}
		return refusedEnd
	case "COMMIT", "BEGIN":
		return refusedEnd
	case "START":
		if second(words) == "TRANSACTION" {
			return refusedEnd
		}
	case "SAVEPOINT", "RELEASE":
		return refusedSavepoint
	case "XA":
		return refusedXA
	case "SET":
		for _, w := range words[1:] {
			if w == "AUTOCOMMIT" || w == "COMPLETION_TYPE" {
				return refusedCommitBy
			}
		}
	case "CREATE", "DROP": // those of temporary tables do not commit; the server judges them
		if second(words) != "TEMPORARY" {
			return refusedDDL
		}
	case "ALTER", "TRUNCATE", "RENAME", "LOCK", "UNLOCK", "GRANT", "REVOKE", "ANALYZE", "OPTIMIZE", "REPAIR", "FLUSH":
		return refusedDDL
	}
	return nil
}

func second(words []string) string {
	if len(words) < 2 {
		return ""
	}
	return words[1]
}

func backToSavepoint(words []string) bool {
	return second(words) == "TO" || len(words) > 2 && words[2] == "TO" // ROLLBACK WORK TO
}

// maxWords of a text are looked at, besides whether it holds several statements.
const maxWords = 64

// read returns the first words of a text in upper case, without what is in quotes and comments, and
// whether anything follows a semicolon. What it does not understand it leaves to the server.
func (d dialect) read(text string) (words []string, several bool) {
	ended := false
	for text != "" {
		switch c := text[0]; {
		case c <= ' ':
			text = text[1:]
			continue
		case strings.HasPrefix(text, "--") || d.hash && c == '#':
			_, text, _ = strings.Cut(text, "\n")
			continue
		case strings.HasPrefix(text, "/*"):
			text = d.comment(text)
			continue
		case c == ';':
			ended, text = true, text[1:]
			continue
		}
		if ended {
			return words, true
		}
		switch c := text[0]; {
		case c == '\'' || c == '"' || c == '`' && d.backtick:
			escaped := d.backslash && c != '`' || c == '\'' && len(words) > 0 && words[len(words)-1] == "E"
			text = quoted(text, c, escaped)
		case c == '$' && d.dollar:
			text = dollarQuoted(text)
		default:
			n := strings.IndexFunc(text, func(r rune) bool { return !isWord(r) })
			if n < 0 {
				n = len(text)
			}
			if n == 0 {
				_, n = utf8.DecodeRuneInString(text)
			} else if len(words) < maxWords {
				words = append(words, strings.ToUpper(text[:n]))
			}
			text = text[n:]
		}
	}
	return words, false
}

func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// comment returns what follows a comment. One that MySQL executes is text.
func (d dialect) comment(text string) string {
	if !d.nested && (strings.HasPrefix(text, "/*!") || strings.HasPrefix(text, "/*M!")) {
		_, after, _ := strings.Cut(text, "!")
		return strings.TrimLeft(after, "0123456789") // of a version
	}
	depth := 0
	for i := 0; i+1 < len(text); i++ {
		switch text[i : i+2] {
		case "/*":
			if depth == 0 || d.nested {
				depth++
				i++
			}
		case "*/":
			depth--
			i++
			if depth == 0 {
				return text[i+1:]
			}
		}
	}
	return ""
}

// quoted returns what follows a string or a name in quotes.
func quoted(text string, quote byte, escapes bool) string {
	for i := 1; i < len(text); i++ {
		switch {
		case escapes && text[i] == '\\':
			i++
		case text[i] == quote:
			return text[i+1:] // a doubled quote begins another string, which is all the same here
		}
	}
	return ""
}

var dollarTag = regexp.MustCompile(`^\$([\pL_][\pL\pN_]*)?\$`)

func dollarQuoted(text string) string {
	tag := dollarTag.FindString(text)
	if tag == "" {
		return text[1:] // a parameter
	}
	_, after, _ := strings.Cut(text[len(tag):], tag)
	return after
}
