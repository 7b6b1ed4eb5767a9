// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"slices"

	"github.com/concordtx/concord/protocol/zab"
)

// ack is a request that waits for the delivery of a record, and of all before it: records of a
// leadership have numbers.
type ack struct {
	request uint64
	record  uint64
	own     bool // it is answered here, and not by the machine
}

// ownEntry is an entry of this leadership that is not delivered yet.
type ownEntry struct {
	zxid zab.Zxid
	upto uint64 // its last record
}

// Await has a request wait for the delivery of all records that are proposed in this turn or wait
// to be. The machine answers it then, in Delivered.
func (c *Core) Await(request uint64) { c.waiters = append(c.waiters, ack{request: request}) }

// numberWaiters has those who wait for the delivery of the batch wait for its last record.
func (c *Core) numberWaiters() {
	last := c.proposed + uint64(len(c.batch))
	for _, w := range c.waiters {
		w.record = last
		c.acks = append(c.acks, w)
	}
	c.waiters = nil
}

// takeAcks takes those out who wait for records behind one and up to another.
func takeAcks(acks *[]ack, behind, upto uint64) (taken []ack) {
	from, to := 0, 0
	for ; to < len(*acks) && (*acks)[to].record <= upto; to++ {
		if (*acks)[to].record <= behind {
			from++
		} else {
			taken = append(taken, (*acks)[to])
		}
	}
	if from == 0 { // as a rule
		*acks = (*acks)[to:]
	} else {
		*acks = slices.Delete(*acks, from, to)
	}
	return taken
}

// entryDelivered notes an own entry, and has those answered who waited for it.
func (c *Core) entryDelivered(z zab.Zxid) {
	if len(c.underway) == 0 || c.underway[0].zxid != z {
		return
	}
	upto := c.underway[0].upto
	c.underway = c.underway[1:]
	var requests []uint64
	for _, a := range takeAcks(&c.acks, 0, upto) {
		if a.own {
			c.reply(Reply{Request: a.request, Zxid: z})
		} else {
			requests = append(requests, a.request)
		}
	}
	if len(requests) > 0 {
		c.machine.Delivered(requests)
	}
}

// refuseWaiters answers who waits for the next n records, which the log did not take. It returns
// those whom the machine has to answer.
func (c *Core) refuseWaiters(n int, err error) (requests []uint64) {
	for _, a := range takeAcks(&c.acks, c.proposed, c.proposed+uint64(n)) {
		if a.own {
			c.reply(Reply{Request: a.request, Err: err})
		} else {
			requests = append(requests, a.request)
		}
	}
	return requests
}

// farewell is what a lost leadership leaves behind: requests that hear of it, a piece in a turn.
type farewell struct {
	acks []ack
	err  error
}

func (c *Core) failWaiting(err error) {
	c.numberWaiters()
	f := farewell{acks: c.acks, err: err}
	for _, w := range c.changes.waiting {
		f.acks = append(f.acks, ack{request: w.request})
	}
	c.farewells = append(c.farewells, f)
	c.sayFarewell()
	c.machine.Resign(err)
}

// sayFarewell goes on with the oldest farewell.
func (c *Core) sayFarewell() {
	if len(c.farewells) == 0 {
		return
	}
	f := &c.farewells[0]
	for left := c.Piece(); left > 0; left-- {
		if len(f.acks) == 0 {
			c.farewells = c.farewells[1:]
			return
		}
		c.reply(Reply{Request: f.acks[0].request, Err: f.err})
		f.acks = f.acks[1:]
	}
}
