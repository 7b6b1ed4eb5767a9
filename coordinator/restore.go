// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
)

// restore makes the table anew after a snapshot took the place of the stored state.
func (c *Core) restore(z zab.Zxid) error {
	if c.config.Reload == nil {
		return fmt.Errorf("restore from a snapshot of %v: there is no store to read it from", z)
	}
	table, err := c.config.Reload()
	if err != nil {
		return fmt.Errorf("restore from a snapshot of %v: %w", z, err)
	}
	c.table = table
	if at := c.zxid(); at != z {
		return fmt.Errorf("restore from a snapshot of %v: the store holds %v", z, at)
	}
	c.digests.reset()
	c.digests.add(z, table.Meta().Digest)
	c.onMembersDelivered()
	c.noticeLevel(table.Level())
	c.note("the state is that of a snapshot of %v now, with %d open transactions", z, table.OpenCount())
	return nil
}

// onPeer hands an event to the replicated log. A staged snapshot that the log does not
// want is given back.
func (c *Core) onPeer(e zab.Event) error {
	writes := len(c.fx.Write)
	if err := c.stepLog(e); err != nil {
		return err
	}
	if e, ok := e.(zab.SnapshotStaged); ok {
		for _, w := range c.fx.Write[writes:] {
			if w.Install != nil {
				return nil
			}
		}
		c.fx.Discard = e.Snapshot.Ref
	}
	return nil
}
