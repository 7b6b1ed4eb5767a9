// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// Coordinator is one global transaction at the leader. The zero value is a transaction
// that the leader has not heard of; Resume makes one that the log holds.
//
// Invariants:
//  1. Commit is proposed only when every branch has voted and none voted No.
//  2. Reply and Finish come only after Delivered, and with its decision.
//  3. End comes only when every branch of a commit record was reported finished; a branch that
//     was contradicted or lost gets an Alarm first.
type Coordinator struct {
	phase    coordinatorPhase
	branches []asked // in order of No
	waited   bool    // somebody waits for a Reply
	decision txn.Decision
	reason   string
}

var _ protocol.Transaction = (*Coordinator)(nil)

type coordinatorPhase uint8

const (
	unheard    coordinatorPhase = iota
	collecting                  // waiting for the missing votes
	proposing                   // waiting for the log
	decided                     // waiting for branches to finish
	closed
)

type asked struct {
	branch txn.Branch
	state  branchState
	agent  bool // held by an agent, who is told at once
}

// Resume makes the coordinator of a transaction that the log decided to commit and
// that is not ended, after a restart or at a new leader. finished are the branches
// that are known to be finished.
func Resume(branches []txn.Branch, finished ...txn.BranchNo) *Coordinator {
	c := &Coordinator{phase: decided, decision: txn.Commit}
	c.adopt(branches)
	for _, no := range finished {
		if b := c.find(no); b != nil {
			b.state = ended
		}
	}
	return c
}

// Step handles one event. An orphan gets a tombstone: whoever holds it has not asked to commit
// and will find that it is too late.
func (c *Coordinator) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case protocol.Asked:
		return c.ask(e)
	case protocol.Voted:
		return c.vote(e)
	case protocol.RollbackAsked:
		if c.phase == unheard || c.phase == collecting {
			return c.propose(txn.Abort, e.Reason)
		}
	case protocol.OrphanMet:
		if c.phase == unheard || c.phase == collecting {
			return c.propose(txn.Abort, e.Reason)
		}
	case protocol.Inquired:
		return c.inquire(e.No)
	case protocol.Delivered:
		return c.deliver(e)
	case protocol.Finished:
		return c.finished(e)
	case protocol.Tick:
		return c.tick()
	}
	return nil
}

func (c *Coordinator) ask(a protocol.Asked) []protocol.Effect {
	c.waited = true
	if c.phase >= decided {
		return c.reply()
	}
	if c.phase != unheard {
		return nil // the same request again: its answer is on the way
	}
	for _, b := range a.Branches {
		c.branches = append(c.branches, asked{branch: b, state: prepared})
	}
	var effects []protocol.Effect
	for _, b := range a.Missing {
		c.branches = append(c.branches, asked{branch: b, state: waiting, agent: true})
	}
	c.sort()
	c.phase = collecting
	for _, b := range c.branches {
		if b.state == waiting {
			effects = append(effects, protocol.Prepare{No: b.branch.No})
		}
	}
	return append(effects, c.count()...)
}

func (c *Coordinator) vote(v protocol.Voted) []protocol.Effect {
	b := c.find(v.No)
	if c.phase >= decided && v.Vote == txn.VoteYes && (b == nil || b.state != ended) {
		// A late Yes: the voter has not heard the decision.
		return []protocol.Effect{protocol.Finish{No: v.No, Decision: c.decision}}
	}
	if c.phase != collecting || b == nil || b.state != waiting {
		return nil // the first vote counts
	}
	switch v.Vote {
	case txn.VoteYes:
		b.state = prepared
		b.branch.Evidence, b.branch.Holder = v.Branch.Evidence, v.Branch.Holder
	case txn.VoteReadOnly:
		b.state = ended
	default:
		b.state = ended
		return c.propose(txn.Abort, fmt.Sprintf("branch %d (%s) voted no: %s", v.No, b.branch.Resource, v.Reason))
	}
	return c.count()
}

// count proposes to commit once every branch has voted.
func (c *Coordinator) count() []protocol.Effect {
	missing := 0
	for _, b := range c.branches {
		if b.state == waiting {
			missing++
		}
	}
	if missing > 0 && (!mutant.CommitOnMajority || 2*missing >= len(c.branches)) {
		return nil
	}
	return c.propose(txn.Commit, "")
}

func (c *Coordinator) propose(d txn.Decision, reason string) []protocol.Effect {
	c.phase = proposing
	p := protocol.Propose{Decision: d, Reason: reason}
	if d == txn.Commit {
		for _, b := range c.branches {
			if b.state == prepared {
				p.Branches = append(p.Branches, b.branch)
			}
		}
	}
	return []protocol.Effect{p}
}

// inquire answers a holder that is in doubt. A transaction that nobody asked to commit
// is aborted by the question, in the log first.
func (c *Coordinator) inquire(no txn.BranchNo) []protocol.Effect {
	switch {
	case c.phase == unheard:
		return c.propose(txn.Abort, "nobody asked to commit it")
	case c.phase >= decided:
		return []protocol.Effect{protocol.Finish{No: no, Decision: c.decision}}
	}
	return nil
}

func (c *Coordinator) deliver(d protocol.Delivered) []protocol.Effect {
	if c.phase >= decided || d.Decision == txn.Undecided {
		return nil
	}
	c.phase, c.decision, c.reason = decided, d.Decision, d.Reason
	if d.Decision == txn.Commit {
		c.adopt(d.Branches)
	}
	var effects []protocol.Effect
	if c.waited {
		effects = c.reply()
	}
	for _, b := range c.branches {
		if b.agent && b.state != ended {
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: c.decision})
		}
	}
	return append(effects, c.settle()...)
}

// adopt takes the branches of the record for the truth: a record of an earlier leader
// may come before this one heard of the transaction.
func (c *Coordinator) adopt(record []txn.Branch) {
	for n := range c.branches {
		c.branches[n].state = ended // read-only, unless the record has it
	}
	for _, b := range record {
		if known := c.find(b.No); known != nil {
			known.branch, known.state = b, prepared
		} else {
			c.branches = append(c.branches, asked{branch: b, state: prepared})
		}
	}
	c.sort()
}

func (c *Coordinator) finished(f protocol.Finished) []protocol.Effect {
	b := c.find(f.No)
	if c.phase != decided || b == nil || b.state == ended {
		return nil
	}
	outcome := txn.Unknown
	switch f.Finish {
	case txn.Done, txn.AlreadyDone:
	case txn.Contradicted:
		outcome = txn.HeuristicRollback
		if c.decision == txn.Abort {
			outcome = txn.HeuristicCommit
		}
	case txn.Lost:
		outcome = txn.HeuristicHazard
	default:
		return nil
	}
	b.state = ended
	var effects []protocol.Effect
	if outcome != txn.Unknown {
		effects = append(effects, protocol.Alarm{No: f.No, Outcome: outcome})
	}
	return append(effects, c.settle()...)
}

// settle closes a decided transaction once every branch is finished. An abort gets no End
// record: its own record was the last word.
func (c *Coordinator) settle() []protocol.Effect {
	for _, b := range c.branches {
		if b.state != ended {
			return nil
		}
	}
	c.phase = closed
	if c.decision == txn.Commit {
		return []protocol.Effect{protocol.End{}}
	}
	return nil
}

// tick asks again for what is missing. After the decision that includes branches
// whose sessions finish them normally: the driver ticks only after a grace period.
func (c *Coordinator) tick() []protocol.Effect {
	var effects []protocol.Effect
	for _, b := range c.branches {
		switch {
		case c.phase == collecting && b.state == waiting:
			effects = append(effects, protocol.Prepare{No: b.branch.No})
		case c.phase == decided && b.state != ended:
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: c.decision})
		}
	}
	return effects
}

func (c *Coordinator) reply() []protocol.Effect {
	return []protocol.Effect{protocol.Reply{Outcome: outcome(c.decision), Reason: c.reason}}
}

// Decision returns what was delivered, or Undecided.
func (c *Coordinator) Decision() txn.Decision { return c.decision }

// Closed reports whether nothing is left to do but to answer questions.
func (c *Coordinator) Closed() bool { return c.phase == closed }

// Unfinished returns the branches of a decided transaction that nobody has reported
// finished, in order of No.
func (c *Coordinator) Unfinished() []txn.BranchNo {
	var open []txn.BranchNo
	for _, b := range c.branches {
		if c.phase == decided && b.state != ended {
			open = append(open, b.branch.No)
		}
	}
	return open
}

func (c *Coordinator) find(no txn.BranchNo) *asked {
	for n := range c.branches {
		if c.branches[n].branch.No == no {
			return &c.branches[n]
		}
	}
	return nil
}

func (c *Coordinator) sort() {
	slices.SortFunc(c.branches, func(a, b asked) int { return int(a.branch.No) - int(b.branch.No) })
}

// Clone returns an independent copy.
func (c *Coordinator) Clone() *Coordinator {
	d := *c
	d.branches = slices.Clone(c.branches)
	return &d
}

// String prints the whole state in one line.
func (c *Coordinator) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "coordinator %v %v", c.phase, c.decision)
	for _, a := range c.branches {
		fmt.Fprintf(&b, " %d:%v", a.branch.No, a.state)
		if a.agent {
			b.WriteString("(agent)")
		}
	}
	return b.String()
}

func (p coordinatorPhase) String() string {
	return [...]string{"unheard", "collecting", "proposing", "decided", "closed"}[p]
}
