// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// Participant is one branch at the agent that hosts it. The zero value, with No set by
// NewParticipant, is a branch that this process knows nothing of.
//
// Invariants:
//  1. Yes is cast only after the resource said that the branch is durable, and never
//     after an abort was heard, and with what proves it.
//  2. A branch that voted Yes is ended only by a decision that was received.
//  3. What is reported is what the resource found, word for word.
type Participant struct {
	no       txn.BranchNo
	phase    participantPhase
	vote     txn.Vote
	branch   txn.Branch   // once prepared in this life
	decision txn.Decision // once heard
	finish   txn.Finish   // once finished
	reason   string       // of a No
}

type participantPhase uint8

const (
	absent    participantPhase = iota
	refusing                   // as absent, and No was voted: takes no work any more
	opened                     // there may be work
	voting                     // the resource is preparing
	inDoubt                    // voted Yes, decision not known here
	executing                  // the resource is finishing
	executed                   // finished: the tombstone that refuses a late Prepare
)

// NewParticipant makes a branch that this process knows nothing of.
func NewParticipant(no txn.BranchNo) *Participant { return &Participant{no: no} }

// Step handles one event.
func (p *Participant) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case protocol.Opened:
		if p.phase == absent {
			p.phase = opened
		}
	case protocol.Listed:
		if p.phase == absent || p.phase == refusing {
			p.phase, p.vote = inDoubt, txn.VoteYes
			return []protocol.Effect{protocol.Inquire{}}
		}
	case protocol.PrepareAsked:
		return p.prepare()
	case protocol.Voted:
		if p.phase == voting {
			return p.voted(e)
		}
	case protocol.RollbackAsked:
		if p.phase == opened || p.phase == voting || mutant.RollbackAfterYes && p.phase == inDoubt {
			// before a Yes it may decide alone
			return p.decide(txn.Abort)
		}
	case protocol.Decided:
		if e.Decision != txn.Undecided {
			return p.decide(e.Decision)
		}
	case protocol.Finished:
		if p.phase == executing {
			p.phase, p.finish = executed, e.Finish
			return []protocol.Effect{protocol.Report{No: p.no, Finish: e.Finish}}
		}
	case protocol.Tick:
		switch p.phase {
		case inDoubt:
			return []protocol.Effect{protocol.Inquire{}}
		case executing: // FinishFailed, or the answer got lost
			return []protocol.Effect{protocol.Finish{No: p.no, Decision: p.decision}}
		}
	}
	return nil
}

func (p *Participant) prepare() []protocol.Effect {
	switch p.phase {
	case absent, refusing:
		// Whatever work there was is gone, or was prepared in another life and will be Listed.
		p.phase = refusing
		p.reason = "the branch is not known here: it was never opened, or this agent restarted"
		return []protocol.Effect{protocol.CastVote{Vote: txn.VoteNo, Reason: p.reason}}
	case opened:
		p.phase = voting
		if mutant.VoteBeforeDurable {
			return []protocol.Effect{protocol.Prepare{No: p.no}, protocol.CastVote{Vote: txn.VoteYes,
				Branch: txn.Branch{No: p.no, Resource: "unknown yet"}}}
		}
		return []protocol.Effect{protocol.Prepare{No: p.no}}
	case inDoubt:
		if p.branch == (txn.Branch{}) {
			// Another life prepared it, and may have said Yes. A Yes without evidence would be worth nothing; the
			// first vote counts, and the branch stays as it is until it hears the decision.
			return []protocol.Effect{protocol.CastVote{Vote: txn.VoteNo, Reason: "it was prepared before this agent " +
				"restarted, and what proves that is not known here"}}
		}
		return []protocol.Effect{protocol.CastVote{Vote: txn.VoteYes, Branch: p.branch}}
	case executed:
		if p.vote == txn.VoteReadOnly {
			return []protocol.Effect{protocol.CastVote{Vote: txn.VoteReadOnly}}
		}
		if p.decision == txn.Abort { // a commit has been decided without this question
			return []protocol.Effect{protocol.CastVote{Vote: txn.VoteNo, Reason: p.reason}}
		}
	}
	return nil
}

// voted takes the resource's vote. An abort that was heard meanwhile goes first.
func (p *Participant) voted(v protocol.Voted) []protocol.Effect {
	p.vote = v.Vote
	switch {
	case v.Vote == txn.VoteReadOnly:
		p.phase, p.finish = executed, txn.Done
		return []protocol.Effect{protocol.CastVote{Vote: v.Vote}}
	case v.Vote != txn.VoteYes:
		p.phase, p.decision, p.finish, p.reason = executed, txn.Abort, txn.Done, v.Reason
		return []protocol.Effect{protocol.CastVote{Vote: txn.VoteNo, Reason: v.Reason}}
	case p.decision == txn.Abort:
		p.phase = executing
		return []protocol.Effect{protocol.Finish{No: p.no, Decision: txn.Abort}}
	}
	p.phase, p.branch = inDoubt, v.Branch
	return []protocol.Effect{protocol.CastVote{Vote: txn.VoteYes, Branch: v.Branch}}
}

// decide obeys a decision, however often it comes. What this process knows nothing of,
// the resource is asked for: it may have been finished in another life.
func (p *Participant) decide(d txn.Decision) []protocol.Effect {
	switch p.phase {
	case executed:
		if p.vote == txn.VoteReadOnly {
			return []protocol.Effect{protocol.Report{No: p.no, Finish: txn.AlreadyDone}}
		}
		if d == p.decision {
			return []protocol.Effect{protocol.Report{No: p.no, Finish: again(p.finish)}}
		}
		// Not what was done here. Only the resource can tell what another life did.
	case executing:
		return nil
	case opened, voting:
		if d == txn.Commit {
			// Nobody may commit without this branch's Yes: the prepared branch that is meant is
			// gone, and the one that is open now is not it.
			return []protocol.Effect{protocol.Report{No: p.no, Finish: txn.Lost}}
		}
		if p.phase == voting {
			p.decision = d // carried out when the resource has answered
			p.reason = "the transaction was aborted"
			return nil
		}
	}
	p.phase, p.decision = executing, d
	p.reason = "the transaction was aborted"
	return []protocol.Effect{protocol.Finish{No: p.no, Decision: d}}
}

// again is what a finished branch reports when the same decision comes again.
func again(f txn.Finish) txn.Finish {
	if f == txn.Done {
		return txn.AlreadyDone
	}
	return f
}

// InDoubt reports whether the branch is prepared and its decision not known here.
func (p *Participant) InDoubt() bool { return p.phase == inDoubt }

// Ended reports whether the branch takes no work any more: a decision was heard, or No or
// ReadOnly was voted. Work that comes late is refused.
func (p *Participant) Ended() bool {
	return p.phase == refusing || p.phase >= executing || p.decision != txn.Undecided
}

// Clone returns an independent copy.
func (p *Participant) Clone() *Participant {
	c := *p
	return &c
}

// String prints the whole state in one line.
func (p *Participant) String() string {
	return fmt.Sprintf("participant %d %v vote=%v %v finish=%v", p.no, p.phase, p.vote, p.decision, p.finish)
}

func (p participantPhase) String() string {
	return [...]string{"absent", "refusing", "opened", "voting", "in-doubt", "executing", "executed"}[p]
}
