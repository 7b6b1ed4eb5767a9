// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Verb is what a piece of work does in a branch.
type Verb uint8

// Execute runs a statement. Savepoint and RollbackTo name a savepoint.
const (
	Execute Verb = iota + 1
	Savepoint
	RollbackTo
)

// String returns execute, savepoint or rollback-to.
func (v Verb) String() string {
	if v >= Execute && v <= RollbackTo {
		return [...]string{"execute", "savepoint", "rollback-to"}[v-1]
	}
	return fmt.Sprintf("invalid(%d)", uint8(v))
}

// Work is one request to a branch.
type Work struct {
	Verb Verb
	Text string // the statement, or the name of the savepoint
	Args []Value
}

// String prints the work for people.
func (w Work) String() string {
	var args []string
	for _, v := range w.Args {
		args = append(args, v.String())
	}
	if len(args) == 0 {
		return fmt.Sprintf("%v %q", w.Verb, w.Text)
	}
	return fmt.Sprintf("%v %q [%s]", w.Verb, w.Text, strings.Join(args, ", "))
}

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// Sum tells two pieces of work apart.
func (w Work) Sum() Sum { return sha256.Sum256(w.AppendBinary(nil)) }

// AppendBinary appends the stored form: the verb, and text, kind and text of each argument with
// their lengths.
func (w Work) AppendBinary(b []byte) []byte {
	b = append(b, byte(w.Verb))
	b = appendText(b, w.Text)
	b = binary.AppendUvarint(b, uint64(len(w.Args)))
	for _, v := range w.Args {
		b = appendValue(b, v)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendValue(b []byte, v Value) []byte { return appendText(append(b, byte(v.Kind)), v.Text) }

// ErrBadWork says that bytes are not the stored form of a piece of work.
var ErrBadWork = errors.New("damaged statement in the journal")

// ParseWork is the inverse of AppendBinary. It takes all of b. The error is ErrBadWork.
func ParseWork(b []byte) (Work, error) {
	d := decoder{b: b}
	w := Work{Verb: Verb(d.byte()), Text: d.text()}
	n := d.uvarint()
	if n > uint64(len(d.b)) { // each has two bytes at least
		return Work{}, ErrBadWork
	}
	for range n {
		v := Value{Kind: Kind(d.byte()), Text: d.text()}
		if d.bad || v.Check() != nil {
			return Work{}, ErrBadWork
		}
		w.Args = append(w.Args, v)
	}
	if d.bad || len(d.b) > 0 || w.Verb < Execute || w.Verb > RollbackTo {
		return Work{}, ErrBadWork
	}
	return w, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) byte() byte {
	if d.bad = d.bad || len(d.b) == 0; d.bad {
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad = d.bad || n <= 0 || n > 1 && d.b[n-1] == 0; d.bad { // one form for each number
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) text() string {
	n := d.uvarint()
	if d.bad = d.bad || n > uint64(len(d.b)); d.bad {
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// Result is what a statement answered.
type Result struct {
	Columns []Column
	Rows    [][]Value
	// Affected counts the rows that were changed; -1 if the database does not say.
	Affected int64
}

// Column names one field of every row.
type Column struct {
	Name string
	Type string // in words of the database
}

// Sum tells two results apart.
func (r Result) Sum() Sum {
	h := sha256.New()
	var b []byte
	b = binary.AppendVarint(b, r.Affected)
	b = binary.AppendUvarint(b, uint64(len(r.Columns)))
	for _, c := range r.Columns {
		b = appendText(appendText(b, c.Name), c.Type)
	}
	b = binary.AppendUvarint(b, uint64(len(r.Rows)))
	h.Write(b)
	for _, row := range r.Rows {
		b = b[:0]
		for _, v := range row {
			b = appendValue(b, v)
		}
		h.Write(b)
	}
	return Sum(h.Sum(nil))
}

// Limits bound a result. Zero values mean the defaults.
type Limits struct {
	Rows  int
	Bytes int // of the texts of all fields and a little for each
}

// The defaults of Limits.
const (
	DefaultRows  = 10_000
	DefaultBytes = 1 << 20
)

// fieldBytes is what a field counts beside its text.
const fieldBytes = 16

func (l Limits) withDefaults() Limits {
	if l.Rows <= 0 {
		l.Rows = DefaultRows
	}
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	return l
}

// ErrTooLarge says that a result has more than Limits allow.
var ErrTooLarge = errors.New("the result is too large: ask for less with WHERE or LIMIT, or page by page")

// add takes a row in, or says that it is one too many.
func (r *Result) add(row []Value, left *Limits) error {
	if left.Rows == 0 {
		return fmt.Errorf("more than %d rows: %w", len(r.Rows), ErrTooLarge)
	}
	left.Rows--
	for _, v := range row {
		left.Bytes -= fieldBytes + len(v.Text)
	}
	if left.Bytes < 0 {
		return fmt.Errorf("row %d is beyond the limit of bytes: %w", len(r.Rows)+1, ErrTooLarge)
	}
	r.Rows = append(r.Rows, row)
	return nil
}
