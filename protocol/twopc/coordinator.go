// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// Coordinator is one global transaction at the leader. The zero value is a transaction
// that the leader has not heard of; Resume makes one that the log holds.
//
// Invariants:
//  1. Commit is proposed only when asked for, which says that every branch voted Yes.
//  2. Reply comes only after Delivered, and with its decision.
//  3. End comes only when every branch of a commit record was reported finished; a branch that
//     was contradicted or lost gets an Alarm first.
type Coordinator struct {
	phase    coordinatorPhase
	waited   bool // somebody waits for a Reply
	decision txn.Decision
	reason   string
	branches protocol.Finishing // of the commit record
}

var _ protocol.Transaction = (*Coordinator)(nil)

type coordinatorPhase uint8

const (
	unheard   coordinatorPhase = iota
	proposing                  // waiting for the log
	decided                    // waiting for branches to finish
	closed
)

// Resume makes the coordinator of a transaction that the log decided to commit and
// that is not ended, after a restart or at a new leader. finished are the branches
// that are known to be finished.
func Resume(branches []txn.Branch, finished ...txn.BranchNo) *Coordinator {
	c := &Coordinator{phase: decided, decision: txn.Commit}
	c.branches.Add(branches, finished...)
	return c
}

// Step handles one event. An orphan gets a tombstone: whoever holds it has not asked to commit
// and will find that it is too late.
func (c *Coordinator) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case protocol.Asked:
		return c.ask(e)
	case protocol.RollbackAsked:
		return c.propose(protocol.Propose{Decision: txn.Abort, Reason: e.Reason})
	case protocol.OrphanMet:
		return c.propose(protocol.Propose{Decision: txn.Abort, Reason: e.Reason})
	case protocol.Delivered:
		return c.deliver(e)
	case protocol.Finished:
		return c.finished(e)
	}
	return nil
}

// ask takes the commit request. One that comes again waits for the same answer.
func (c *Coordinator) ask(a protocol.Asked) []protocol.Effect {
	c.waited = true
	if c.phase >= decided {
		return c.reply()
	}
	return c.propose(protocol.Propose{Decision: txn.Commit, Branches: a.Branches})
}

// propose asks the log for the first decision that this leader hears of.
func (c *Coordinator) propose(p protocol.Propose) []protocol.Effect {
	if c.phase != unheard {
		return nil
	}
	c.phase = proposing
	return []protocol.Effect{p}
}

// deliver takes the decision of the log, and its branches: a record of an earlier leader may come before
// this one heard of the transaction.
func (c *Coordinator) deliver(d protocol.Delivered) []protocol.Effect {
	if c.phase >= decided || d.Decision == txn.Undecided {
		return nil
	}
	c.phase, c.decision, c.reason = decided, d.Decision, d.Reason
	if d.Decision == txn.Commit {
		c.branches.Add(d.Branches)
	}
	var effects []protocol.Effect
	if c.waited {
		effects = c.reply()
	}
	return append(effects, c.settle()...)
}

func (c *Coordinator) finished(f protocol.Finished) []protocol.Effect {
	if c.phase != decided {
		return nil
	}
	effects, isNew := c.branches.Reported(f, c.decision)
	if !isNew {
		return nil
	}
	return append(effects, c.settle()...)
}

// settle closes a decided transaction once every branch is finished. An abort gets no End
// record: its own record was the last word.
func (c *Coordinator) settle() []protocol.Effect {
	if len(c.branches.Unfinished()) > 0 {
		return nil
	}
	c.phase = closed
	if c.decision == txn.Commit {
		return []protocol.Effect{protocol.End{}}
	}
	return nil
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
func (c *Coordinator) Unfinished() []txn.BranchNo { return c.branches.Unfinished() }

// Clone returns an independent copy.
func (c *Coordinator) Clone() *Coordinator {
	d := *c
	d.branches = c.branches.Clone()
	return &d
}

// String prints the whole state in one line.
func (c *Coordinator) String() string {
	return fmt.Sprintf("coordinator %v %v%s", c.phase, c.decision, &c.branches)
}

func (p coordinatorPhase) String() string {
	return [...]string{"unheard", "proposing", "decided", "closed"}[p]
}
