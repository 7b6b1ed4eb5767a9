// SPDX-License-Identifier: Apache-2.0

package coordinator

import "github.com/concordtx/concord/protocol/zab"

// Log returns the state of the replicated log, for checks from outside.
func (c *Core) Log() zab.Status { return c.zab.Status() }
