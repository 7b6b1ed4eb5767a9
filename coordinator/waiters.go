// SPDX-License-Identifier: Apache-2.0

package coordinator

import "github.com/concordtx/concord/protocol/zab"

// maxWaiters requests may wait for the decision of one transaction.
const maxWaiters = 256

// waiters are the transactions that somebody waits for, in the order in which they were first
// asked about.
type waiters struct{ first, last *live }

func (w *waiters) push(l *live) {
	l.prev = w.last
	if w.last == nil {
		w.first = l
	} else {
		w.last.next = l
	}
	w.last = l
}

func (w *waiters) remove(l *live) {
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

// numberAcks has those who wait for the delivery of the batch wait for its last record.
func (c *Core) numberAcks() {
	for _, request := range c.batchAcks {
		c.acks = append(c.acks, ack{request: request, record: c.proposed + uint64(len(c.batch))})
	}
	c.batchAcks = c.batchAcks[:0]
}

// delivered notes an own entry, and answers who waited for it.
func (c *Core) delivered(z zab.Zxid) {
	if len(c.underway) == 0 || c.underway[0].zxid != z {
		return
	}
	c.answerAcks(c.underway[0].upto, Reply{Zxid: z})
	c.underway = c.underway[1:]
}

// answerAcks answers those who wait for records up to this one.
func (c *Core) answerAcks(upto uint64, r Reply) {
	for len(c.acks) > 0 && c.acks[0].record <= upto {
		r.Request = c.acks[0].request
		c.reply(r)
		c.acks = c.acks[1:]
	}
}

// farewell is what a lost leadership leaves behind: requests that hear of it, a piece in a turn.
type farewell struct {
	waiters waiters
	acks    []ack
	err     error
}

func (c *Core) failWaiting(err error) {
	c.numberAcks()
	c.farewells = append(c.farewells, &farewell{waiters: c.waiters, acks: c.acks, err: err})
	c.sayFarewell()
}

// sayFarewell goes on with the oldest farewell.
func (c *Core) sayFarewell() {
	if len(c.farewells) == 0 {
		return
	}
	f := c.farewells[0]
	for left := c.piece(); left > 0; left-- {
		switch l := f.waiters.first; {
		case l != nil:
			for _, request := range l.requests {
				c.reply(Reply{Request: request, Err: f.err})
			}
			left -= len(l.requests)
			l.requests = nil
			f.waiters.remove(l)
		case len(f.acks) > 0:
			c.reply(Reply{Request: f.acks[0].request, Err: f.err})
			f.acks = f.acks[1:]
		default:
			c.farewells = c.farewells[1:]
			return
		}
	}
}
