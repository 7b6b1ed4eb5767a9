// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// workAsked takes the next piece of work, repeats an answer, or refuses.
func (c *Core) workAsked(e WorkAsked) {
	if !c.fits(e.Call, e.Branch) {
		return
	}
	b := c.branches[e.Branch.XID]
	if b == nil {
		if b = c.openBranch(e); b == nil {
			return
		}
	}
	sum := e.Work.Sum()
	switch {
	case b.asked || b.hasEnded() || !b.opened:
		c.refuse(e.Call, Refused, "the branch accepts no more work: %s", b.notOpen())
	case e.Life != c.life:
		c.refuse(e.Call, Refused, "%s", c.otherLife(e.Life))
	case e.Number == b.number && sum != b.sum:
		c.refuse(e.Call, Invalid, "request %d of this branch was a different one: a repeated request must be "+
			"identical", e.Number)
	case e.Number == b.number && b.busy:
		b.workers = c.waits(b.workers, e.Call, b)
	case e.Number == b.number:
		answer := b.answer
		answer.Call = e.Call
		c.emit(answer)
		b.expires = c.now.Add(b.silence)
	case e.Number == b.number+1 && b.busy:
		c.refuse(e.Call, Refused, "request %d of this branch is still running: wait for its answer before you send "+
			"the next one", b.number)
	case e.Number == b.number+1:
		c.run(b, e, sum)
	default:
		c.refuse(e.Call, Refused, "the next request of this branch has number %d, not %d: number them from 1 "+
			"without a gap", b.number+1, e.Number)
	}
}

// openBranch begins a branch with its first request, or refuses and returns nil.
func (c *Core) openBranch(e WorkAsked) *branch {
	switch class := e.Branch.XID.ID.Class(); {
	case class != txn.Plain && class != txn.Recorded && class != txn.ThreePhase:
		c.refuse(e.Call, Invalid, "the transaction is of class %v, whose branches this agent cannot hold: begin it "+
			"as two_phase or three_phase", class)
	case class == txn.ThreePhase && c.members[e.Branch.XID.ID] != nil && !c.members[e.Branch.XID.ID].core.TakesWork():
		c.refuse(e.Call, Refused, "the transaction accepts no more work: its vote was asked for, or it was rolled "+
			"back: begin a new one")
	case class == txn.ThreePhase && c.stale(e.Branch.XID.ID):
		c.refuse(e.Call, Refused, "the transaction was begun at %s, which is too long ago, or too far ahead of the "+
			"clock here: begin a new one; if it is new, correct the clocks",
			e.Branch.XID.ID.Time().UTC().Format(time.RFC3339))
	case e.Life != c.life:
		c.refuse(e.Call, Refused, "%s", c.otherLife(e.Life))
	case c.stopping:
		c.refuse(e.Call, Unavailable, "this agent is shutting down: ask again when it has restarted")
	case e.Number != 1:
		c.refuse(e.Call, Refused, "request %d is for a branch that is not open here: roll the transaction back and "+
			"begin a new one", e.Number)
	case c.open >= c.rules.MaxOpen:
		c.refuse(e.Call, Busy, "%d branches are open at this agent, which is the limit: end some, or raise max_open "+
			"in its configuration", c.open)
	default:
		b := c.newBranch(e.Branch)
		b.opened, b.open = true, true
		c.add(b)
		c.live[b.xid] = true
		c.open++
		b.silence = c.rules.Silence
		if e.Silence > 0 && e.Silence < b.silence {
			b.silence = e.Silence
		}
		c.step(b, protocol.Opened{No: b.xid.Branch})
		return b
	}
	return nil
}

// stale reports whether the agent may have said No to a transaction and forgotten it. What it gave
// up it remembers for rules.Keep.
func (c *Core) stale(id txn.ID) bool {
	age := c.now.Sub(id.Time())
	return age > c.rules.Keep/2 || age < -c.rules.Keep/2
}

func (c *Core) otherLife(l Life) string {
	if l.Journal != c.life.Journal {
		return "the request is for journal " + l.Journal.String() + ", but this agent has " +
			"" + c.life.Journal.String() +
			": it is a different agent, or it has lost its journal; roll the transaction back and begin a new one"
	}
	return "this agent has restarted since: its epoch is " + uintText(uint64(c.life.Epoch)) +
		", the request is for " + uintText(uint64(l.Epoch)) +
		", and what was open then is rolled back; roll the transaction back and begin a new one"
}

func (b *branch) notOpen() string {
	switch {
	case b.reason != "":
		return b.reason
	case b.foreign():
		return "it was prepared in an earlier life of this agent, or by somebody else"
	}
	return "its vote was asked for"
}

func (c *Core) run(b *branch, e WorkAsked, sum statement.Sum) {
	b.number, b.sum, b.busy = e.Number, sum, true
	b.workers = c.waits(b.workers, e.Call, b)
	b.answer = Answer{}
	b.current = e.Work
	c.emit(Run{Branch: b.branch(), Number: e.Number, Open: e.Number == 1, Work: e.Work, Limits: e.Limits,
		Timeout: e.Timeout})
}

// workDone answers. Failed work counts too: its caller knows of it.
func (c *Core) workDone(e WorkDone) {
	b := c.branches[e.XID]
	if b == nil || !b.busy || b.number != e.Number {
		return
	}
	b.busy = false
	b.expires = c.now.Add(b.silence)
	if e.Failed == "" {
		b.remember(b.current)
	}
	b.current = statement.Work{}
	b.digest = nextDigest(b.digest, e.Number, b.sum, e.Failed, e.Sum)
	b.answer = Answer{Number: e.Number, Digest: b.digest, Result: e.Result, Failed: e.Failed, NotSent: e.NotSent}
	if b.hasEnded() {
		for _, call := range b.workers {
			c.refuse(call, Refused, "the branch accepts no more work: %s", b.notOpen())
		}
		b.workers = nil
		return
	}
	c.answered(&b.workers, func(call Call) Effect {
		answer := b.answer
		answer.Call = call
		return answer
	})
}

// nextDigest chains what was asked and what was answered.
func nextDigest(before Digest, number uint64, asked statement.Sum, failed string, answer statement.Sum) Digest {
	h := sha256.New()
	h.Write(before[:])
	h.Write(binary.BigEndian.AppendUint64(nil, number))
	h.Write(asked[:])
	h.Write(appendText(nil, failed))
	h.Write(answer[:])
	return Digest(h.Sum(nil))
}
