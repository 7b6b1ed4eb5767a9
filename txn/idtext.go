// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"database/sql"
	"database/sql/driver"
	"encoding"
	"fmt"
)

// An ID goes into columns, JSON documents and flags as its 26 characters, so that what people
// read there is what every command takes.
var (
	_ driver.Valuer            = ID{}
	_ sql.Scanner              = (*ID)(nil)
	_ encoding.TextMarshaler   = ID{}
	_ encoding.TextUnmarshaler = (*ID)(nil)
)

// MarshalText returns the 26 characters.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText takes what ParseID takes.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Value returns the 26 characters, for a column of a text type. The zero ID, which names no
// transaction, is NULL.
func (id ID) Value() (driver.Value, error) {
	if id.IsZero() {
		return nil, nil
	}
	return id.String(), nil
}

// Scan takes what Value returns.
func (id *ID) Scan(src any) error {
	switch src := src.(type) {
	case nil:
		*id = ID{}
		return nil
	case string:
		return id.UnmarshalText([]byte(src))
	case []byte:
		return id.UnmarshalText(src)
	}
	return fmt.Errorf("a %T: %w", src, ErrBadID)
}
