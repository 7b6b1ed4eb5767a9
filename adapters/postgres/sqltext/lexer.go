// SPDX-License-Identifier: Apache-2.0

package sqltext

import "strings"

// token is a piece of a statement. Texts and comments are none.
type token struct {
	kind tokenKind
	text string // words in lower case, as the server folds them
}

type tokenKind uint8

const (
	word   tokenKind = iota // a key word, a name or a number
	quoted                  // a name in double quotes
	symbol                  // any other character, one at a time
)

// lexer splits a text into statements and tokens. It knows what the server's own one does
// of quotes and comments, because a semicolon in them ends nothing.
type lexer struct {
	text       string
	conforming bool // the backslash is an ordinary character in a text without E
	at         int
	lost       bool // a quote or comment never ends
}

// statement returns the tokens up to the next semicolon, and whether one was there.
func (l *lexer) statement() (tokens []token, more bool) {
	for l.at < len(l.text) {
		c := l.text[l.at]
		switch {
		case c == ';':
			l.at++
			return tokens, true
		case c <= ' ':
			l.at++
		case strings.HasPrefix(l.text[l.at:], "--"):
			l.lineComment()
		case strings.HasPrefix(l.text[l.at:], "/*"):
			l.comment()
		case c == '\'':
			l.literal(!l.conforming)
		case (c == 'e' || c == 'E') && strings.HasPrefix(l.text[l.at+1:], "'"):
			l.at++
			l.literal(true)
		case c == '"':
			tokens = append(tokens, token{quoted, l.name()})
		case c == '$' && l.dollar():
		case inWord(c):
			start := l.at
			for l.at < len(l.text) && (inWord(l.text[l.at]) || l.text[l.at] == '$') {
				l.at++
			}
			tokens = append(tokens, token{word, strings.ToLower(l.text[start:l.at])})
		default:
			tokens = append(tokens, token{symbol, l.text[l.at : l.at+1]})
			l.at++
		}
	}
	return tokens, false
}

func inWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// lineComment skips a comment up to the end of its line.
func (l *lexer) lineComment() {
	if i := strings.IndexAny(l.text[l.at:], "\n\r"); i >= 0 {
		l.at += i
		return
	}
	l.at = len(l.text)
}

// to skips behind the next end, or to the end of the text.
func (l *lexer) to(end string) {
	if i := strings.Index(l.text[l.at:], end); i >= 0 {
		l.at += i + len(end)
		return
	}
	l.at = len(l.text)
}

// comment skips a comment, which may hold others.
func (l *lexer) comment() {
	for depth := 0; l.at < len(l.text); {
		switch {
		case strings.HasPrefix(l.text[l.at:], "/*"):
			depth++
			l.at += 2
		case strings.HasPrefix(l.text[l.at:], "*/"):
			l.at += 2
			if depth--; depth == 0 {
				return
			}
		default:
			l.at++
		}
	}
	l.lost = true
}

// literal skips a text, and what continues it on a later line.
func (l *lexer) literal(escapes bool) {
	for l.at++; l.at < len(l.text); l.at++ {
		switch l.text[l.at] {
		case '\'':
			if strings.HasPrefix(l.text[l.at+1:], "'") {
				l.at++
				continue
			}
			l.at++
			if !l.continued() {
				return
			}
		case '\\':
			if escapes {
				l.at++
			}
		}
	}
	l.lost = true
}

// continued goes to the quote that continues a text, if there is one: only space and
// comments stand between, and the end of a line.
func (l *lexer) continued() bool {
	ahead, line := *l, false
	for ahead.at < len(ahead.text) {
		switch c := ahead.text[ahead.at]; {
		case c == '\'' && line:
			l.at = ahead.at
			return true
		case strings.HasPrefix(ahead.text[ahead.at:], "--"):
			ahead.lineComment()
		case c == '\n' || c == '\r':
			line = true
			ahead.at++
		case c <= ' ':
			ahead.at++
		default:
			return false
		}
	}
	return false
}

// name reads a name in double quotes.
func (l *lexer) name() string {
	start := l.at + 1
	for l.at++; l.at < len(l.text); l.at++ {
		if l.text[l.at] != '"' {
			continue
		}
		if !strings.HasPrefix(l.text[l.at+1:], `"`) {
			l.at++
			return strings.ReplaceAll(l.text[start:l.at-1], `""`, `"`)
		}
		l.at++
	}
	l.lost = true
	return ""
}

// dollar skips a text in dollar quotes and reports whether there was one: $1 is none.
func (l *lexer) dollar() bool {
	end := l.at + 1
	for end < len(l.text) && inWord(l.text[end]) {
		end++
	}
	if end == len(l.text) || l.text[end] != '$' || l.text[l.at+1] >= '0' && l.text[l.at+1] <= '9' {
		return false
	}
	quote := l.text[l.at : end+1]
	l.at = end + 1
	if !strings.Contains(l.text[l.at:], quote) {
		l.lost = true
	}
	l.to(quote)
	return true
}
