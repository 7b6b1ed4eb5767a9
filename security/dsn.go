// SPDX-License-Identifier: Apache-2.0

package security

import (
	"fmt"
	"log/slog"
)

// DSN is a data source name, which may hold a password. However it is printed, encoded or logged, alone or inside of
// something else, its text does not appear: Reveal alone gives it away. The zero DSN is empty.
type DSN struct {
	text *string // behind a pointer: fmt looks into the fields of what holds a DSN without asking it
}

const redacted = "(a data source name, not shown)"

// NewDSN hides a text.
func NewDSN(text string) DSN {
	if text == "" {
		return DSN{}
	}
	return DSN{&text}
}

// Reveal returns the text, for who connects.
func (d DSN) Reveal() string {
	if d.text == nil {
		return ""
	}
	return *d.text
}

// Empty reports whether there is none.
func (d DSN) Empty() bool { return d.text == nil }

// String implements fmt.Stringer.
func (d DSN) String() string {
	if d.text == nil {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter, for every verb.
func (d DSN) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(d.String())) }

// MarshalText implements encoding.TextMarshaler, which JSON and YAML ask.
func (d DSN) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// LogValue implements slog.LogValuer.
func (d DSN) LogValue() slog.Value { return slog.StringValue(d.String()) }
