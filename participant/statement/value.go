// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"fmt"
	"math/big"
	"regexp"
	"strconv"
	"unicode/utf8"
)

// Kind says how the text of a Value is to be read.
type Kind uint8

// Null has no text. Bool is "true" or "false". Int fits into 64 bits with a sign, Uint into 64
// without. Float is a double as strconv prints it, NaN and infinities included. Decimal is a number
// of any size in decimal digits. Text is UTF-8. Bytes are raw. Time is a date, a time of day or
// both, as in RFC 3339, with an offset only if the database keeps one. JSON is a JSON text.
const (
	Null Kind = iota
	Bool
	Int
	Uint
	Float
	Decimal
	Text
	Bytes
	Time
	JSON
)

// String returns the kind in lower case.
func (k Kind) String() string {
	if k <= JSON {
		return [...]string{"null", "bool", "int", "uint", "float", "decimal", "text", "bytes", "time", "json"}[k]
	}
	return fmt.Sprintf("invalid(%d)", uint8(k))
}

// Value is an argument or a field of a row. It has one shape for all kinds, the text, so that
// nothing is rounded on its way. The zero Value is null.
type Value struct {
	Kind Kind
	Text string
}

// String quotes the text, for people.
func (v Value) String() string {
	switch v.Kind {
	case Null:
		return "null"
	case Bytes:
		return fmt.Sprintf("bytes %x", v.Text)
	case Text, Time, JSON:
		return fmt.Sprintf("%v %q", v.Kind, v.Text)
	}
	return v.Kind.String() + " " + v.Text
}

// OfInt and the like make values.
func OfInt(n int64) Value     { return Value{Int, strconv.FormatInt(n, 10)} }
func OfUint(n uint64) Value   { return Value{Uint, strconv.FormatUint(n, 10)} }
func OfBool(b bool) Value     { return Value{Bool, strconv.FormatBool(b)} }
func OfText(s string) Value   { return Value{Text, s} }
func OfBytes(b []byte) Value  { return Value{Bytes, string(b)} }
func OfFloat(f float64) Value { return Value{Float, strconv.FormatFloat(f, 'g', -1, 64)} }

var (
	decimalText = regexp.MustCompile(`^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,4})?$`)
	timeText    = regexp.MustCompile(`^([0-9]{4}-[0-9]{2}-[0-9]{2})?[T ` +
		`]?([0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[-+][0-9]{2}:[0-9]{2})?)?$`)
)

// Check returns an error unless the text is one of the kind. For values that came from outside.
func (v Value) Check() error {
	ok := true
	switch v.Kind {
	case Null:
		ok = v.Text == ""
	case Bool:
		ok = v.Text == "true" || v.Text == "false"
	case Int:
		_, err := strconv.ParseInt(v.Text, 10, 64)
		ok = err == nil
	case Uint:
		_, err := strconv.ParseUint(v.Text, 10, 64)
		ok = err == nil
	case Float:
		_, err := strconv.ParseFloat(v.Text, 64)
		ok = err == nil
	case Decimal:
		ok = decimalText.MatchString(v.Text)
	case Text, JSON:
		if !utf8.ValidString(v.Text) {
			return fmt.Errorf("a %v is not valid UTF-8: send it as bytes", v.Kind)
		}
	case Time:
		ok = v.Text != "" && timeText.MatchString(v.Text)
	case Bytes:
	default:
		return fmt.Errorf("a value is of kind %d, which this version does not know: run the newest version of "+
			"concord on the agent", v.Kind)
	}
	if !ok {
		return fmt.Errorf("%.60q is not a valid %v: want %s", v.Text, v.Kind, wants[v.Kind])
	}
	return nil
}

var wants = map[Kind]string{
	Null: "no text", Bool: "true or false", Int: "an integer of at most 64 bits",
	Uint:  "an integer from 0 to 18446744073709551615",
	Float: "a number such as 1.5e3", Decimal: "digits such as -12.50",
	Time: "a time such as 2026-01-31T23:59:59.5Z, 2026-01-31 or 23:59:59",
}

// ofNumber takes a number from a database's text: an Int or Uint if it fits, else a Decimal.
func ofNumber(text string) Value {
	if _, err := strconv.ParseInt(text, 10, 64); err == nil {
		return Value{Int, text}
	}
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return Value{Uint, text}
	}
	if _, ok := new(big.Int).SetString(text, 10); ok {
		return Value{Decimal, text}
	}
	return Value{Text, text}
}
