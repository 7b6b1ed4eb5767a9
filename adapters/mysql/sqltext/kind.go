// SPDX-License-Identifier: Apache-2.0

package sqltext

import (
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Why a statement is not sent.
var (
	ErrOwnXA = errors.New("XA statements inside a branch are reserved for concord: end the global transaction " +
		"instead")
	ErrLevel = errors.New("this has no effect inside a branch: give the options with the first call of TxWith")
	// MariaDB does such a statement in a session of its own.
	ErrDelayed = errors.New("DELAYED is not allowed inside a branch, because no rollback takes back what it does: " +
		"leave the word out")
)

// Kind is what the text of a statement tells about it. It errs on the careful side: the
// zero kind is that of a text that may do anything.
type Kind struct {
	// reads: it may be a plain read. The counters of the server have the last word,
	// because a view or a stored function may write.
	Reads bool
	// plain: it leaves the state of the session as it was.
	Plain bool
	// steady: it cannot end the transaction that it runs in, and neither can what it calls,
	// for functions and triggers may not.
	Steady bool
	// traced: it sets, releases and rolls back to no savepoints but the one that it names.
	Traced bool
	// Refused says why it is not sent, if so.
	Refused error
	// ends: it would end the transaction, by itself, and the server refuses it in a branch.
	Ends bool

	Verb      Verb   // if it is about a savepoint
	Savepoint string // in lower case; empty if it cannot be compared
}

// Verb is what a statement does with a savepoint.
type Verb uint8

const (
	NoVerb Verb = iota
	SetVerb
	ReleaseVerb
	RollbackVerb
)

// Read reads a text as the application sends it.
func Read(text string) Kind {
	rest, clear := skipComments(text)
	if !clear {
		return Kind{}
	}
	t := tokensOf(rest)
	if len(t.words) == 0 || t.several || !startsWithLetter(strings.TrimLeft(rest, "( \t\r\n")) {
		return Kind{}
	}
	k := firstWord(t)
	for _, word := range t.words {
		switch word {
		case "FOR", "LOCK", "INTO", "PROCEDURE": // locks, or writes elsewhere
			k.Reads = false
		case "GET_LOCK": // a user lock outlives the branch
			k.Reads, k.Plain = false, false
		}
	}
	// A user variable outlives the branch.
	if strings.Contains(rest, ":=") || t.has("INTO") && strings.Contains(rest, "@") {
		k.Plain = false
	}
	return k
}

// firstWord is what the first words tell.
func firstWord(t tokens) Kind {
	read, write := Kind{Reads: true, Plain: true, Steady: true, Traced: true},
		Kind{Plain: true, Steady: true, Traced: true}
	switch t.words[0] {
	case "SELECT", "VALUES", "TABLE", "SHOW":
		return read
	case "WITH", "EXPLAIN", "DESCRIBE", "DESC": // may write, or explain by doing
		read.Reads = !t.has("INSERT", "UPDATE", "DELETE", "REPLACE")
		return read
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "DO":
		if len(t.words) > 1 && t.words[1] == "DELAYED" {
			write.Refused = ErrDelayed
		}
		return write
	case "SET":
		k := Kind{Steady: true, Traced: true}
		if t.has("STATEMENT") { // MariaDB: before any statement
			return Kind{}
		}
		if t.has("TRANSACTION", "TRANSACTION_ISOLATION", "TX_ISOLATION", "TRANSACTION_READ_ONLY", "TX_READ_ONLY") {
			k.Refused = ErrLevel
		}
		return k
	case "SAVEPOINT", "RELEASE", "ROLLBACK":
		if verb, name := savepointOf(t); verb != NoVerb {
			return Kind{Plain: true, Steady: true, Traced: name != "", Verb: verb, Savepoint: name}
		}
		return Kind{Ends: t.words[0] == "ROLLBACK", Traced: true}
	case "USE":
		return Kind{Steady: true, Traced: true}
	case "CALL":
		// A procedure may end the transaction. If it plays with savepoints, it does so as its
		// caller wants it to.
		return Kind{Traced: true}
	case "XA":
		if len(t.words) > 1 && t.words[1] != "RECOVER" {
			return Kind{Traced: true, Refused: ErrOwnXA}
		}
		return Kind{Traced: true}
	case "COMMIT", "START", "CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "LOCK", "UNLOCK", "GRANT", "REVOKE":
		return Kind{Ends: true, Traced: true}
	case "BEGIN":
		return Kind{Ends: len(t.words) == 1 || t.words[1] == "WORK"} // or a compound statement
	}
	return Kind{}
}

// savepointOf reads a whole statement about a savepoint.
func savepointOf(t tokens) (Verb, string) {
	words := t.words
	take := func(word string) bool {
		if len(words) == 0 || words[0] != word {
			return false
		}
		words = words[1:]
		return true
	}
	v := NoVerb
	switch {
	case take("SAVEPOINT"):
		v = SetVerb
	case take("RELEASE") && take("SAVEPOINT"):
		v = ReleaseVerb
	case take("ROLLBACK"):
		take("WORK")
		if !take("TO") {
			return NoVerb, ""
		}
		take("SAVEPOINT")
		v = RollbackVerb
	default:
		return NoVerb, ""
	}
	return v, nameOf(t, words)
}

// nameOf is the name of a savepoint as it can be compared: the servers take upper and lower
// case for equal, and some letters beyond ASCII.
func nameOf(t tokens, words []string) string {
	var name string
	switch {
	case len(words) == 1 && len(t.quoted) == 0:
		name = words[0]
	case len(words) == 0 && len(t.quoted) == 1:
		name = t.quoted[0]
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	return strings.ToLower(name)
}

// Names reports whether is holds for a word of a text, quoted or not, that is not in a plain comment. A text that
// cannot be read has any.
func Names(text string, is func(name string) bool) bool {
	rest, clear := skipComments(text)
	if !clear {
		return true
	}
	t := tokensOf(rest)
	return t.several || slices.ContainsFunc(t.words, is) || slices.ContainsFunc(t.quoted, is)
}

// tokens are the parts of a text that tell something.
type tokens struct {
	words   []string // in upper case
	quoted  []string // names in backticks or double quotes, without them
	several bool     // something follows a semicolon
}

func (t tokens) has(words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return slices.Contains(t.words, w) })
}

// tokensOf reads a text that begins with no comment. What is in strings and comments is
// left out, but what is in executable comments is not. Whether a backslash belongs to a string
// depends on the mode of the session: with one in it, everything may be a word, and every
// semicolon may end a statement.
func tokensOf(text string) (t tokens) {
	if strings.Contains(text, `\`) {
		t.words = strings.FieldsFunc(strings.ToUpper(text), func(r rune) bool { return !isWord(r) })
		t.several = strings.Contains(strings.TrimRight(text, "; \t\r\n"), ";")
		return t
	}
	ended := false    // there was a semicolon
	variable := false // the next word names a user variable
	for {
		rest, clear := skipComments(text)
		if text = rest; text == "" {
			return t
		}
		if !clear {
			body, ends := executable(text)
			if !ends || strings.ContainsAny(body, "'\"`#") || strings.Contains(body, "--") ||
				strings.Contains(body, "/*") {
				return tokens{several: true} // where it ends depends on whether the server executes it
			}
			_, text, _ = strings.Cut(text, "!")
			continue
		}
		if text[0] == ';' {
			ended, text = true, text[1:]
			continue
		}
		t.several = t.several || ended
		switch c := text[0]; c {
		case '\'', '"', '`':
			body, after, closed := strings.Cut(text[1:], string(c))
			if !closed {
				return tokens{several: true} // the server says what is wrong with it
			}
			if c != '\'' {
				t.quoted = append(t.quoted, body)
			}
			text, variable = after, false
		case '@':
			variable = !variable // "@@" is before those of the server
			text = text[1:]
		default:
			word := text
			if n := strings.IndexFunc(text, func(r rune) bool { return !isWord(r) }); n >= 0 {
				word = text[:n]
			}
			if word == "" {
				_, n := utf8.DecodeRuneInString(text)
				text, variable = text[n:], false
				continue
			}
			if !variable {
				t.words = append(t.words, strings.ToUpper(word))
			}
			text, variable = text[len(word):], false
		}
	}
}

// executable returns what is in the executable comment with which a text begins, and false if it does not end.
func executable(text string) (body string, ends bool) {
	if _, text, ends = strings.Cut(text, "!"); !ends {
		return "", false // a plain comment that does not end
	}
	body, _, ends = strings.Cut(text, "*/")
	return body, ends
}

func isWord(r rune) bool { return r == '_' || r == '$' || unicode.IsLetter(r) || unicode.IsDigit(r) }

// skipComments skips spaces and comments at the beginning, optimizer hints among them. It is
// not clear when there is a comment that the server executes, or one that does not end.
func skipComments(text string) (rest string, clear bool) {
	for {
		text = strings.TrimLeft(text, " \t\r\n\v\f")
		switch {
		case strings.HasPrefix(text, "/*!"), strings.HasPrefix(text, "/*M!"):
			return text, false
		case strings.HasPrefix(text, "/*"):
			_, after, ends := strings.Cut(text[2:], "*/")
			if !ends {
				return "/*", false
			}
			text = after
		case strings.HasPrefix(text, "#"), isDashes(text):
			_, text, _ = strings.Cut(text, "\n")
		default:
			return text, true
		}
	}
}

// isDashes reports whether a comment begins here: "--1" is no comment.
func isDashes(text string) bool {
	return text == "--" || len(text) > 2 && text[:2] == "--" && text[2] <= ' '
}

// startsWithLetter reports whether the first word stands at the beginning, and not
// behind a quote or a sign.
func startsWithLetter(text string) bool {
	for _, r := range text {
		return unicode.IsLetter(r)
	}
	return false
}
