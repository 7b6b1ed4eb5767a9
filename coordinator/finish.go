// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"slices"
	"time"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// slot is a place with the workers of a resource: for first attempts, or for others.
type slot struct {
	resource string
	again    bool
}

// dueBranch is a branch of a committed transaction whose time has come.
type dueBranch struct {
	x        txn.XID
	attempts int
	due      time.Time
}

// sweep gives branches that are due to the recovery workers: first those that were never tried,
// from the oldest on; then those that failed, the fewer times the sooner. What nobody can finish
// comes last, and in few places, so it delays nobody.
func (c *Core) sweep() {
	if c.now.Before(c.nextSweep) {
		return
	}
	c.nextSweep = c.now.Add(sweepInterval)
	var due []dueBranch
	for id, l := range c.live {
		for no, w := range l.work {
			if !c.now.Before(w.due) {
				due = append(due, dueBranch{c.xid(id, no), w.attempts, w.due})
			}
		}
	}
	slices.SortFunc(due, func(a, b dueBranch) int {
		if a.attempts == 0 && b.attempts == 0 {
			return a.x.Compare(b.x)
		}
		return cmp.Or(cmp.Compare(a.attempts, b.attempts), a.due.Compare(b.due), a.x.Compare(b.x))
	})
	for _, d := range due {
		l := c.live[d.x.ID]
		c.give(Task{XID: d.x, Branch: l.branches[d.x.Branch], Decision: l.core.Decision(), Again: d.attempts > 0})
	}
	for _, name := range c.config.Resources {
		c.chase(c.scans[name])
	}
}

// give gives a branch to the workers if they can take it.
func (c *Core) give(t Task) {
	if c.hasRoom(t) {
		c.assign(t)
	}
}

// hasRoom reports whether the workers can take a branch: it is not with them already, they do
// not have too many of its resource, and the resource has not left the configuration. A
// branch of one that has left waits until it is back.
func (c *Core) hasRoom(t Task) bool {
	if _, busy := c.tasks[t.XID]; busy || c.scans[t.Branch.Resource] == nil {
		return false
	}
	most := maxTasks
	if t.Again {
		most = maxRetries
	}
	if c.load[slot{t.Branch.Resource, t.Again}] < most {
		return true
	}
	c.nextSweep = c.now // there is more to do than they can take: look again at the next tick
	return false
}

func (c *Core) assign(t Task) {
	c.tasks[t.XID] = t
	c.load[slot{t.Branch.Resource, t.Again}]++
	c.fx.Finish = append(c.fx.Finish, t)
}

// release takes a task back from the workers, if they had it.
func (c *Core) release(x txn.XID) (t Task, had bool) {
	if t, had = c.tasks[x]; had {
		delete(c.tasks, x)
		c.load[slot{t.Branch.Resource, t.Again}]--
	}
	return t, had
}

func (c *Core) onFinished(e Finished) {
	if !c.leading {
		return // the next leader finishes it again, which is harmless
	}
	if e.By == txn.FromCluster {
		c.release(e.XID)
	}
	c.unlist(e.XID)
	if e.XID.Cluster != c.table.Cluster() {
		return
	}
	x, known := c.table.Get(e.XID.ID)
	l := c.live[e.XID.ID]
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
	if known && e.Finish == txn.Contradicted && e.By == txn.FromCluster {
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
	c.batch = append(c.batch, txn.HeuristicRecord{ID: e.XID.ID, Branch: e.XID.Branch, Outcome: o, By: e.By, Who: e.Who, Why: e.Why})
	c.alarm("%v: %v, says %s: %s", e.XID, o, e.Who, e.Why)
}

func (c *Core) onFailed(e Failed) {
	if !c.leading {
		return
	}
	t, had := c.release(e.XID)
	if l := c.live[e.XID.ID]; l != nil {
		if w, open := l.work[e.XID.Branch]; open {
			l.work[e.XID.Branch] = w.failed(e, c.now)
			return
		}
	}
	if s := c.scans[t.Branch.Resource]; had && s != nil {
		s.tried[e.XID] = s.tried[e.XID].failed(e, c.now)
	}
}

// failed is what is known of a branch after one more attempt.
func (w work) failed(e Failed, now time.Time) work {
	w.err = e.Why
	if e.Interrupted {
		w.due = now
		return w
	}
	w.due = now.Add(min(retryMax, retryMin<<min(w.attempts, 8)))
	w.attempts++
	return w
}

// returned is when a resource that could not be asked answers again: what failed meanwhile says
// nothing about the branches, and they have waited for long enough.
func (c *Core) returned(resource string) {
	s := c.scans[resource]
	if !c.leading || s == nil {
		return
	}
	s.due, c.nextSweep = c.now, c.now
	for x, w := range s.tried {
		w.attempts, w.due = 0, c.now
		s.tried[x] = w
	}
	for _, l := range c.live {
		for no, w := range l.work {
			if w.attempts > 0 && l.branches[no].Resource == resource {
				w.attempts, w.due = 0, c.now
				l.work[no] = w
			}
		}
	}
}

// settled takes note of branches of which the log has a report that did not come from here:
// an operator has given one up, or an earlier leader reported it. They are not worked on.
func (c *Core) settled(x txn.Txn) {
	l := c.live[x.ID]
	if l == nil {
		return
	}
	for _, h := range x.Heuristics {
		if _, open := l.work[h.Branch]; open {
			delete(l.work, h.Branch)
			c.carry(l, l.core.Step(twopc.Finished{No: h.Branch, Finish: txn.Lost})) // the report is there
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

// takeEnds moves waiting Ends into the batch of this turn.
func (c *Core) takeEnds() {
	c.batch = append(c.batch, txn.End{IDs: c.ends})
	c.ends = nil
}
