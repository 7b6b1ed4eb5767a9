// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// live is a transaction that the leader has in hand: somebody waits for its decision,
// or it is committed and has branches to finish. What is done about it is the
// business of its core; live holds what that core has no use for.
type live struct {
	id       txn.ID
	core     protocol.Transaction
	council  *council         // of a three-phase transaction
	requests []uint64         // that wait for the decision
	record   txn.CommitRecord // what is known of it; its core says which branches it is to have
	seen     bool             // a prepared branch was seen, or whoever began it says that there were several
	asking   asking           // of its last resource
	proposed bool             // something of it is in the log, or on its way
	trace    string           // of its commit request, if this node got that
	branches []branch         // of a commit; never moved, as heaps point into it

	next, prev *live // in asked, while there are requests
}

// branch is a branch of a committed transaction in hand.
type branch struct {
	*txn.Branch // of the table, never changed
	of          *live
	open        bool // nobody has reported it finished
	work             // while it is open
	at          int  // its place among the open ones of its resource
}

func (b *branch) transaction() txn.ID { return b.of.id }
func (b *branch) place() *int         { return &b.at }

// work is how far the cluster is with finishing a branch. The client that prepared
// it finishes it itself as a rule; when due has come the recovery workers do it, for
// ever if need be.
type work struct {
	due      time.Time
	attempts int
	err      string
	failed   time.Time // the last attempt
	era      uint64    // of its resource, in which they were made; see due
}

// branch returns the branch with a number, nil if there is none in hand.
func (l *live) branch(no txn.BranchNo) *branch {
	if l == nil {
		return nil
	}
	for i := range l.branches {
		if l.branches[i].No == no {
			return &l.branches[i]
		}
	}
	return nil
}

// working reports whether a branch is to be finished.
func (l *live) working(no txn.BranchNo) bool {
	b := l.branch(no)
	return b != nil && b.open
}

// wait lets a request wait for the decision on id.
func (c *Machine) wait(request uint64, id txn.ID) *live {
	l := c.hold(id)
	if len(l.requests) == 0 {
		c.asked.push(l)
	}
	l.requests = append(l.requests, request)
	return l
}

func (c *Machine) hold(id txn.ID) *live {
	l, ok := c.live[id]
	if !ok {
		l = c.newLive(id)
		c.live[id] = l
		if l.council != nil {
			c.schedule(l)
		}
	}
	return l
}

// inHand returns what the leader has in hand of a transaction, nil if there is nothing to do about
// it. What is committed and not ended is taken in hand if the take-over has not come by yet.
func (c *Machine) inHand(id txn.ID) *live {
	if l := c.live[id]; l != nil || !c.taking {
		return l
	}
	if x, ok := c.table.Get(id); ok && x.Decision == txn.Commit && !x.Ended {
		c.resume(x)
	}
	return c.live[id]
}

// resume takes the branches of a committed transaction in hand.
func (c *Machine) resume(x txn.Txn) {
	var finished []txn.BranchNo
	for _, h := range x.Heuristics {
		finished = append(finished, h.Branch)
	}
	l, ok := c.live[x.ID]
	if !ok {
		l = resumeLive(x, finished)
		c.live[x.ID] = l
		if len(l.core.Unfinished()) == 0 { // an earlier leader reported the last branch, and did not come to the end
			c.end(l)
			return
		}
	}
	due := c.core.Now().Add(c.config.Rules.Grace)
	if x.By == txn.FromOperator { // there is no client that finishes it
		due = c.core.Now()
	}
	for i := range l.branches {
		c.putDown(&l.branches[i])
	}
	l.branches = make([]branch, len(x.Branches))
	for i := range x.Branches {
		b := &x.Branches[i]
		l.branches[i] = branch{Branch: b, of: l}
		if !slices.Contains(finished, b.No) {
			c.takeUp(&l.branches[i], due)
		}
	}
	c.core.Spend(len(x.Branches))
}

// giveUp answers everybody who waits for a decision that does not come from here.
func (c *Machine) giveUp(id txn.ID, err error) {
	if l := c.live[id]; l != nil {
		c.answer(l, Reply{Err: err})
		c.letGo(id)
	}
}

// tell tells the decision that the log has to everybody who waits for it.
func (c *Machine) tell(l *live, x txn.Txn) {
	x.Seen = x.Seen || l.seen
	c.answer(l, Reply{Zxid: c.core.Zxid(), Txn: x})
}

func (c *Machine) answer(l *live, r Reply) {
	if len(l.requests) == 0 {
		return
	}
	for _, request := range l.requests {
		r.Request = request
		c.reply(r)
	}
	l.requests = nil
	c.asked.remove(l)
}

// size is about how many bytes a decision takes in the log.
func size(l *live, p protocol.Propose) int {
	r := l.record
	n := 32 + len(r.Key) + len(r.Result) + len(r.Label) + len(r.Reason) + len(p.Reason)
	for _, b := range p.Branches {
		n += 4 + len(b.Resource) + len(b.Evidence) + len(b.Holder)
	}
	return n
}

// carry carries out what the core of a transaction asks for.
func (c *Machine) carry(l *live, effects []protocol.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case protocol.Propose:
			if e.Decision == txn.Commit {
				r := l.record
				r.ID, r.Branches = l.id, e.Branches
				c.core.Propose(r)
				if mutant.ReplyBeforeQuorum {
					c.answer(l, Reply{Txn: txn.Txn{ID: l.id, Decision: txn.Commit}})
				}
			} else {
				c.core.Propose(txn.AbortRecord{ID: l.id, By: l.record.By, Reason: e.Reason,
					Seen: l.seen})
			}
			c.core.Weigh(size(l, e))
			l.proposed = true
		case protocol.Reply:
			if l.council != nil { // in two phases it comes with a verdict, and onVerdict tells that
				c.proven(l, e)
			}
		case threepc.Propose:
			c.noteLives(l, e.Record)
			c.core.Propose(e.Record)
			c.core.Weigh(weight(e.Record))
			l.proposed = true
		case threepc.Send:
			c.send(l, e)
		case threepc.Blocked:
			c.blocked(l, e)
		case threepc.Breach:
			c.breach(l.id, e.From.String(), e.Told, e.Known)
		case twopc.Settle:
			c.toSettle(l, e.Again)
		case protocol.Finish:
			// Agents finish what they are told, and the workers what is not reported.
		case protocol.End:
			c.end(l)
		case protocol.Alarm:
			// onFinished has recorded it, with who says so and why.
		default:
			panic(fmt.Sprintf("commit: no transaction asks for %T", e))
		}
	}
	if l.council != nil {
		c.schedule(l)
	}
}

// maxWaiters requests may wait for the decision of one transaction.
const maxWaiters = 256

// askedList has the transactions that somebody waits for, in the order in which they were first
// asked about.
type askedList struct{ first, last *live }

func (w *askedList) push(l *live) {
	l.prev = w.last
	if w.last == nil {
		w.first = l
	} else {
		w.last.next = l
	}
	w.last = l
}

func (w *askedList) remove(l *live) {
	if l.prev == nil {
		w.first = l.next
	} else {
		l.prev.next = l.next
	}
	if l.next == nil {
		w.last = l.prev
	} else {
		l.next.prev = l.prev
	}
	l.next, l.prev = nil, nil
}

// parting is what a lost leadership leaves behind: transactions of which whoever waits hears of
// it, a piece in a turn.
type parting struct {
	asked askedList
	err   error
}

// sayFarewell goes on with the oldest parting.
func (c *Machine) sayFarewell() {
	if len(c.partings) == 0 {
		return
	}
	p := c.partings[0]
	for left := c.core.Piece(); left > 0; left-- {
		l := p.asked.first
		if l == nil {
			c.partings = c.partings[1:]
			return
		}
		for _, request := range l.requests {
			c.reply(Reply{Request: request, Err: p.err})
		}
		left -= len(l.requests)
		l.requests = nil
		p.asked.remove(l)
	}
}
