// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"strconv"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// carry carries out what a participant asked for. It is the only place that knows its effects.
func (c *Core) carry(b *branch, effects []protocol.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case protocol.Prepare:
			b.asked, b.reason, b.answer = true, "its vote was asked for", Answer{}
			c.emit(Prepare{Branch: b.branch()})
		case protocol.CastVote:
			c.cast(b, e.Vote, e.Branch, e.Reason)
		case protocol.Finish:
			c.end(b, e.Decision)
		case protocol.Inquire:
			c.inquire(b)
		case protocol.Report:
			c.report(b, e.Finish)
		}
	}
}

// prepareAsked asks for the vote of a branch whose caller knows all of its work.
func (c *Core) prepareAsked(e PrepareAsked) {
	if !c.fits(e.Call, e.Branch) {
		return
	}
	if e.Branch.XID.ID.Class() == txn.ThreePhase {
		c.refuse(e.Call, Invalid, "the transaction is decided in three phases: the cluster asks for the vote when "+
			"it is asked to commit, and nobody else does")
		return
	}
	b := c.branches[e.Branch.XID]
	no := func(reason string) { c.emit(Cast{Call: e.Call, Vote: txn.VoteNo, Reason: reason}) }
	switch {
	case b == nil && e.Life != c.life, b != nil && b.foreign() && !b.over, b != nil && b.opened && e.Life != c.life:
		// Nothing is rolled back: another life may have prepared it and said Yes.
		no(c.otherLife(e.Life))
		return
	case b == nil:
		b = c.newBranch(e.Branch)
		b.opened, b.reason = true, "its vote was No"
		c.add(b)
		c.over(b)
	case b.busy && !b.core.Ended():
		c.refuse(e.Call, Refused, "request %d of this branch is still running: wait for its answer before you ask "+
			"for the vote", b.number)
		return
	case !b.asked && !b.core.Ended() && (e.Number != b.number || e.Digest != b.digest):
		c.giveUp(b, "the vote was asked for after request "+uintText(e.Number)+
			" with a digest that is not that of the work done here, up to request "+
			uintText(b.number)+", so it was rolled back: begin a new transaction, and pass number and digest of the "+
			"last answer")
		no(b.reason)
		return
	case b.core.Ended() && b.decision == txn.Abort && !b.entered:
		no(b.reason)
		return
	}
	b.voters = c.waits(b.voters, e.Call, b)
	if e.DecideBy <= 0 || e.DecideBy > MaxVoting {
		e.DecideBy = MaxVoting
	}
	b.decideBy = c.now.Add(e.DecideBy)
	c.carry(b, b.core.Step(protocol.PrepareAsked{}))
	if _, waits := c.calls[e.Call]; waits && b.core.Ended() {
		c.left(e.Call)
		c.refuse(e.Call, Refused, "a vote is no longer needed: %s", b.notOpen())
	}
}

// voted takes the vote of the resource. After a No something may be left of the branch, as after a
// connection that broke in the middle of it: it is ended until nothing is.
func (c *Core) voted(e Voted) {
	b := c.branches[e.XID]
	if b == nil || !b.asked || b.over {
		return
	}
	b.torn = e.Torn
	if b.in != nil && e.Vote == txn.VoteYes {
		b.prepared, b.reason = e.Branch, "it is prepared"
	}
	c.step(b, protocol.Voted{No: e.XID.Branch, Vote: e.Vote, Branch: e.Branch, Reason: e.Reason})
	switch e.Vote {
	case txn.VoteReadOnly:
		b.reason = "it only read, and ended with its vote"
		c.over(b)
	case txn.VoteNo:
		b.decision, b.reason = txn.Abort, e.Reason
		b.clearing = true
		c.attempt(b, txn.Abort)
	}
	if b.in == nil && e.Vote == txn.VoteReadOnly && len(b.finishers) > 0 { // an abort that was heard meanwhile
		c.carry(b, b.core.Step(protocol.Decided{Decision: txn.Abort}))
	}
}

// cast answers whoever asked. The entry is durable before: so the vote stays the same in every life,
// with its evidence, and the agent may settle what nobody decides. Without it a branch that is
// listed might be somebody else's.
func (c *Core) cast(b *branch, vote txn.Vote, branch txn.Branch, reason string) {
	b.vote = vote
	if vote == txn.VoteYes && !b.entered {
		b.entered, b.prepared, b.reason = true, branch, "it is prepared"
		b.pause = c.rules.InquireAfter
		c.later(b)
		b.turn = c.writeBranches(b.xid.ID, true)
	}
	c.say(b, func() {
		c.answered(&b.voters, func(call Call) Effect {
			return Cast{Call: call, Vote: vote, Branch: branch, Reason: reason, Torn: b.torn}
		})
	})
}

// giveUp ends a branch that has not voted.
func (c *Core) giveUp(b *branch, reason string) {
	if b.inDoubt() || b.hasEnded() {
		return
	}
	if b.in != nil {
		if b.in.core.TakesWork() {
			c.abandonWork(b.in, reason)
		}
		return
	}
	b.reason = reason
	c.carry(b, b.core.Step(protocol.RollbackAsked{Reason: reason}))
}

// step steps who decides about a branch.
func (c *Core) step(b *branch, e protocol.Event) {
	if b.in != nil {
		c.stepMember(b.in, e)
	} else {
		c.carry(b, b.core.Step(e))
	}
}

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }
