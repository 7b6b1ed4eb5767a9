// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func startedCluster(t *testing.T, voters, observers int) *cluster {
	t.Helper()
	c := newCluster(voters, observers, nil)
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	return c
}

func TestClusterElectsBroadcastsAndSurvivesItsLeader(t *testing.T) {
	for _, voters := range []int{1, 2, 3, 5} {
		c := startedCluster(t, voters, 1)
		c.run(10)
		leader := c.leader()
		require.NotNil(t, leader, "%d voters", voters)
		for i := range 10 {
			c.propose(leader, string(rune('a'+i)))
		}
		c.run(3)
		for _, h := range c.hosts {
			require.Len(t, h.machine, 10, "%d voters: %s", voters, h.core)
			require.True(t, h.core.Status().Established, "%s", h.core)
		}
		if voters < 3 {
			continue
		}
		c.crash(leader)
		for _, h := range c.hosts {
			c.step(h, PeerLost{leader.cfg.ID})
		}
		c.run(2)
		next := c.leader()
		require.NotNil(t, next, "%d voters", voters)
		require.NotEqual(t, leader, next)
		c.propose(next, "after")
		require.NoError(t, c.start(leader))
		c.run(10)
		for _, h := range c.hosts {
			s := h.core.Status()
			require.True(t, s.Established, "%s", h.core)
			require.Equal(t, next.core.Status().Commit, s.Applied, "%s", h.core)
		}
	}
}
