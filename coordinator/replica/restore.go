// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
)

// restore has the machine take its state anew after a snapshot took the place of the stored state.
func (c *Core) restore(z zab.Zxid) error {
	if err := c.machine.Load(); err != nil {
		return fmt.Errorf("restore from a snapshot of %v: %w", z, err)
	}
	if at := c.Zxid(); at != z {
		return fmt.Errorf("restore from a snapshot of %v: the store holds %v", z, at)
	}
	c.digests.reset()
	c.digests.add(z, c.State().Digest())
	c.onMembersDelivered()
	c.noticeLevel(c.State().Level())
	c.Note("the state is now that of a snapshot of %v", z)
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
