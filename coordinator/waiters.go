// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"slices"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

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

// ack is a request that waits for the delivery of a record, and of all before it: records of a
// leadership have numbers.
type ack struct {
	request uint64
	record  uint64
}

// ownEntry is an entry of this leadership that is not delivered yet.
type ownEntry struct {
	zxid zab.Zxid
	upto uint64 // its last record
}

// waiters are requests that wait for an entry: that it is delivered, and for a lease that it
// grants.
type waiters struct{ acks, leases []uint64 }

// numberWaiters has those who wait for the delivery of the batch wait for its last record.
func (c *Core) numberWaiters() {
	last := c.proposed + uint64(len(c.batch))
	for _, request := range c.waiters.acks {
		c.acks = append(c.acks, ack{request: request, record: last})
	}
	for _, request := range c.waiters.leases {
		c.grants = append(c.grants, ack{request: request, record: last})
	}
	c.waiters = waiters{}
}

// takeAcks takes those out who wait for records behind one and up to another.
func takeAcks(acks *[]ack, behind, upto uint64) (requests []uint64) {
	from, to := 0, 0
	for ; to < len(*acks) && (*acks)[to].record <= upto; to++ {
		if (*acks)[to].record <= behind {
			from++
		} else {
			requests = append(requests, (*acks)[to].request)
		}
	}
	if from == 0 { // as a rule
		*acks = (*acks)[to:]
	} else {
		*acks = slices.Delete(*acks, from, to)
	}
	return requests
}

// entryDelivered notes an own entry, and answers who waited for it.
func (c *Core) entryDelivered(z zab.Zxid, granted []txn.Lease) {
	if len(c.underway) == 0 || c.underway[0].zxid != z {
		return
	}
	upto := c.underway[0].upto
	c.underway = c.underway[1:]
	for _, request := range takeAcks(&c.acks, 0, upto) {
		c.reply(Reply{Request: request, Zxid: z})
	}
	c.granted(takeAcks(&c.grants, 0, upto), granted, z)
}

// refuseWaiters answers who waits for the next n records, which the log did not take.
func (c *Core) refuseWaiters(n int, err error) {
	for _, acks := range []*[]ack{&c.acks, &c.grants} {
		for _, request := range takeAcks(acks, c.proposed, c.proposed+uint64(n)) {
			c.reply(Reply{Request: request, Err: err})
		}
	}
}

// farewell is what a lost leadership leaves behind: requests that hear of it, a piece in a turn.
type farewell struct {
	asked askedList
	acks  []ack
	err   error
}

func (c *Core) failWaiting(err error) {
	c.numberWaiters()
	f := &farewell{asked: c.asked, acks: append(c.acks, c.grants...), err: err}
	for _, w := range c.changes.waiting {
		f.acks = append(f.acks, ack{request: w.request})
	}
	c.farewells = append(c.farewells, f)
	c.sayFarewell()
}

// sayFarewell goes on with the oldest farewell.
func (c *Core) sayFarewell() {
	if len(c.farewells) == 0 {
		return
	}
	f := c.farewells[0]
	for left := c.piece(); left > 0; left-- {
		switch l := f.asked.first; {
		case l != nil:
			for _, request := range l.requests {
				c.reply(Reply{Request: request, Err: f.err})
			}
			left -= len(l.requests)
			l.requests = nil
			f.asked.remove(l)
		case len(f.acks) > 0:
			c.reply(Reply{Request: f.acks[0].request, Err: f.err})
			f.acks = f.acks[1:]
		default:
			c.farewells = c.farewells[1:]
			return
		}
	}
}
