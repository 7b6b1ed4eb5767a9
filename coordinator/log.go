// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

// Log returns the state of the replicated log, for checks from outside.
func (c *Core) Log() zab.Status { return c.zab.Status() }

// Known returns who the members are, as far as this node knows.
func (c *Core) Known() replica.List { return c.list }

// Asleep reports whether this node waits with an empty store until it has met enough others.
func (c *Core) Asleep() bool { return c.asleep }
