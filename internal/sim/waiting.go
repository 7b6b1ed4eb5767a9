// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/concordtx/concord/protocol/zab"

// waits is V3: a node does not stay in discovery or synchronization for more than its
// limit of ticks without a step forward, whatever the others do. It counts the ticks that
// the core was given, so a pause is no excuse and no offence.
func (c *Checker) waits(g *Ghost, ev zab.Event, effects []zab.Effect, s zab.Status, limit int) {
	switch {
	case s.Established || s.Role == zab.Looking || c.movedOn(g, ev, effects):
		g.waited = 0
	case isTick(ev):
		g.waited++
	}
	if g.waited > limit+1 { // the core counts from the tick before
		c.Fail("V3", "node %d, %s in %s of epoch %d, made no step forward for %d ticks", g.ID, s.Role, s.Phase, s.Epoch,
			g.waited)
	}
}

func isTick(ev zab.Event) bool {
	_, ok := ev.(zab.Tick)
	return ok
}

// movedOn reports whether something went forward in a step: as seen from outside, by what
// came or by what the core wants to be done.
func (c *Checker) movedOn(g *Ghost, ev zab.Event, effects []zab.Effect) bool {
	switch ev := ev.(type) {
	case zab.SnapshotMoved:
		return true
	case zab.Received:
		switch ev.Message.Body.(type) {
		case zab.Sync, zab.Ack, zab.AckNewLeader:
			return true
		}
	}
	moved := false
	for _, e := range effects {
		switch e := e.(type) {
		case zab.Write, zab.RoleChanged, zab.FetchSnapshot, zab.Restored:
			moved = true
		case zab.Send:
			if _, ok := e.Message.Body.(zab.FollowerInfo); ok && e.Message.Session != g.session {
				g.session, moved = e.Message.Session, true
			}
		}
	}
	return moved
}
