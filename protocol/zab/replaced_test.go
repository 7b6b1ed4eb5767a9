// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A blank disk counts the starts of its node from the beginning, so its sessions look older
// than those of the lost disk. They come over another connection, so the leader hears them.
func TestNodeWithABlankDiskIsTakenInByTheLeaderThatReigns(t *testing.T) {
	c := startedCluster(t, 3, 0)
	c.run(10)
	leader := c.leader()
	require.NotNil(t, leader)
	var victim *host
	for _, h := range c.hosts {
		if h != leader {
			victim = h
		}
	}
	restart := func() {
		c.crash(victim)
		for _, h := range c.hosts {
			c.step(h, PeerLost{victim.cfg.ID})
		}
		require.NoError(t, c.start(victim))
	}
	for range 3 {
		restart()
		c.run(10)
		require.True(t, victim.core.Status().Established, "%s", victim.core)
	}
	c.propose(leader, "before")
	c.run(3)

	*victim.disk = disk{}
	restart()
	c.run(20)
	require.Same(t, leader, c.leader(), "it need not end for that")
	require.True(t, victim.core.Status().Established, "%s", victim.core)
	c.propose(leader, "after")
	c.run(3)
	require.Len(t, victim.machine, 2)
}
