// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// assignable reports whether the workers can take a branch: it is not with them
// already, they do not have too many of its resource, and the resource has not left the
// configuration.
func (c *Core) assignable(x txn.XID, resource string) bool {
	_, busy := c.tasks[x]
	return !busy && c.scans[resource] != nil && c.load[resource] < maxTasks
}

func (c *Core) assign(t Task) {
	c.tasks[t.XID] = t
	c.load[t.Branch.Resource]++
	c.fx.Finish = append(c.fx.Finish, t)
	c.relist(t.XID.ID)
}

// release takes a task back from the workers, if they had it.
func (c *Core) release(x txn.XID) {
	if t, had := c.tasks[x]; had {
		delete(c.tasks, x)
		c.load[t.Branch.Resource]--
		c.relist(x.ID)
	}
}

func (c *Core) onFinished(e Finished) {
	if !c.leading {
		return // the next leader finishes it again, which is harmless
	}
	if e.Who != clientName {
		c.release(e.XID)
	}
	c.unlist(e.XID)
	if e.XID.Cluster != c.table.Cluster() {
		return
	}
	x, known := c.table.Get(e.XID.ID)
	l := c.inHand(e.XID.ID)
	if l != nil && l.core.Decision() != txn.Undecided {
		effects := l.core.Step(twopc.Finished{No: e.XID.Branch, Finish: e.Finish})
		if i := slices.IndexFunc(effects, isAlarm); i >= 0 {
			c.heuristic(e, effects[i].(twopc.Alarm).Outcome)
		}
		delete(l.work, e.XID.Branch)
		c.carry(l, effects)
		if mutant.EndOneShort && len(l.core.Unfinished()) == 1 {
			c.end(l)
		}
		return
	}
	// Not in phase two: a branch of an aborted transaction, or one that came back. That
	// it is gone is as it should be; that it ended otherwise than decided is not.
	if known && e.Finish == txn.Contradicted && e.Who != clientName {
		outcome := txn.HeuristicRollback
		if x.Decision == txn.Abort {
			outcome = txn.HeuristicCommit
		}
		c.heuristic(e, outcome)
	}
}

func isAlarm(e twopc.Effect) bool { _, ok := e.(twopc.Alarm); return ok }

// heuristic records that a branch did not end as decided, or that nobody can tell.
func (c *Core) heuristic(e Finished, o txn.Outcome) {
	if mutant.SwallowHeuristic {
		return
	}
	c.batch = append(c.batch, txn.HeuristicRecord{ID: e.XID.ID, Branch: e.XID.Branch, Outcome: o, Who: e.Who, Why: e.Why})
	c.alarm("%v: %v, says %s: %s", e.XID, o, e.Who, e.Why)
}

// clientName is who reports a branch that its own session finished.
const clientName = "client"

func (c *Core) onFailed(e Failed) {
	if !c.leading {
		return
	}
	c.release(e.XID)
	if l := c.live[e.XID.ID]; l != nil {
		if w, open := l.work[e.XID.Branch]; open {
			w.err, w.due = e.Why, c.now.Add(min(retryMax, retryMin<<min(w.attempts, 8)))
			w.attempts++
			l.work[e.XID.Branch] = w
			c.wake(l, w.due)
		}
	}
}

// end queues the End of a transaction whose branches are all finished.
func (c *Core) end(l *live) {
	delete(c.live, l.id)
	if x, ok := c.table.Get(l.id); !ok || x.Ended {
		return
	}
	if len(c.ends) == 0 {
		c.nextEnds = c.now.Add(endInterval)
	}
	c.ends = append(c.ends, l.id)
}

// takeEnds moves waiting Ends into the batch, as records that are no longer than an entry.
func (c *Core) takeEnds() {
	for n := 0; len(c.ends) > 0; c.ends = c.ends[n:] {
		n = min(len(c.ends), maxEntryRecords)
		c.batch = append(c.batch, txn.End{IDs: c.ends[:n:n]})
	}
	c.ends = nil
}

// evidenceDone notes that the evidence of a finished transaction is not needed any
// more. Nothing that is alarming is finished, so a contradiction keeps its evidence.
func (c *Core) evidenceDone(x txn.Txn) {
	for _, b := range x.Branches {
		c.evidence[b.Resource] = append(c.evidence[b.Resource], c.xid(x.ID, b.No))
	}
}
