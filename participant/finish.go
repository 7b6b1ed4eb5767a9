// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"slices"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// decided obeys whoever brings the decision; it is the decision of the cluster, however often it
// comes. What this life knows nothing of, the resource is asked for.
func (c *Core) decided(e Decided) {
	if !c.fits(e.Call, e.Branch) {
		return
	}
	b := c.branches[e.Branch.XID]
	if b == nil {
		b = c.newBranch(e.Branch)
		c.add(b)
	}
	b.record = e.Record
	if b.in != nil {
		c.decidedMember(b, e)
		return
	}
	b.finishers = c.waits(b.finishers, e.Call, b)
	if b.clearing && e.Decision == txn.Abort { // it is being rolled back, and nobody is told before it is
		b.pause, b.due = 0, c.now
		c.attempt(b, txn.Abort)
		return
	}
	c.obey(b, e.Decision)
}

func (c *Core) obey(b *branch, d txn.Decision) {
	if !b.core.Ended() {
		b.reason, b.pause, b.due = "its transaction was decided: "+d.String(), 0, c.now
	}
	c.carry(b, b.core.Step(protocol.Decided{Decision: d}))
}

// informed obeys what the cluster said when it was asked.
func (c *Core) informed(e Informed) {
	delete(c.asking, e.ID)
	for _, b := range slices.Clone(c.byID[e.ID]) {
		if b.in != nil || !b.core.InDoubt() {
			continue
		}
		for _, record := range e.Branches {
			if record.No == b.xid.Branch {
				b.record = record
			}
		}
		c.obey(b, e.Decision)
	}
}

// inquire asks for the decision. A branch that this agent voted Yes for may make the cluster decide
// when its caller collects no votes any more; any other, which may be an application's, when it is
// an orphan by the cluster's own rule.
func (c *Core) inquire(b *branch) {
	c.later(b)
	if c.asking[b.xid.ID] {
		return
	}
	c.asking[b.xid.ID] = true
	if b.decideBy.IsZero() { // of an earlier life
		b.decideBy = c.now.Add(MaxVoting)
	}
	settle := b.entered && !c.now.Before(b.decideBy)
	if !b.entered {
		settle = c.maxAge > 0 && c.now.Sub(b.xid.ID.Time()) > c.maxAge
	}
	c.emit(Inquire{Cluster: b.xid.Cluster, ID: b.xid.ID, Settle: settle})
}

// again asks a participant to ask for what is missing.
func (c *Core) again(b *branch) {
	if b.in != nil {
		if b.decision != txn.Undecided && !b.over {
			c.attempt(b, b.decision)
		} else if b.asked || b.over {
			delete(c.live, b.xid)
		}
		return
	}
	effects := b.core.Step(protocol.Tick{})
	if len(effects) == 0 && b.over {
		delete(c.live, b.xid)
	}
	c.carry(b, effects)
}

// end ends a branch by a decision, which the journal has first.
func (c *Core) end(b *branch, d txn.Decision) {
	if b.in == nil && b.entered && b.decision != d {
		b.decision = d
		c.writeBranches(b.xid.ID, false)
	}
	b.decision = d
	b.over = false
	c.live[b.xid] = true
	c.attempt(b, d)
}

func (c *Core) attempt(b *branch, d txn.Decision) {
	if b.finishing {
		return // its end brings the next attempt
	}
	b.finishing = true
	c.emit(Finish{Branch: b.branch(), Decision: d, Record: b.known()})
}

func (c *Core) finished(e Finished) {
	b := c.branches[e.XID]
	if b == nil || !b.finishing {
		return
	}
	b.finishing, b.pause, b.due, b.why = false, 0, c.now, ""
	if b.clearing {
		b.clearing = false
		b.torn = b.torn || e.Finish == txn.Contradicted
		c.over(b)
		c.answered(&b.finishers, func(call Call) Effect { return Ended{Call: call, Finish: txn.AlreadyDone} })
		return
	}
	if b.in != nil {
		c.memberFinished(b, e.Finish)
		return
	}
	c.carry(b, b.core.Step(protocol.Finished{No: e.XID.Branch, Finish: e.Finish}))
}

// report tells what finishing found: those who wait for it, or the cluster. What is not well stays
// in the journal, and is there before it is said.
func (c *Core) report(b *branch, f txn.Finish) {
	bad := f == txn.Lost || f == txn.Contradicted
	// Of what never voted Yes nobody needs to hear; and of a branch that its own session may have
	// finished meanwhile, "not found" says nothing.
	worth := b.entered || b.foreign() && !bad
	news := b.entered && (!bad || b.finish != f)
	b.finish = f
	c.over(b)
	switch {
	case news && bad:
		b.turn = c.writeBranches(b.xid.ID, true)
	case news:
		b.entered = false
		c.writeBranches(b.xid.ID, false)
	}
	if !b.entered {
		b.redo = nil
	}
	c.say(b, func() {
		if !c.answered(&b.finishers, func(call Call) Effect { return Ended{Call: call, Finish: f} }) && worth {
			c.emit(Report{Branch: b.branch(), Finish: f})
		}
	})
}

// over notes that nothing is to be done for a branch.
func (c *Core) over(b *branch) {
	b.over = true
	if b.open {
		b.open = false
		c.open--
	}
	b.answer = Answer{} // it may be large
	delete(c.live, b.xid)
	c.ended = append(c.ended, ended{b.xid, c.now})
}

// relisted is how many listings in a row make a branch news: the first may have been taken before
// the branch ended, or before its own session ends it.
const relisted = 2

// listed compares what a resource lists with what is known.
func (c *Core) listed(e Listing) {
	there := make(map[txn.XID]bool, len(e.XIDs))
	for _, xid := range e.XIDs {
		there[xid] = true
	}
	for _, xid := range c.known(e.Resource) {
		b := c.branches[xid]
		if there[xid] {
			continue
		}
		b.sightings = 0
		if b.foreign() && !b.finishing && len(b.finishers) == 0 && !b.over {
			c.drop(b) // somebody has ended it
			c.dropMember(xid.ID)
		}
	}
	for _, xid := range e.XIDs {
		if xid.Cluster != c.cluster || c.cluster == 0 {
			continue
		}
		b := c.branches[xid]
		if b == nil {
			b = c.newBranch(Branch{xid, e.Resource})
			c.add(b)
		}
		if b.resource != e.Resource {
			continue
		}
		if b.sightings++; b.sightings == relisted {
			c.seen(b)
			b.sightings = 0
		}
	}
}

func (c *Core) known(resource string) []txn.XID {
	var list []txn.XID
	for xid, b := range c.branches {
		if b.resource == resource {
			list = append(list, xid)
		}
	}
	slices.SortFunc(list, txn.XID.Compare)
	return list
}

// seen handles a branch that is prepared although nobody here thinks so: it was prepared in another
// life or by somebody else, PREPARE arrived late, or a failover brought it back.
func (c *Core) seen(b *branch) {
	if b.in != nil {
		if !b.finishing && !b.clearing {
			c.stepMember(b.in, protocol.Listed{No: b.xid.Branch})
		}
		return
	}
	switch {
	case b.over && b.decision != txn.Undecided && !b.clearing && !b.finishing:
		d := b.decision
		b.core = twopc.NewParticipant(b.xid.Branch)
		b.core.Step(protocol.Listed{})
		c.obey(b, d)
	case b.foreign() && !b.core.InDoubt() && !b.core.Ended(), b.over && b.decision == txn.Undecided && !b.entered:
		c.live[b.xid] = true
		b.opened, b.over = false, false
		b.pause = c.rules.InquireAfter
		c.carry(b, b.core.Step(protocol.Listed{}))
	}
}
