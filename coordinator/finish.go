// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"slices"
	"time"

	"github.com/concordtx/concord/txn"
)

// phaseTwo is a committed transaction whose branches are not all finished. The
// client that prepared them finishes them itself as a rule; what it has not reported
// when due comes is done by the recovery workers, for ever if need be.
type phaseTwo struct {
	id         txn.ID
	branches   []branchState
	heuristics []txn.Record // to go into the log before the End
}

type branchState struct {
	branch   txn.Branch
	acked    bool
	due      time.Time
	attempts int
	err      string
}

func (c *Core) beginPhaseTwo(x txn.Txn, due time.Time) {
	p := &phaseTwo{id: x.ID, branches: make([]branchState, len(x.Branches))}
	for i, b := range x.Branches {
		p.branches[i] = branchState{branch: b, due: due}
		p.branches[i].acked = slices.ContainsFunc(x.Heuristics, func(h txn.Heuristic) bool { return h.Branch == b.No })
	}
	c.unfinished[x.ID] = p
	c.endIfDone(p)
}

// sweep gives branches that are due to the recovery workers.
func (c *Core) sweep() {
	if c.now.Before(c.nextSweep) {
		return
	}
	c.nextSweep = c.now.Add(sweepInterval)
	var due []txn.ID
	for id, p := range c.unfinished {
		if slices.ContainsFunc(p.branches, func(b branchState) bool { return c.isDue(id, b) }) {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, compareID)
	for _, id := range due {
		for _, b := range c.unfinished[id].branches {
			if c.isDue(id, b) {
				c.assign(Task{XID: c.xid(id, b.branch.No), Branch: b.branch, Decision: txn.Commit})
			}
		}
	}
}

func (c *Core) isDue(id txn.ID, b branchState) bool {
	return !b.acked && !c.now.Before(b.due) && c.assignable(c.xid(id, b.branch.No), b.branch.Resource)
}

// assignable reports whether the workers can take a branch: it is not with them
// already, and they do not have too many of its resource.
func (c *Core) assignable(x txn.XID, resource string) bool {
	_, busy := c.tasks[x]
	return !busy && c.load[resource] < maxTasks
}

func (c *Core) assign(t Task) {
	c.tasks[t.XID] = t
	c.load[t.Branch.Resource]++
	c.fx.Finish = append(c.fx.Finish, t)
}

// release takes a task back from the workers, if they had it.
func (c *Core) release(x txn.XID) (t Task, had bool) {
	if t, had = c.tasks[x]; had {
		delete(c.tasks, x)
		c.load[t.Branch.Resource]--
	}
	return t, had
}

// find returns the phase two and the branch that a message speaks of.
func (c *Core) find(x txn.XID) (*phaseTwo, *branchState) {
	p, ok := c.unfinished[x.ID]
	if !ok || x.Cluster != c.table.Cluster() {
		return nil, nil
	}
	for i := range p.branches {
		if p.branches[i].branch.No == x.Branch {
			return p, &p.branches[i]
		}
	}
	return nil, nil
}

func (c *Core) onFinished(e Finished) {
	if !c.leading {
		return // the next leader finishes it again, which is harmless
	}
	if e.Who != clientName {
		c.release(e.XID)
	}
	if p, b := c.find(e.XID); p != nil {
		if b.acked {
			return
		}
		b.acked, b.err = true, ""
		if h, ok := heuristic(e, txn.Commit); ok {
			p.heuristics = append(p.heuristics, h)
			c.alarm("%v at %s: %v: %s", e.XID, b.branch.Resource, h.Outcome, e.Why)
		}
		c.endIfDone(p)
		return
	}
	// Not in phase two: a branch of an aborted transaction, or one that came back. That
	// it is gone is as it should be; that it ended otherwise than decided is not.
	if x, known := c.table.Get(e.XID.ID); known && e.Finish == txn.Contradicted {
		h, _ := heuristic(e, x.Decision)
		c.batch = append(c.batch, h)
		c.alarm("%v: %v: %s", e.XID, h.Outcome, e.Why)
	}
}

// clientName is who reports a branch that its own session finished.
const clientName = "client"

// heuristic turns the answer of a resource that did not do as decided into a record.
func heuristic(e Finished, decided txn.Decision) (txn.HeuristicRecord, bool) {
	h := txn.HeuristicRecord{ID: e.XID.ID, Branch: e.XID.Branch, Who: e.Who, Why: e.Why}
	switch {
	case e.Finish == txn.Lost:
		h.Outcome = txn.HeuristicHazard
	case e.Finish == txn.Contradicted && decided == txn.Commit:
		h.Outcome = txn.HeuristicRollback
	case e.Finish == txn.Contradicted:
		h.Outcome = txn.HeuristicCommit
	default:
		return h, false
	}
	return h, true
}

func (c *Core) onFailed(e Failed) {
	if !c.leading {
		return
	}
	c.release(e.XID)
	if _, b := c.find(e.XID); b != nil && !b.acked {
		b.err = e.Why
		b.due = c.now.Add(min(retryMax, retryMin<<min(b.attempts, 8)))
		b.attempts++
	}
}

// endIfDone queues the End of a transaction whose branches are all finished.
func (c *Core) endIfDone(p *phaseTwo) {
	for _, b := range p.branches {
		if !b.acked {
			return
		}
	}
	delete(c.unfinished, p.id)
	c.batch = append(c.batch, p.heuristics...)
	if len(c.ends) == 0 {
		c.nextEnds = c.now.Add(endInterval)
	}
	c.ends = append(c.ends, p.id)
}

// takeEnds moves waiting Ends into the batch of this turn.
func (c *Core) takeEnds() {
	c.batch = append(c.batch, txn.End{IDs: c.ends})
	c.ends = nil
}

// evidenceDone notes that the evidence of a finished transaction is not needed any
// more. Nothing that is alarming is finished, so a contradiction keeps its evidence.
func (c *Core) evidenceDone(x txn.Txn) {
	for _, b := range x.Branches {
		c.evidence = append(c.evidence, c.xid(x.ID, b.No))
	}
}
