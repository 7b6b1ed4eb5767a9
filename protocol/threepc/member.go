// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// State is where a member stands.
type State uint8

// Nothing: no entry in the journal, so nothing is known. Wait: voted Yes, or about to.
// PreCommitted and PreAborted: accepted so in some election. Committed and Aborted are left for
// nothing.
const (
	Nothing State = iota
	Wait
	PreCommitted
	PreAborted
	Committed
	Aborted
)

// String returns the name in lower case.
func (s State) String() string {
	return [...]string{"nothing", "wait", "pre-committed", "pre-aborted", "committed", "aborted"}[s]
}

// takesPart reports whether a member promises and accepts.
func (s State) takesPart() bool { return s >= Wait && s <= PreAborted }

// Decision returns the decision that the member knows, or Undecided.
func (s State) Decision() txn.Decision {
	switch s {
	case Committed:
		return txn.Commit
	case Aborted:
		return txn.Abort
	}
	return txn.Undecided
}

// accepted is what a member has accepted in its last attempt.
func (s State) accepted() txn.Decision {
	switch s {
	case PreCommitted:
		return txn.Commit
	case PreAborted:
		return txn.Abort
	}
	return txn.Undecided
}

// accepted is the state of who accepted a decision, and decidedAs of who knows it.
func accepted(kind txn.Decision) State {
	if kind == txn.Commit {
		return PreCommitted
	}
	return PreAborted
}

func decidedAs(d txn.Decision) State {
	if d == txn.Commit {
		return Committed
	}
	return Aborted
}

// List is who is taken for the members: the long one, of all that were asked to vote, until the
// short one is known, of those that voted Yes. Both have the witness.
type List struct {
	Members []txn.Party
	Short   bool
}

// adopt takes the short list of another member.
func (l *List) adopt(short []txn.Party) {
	if len(short) > 0 && !l.Short {
		l.Members, l.Short = short, true
	}
}

// short returns the members if they are the short list.
func (l List) short() []txn.Party {
	if l.Short {
		return l.Members
	}
	return nil
}

func (l List) has(m txn.PartyID) bool {
	return slices.ContainsFunc(l.Members, func(p txn.Party) bool { return p.PartyID == m })
}

// quorum reports whether some of the members can decide for all: more than half of them, or
// exactly half with the witness. Any two quorums of a list have a member in common.
func (l List) quorum(have func(txn.PartyID) bool) bool {
	n, witness := 0, false
	for _, m := range l.Members {
		if have(m.PartyID) {
			n++
			witness = witness || m.IsWitness()
		}
	}
	return 2*n > len(l.Members) || 2*n == len(l.Members) && (witness || mutant.AnyHalf)
}
