// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// candidate is a member that tries to end the transaction: the proposer of Paxos. Participant and
// Coordinator have one each. It counts and chooses; its member makes durable what has to be
// before anybody hears it.
//
// Invariants:
//  1. It chooses at most once for an election, and only from answers to it.
//  2. acks are those of its election and its choice.
type candidate struct {
	phase    candidacy
	election txn.Election
	list     List
	answers  []answer // of who promised, in order of members
	nobody   []txn.PartyID
	choice   txn.Decision
	acks     []txn.PartyID
}

type candidacy uint8

const (
	idle       candidacy = iota
	promising            // its own promise is not durable yet (Coordinator)
	electing             // waits for answers
	accepting            // its own choice is not durable yet (Coordinator)
	attempting           // waits for acknowledgements
)

func (c candidacy) String() string {
	return [...]string{"", "promising", "electing", "accepting", "attempting"}[c]
}

type answer struct {
	from        txn.PartyID
	state       State
	lastAttempt txn.Election
}

// elect begins to count answers, with its own.
func (c *candidate) elect(e txn.Election, l List, self txn.PartyID, s State, lastAttempt txn.Election) {
	*c = candidate{phase: electing, election: e, list: l, answers: []answer{{self, s, lastAttempt}}}
}

// attempt begins to count acknowledgements, with its own.
func (c *candidate) attempt(e txn.Election, l List, self txn.PartyID, kind txn.Decision) {
	*c = candidate{phase: attempting, election: e, list: l, choice: kind, acks: []txn.PartyID{self}}
}

// stepBack ends a candidacy.
func (c *candidate) stepBack() { *c = candidate{} }

// hears makes way for a later election.
func (c *candidate) hears(e txn.Election) {
	if c.phase != idle && c.election.Less(e) {
		c.stepBack()
	}
}

// hear takes an answer, and reports whether everybody has given one.
func (c *candidate) hear(from txn.PartyID, a Answer) (all bool) {
	if c.phase != electing || a.Election != c.election || c.answered(from) {
		return false
	}
	c.list.adopt(a.Short)
	c.answers = append(c.answers, answer{from, a.State, a.LastAttempt})
	slices.SortFunc(c.answers, func(a, b answer) int { return a.from.Compare(b.from) })
	return c.all()
}

// hearNobody takes the answer of who knows nothing. It counts for nothing, but is not waited for.
func (c *candidate) hearNobody(from txn.PartyID, e txn.Election) (all bool) {
	if c.phase != electing || e != c.election || slices.Contains(c.nobody, from) {
		return false
	}
	c.nobody = append(c.nobody, from)
	slices.SortFunc(c.nobody, txn.PartyID.Compare)
	return c.all()
}

func (c *candidate) answered(m txn.PartyID) bool {
	return slices.ContainsFunc(c.answers, func(a answer) bool { return a.from == m })
}

func (c *candidate) all() bool {
	return !slices.ContainsFunc(c.list.Members, func(m txn.Party) bool {
		return !c.answered(m.PartyID) && !slices.Contains(c.nobody, m.PartyID)
	})
}

// choose decides what to attempt: what was accepted last, since it may be decided, and else to
// abort. Without a quorum of answers there is no choice.
func (c *candidate) choose() (txn.Decision, bool) {
	if !c.list.quorum(c.answered) && !mutant.MinorityDecides {
		return txn.Undecided, false
	}
	last := answer{state: PreAborted}
	for _, a := range c.answers {
		if last.lastAttempt.Less(a.lastAttempt) {
			last = a
		}
	}
	if last.state == PreCommitted {
		return txn.Commit, true
	}
	return txn.Abort, true
}

// ack takes an acknowledgement, and reports whether a quorum has accepted the choice.
func (c *candidate) ack(from txn.PartyID, a Ack) bool {
	if c.phase != attempting || (a.Election != c.election || a.Kind != c.choice) && !mutant.AckOfAnother {
		return false
	}
	if !slices.Contains(c.acks, from) {
		c.acks = append(c.acks, from)
		slices.SortFunc(c.acks, txn.PartyID.Compare)
	}
	return c.accepted()
}

func (c *candidate) accepted() bool {
	return c.list.quorum(func(m txn.PartyID) bool { return slices.Contains(c.acks, m) }) || mutant.MinorityAcks
}

// missing returns who has not answered, or not acknowledged.
func (c *candidate) missing() (missing []txn.PartyID) {
	for _, m := range c.list.Members {
		if heard := slices.Contains(c.acks, m.PartyID) || c.phase == electing && c.answered(m.PartyID); !heard {
			missing = append(missing, m.PartyID)
		}
	}
	return missing
}

// text is empty for none.
func (c *candidate) text() string {
	if c.phase == idle {
		return ""
	}
	s := fmt.Sprintf("; %v %v", c.phase, electionText(c.election))
	switch c.phase {
	case electing:
		for _, a := range c.answers {
			s += fmt.Sprintf(" %v=%v@%v", a.from, a.state, electionText(a.lastAttempt))
		}
	case attempting:
		s += fmt.Sprintf(" %v acks=%v", c.choice, c.acks)
	}
	return s
}

// electionText prints an election as (2,a); the cluster is W.
func electionText(e txn.Election) string {
	switch {
	case e == txn.Election{}:
		return "none"
	case e.By.IsWitness():
		return fmt.Sprintf("(%d,W)", e.N)
	}
	return fmt.Sprintf("(%d,%s)", e.N, e.By.Agent)
}

func (c *candidate) clone() candidate {
	d := *c
	d.answers, d.nobody, d.acks = slices.Clone(c.answers), slices.Clone(c.nobody), slices.Clone(c.acks)
	return d
}
