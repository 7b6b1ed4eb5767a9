// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"strings"
	"unicode"
)

// kind is what the text of a statement tells about it. It errs on the careful side.
type kind struct {
	// reads: it may be a plain read. The counters of the server have the last word,
	// because a view or a stored function may write.
	reads bool
	// plain: it leaves the state of the session as it was.
	plain bool
}

func kindOf(text string) kind {
	words := strings.FieldsFunc(strings.ToUpper(text), func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	if len(words) == 0 || !startsWithLetter(text) {
		return kind{}
	}
	var k kind
	switch words[0] {
	case "SELECT":
		k = kind{reads: true, plain: true}
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "SAVEPOINT", "RELEASE", "ROLLBACK":
		k.plain = true
	}
	for _, word := range words {
		switch word {
		case "FOR", "LOCK", "INTO", "PROCEDURE": // locks, or writes elsewhere
			k.reads = false
		case "GET_LOCK": // a user lock outlives the branch
			k = kind{}
		}
	}
	if strings.Contains(text, ":=") { // a user variable outlives the branch
		k.plain = false
	}
	return k
}

// startsWithLetter reports whether the first word stands at the beginning, and not
// behind a comment, a bracket or a quote.
func startsWithLetter(text string) bool {
	for _, r := range text {
		if !unicode.IsSpace(r) {
			return unicode.IsLetter(r)
		}
	}
	return false
}
