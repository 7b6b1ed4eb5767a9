// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Read has the machine answer a request when this node is sure to know everything that was decided
// before it was made. A quorum has to confirm that, so a leader that was stopped or cut off
// while another took its place answers nobody from its old state.
func (c *Core) Read(request uint64, e Event) error {
	c.reads[request] = e
	return c.stepLog(zab.ReadAsked{ID: request})
}

func (c *Core) onReadReady(request uint64) {
	if request == probeRead {
		c.doubt = doubt{}
		return
	}
	c.confirmed = append(c.confirmed, request)
}

// answerReads answers reads that were confirmed, and those that failed, a piece in a turn. What
// a read is answered from may be younger than its confirmation, never older.
func (c *Core) answerReads() {
	left := c.Piece()
	for ; left > 0 && len(c.confirmed) > 0; left-- {
		request := c.confirmed[0]
		c.confirmed = c.confirmed[1:]
		c.steps++
		e, ok := c.reads[request]
		delete(c.reads, request)
		if ok {
			c.machine.Answer(e)
		}
	}
	for ; left > 0 && len(c.failed) > 0; left-- {
		request := c.failed[0]
		c.failed = c.failed[1:]
		delete(c.reads, request)
		if err := c.Distrusted(); err != nil {
			c.reply(Reply{Request: request, Err: err})
			continue
		}
		c.reply(Reply{Request: request, Err: txn.Unavailablef("this node cannot tell whether it knows all decisions, " +
			"since no leader has confirmed it: ask another one, or run \"concord status\"")})
	}
}

func (c *Core) onReadFailed(request uint64) {
	if request == probeRead {
		c.doubt.asked = false // again, soon
		return
	}
	if _, ok := c.reads[request]; ok {
		c.failed = append(c.failed, request)
	}
}

// failReads fails all reads, of a node whose log goes on no more.
func (c *Core) failReads() {
	c.confirmed, c.failed = nil, slices.Sorted(maps.Keys(c.reads))
}

// A node that did not run for a while, because its process or its machine was stopped, cannot
// know how long that was by its ticks: it takes itself for what it was. So after a gap
// in the time that its ticks tell it doubts that, and says so, until a read is confirmed.

// probeRead is the number of that read. Requests have others.
const probeRead = 0

// PauseGap between two ticks is more than a busy machine makes.
const PauseGap = time.Second

// Doubts reports whether this node does not know whether it still is what it takes itself for.
func (c *Core) Doubts() bool { return c.doubt.has }

type doubt struct{ has, asked bool }

func (c *Core) noticePause(now time.Time) {
	if !c.now.IsZero() && now.Sub(c.now) > PauseGap {
		c.doubt.has = true
	}
}

// probe asks for the read that ends the doubt.
func (c *Core) probe() error {
	if !c.doubt.has || c.doubt.asked {
		return nil
	}
	c.doubt.asked = true
	return c.stepLog(zab.ReadAsked{ID: probeRead})
}
