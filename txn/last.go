// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// LastTag stands for the last resource of a transaction in the prepared names of its other branches: the
// first four bytes of the SHA-256 of its name. So whoever finds one of them knows whom to ask. Zero is none.
type LastTag uint32

// TagOf returns the tag of a resource.
func TagOf(resource string) LastTag {
	sum := sha256.Sum256([]byte(resource))
	return max(1, LastTag(binary.BigEndian.Uint32(sum[:])))
}

// String returns 8 hex digits.
func (t LastTag) String() string { return fmt.Sprintf("%08x", uint32(t)) }

// ParseLastTag parses what String prints and nothing else.
func ParseLastTag(s string) (LastTag, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 {
		return 0, false
	}
	t := LastTag(binary.BigEndian.Uint32(b))
	return t, t != 0 && t.String() == s
}

// lastMask has the random bits of an ID, the last ones before its class, that fit the name of a last resource. A name
// that was mistyped is noticed by them; they are too few to find one.
const (
	lastShift = 5
	lastMask  = (1<<14 - 1) << lastShift
)

// WithLast returns the same id with bits of the name of its last resource in place of some random ones.
func (id ID) WithLast(resource string) ID {
	b := binary.BigEndian.Uint64(id[8:])
	binary.BigEndian.PutUint64(id[8:], b&^lastMask|uint64(TagOf(resource))<<lastShift&lastMask)
	return id
}

// FitsLast reports whether a resource may be the last one of the transaction.
func (id ID) FitsLast(resource string) bool { return id.WithLast(resource) == id }

// LastBranch is the number under which a last resource keeps its marker, among the evidence of branches. No
// branch of a transaction of class LastResource has it.
const LastBranch BranchNo = 255

// LastXID names the marker of a transaction in its last resource.
func LastXID(c ClusterID, id ID) XID { return XID{Cluster: c, ID: id, Branch: LastBranch} }

// LastMarker is the row of a transaction in its last resource. A commit, written in the transaction of the
// resource's own work, is the decision; an abort says that it will never be made there.
type LastMarker struct {
	Decision Decision // Commit or Abort
	Label    string   // of a commit, what the application said that the transaction is about
	Branches []Branch // of a commit: all others, which were prepared
}

// ErrBadMarker says that a row is not a marker of a last resource.
var ErrBadMarker = errors.New("the marker in the last resource is not one that this version of concord writes: run " +
	"the newest version on all nodes; if that does not help, look into the databases")

const markerVersion = "1"

// Text is how databases keep a marker: letters, digits and "-_." only.
func (m LastMarker) Text() string {
	if m.Decision == Abort {
		return Abort.String()
	}
	b := appendText(nil, m.Label)
	b = appendBranches(b, m.Branches)
	return Commit.String() + "." + markerVersion + "." + base64.RawURLEncoding.EncodeToString(b)
}

// ParseLastMarker is the inverse of Text. The error wraps ErrBadMarker.
func ParseLastMarker(text string) (LastMarker, error) {
	if text == Abort.String() {
		return LastMarker{Decision: Abort}, nil
	}
	encoded, ok := strings.CutPrefix(text, Commit.String()+"."+markerVersion+".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	d := decoder{b: b}
	m := LastMarker{Decision: Commit, Label: d.text(), Branches: d.branches()}
	if !ok || err != nil || d.err || len(d.b) > 0 {
		return LastMarker{}, fmt.Errorf("%.40q: %w", text, ErrBadMarker)
	}
	return m, nil
}

// appendLast appends what a CommitRecord of a last resource has more than another one.
func (r CommitRecord) appendLast(b []byte) []byte { return appendText(b, r.Last) }

func (d *decoder) last(r CommitRecord) CommitRecord {
	r.Last = d.text()
	d.err = d.err || r.Last == "" || r.ID.Class() != LastResource
	return r
}
