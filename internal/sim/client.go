// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// client runs one transaction after the other, as the SDK does: work, prepare in
// parallel, one request for the decision, finish its own sessions. It may die at any
// point, and what it has sent may arrive after its death.
type client struct {
	w    *txnWorld
	busy bool
	// life numbers transactions; whatever is under way for an earlier one is void.
	life    int
	ghost   *txnGhost
	votes   int
	no      bool
	asking  instant // since when it asks for the decision; 0: it does not
	patient instant // until when it asks to commit; then it asks for the outcome
	limit   instant // until when it asks at all
}

func (w *txnWorld) beginClients() {
	for range 1 + w.rng.IntN(6) {
		c := &client{w: w}
		w.clients = append(w.clients, c)
		w.after(w.about(second), c.begin)
	}
}

// later does something in this life of the client.
func (c *client) later(mean instant, do func()) {
	life := c.life
	c.w.after(c.w.about(mean)+1, func() {
		if c.life == life {
			do()
		}
	})
}

func (c *client) begin() {
	w := c.w
	if !w.beginning || c.busy {
		return
	}
	if w.formed == 0 { // the cluster has no name yet, so nothing can be prepared
		c.later(100*millisecond, c.begin)
		return
	}
	c.life++
	c.busy, c.votes, c.no, c.asking = true, 0, false, 0
	c.ghost = w.check.begun(w.newID())
	if w.chance(w.crash) {
		c.later(300*millisecond, c.die)
	}
	perm := w.rng.Perm(len(w.banks))[:1+w.rng.IntN(3)]
	for i, at := range perm {
		b := &branch{bank: w.banks[at], ghost: c.ghost, no: txn.BranchNo(i + 1), state: active, held: true,
			failed: w.chance(w.failed), work: w.rng.Uint64() | 1}
		b.bank.branches = append(b.bank.branches, b)
		c.ghost.branches = append(c.ghost.branches, b)
	}
	c.later(10*millisecond, c.prepare)
}

func (c *client) prepare() {
	for _, b := range c.ghost.branches {
		life := c.life
		// The statement is on its way: it is executed even when the client dies meanwhile,
		// unless its session is gone by then.
		c.w.after(c.w.about(10*millisecond)+1, func() {
			yes := b.prepare()
			if c.w.planted == RollbackMeansPrepared {
				yes = true
			}
			if c.life == life {
				c.later(millisecond, func() { c.vote(yes) })
			}
		})
	}
}

func (c *client) vote(yes bool) {
	c.votes++
	c.no = c.no || !yes
	if c.votes < len(c.ghost.branches) {
		return
	}
	if c.no {
		c.learn(txn.Abort) // presumed: the coordinator has never heard of it
		return
	}
	c.ghost.yes = true
	c.asking = c.w.now
	c.patient, c.limit = c.w.now+2*second, c.w.now+10*second
	c.ask()
}

// ask asks for the decision until it is known or patience ends.
func (c *client) ask() {
	w := c.w
	if w.now > c.limit {
		c.giveUp()
		return
	}
	w.request++
	request := w.request
	w.requests[request] = c
	n := c.target()
	var e coordinator.Event = coordinator.OutcomeAsked{Request: request, ID: c.ghost.id}
	if w.now < c.patient {
		e = coordinator.CommitAsked{Request: request, ID: c.ghost.id, Branches: c.branches()}
	}
	deliver := func() { w.event(n, asked{event: e}) }
	w.say(deliver)
	if w.chance(w.loss) { // it takes its time, or comes twice
		w.after(w.about(3*second), deliver)
	}
	c.later(400*millisecond, func() {
		if _, unanswered := w.requests[request]; unanswered {
			delete(w.requests, request)
			c.ask()
		}
	})
}

func (c *client) branches() []txn.Branch {
	var out []txn.Branch
	for _, b := range c.ghost.branches {
		out = append(out, txn.Branch{No: b.no, Resource: b.bank.name})
	}
	return out
}

func (c *client) target() *node {
	w := c.w
	for _, i := range w.rng.Perm(len(w.nodes)) {
		if n := w.nodes[i]; n.up && n.role.Role == zab.Leading && !w.chance(0.1) {
			return n
		}
	}
	return w.anyNode()
}

func (c *client) replied(r coordinator.Reply) {
	switch {
	case c.asking == 0: // it is dead, or knows already
	case r.Err != nil:
		c.later(100*millisecond, c.ask)
	case r.Txn.ID != c.ghost.id:
		// An answer to the request of an earlier life.
	default:
		c.learn(r.Decision)
	}
}

// learn is the moment at which the application hears what became of it.
func (c *client) learn(d txn.Decision) {
	w := c.w
	c.asking = 0
	w.check.tell(c.ghost, d)
	if d == txn.Commit {
		w.counters[ClientToldCommit]++
	} else {
		w.counters[ClientToldAbort]++
	}
	left := len(c.ghost.branches)
	for _, b := range c.ghost.branches {
		c.later(10*millisecond, func() {
			if b.held || !b.bank.xa {
				if f, ok := b.finish(d, true); ok && d == txn.Commit {
					c.report(b, f)
				}
			}
			b.held = false
			if left--; left == 0 {
				c.rest()
			}
		})
	}
}

func (c *client) report(b *branch, f txn.Finish) {
	n, xid := c.target(), b.xid()
	c.w.say(func() {
		c.w.event(n, asked{event: coordinator.Finished{XID: xid, Finish: f, Who: "client", Why: "seen by its session"}})
	})
}

// rest ends a transaction, and begins another one after a while.
func (c *client) rest() {
	c.life++
	c.busy, c.asking = false, 0
	c.later(100*millisecond, c.begin)
}

// giveUp is the outcome "unknown". The sessions are closed; recovery does the rest.
func (c *client) giveUp() {
	c.w.counters[ClientNeverTold]++
	if c.w.planted == PresumeCommit {
		for _, b := range c.ghost.branches {
			b.finish(txn.Commit, true)
		}
	}
	c.close()
	c.rest()
}

// die is a crash of the application.
func (c *client) die() {
	c.w.counters[ClientCrashed]++
	c.close()
	c.rest()
}

func (c *client) close() {
	for _, b := range c.ghost.branches {
		if c.w.chance(0.7) {
			b.closeSession()
		} else { // the database notices late, and executes what is under way before that
			c.w.after(c.w.about(second), b.closeSession)
		}
	}
}
