// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"errors"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/zab"
)

// Txn is what the table knows of one decided global transaction.
type Txn struct {
	ID       ID
	Decision Decision // Commit or Abort, never Undecided
	Protocol Protocol
	By       Source // who decided
	// Branches are those that voted Yes; none for an abort.
	Branches []Branch
	Reason   string
	Label    string // what the application said it is about
	// Last is the resource that has decided to commit it, of the class LastResource.
	Last string
	// Seen says that the cluster knows of a prepared branch, or that there were several: no
	// database has committed it alone.
	Seen    bool
	Decided zab.Zxid
	// Ended says that all branches have been finished, one way or the other.
	Ended      bool
	Heuristics []Heuristic
	Forgets    []Forget
}

// Heuristic is the report that a branch did not end as decided.
type Heuristic struct {
	Branch    BranchNo
	Outcome   Outcome
	By        Source
	Who, Why  string
	Forgotten bool
}

// Forget is an operator's act.
type Forget struct{ Who, Why string }

// Finished reports whether nothing is left to do for this transaction, by the cluster
// or by an operator.
func (x Txn) Finished() bool { return x.Ended && !x.Alarming() }

// Alarming reports whether there is a heuristic outcome that nobody has dealt with.
func (x Txn) Alarming() bool {
	for _, h := range x.Heuristics {
		if !h.Forgotten {
			return true
		}
	}
	return false
}

// Outcome is what became of the whole transaction, as far as it is known.
func (x Txn) Outcome() Outcome {
	hazard := false
	for _, h := range x.Heuristics {
		if h.Outcome != HeuristicHazard {
			return HeuristicMixed
		}
		hazard = true
	}
	switch {
	case hazard:
		return HeuristicHazard
	case x.Decision == Commit:
		return Committed
	case x.Decision == Abort && x.ID.Class().mayCommitAlone() && !x.Seen && !mutant.UnrecordedIsAborted:
		return Unrecorded
	case x.Decision == Abort:
		return Aborted
	}
	return Unknown
}

// ErrBadTxn says that bytes are not an encoded Txn, or another part of the state that is stored.
var ErrBadTxn = errors.New("the store holds what this version of concord does not write: run the version that wrote " +
	"it, or replace this node's store")

// AppendBinary appends the stored form of a transaction.
func (x Txn) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, recordsVersion)
	b = append(b, x.ID[:]...)
	b = append(b, byte(x.Decision), byte(x.Protocol), byte(x.By))
	b = appendBranches(b, x.Branches)
	b = appendText(b, x.Reason)
	b = appendText(b, x.Label)
	b = appendBool(b, x.Seen)
	b = appendZxid(b, x.Decided)
	b = appendBool(b, x.Ended)
	b = binary.AppendUvarint(b, uint64(len(x.Heuristics)))
	for _, h := range x.Heuristics {
		b = append(b, byte(h.Branch), byte(h.Outcome), byte(h.By))
		b = appendText(b, h.Who)
		b = appendText(b, h.Why)
		b = appendBool(b, h.Forgotten)
	}
	b = binary.AppendUvarint(b, uint64(len(x.Forgets)))
	for _, f := range x.Forgets {
		b = appendText(b, f.Who)
		b = appendText(b, f.Why)
	}
	if x.ID.Class() == LastResource { // from LevelLastResource on: what was there before stays to the byte
		b = appendText(b, x.Last)
	}
	return b, nil
}

// UnmarshalBinary is the inverse of AppendBinary. The error is ErrBadTxn.
func (x *Txn) UnmarshalBinary(b []byte) error {
	d := decoder{b: b}
	if d.byte() != recordsVersion {
		return ErrBadTxn
	}
	*x = Txn{ID: d.id(), Decision: Decision(d.byte()), Protocol: d.protocol(), By: d.source(), Branches: d.branches(),
		Reason: d.text(), Label: d.text(), Seen: d.bool()}
	x.Decided = d.zxid()
	x.Ended = d.bool()
	for range d.length(6) {
		x.Heuristics = append(x.Heuristics,
			Heuristic{Branch: BranchNo(d.byte()), Outcome: d.outcome(), By: d.source(), Who: d.text(), Why: d.text(),
				Forgotten: d.bool()})
	}
	for range d.length(2) {
		x.Forgets = append(x.Forgets, Forget{Who: d.text(), Why: d.text()})
	}
	if x.ID.Class() == LastResource {
		x.Last = d.text()
	}
	if d.err || len(d.b) > 0 || x.Decision == Undecided || x.Decision > Abort {
		return ErrBadTxn
	}
	return nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
