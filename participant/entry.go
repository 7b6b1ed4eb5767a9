// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// Entry is what the journal has of one transaction. Its stored form begins with a kind and a
// version, so that another protocol, which has more to remember (members, promises, attempts), is
// another kind beside this one and not a change of it.
type Entry struct {
	ID      txn.ID
	Cluster txn.ClusterID
	// Member is, of three phases, what this agent has promised and accepted; its branches are those
	// below, not there. nil: of two phases.
	Member   *threepc.Entry
	Branches []Voter // by number
}

// Voter is a branch that voted Yes; of three phases, or was asked to vote.
type Voter struct {
	Branch   txn.Branch
	Decision txn.Decision // once heard
	// Finish is what finishing it found, once that is not what was decided: Lost or Contradicted.
	// A branch that ended well is taken off the journal.
	Finish txn.Finish
	// Redo is the work that was done, so that it can be shown, and with evidence that it is not
	// there be done again; Partial if some of it was too long to keep.
	Redo    []statement.Work
	Partial bool
}

// The kinds of entries, and the version of both.
const (
	kindTwoPhase   = 1
	kindThreePhase = 2
	entryVersion   = 1
)

// ErrBadEntry says that bytes are not an entry of the journal.
var ErrBadEntry = errors.New("damaged entry")

// ErrNewerEntry says that an entry is of a kind or version that this program does not know.
var ErrNewerEntry = errors.New("an entry was written by a later version of concord")

// AppendBinary appends the stored form of an entry, but for its id, which is its key.
func (e Entry) AppendBinary(b []byte) []byte {
	kind := byte(kindTwoPhase)
	if e.Member != nil {
		kind = kindThreePhase
	}
	b = append(b, kind, entryVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(e.Cluster))
	if e.Member != nil {
		b = appendMember(b, e.Member)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Branches)))
	for _, v := range e.Branches {
		b = append(b, byte(v.Branch.No))
		b = appendText(b, v.Branch.Resource)
		b = appendText(b, v.Branch.Evidence)
		b = appendText(b, v.Branch.Holder)
		b = append(b, byte(v.Decision), byte(v.Finish), flag(v.Partial))
		b = binary.AppendUvarint(b, uint64(len(v.Redo)))
		for _, w := range v.Redo {
			b = appendText(b, string(w.AppendBinary(nil)))
		}
	}
	return b
}

// ParseEntry is the inverse of AppendBinary: it takes all of b and nothing that AppendBinary does
// not write. The error is ErrBadEntry or ErrNewerEntry.
func ParseEntry(id txn.ID, b []byte) (Entry, error) {
	d := decoder{b: b}
	kind, version := d.byte(), d.byte()
	if !d.bad && kind > 0 && version > 0 && (kind > kindThreePhase || version > entryVersion) {
		return Entry{}, ErrNewerEntry
	}
	if kind == 0 || version != entryVersion {
		return Entry{}, ErrBadEntry
	}
	e := Entry{ID: id, Cluster: txn.ClusterID(d.uint32())}
	if kind == kindThreePhase {
		e.Member = d.member()
	}
	for range d.count() {
		v := Voter{Branch: txn.Branch{No: txn.BranchNo(d.byte()), Resource: d.text(), Evidence: d.text(),
			Holder: d.text()}}
		v.Decision, v.Finish, v.Partial = txn.Decision(d.byte()), txn.Finish(d.byte()), d.flag()
		for range d.count() {
			w, err := statement.ParseWork([]byte(d.text()))
			d.bad = d.bad || err != nil
			v.Redo = append(v.Redo, w)
			if d.bad {
				return Entry{}, ErrBadEntry
			}
		}
		n := len(e.Branches)
		d.bad = d.bad || v.Decision > txn.Abort || v.Finish > txn.Lost || n > 0 &&
			e.Branches[n-1].Branch.No >= v.Branch.No
		if d.bad {
			return Entry{}, ErrBadEntry
		}
		e.Branches = append(e.Branches, v)
	}
	if d.bad || len(d.b) > 0 || len(e.Branches) == 0 {
		return Entry{}, ErrBadEntry
	}
	return e, nil
}

// appendMember appends what is there of an agent as a member, but for its branches.
func appendMember(b []byte, m *threepc.Entry) []byte {
	b = append(b, byte(m.State), flag(m.List.Short), flag(m.Finished))
	b = binary.AppendUvarint(b, uint64(len(m.List.Members)))
	for _, p := range m.List.Members {
		b = appendText(appendPartyID(b, p.PartyID), p.Addr)
	}
	b = append(b, m.Asked[:]...)
	return appendElection(appendElection(b, m.LastElected), m.LastAttempt)
}

func (d *decoder) member() *threepc.Entry {
	m := &threepc.Entry{State: threepc.State(d.byte())}
	m.List.Short, m.Finished = d.flag(), d.flag()
	for range d.count() {
		m.List.Members = append(m.List.Members, txn.Party{PartyID: d.partyID(), Addr: d.text()})
		if d.bad {
			break
		}
	}
	copy(m.Asked[:], d.take(uint64(len(m.Asked))))
	m.LastElected, m.LastAttempt = d.election(), d.election()
	d.bad = d.bad || m.State == threepc.Nothing || m.State > threepc.Aborted || m.LastElected.Less(m.LastAttempt)
	return m
}

func appendElection(b []byte, e txn.Election) []byte {
	return appendPartyID(binary.AppendUvarint(b, uint64(e.N)), e.By)
}

func (d *decoder) election() txn.Election {
	n := d.uvarint()
	d.bad = d.bad || n > math.MaxUint32
	return txn.Election{N: uint32(n), By: d.partyID()}
}

func appendPartyID(b []byte, p txn.PartyID) []byte {
	return append(appendText(b, p.Agent), p.Journal[:]...)
}

func (d *decoder) partyID() (p txn.PartyID) {
	p.Agent = d.text()
	copy(p.Journal[:], d.take(uint64(len(p.Journal))))
	return p
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

type decoder struct {
	b   []byte
	bad bool
}

// take returns the next n bytes.
func (d *decoder) take(n uint64) []byte {
	if d.bad = d.bad || n > uint64(len(d.b)); d.bad {
		return make([]byte, min(n, 4))
	}
	t := d.b[:n]
	d.b = d.b[n:]
	return t
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

func (d *decoder) flag() bool {
	c := d.byte()
	d.bad = d.bad || c > 1
	return c == 1
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad = d.bad || n <= 0 || n > 1 && d.b[n-1] == 0; d.bad { // one form for each number
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count is a number of things that have a byte each at least.
func (d *decoder) count() uint64 {
	n := d.uvarint()
	if d.bad = d.bad || n > uint64(len(d.b)); d.bad {
		return 0
	}
	return n
}

func (d *decoder) text() string {
	n := d.uvarint()
	if d.bad {
		return ""
	}
	return string(d.take(n))
}
