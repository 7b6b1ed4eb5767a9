// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/concordtx/concord/api"
)

// Harmless returns a writer for people and programs that shows characters which a terminal would act on,
// or hide, as \u and their number: the texts of databases are printed, and anybody may have written them. In
// JSON that means the same character. Lines stay lines; cells of tables see to their own.
func Harmless(to io.Writer) io.Writer { return &harmless{to: to, colours: wantsColours(to)} }

type harmless struct {
	to      io.Writer
	colours bool
	rest    []byte // the beginning of a character whose end is not written yet
}

// Write implements io.Writer.
func (h *harmless) Write(p []byte) (int, error) {
	text := append(h.rest, p...)
	h.rest = nil
	if n := unfinished(text); n > 0 {
		h.rest = append(h.rest, text[len(text)-n:]...)
		text = text[:len(text)-n]
	}
	_, err := io.WriteString(h.to, escape(string(text),
		func(r rune) bool { return r != '\n' && r != '\t' && api.Hidden(r) }))
	return len(p), err
}

// unfinished returns how many bytes at the end of a text are the beginning of a character.
func unfinished(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if end := text[len(text)-n:]; utf8.RuneStart(end[0]) {
			if utf8.FullRune(end) {
				return 0
			}
			return n
		}
	}
	return 0
}

// Cell makes a text fit for one line of a table.
func Cell(text string) string { return escape(text, api.Hidden) }

func escape(text string, hidden func(rune) bool) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for _, r := range text { // what is no UTF-8 comes as U+FFFD
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r > 0xffff:
			high, low := 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
