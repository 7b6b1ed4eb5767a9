// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"slices"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

func (c *Machine) assign(t Task) {
	s := slot{t.Branch.Resource, t.Again}
	c.tasks[t.XID] = s
	c.load[s]++
	c.fx.Finish = append(c.fx.Finish, t)
	c.relist(t.XID.ID)
}

// release takes a task back from the workers, if they had it, and says where.
func (c *Machine) release(x txn.XID) (s slot, had bool) {
	if s, had = c.tasks[x]; had {
		delete(c.tasks, x)
		c.load[s]--
		c.relist(x.ID)
	}
	return s, had
}

func (c *Machine) onFinished(e Finished) {
	if !c.core.Leading() {
		return // the next leader finishes it again, which is harmless
	}
	switch {
	case e.By == txn.FromCluster:
		c.release(e.XID)
	case e.Reporter.Limited && !e.Reporter.on(c.resourceOf(e.XID)):
		return
	}
	c.unlist(e.XID)
	if e.XID.Cluster != c.table.Cluster() {
		return
	}
	l := c.inHand(e.XID.ID)
	if finishEarly(l, e) {
		return
	}
	if l != nil && l.core.Decision() != txn.Undecided {
		effects := l.core.Step(protocol.Finished{No: e.XID.Branch, Finish: e.Finish})
		if i := slices.IndexFunc(effects, isAlarm); i >= 0 {
			c.heuristic(e, effects[i].(protocol.Alarm).Outcome)
		}
		c.putDown(l.branch(e.XID.Branch))
		c.carry(l, effects)
		if mutant.EndOneShort && len(l.core.Unfinished()) == 1 {
			c.end(l)
		}
		return
	}
	// Not in phase two: a branch of an aborted transaction, or one that came back. That
	// it is gone is as it should be; that it ended otherwise than decided is not.
	if e.Finish != txn.Contradicted || e.By != txn.FromCluster {
		return
	}
	if x, known := c.table.Get(e.XID.ID); known {
		outcome := txn.HeuristicRollback
		if x.Decision == txn.Abort {
			outcome = txn.HeuristicCommit
		}
		c.heuristic(e, outcome)
	}
}

// resourceOf is where a branch is, as far as is known of it; empty: nothing is.
func (c *Machine) resourceOf(x txn.XID) string {
	if known, ok := c.table.Get(x.ID); ok {
		for _, b := range known.Branches {
			if b.No == x.Branch {
				return b.Resource
			}
		}
	}
	for _, b := range c.listed[x.ID] {
		if b.xid == x {
			return b.resource
		}
	}
	return ""
}

func isAlarm(e protocol.Effect) bool { _, ok := e.(protocol.Alarm); return ok }

// heuristic records that a branch did not end as decided, or that nobody can tell.
func (c *Machine) heuristic(e Finished, o txn.Outcome) {
	if mutant.SwallowHeuristic {
		return
	}
	c.core.Propose(txn.HeuristicRecord{ID: e.XID.ID, Branch: e.XID.Branch, Outcome: o, By: e.By, Who: e.Who,
		Why: e.Why})
	c.core.Alarm("%v: %v, says %s: %s", e.XID, o, e.Who, e.Why)
}

func (c *Machine) onFailed(e Failed) {
	if !c.core.Leading() {
		return
	}
	s, had := c.release(e.XID)
	d := c.due[s.resource]
	if !had || d == nil || d.away {
		return
	}
	if b := c.live[e.XID.ID].branch(e.XID.Branch); b != nil && b.open {
		b.work = d.current(b.work, c.core.Now()).after(e, c.core.Now())
		c.await(b)
		return
	}
	for _, b := range c.listed[e.XID.ID] {
		if b.xid == e.XID {
			b.tried = d.current(b.tried, c.core.Now()).after(e, c.core.Now())
		}
	}
}

// after is what is known of a branch after one more attempt.
func (w work) after(e Failed, now time.Time) work {
	w.err, w.failed = e.Why, now
	if e.Interrupted {
		w.due = now
		return w
	}
	w.due = now.Add(min(retryMax, retryMin<<min(w.attempts, 8)))
	w.attempts++
	return w
}

// onRetryAsked has branches that wait to be tried again tried now.
func (c *Machine) onRetryAsked(e RetryAsked) {
	if !c.ready(e.Request) {
		return
	}
	wanted := func(b txn.Branch) bool {
		return (!e.One || b.No == e.Branch) && !c.table.Quarantined(b.Resource) && c.scans[b.Resource] != nil
	}
	n := 0
	if l := c.inHand(e.ID); l != nil {
		for i := range l.branches {
			if b := &l.branches[i]; b.open && wanted(*b.Branch) {
				n++
				b.work = c.due[b.Resource].current(b.work, c.core.Now())
				b.due = c.core.Now()
				c.await(b)
			}
		}
	}
	for _, b := range c.listed[e.ID] {
		if b.ours && !b.working && b.chase != (Task{}) && wanted(b.chase.Branch) {
			n++
			b.tried.due = c.core.Now()
			c.queue(b)
		}
	}
	c.nextSweep = c.core.Now()
	_, known := c.table.Get(e.ID)
	switch {
	case n > 0:
		c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), Retried: n})
	case !known && c.table.TooOld(e.ID):
		c.reply(Reply{Request: e.Request, Err: tooOld(e.ID)})
	case !known && len(c.listed[e.ID]) == 0 && !c.heardOf(e.ID):
		c.reply(Reply{Request: e.Request, Err: notFound(e.ID)})
	default:
		c.reply(Reply{Request: e.Request, Err: txn.Refusedf("nothing of %v waits to be tried by the cluster: see "+
			"\"concord tx get %v\" for what it waits for", e.ID, e.ID)})
	}
}

// returned is when a resource that could not be asked answers again.
func (c *Machine) returned(resource string) {
	s := c.scans[resource]
	if !c.core.Leading() || s == nil {
		return
	}
	s.due, c.nextSweep = c.core.Now(), c.core.Now()
	c.due[resource].returned()
}

// settled takes note of branches of which the log has a report that did not come from here:
// an operator has given one up, or an earlier leader reported it. They are not worked on.
func (c *Machine) settled(x txn.Txn) {
	l := c.live[x.ID]
	if l == nil {
		return
	}
	for _, h := range x.Heuristics {
		if l.working(h.Branch) {
			c.putDown(l.branch(h.Branch))
			c.carry(l, l.core.Step(protocol.Finished{No: h.Branch, Finish: txn.Lost})) // the report is there
		}
	}
}

// end queues the End of a transaction whose branches are all finished.
func (c *Machine) end(l *live) {
	c.letGo(l.id)
	if x, ok := c.table.Get(l.id); !ok || x.Ended {
		return
	}
	if len(c.ends) == 0 {
		c.nextEnds = c.core.Now().Add(endInterval)
	}
	c.ends = append(c.ends, l.id)
}

// takeEnds moves waiting Ends into the batch, as records that are no longer than an entry.
func (c *Machine) takeEnds() {
	for n := 0; len(c.ends) > 0; c.ends = c.ends[n:] {
		n = min(len(c.ends), replica.MaxEntryRecords)
		c.core.Propose(txn.End{IDs: c.ends[:n:n]})
	}
	c.ends = nil
}
