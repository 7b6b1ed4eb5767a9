// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol/zab"
)

// Role says how a member of the cluster takes part.
type Role uint8

// Voter counts in quorums. Observer gets everything and counts in none. Learner is an
// observer that becomes a voter when it has caught up.
const (
	Voter Role = iota + 1
	Observer
	Learner
)

// Member is one node of the cluster.
type Member struct {
	ID   uint64
	Role Role
	Peer string // host:port for the other nodes
	API  string // host:port for clients
}

// MembersRecord says who the members are from its entry on. It is the first record of
// that entry. A record that says the same as the one before it says that the change
// before it is done: whoever has it in his log knows that.
type MembersRecord struct {
	Members []Member // by ID, each once, at least one voter
	Who     string   // the operator; empty if the leader changed it
	Why     string
	// Key is that of the request, by which it is known when it is repeated; empty: no request.
	Key string
}

// Members is what the log says of the members of the cluster.
type Members struct {
	List []Member // by ID; never changed
	// At is the entry that said so last.
	At zab.Zxid
	// Settled says that the change which made List is done.
	Settled bool
	// Key is that of the latest change that somebody asked for.
	Key string
	// Known are the fingerprints of this list and of the latest before it.
	Known []ListPrint
}

// ListPrint is equal for lists of the same nodes with the same roles, a learner counting as
// the voter that it is to be. Addresses are not part of it.
type ListPrint [16]byte

// knownLists is how many former lists are remembered.
const knownLists = 256

// MaxMembers bounds the members of a cluster.
const MaxMembers = 32

// maxAddress bounds an address of a member.
const maxAddress = 256

// Print returns the fingerprint of a list.
func Print(list []Member) ListPrint {
	var b []byte
	for _, m := range slices.SortedFunc(slices.Values(list), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) }) {
		role := m.Role
		if role == Learner {
			role = Voter
		}
		b = append(binary.BigEndian.AppendUint64(b, m.ID), byte(role))
	}
	sum := sha256.Sum256(b)
	return ListPrint(sum[:])
}

// Knows reports whether the cluster has or had the same nodes in the same roles as a list.
func (m *Members) Knows(list []Member) bool { return slices.Contains(m.Known, Print(list)) }

// Member returns the member with an ID.
func (m *Members) Member(id uint64) (Member, bool) { return FindMember(m.List, id) }

// FindMember returns the member of a list with an ID.
func FindMember(list []Member, id uint64) (Member, bool) {
	for _, m := range list {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// MembersOf returns the members that an entry of the log makes those of the cluster, and
// false if it is another entry. It costs two comparisons for those.
func MembersOf(entry []byte) ([]Member, bool) {
	if len(entry) < 2 || entry[0] != recordsVersion || recordKind(entry[1]) != kindMembers {
		return nil, false
	}
	d := decoder{b: entry[1:]}
	r, ok := d.record().(MembersRecord)
	return r.Members, ok && !d.err
}

// checkList reports whether a list may be in a record.
func checkList(list []Member) bool {
	voters := 0
	for i, m := range list {
		if m.ID == 0 || i > 0 && list[i-1].ID >= m.ID || m.Role < Voter || m.Role > Learner ||
			len(m.Peer) > maxAddress || len(m.API) > maxAddress {
			return false
		}
		if m.Role == Voter {
			voters++
		}
	}
	return voters > 0 && len(list) <= MaxMembers
}

// AppendMembers appends the encoding of a list of members.
func AppendMembers(b []byte, list []Member) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, m := range list {
		b = binary.BigEndian.AppendUint64(b, m.ID)
		b = append(b, byte(m.Role))
		b = appendText(b, m.Peer)
		b = appendText(b, m.API)
	}
	return b
}

// DecodeMembers is the inverse of AppendMembers. The error wraps ErrBadRecord.
func DecodeMembers(b []byte) ([]Member, error) {
	d := decoder{b: b}
	list := d.members()
	if d.err || len(d.b) > 0 {
		return nil, fmt.Errorf("list of members: %w", ErrBadRecord)
	}
	return list, nil
}

func (d *decoder) members() []Member {
	n := d.length(8 + 1 + 1 + 1)
	if d.err || n > MaxMembers {
		d.err = true
		return nil
	}
	list := make([]Member, 0, n)
	for range n {
		var m Member
		if b := d.bytes(8); b != nil {
			m.ID = binary.BigEndian.Uint64(b)
		}
		m.Role, m.Peer, m.API = Role(d.byte()), d.text(), d.text()
		list = append(list, m)
	}
	if d.err || !checkList(list) {
		d.err = true
		return nil
	}
	return list
}

func (MembersRecord) kind() recordKind { return kindMembers }

func (r MembersRecord) append(b []byte) []byte {
	b = AppendMembers(b, r.Members)
	b = appendText(b, r.Who)
	b = appendText(b, r.Why)
	return appendText(b, r.Key)
}

// String names the role.
func (r Role) String() string {
	switch r {
	case Voter:
		return "voter"
	case Observer:
		return "observer"
	case Learner:
		return "learner"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// String is the member in a few words.
func (m Member) String() string { return fmt.Sprintf("%d %v", m.ID, m.Role) }

// ListText is a list in one line.
func ListText(list []Member) string {
	var texts []string
	for _, m := range list {
		texts = append(texts, m.String())
	}
	return strings.Join(texts, ", ")
}

// AppendBinary appends what AppendMembers does, and the rest of m.
func (m *Members) AppendBinary(b []byte) ([]byte, error) {
	b = m.At.Append(b)
	settled := byte(0)
	if m.Settled {
		settled = 1
	}
	b = append(b, settled)
	b = AppendMembers(b, m.List)
	b = appendText(b, m.Key)
	b = binary.AppendUvarint(b, uint64(len(m.Known)))
	for _, p := range m.Known {
		b = append(b, p[:]...)
	}
	return b, nil
}

// UnmarshalBinary is the inverse of AppendBinary. The error wraps ErrBadTxn.
func (m *Members) UnmarshalBinary(b []byte) error {
	d := decoder{b: b}
	var out Members
	if at := d.bytes(12); at != nil {
		out.At = zab.ZxidAt(at)
	}
	out.Settled = d.bool()
	out.List = d.members()
	out.Key = d.text()
	for range d.length(len(ListPrint{})) {
		var p ListPrint
		copy(p[:], d.bytes(len(p)))
		out.Known = append(out.Known, p)
	}
	if d.err || len(d.b) > 0 || len(out.Known) > knownLists || !out.Knows(out.List) {
		return fmt.Errorf("members of the cluster: %w", ErrBadTxn)
	}
	*m = out
	return nil
}
