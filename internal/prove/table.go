// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// table is what a run tells, in Markdown.
type table struct{ rows [][3]string }

// add appends a row: what was tried, how much of it, and what was found.
func (t *table) add(what, amount, found string) {
	t.rows = append(t.rows, [3]string{what, amount, found})
}

func (t *table) print(w io.Writer) {
	fmt.Fprintln(w, "| what | how much | found |\n|---|---|---|")
	for _, r := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(r[:], " | "))
	}
}

// count writes a number with commas.
func count[N ~int | ~int64 | ~uint64](n N) string {
	digits := strconv.FormatUint(uint64(n), 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
