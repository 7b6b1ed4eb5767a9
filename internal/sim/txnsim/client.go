// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"errors"
	"slices"
	"strings"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// client runs one transaction after the other, as the SDK does: work, prepare in
// parallel, one request for the decision, finish its own sessions. It may die at any
// point, and what it has sent may arrive after its death.
type client struct {
	w    *world
	busy bool
	// life numbers transactions; whatever is under way for an earlier one is void.
	life    int
	ghost   *ghost
	again   int // the piece of work to try again; zero: the next one
	votes   int
	no      bool
	asking  sim.Instant // since when it asks for the decision; 0: it does not
	patient sim.Instant // until when it asks to commit; then it asks for the outcome
	limit   sim.Instant // until when it asks at all
	asked   []int       // the nodes that it asked to commit
	lost    bool        // an answer to it
	lease   txn.Lease
	silent  sim.Instant // until when it does not renew its lease
	called  []*account  // services
}

func (w *world) beginClients() {
	for range 1 + w.RNG.IntN(6) {
		c := &client{w: w}
		w.clients = append(w.clients, c)
		w.After(w.About(sim.Second), c.begin)
	}
}

// later does something in this life of the client.
func (c *client) later(mean sim.Instant, do func()) {
	life := c.life
	c.w.After(c.w.About(mean)+1, func() {
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
		c.later(100*sim.Millisecond, c.begin)
		return
	}
	c.life++
	c.busy = true
	c.leased(c.beginLeased)
}

func (c *client) beginLeased() {
	w := c.w
	c.votes, c.no, c.asking, c.asked, c.lost, c.called = 0, false, 0, nil, false, nil
	job, keyed := c.again, false
	if job == 0 {
		job, keyed = w.keyedJob()
	}
	if job == 0 {
		w.jobs++
		job = w.jobs
	}
	c.again = 0
	class := txn.Plain
	if w.odds(0.3) || keyed {
		class = txn.Recorded
	}
	c.ghost = w.check.begun(w.newID(class).WithLease(c.lease), job)
	if keyed {
		c.ghost.key = keyOf(job)
	}
	if w.Chance(w.crash) {
		c.later(300*sim.Millisecond, c.die)
	}
	perm := w.RNG.Perm(len(w.banks))[:1+w.RNG.IntN(3)]
	calls := 0
	if len(w.services) > 0 && w.errands.IntN(3) > 0 { // those have the first banks
		calls = 1 + w.errands.IntN(2)
		perm = slices.DeleteFunc(perm, func(at int) bool { return at < len(w.services) })
	}
	c.ghost.alone = len(perm) == 1 && class == txn.Plain && calls == 0
	for i, at := range perm {
		w.banks[at].add(&branch{ghost: c.ghost, no: txn.BranchNo(i + 1), failed: w.Chance(w.failed),
			work: w.RNG.Uint64() | 1})
	}
	for _, b := range c.ghost.branches {
		if w.quirks.Rows > 0 {
			b.row = w.pick(w.quirks.Rows)
		}
	}
	c.call(calls)
}

// call calls services so many times, one after the other, and then does its own work.
func (c *client) call(left int) {
	w := c.w
	if left == 0 {
		c.work(w.Now + 300*sim.Millisecond)
		return
	}
	s := w.services[0]
	k := call{name: api.CallName(w.errands.Uint64() &^ 3), hand: w.errands.IntN(2) == 0, twin: w.errand(0.2)}
	c.ghost.make(k)
	var known *account
	if len(c.called) > 0 {
		known = c.called[0]
	}
	life := c.life
	w.visit(c.ghost, s, k, known, func(a *account, ok bool) {
		if c.life != life {
			return
		}
		if a != nil && len(c.called) == 0 {
			c.called = append(c.called, a)
		}
		if !ok {
			c.learn(txn.Abort)
			return
		}
		c.call(left - 1)
	})
}

// make notes a call of who began the transaction, and the one by which it is handed on.
func (g *ghost) make(k call) {
	if g.made == nil {
		g.made = map[api.CallName]bool{}
	}
	g.made[k.name], g.made[k.name+2] = true, true
}

// ours are the branches that the client itself has opened.
func (c *client) ours() (ours []*branch) {
	for _, b := range c.ghost.branches {
		if b.part == nil {
			ours = append(ours, b)
		}
	}
	return ours
}

// work goes on when every branch has its row, or has waited too long for it.
func (c *client) work(limit sim.Instant) {
	for _, b := range c.ours() {
		if b.lock() || b.failed {
			continue
		}
		if c.w.Now < limit {
			c.w.hit(RowWaitedFor)
			c.later(20*sim.Millisecond, func() { c.work(limit) })
			return
		}
		c.w.hit(LockTimedOut)
		b.failed = true
	}
	if c.ghost.alone {
		c.later(10*sim.Millisecond, c.commitAlone)
		return
	}
	c.later(10*sim.Millisecond, c.prepare)
}

// commitAlone commits the only branch in one phase, of which the cluster never hears.
func (c *client) commitAlone() {
	b, life := c.ghost.branches[0], c.life
	c.w.After(c.w.About(10*sim.Millisecond)+1, func() {
		done := b.commitAlone()
		if c.life == life {
			c.w.check.tellAlone(c.ghost, done)
			b.closeSession()
			c.rest()
		}
	})
}

func (c *client) prepare() {
	for _, a := range c.called {
		life := c.life
		c.w.poll(a, func(yes bool) {
			if c.life == life {
				c.vote(yes)
			}
		})
	}
	for _, b := range c.ours() {
		life := c.life
		// The statement is on its way: it is executed even when the client dies meanwhile,
		// unless its session is gone by then.
		c.w.After(c.w.About(10*sim.Millisecond)+1, func() {
			yes := b.prepare()
			switch {
			case c.w.planted == RollbackMeansPrepared:
				yes = true
			case c.w.planted == PrepareAgain && !yes:
				yes = b.prepareAgain()
			case yes && c.life != life:
				c.w.hit(PreparedTooLate)
			}
			if c.life == life {
				c.later(sim.Millisecond, func() { c.vote(yes) })
			}
		})
	}
}

func (c *client) vote(yes bool) {
	c.votes++
	c.no = c.no || !yes
	if c.votes < len(c.ours())+len(c.called) {
		return
	}
	if c.no {
		c.learn(txn.Abort) // presumed: the coordinator has never heard of it
		return
	}
	c.ghost.yes = true
	if pause := c.silent - c.w.Now; pause > 0 { // it was stopped with everything prepared
		life := c.life
		c.w.After(pause+1, func() {
			if c.life == life {
				c.beginToAsk()
			}
		})
		return
	}
	c.beginToAsk()
}

func (c *client) beginToAsk() {
	c.asking = c.w.Now
	c.patient, c.limit = c.w.Now+2*sim.Second, c.w.Now+10*sim.Second
	c.ask()
}

// ask asks for the decision until it is known or patience ends.
func (c *client) ask() {
	w := c.w
	if w.Now > c.limit {
		c.giveUp()
		return
	}
	n := c.target()
	kind := askOutcome
	if w.Now < c.patient {
		kind = askCommit
		c.asked = append(c.asked, n.Index)
	}
	op := w.check.history.ask(c.ghost.id, kind, w.Now)
	id, key, branches, life := c.ghost.id, c.ghost.key, c.branches(), c.life
	var result []byte
	if key != "" {
		result = []byte(id.String())
	}
	w.question(n, c.w.Chance(w.loss), func(request uint64) replica.Event {
		if kind == askCommit {
			return commit.CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Branches: branches,
				Key: key, Result: result}}
		}
		return commit.OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: id}}
	}, func(r commit.Reply) {
		if r.Err == nil {
			op.answer(r.Txn.Decision, w.Now)
		}
		if c.life == life {
			c.replied(kind, r)
		}
	}, func() {
		if c.life == life {
			c.lost = true
			c.ask()
		}
	})
}

func (c *client) branches() []txn.Branch {
	var out []txn.Branch
	all := c.ours()
	for _, a := range c.called {
		all = append(all, a.branches...)
	}
	for _, b := range all {
		r := txn.Branch{No: b.no, Resource: b.bank.name, Holder: "session"}
		if !b.bank.noMarker {
			r.Evidence = "evidence"
		}
		out = append(out, r)
	}
	return out
}

func (c *client) target() *sim.Node { return c.w.leaderOrAny() }

// leaderOrAny is the node whom a client takes for the leader.
func (w *world) leaderOrAny() *sim.Node {
	for _, i := range w.RNG.Perm(len(w.Nodes)) {
		if n := w.Nodes[i]; n.Up && n.Role.Role == zab.Leading && !w.Chance(0.1) {
			return n
		}
	}
	return w.AnyNode()
}

func (c *client) replied(kind operationKind, r commit.Reply) {
	w := c.w
	switch {
	case c.asking == 0: // it knows already
	case errors.Is(r.Err, txn.ErrTooOld):
		w.hit(TooOldRefused)
		c.giveUp()
	case r.Err != nil:
		c.later(100*sim.Millisecond, c.ask)
	default:
		if kind == askCommit && r.Txn.Decision == txn.Abort {
			w.hit(CommitBeatenByTombstone)
		}
		if r.Txn.Decision == txn.Abort && w.check.beaten(c.ghost) {
			w.hit(KeyUsedBefore)
		}
		if n := c.ghost.id.Lease(); n != 0 && r.Txn.Decision == txn.Abort && strings.HasSuffix(r.Txn.Reason,
			txn.LeaseEnded(n)) {
			w.hit(LeaseEndedUnderCommit)
			c.lease = 0
		}
		if r.Txn.Decision == txn.Commit && len(c.asked) > 1 && c.asked[0] != c.asked[len(c.asked)-1] {
			w.hit(CommitRetriedElsewhere)
		}
		if c.lost {
			w.hit(AnsweredAfterALostReply)
		}
		c.learn(r.Txn.Decision)
	}
}

// learn is the moment at which the application hears what became of it.
func (c *client) learn(d txn.Decision) {
	w := c.w
	c.asking = 0
	w.check.tell(c.ghost, d)
	if d == txn.Commit {
		w.hit(ClientToldCommit)
	} else {
		w.hit(ClientToldAbort)
	}
	if c.ghost.key != "" {
		w.lookUp(c.ghost)
	}
	for _, a := range c.called {
		w.tell(a, c.ghost.id, d, true)
	}
	left := len(c.ours())
	if left == 0 {
		c.rest()
	}
	for _, b := range c.ours() {
		c.later(10*sim.Millisecond, func() { c.finish(b, d, &left) })
	}
}

// finish ends a branch on its own session, and rests after the last one. What does not
// succeed is left to the cluster.
func (c *client) finish(b *branch, d txn.Decision, left *int) {
	life := c.life
	attempt{b: b, d: d, own: true, holder: true, evident: !b.bank.noMarker, done: func(f txn.Finish, err error) {
		if c.life != life {
			return
		}
		if err == nil && d == txn.Commit {
			c.report(b, f)
		}
		b.closeSession()
		if *left--; *left == 0 {
			c.rest()
		}
	}}.run()
}

func (c *client) report(b *branch, f txn.Finish) {
	n, xid := c.target(), b.xid()
	c.w.say(func() {
		c.w.Event(n, asked{event: commit.Finished{XID: xid, Finish: f, By: txn.FromClient, Who: "client",
			Why: "seen by its session"}})
	})
}

// rest ends a transaction, and begins another one after a while.
func (c *client) rest() {
	c.life++
	c.busy, c.asking = false, 0
	c.later(100*sim.Millisecond, c.begin)
}

// giveUp is the outcome "unknown". The sessions are closed; recovery does the rest.
func (c *client) giveUp() {
	c.w.hit(ClientNeverTold)
	if c.w.planted == PresumeCommit {
		for _, b := range c.ours() {
			b.end(txn.Commit, true)
		}
	}
	if c.w.planted == TryAgainAsAnother {
		c.again = c.ghost.job
	}
	c.close()
	c.rest()
}

// die is a crash of the application.
func (c *client) die() {
	c.w.hit(ClientCrashed)
	c.lease = 0
	c.close()
	c.rest()
}

func (c *client) close() {
	gone := c.w.odds(c.w.quirks.Vanish)
	for _, b := range c.ours() {
		if gone { // with its host: the database waits for a lease to run out
			c.w.After(c.w.roll(8*sim.Second), b.closeSession)
		} else if c.w.Chance(0.7) {
			b.closeSession()
		} else { // the database notices late, and executes what is under way before that
			c.w.After(c.w.About(sim.Second), b.closeSession)
		}
	}
}
