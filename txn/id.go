// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ID names a global transaction (the gid). It is a ULID: 48 bits of milliseconds, then bits
// from the system's secure random source, because on MariaDB and MySQL whoever knows a gid can
// end its branches, and 5 bits of class (see class.go, which alone knows where in an ID what
// is). IDs sort by time of birth. The text form always has 26 characters, so no ID is a prefix
// of another.
type ID [16]byte

// ErrBadID says that a text is not a global transaction id.
var ErrBadID = errors.New("not a transaction id: want 26 characters of Crockford base 32, of which the last is 0, " +
	"R, T or M, as printed by \"concord tx ls\"")

// NewID mints a plain id that is born at t.
func NewID(t time.Time) ID {
	id := FirstID(t)
	_, _ = rand.Read(id[timeBytes:]) // it ends the process itself if it fails
	return id.WithLease(0).WithClass(Plain)
}

// ParseID parses the text form: what String prints, in upper or lower case, of a class that is known.
func ParseID(s string) (ID, error) {
	var hi, lo uint64
	good := len(s) == textLen
	for i := 0; good && i < textLen; i++ {
		digit := digits[s[i]]
		good = digit < noDigit && hi>>59 == 0 // else more than 128 bits
		hi, lo = hi<<5|lo>>59, lo<<5|uint64(digit)
	}
	var id ID
	binary.BigEndian.PutUint64(id[:8], hi)
	binary.BigEndian.PutUint64(id[8:], lo)
	if !good || !id.Class().Known() {
		return ID{}, fmt.Errorf("%.40q: %w", s, ErrBadID)
	}
	return id, nil
}

const (
	// alphabet is Crockford's: 5 bits a character, so that 26 have two more than an ID, which are 0 and come first.
	alphabet  = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	textLen   = 26
	timeBytes = 6
	noDigit   = 32
)

// digits is the alphabet in reverse, with small letters.
var digits = func() (d [256]byte) {
	for c := range d {
		d[c] = noDigit
	}
	for i, c := range []byte(alphabet) {
		d[c], d[c|0x20] = byte(i), byte(i) // of a figure the second is itself
	}
	return d
}()

// FirstID returns the smallest id born at t or later.
func FirstID(t time.Time) ID {
	var id ID
	binary.BigEndian.PutUint64(id[:], uint64(t.UnixMilli())<<16) // #nosec G115 -- it is after 1970
	return id
}

// String returns the 26 characters.
func (id ID) String() string {
	hi, lo := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	var text [textLen]byte
	for i := textLen - 1; i >= 0; i-- {
		text[i] = alphabet[lo&31]
		hi, lo = hi>>5, lo>>5|hi<<59
	}
	return string(text[:])
}

// IsZero reports whether id is the zero value, which names no transaction.
func (id ID) IsZero() bool { return id == ID{} }

// Time returns when the id was minted, by the clock of whoever minted it.
func (id ID) Time() time.Time {
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)) // #nosec G115 -- 48 bits
}

// ClusterID names a coordinator cluster. It is drawn once when the cluster is
// first formed. Zero means "not formed yet".
type ClusterID uint32

// String returns 8 hex characters.
func (c ClusterID) String() string { return fmt.Sprintf("%08x", uint32(c)) }

// BranchNo numbers the branches of one global transaction.
type BranchNo uint8

// XID names one branch of one global transaction of one cluster. It is what a
// database is told when the branch is prepared.
type XID struct {
	Cluster ClusterID
	ID      ID
	Branch  BranchNo
}

// Compare orders branches by the age of their transactions, and in one by their numbers. It
// returns -1, 0 or 1.
func (x XID) Compare(y XID) int {
	return cmp.Or(bytes.Compare(x.ID[:], y.ID[:]), cmp.Compare(x.Branch, y.Branch), cmp.Compare(x.Cluster, y.Cluster))
}

// FormatID is the XA format number of all our branches ("CONC").
const FormatID = 0x434F4E43

const prefix = "concord-"

// Gtrid returns "concord-<cluster>-<gid>", 43 bytes.
func (x XID) Gtrid() string { return prefix + x.Cluster.String() + "-" + x.ID.String() }

// Bqual returns the branch number as two hex characters.
func (x XID) Bqual() string { return fmt.Sprintf("%02x", uint8(x.Branch)) }

// String returns "concord-<cluster>-<gid>-<branch>", the name of the branch in
// PostgreSQL and in everything that people read. 46 bytes of [a-zA-Z0-9-].
func (x XID) String() string { return x.Gtrid() + "-" + x.Bqual() }

// ParseXID parses what String prints and nothing else. What does not parse is
// foreign: it is never touched, and its text never goes into a statement.
func ParseXID(s string) (XID, bool) {
	const length = len(prefix) + 8 + 1 + 26 + 1 + 2
	if len(s) != length || s[len(s)-3] != '-' {
		return XID{}, false
	}
	return ParseXA(FormatID, []byte(s[:length-3]), []byte(s[length-2:]))
}

// ParseXA parses the three parts of an XA identifier as listed by XA RECOVER.
func ParseXA(format int64, gtrid, bqual []byte) (XID, bool) {
	var x XID
	s := string(gtrid)
	if format != FormatID || len(s) != len(prefix)+8+1+26 || len(bqual) != 2 || !strings.HasPrefix(s, prefix) ||
		s[16] != '-' {
		return XID{}, false
	}
	var cluster [4]byte
	if _, err := hex.Decode(cluster[:], []byte(s[8:16])); err != nil {
		return XID{}, false
	}
	var branch [1]byte
	if _, err := hex.Decode(branch[:], bqual); err != nil {
		return XID{}, false
	}
	id, err := ParseID(s[17:])
	if err != nil {
		return XID{}, false
	}
	x.Cluster = ClusterID(uint32(cluster[0])<<24 | uint32(cluster[1])<<16 | uint32(cluster[2])<<8 | uint32(cluster[3]))
	x.ID, x.Branch = id, BranchNo(branch[0])
	if x.Gtrid() != s || x.Bqual() != string(bqual) { // e.g. upper-case hex
		return XID{}, false
	}
	return x, true
}

// Compare orders ids by their bytes, which is by birth.
func (id ID) Compare(o ID) int { return bytes.Compare(id[:], o[:]) }

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
