// SPDX-License-Identifier: Apache-2.0

package replica

import "github.com/concordtx/concord/protocol/zab"

// Nobody gets an answer while a turn goes on, so a turn must not take longer because there is
// much of something: open or finished transactions, listed branches, requests, log entries. A
// step is what is done about one of them. A turn counts its steps, handles events until there were
// TurnSteps, and then does a piece of each kind of work that is left over from earlier turns. One event
// takes at most as many steps as an entry has records, or a transaction has waiters and branches.
// What is left is gone on with at once, between the events that come meanwhile.

const (
	defaultTurnSteps = 1024
	// pieces of a turn's steps are taken of each kind of work that is left over.
	pieces = 4
)

// Piece is how many steps of one kind of left-over work are taken in a turn.
func (c *Core) Piece() int { return max(1, c.config.TurnSteps/pieces) }

// Step handles one turn: some events, in order, as far as they fit in; the rest are the first of
// the next turn. Records that they give rise to share log entries.
func (c *Core) Step(events ...Event) (*Effects, error) {
	c.fx = Effects{Send: c.fx.Send[:0], Write: c.fx.Write[:0], Reply: c.fx.Reply[:0], Notes: c.fx.Notes[:0]}
	c.steps = 0
	applied := c.Zxid()
	if len(c.left) > 0 {
		events = append(c.left, events...)
		c.left = nil
	}
	for i, e := range events {
		if c.steps >= c.config.TurnSteps {
			c.left = append(c.left, events[i:]...)
			break
		}
		c.steps++
		if c.diverged.Why != "" {
			c.refuseAll(e)
			continue
		}
		if err := c.handle(e); err != nil {
			return nil, err
		}
	}
	if err := c.goOn(); err != nil {
		return nil, err
	}
	if applied != c.Zxid() {
		c.answerSeen()
	}
	if err := c.propose(); err != nil {
		return nil, err
	}
	return &c.fx, nil
}

// goOn does a piece of each kind of work that is left over.
func (c *Core) goOn() error {
	if applied := c.unsaid; !applied.IsZero() {
		c.unsaid = zab.Zxid{}
		if c.diverged.Why != "" {
			return nil
		}
		if err := c.stepLog(zab.Applied{Upto: applied}); err != nil {
			return err
		}
	}
	c.answerReads()
	c.sayFarewell()
	c.machine.GoOn()
	return nil
}

// More reports whether work is left that no event will bring on.
func (c *Core) More() bool {
	return len(c.left)+len(c.confirmed)+len(c.failed)+len(c.farewells) > 0 || !c.unsaid.IsZero() || c.machine.More()
}

// Left returns how many events wait for the next turn.
func (c *Core) Left() int { return len(c.left) }
