// SPDX-License-Identifier: Apache-2.0

package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseText validates a text that goes into the log: UTF-8 of at most limit bytes
// of characters that are seen, since it is printed on terminals later.
func ParseText(field, s string, limit int) error {
	if len(s) > limit {
		return invalid(field, "has %d bytes, at most %d are allowed", len(s), limit)
	}
	if !utf8.ValidString(s) {
		return invalid(field, "is not valid UTF-8")
	}
	if i := strings.IndexFunc(s, Hidden); i >= 0 {
		return invalid(field, "contains a control or invisible character at byte %d: leave it out", i)
	}
	return nil
}

// Hidden reports whether a terminal would not show a character but act on it, or show
// nothing: control characters, escapes, those that change the direction of a line, and those
// without width.
func Hidden(r rune) bool {
	if r < 0x7f { // nearly all there is
		return r < ' '
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector,
		unicode.Other_Default_Ignorable_Code_Point)
}

// Readable returns a text of somebody else's, such as an error, as ParseText takes it.
func Readable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if Hidden(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
