// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// Log returns the state of the replicated log, for checks from outside.
func (c *Core) Log() zab.Status { return c.zab.Status() }

// Self is the node itself.
func (c *Core) Self() zab.NodeID { return c.config.Node }

// Known returns who the members are, as far as this node knows.
func (c *Core) Known() List { return c.list }

// Asleep reports whether this node waits with an empty store until it has met enough others.
func (c *Core) Asleep() bool { return c.asleep }

// Now is the time of the last tick.
func (c *Core) Now() time.Time { return c.now }

// Clock is the latest of the clocks of the nodes, as far as this one has heard of them.
func (c *Core) Clock() time.Time {
	if c.peersNow.After(c.now) {
		return c.peersNow
	}
	return c.now
}

// Zxid is the position in the log that the machine's state reflects.
func (c *Core) Zxid() zab.Zxid { return c.State().Zxid() }

// Leading reports whether this node leads, and its machine has all that earlier leaders committed.
func (c *Core) Leading() bool { return c.leading }

// Role is what this node is in the replicated log, as it last changed.
func (c *Core) Role() zab.RoleChanged { return c.role }

// Epoch is the reign that this node takes part in.
func (c *Core) Epoch() zab.Epoch { return c.role.Epoch }

// Stopped reports whether this node stopped for good: its state differs from that of too many.
func (c *Core) Stopped() bool { return c.diverged.Why != "" }

// Steps is how many steps the last turn took.
func (c *Core) Steps() int { return c.steps }
