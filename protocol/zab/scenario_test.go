// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// These are scenarios 02, 04, 05 and 23 of testdata/traces at every point where they could
// happen. The ghost watches all of them.

// watched is a cluster of three whose leader n3 is established, and that knows a ghost.
func watched(t *testing.T) (*cluster, *ghost) {
	c := newCluster(3, 0, nil)
	g := watch(c)
	c.observe = func(h *host, e Effect) {
		g.look(h)
		g.effect(h, e)
	}
	for _, h := range c.hosts {
		require.NoError(t, c.start(h))
	}
	return c, g
}

func established(t *testing.T) (*cluster, *ghost) {
	c, g := watched(t)
	c.run(10)
	require.Same(t, c.hosts[2], c.leader())
	return c, g
}

// comeTogether starts who is down, and demands one leader to whom everybody is up to date,
// with all that the ghost has seen committed.
func comeTogether(t *testing.T, c *cluster, g *ghost, where string) {
	for _, h := range c.hosts {
		if h.core == nil {
			require.NoError(t, c.start(h), where)
		}
		h.stalled = false
	}
	c.run(150)
	g.survey()
	require.Empty(t, g.errs, where)
	l := c.leader()
	require.NotNil(t, l, "%s: nobody leads", where)
	c.propose(l, "at last")
	c.run(5)
	g.survey()
	require.Empty(t, g.errs, where)
	for _, h := range c.hosts {
		require.True(t, h.core.established, "%s: %s", where, h.core)
		require.Equal(t, l.core.commit, h.core.applied, "%s: %s", where, h.core)
		require.Equal(t, g.last(), h.core.applied, where)
	}
}

// The leader dies with entries of which each disk has some prefix, and says nothing of it or
// hears the acknowledgements first. Then any two nodes go on, with the third or without.
func TestNoPrefixThatTheDisksHaveWhenTheLeaderDiesLosesWhatWasCommitted(t *testing.T) {
	const most = 3
	stories, committed := 0, 0
	for entries := 0; entries <= most; entries++ {
		for prefixes := range (entries + 1) * (entries + 1) * (entries + 1) {
			for _, heard := range []bool{false, true} {
				for alone := range 3 {
					leaderDies(t, entries, prefixes, heard, alone, &committed)
					stories++
				}
			}
		}
	}
	require.Positive(t, committed)
	t.Logf("%d stories, in %d of them something was committed before the leader died", stories, committed)
}

func leaderDies(t *testing.T, entries, prefixes int, heard bool, alone int, committed *int) {
	where := fmt.Sprintf("%d entries, prefixes %d, heard %t, n%d away", entries, prefixes, heard, alone+1)
	c, g := established(t)
	for i := range entries {
		c.propose(c.hosts[2], fmt.Sprint(i))
	}
	for to := range 2 {
		for c.deliver(2, to) {
			continue
		}
	}
	for _, h := range c.hosts {
		c.persist(h, prefixes%(entries+1))
		prefixes /= entries + 1
	}
	for from := range 2 {
		for heard && c.deliver(from, 2) {
			continue
		}
	}
	g.look(c.hosts[2])
	if len(g.global) > 0 {
		*committed++
	}
	for _, h := range c.hosts {
		c.crash(h)
	}
	for i, h := range c.hosts { // two go on without the third
		if i != alone {
			require.NoError(t, c.start(h))
		}
	}
	c.run(60)
	g.survey()
	require.Empty(t, g.errs, where)
	require.NotNil(t, c.leader(), where)
	comeTogether(t, c, g, where)
}

// A disk fails at any one write of any node, from the first on: its process ends with what
// the disk had. The others go on, and so does the node when it is started again. Whoever of the
// other two dies next, the quorum that is left has everything.
func TestADiskErrorAtAnyWriteLosesNothing(t *testing.T) {
	errors := 0
	for failing := range 3 {
		for write := 1; ; write++ {
			hit := false
			for next := range 3 {
				hit = diskFails(t, failing, write, next)
			}
			if !hit {
				break
			}
			errors++
		}
	}
	require.GreaterOrEqual(t, errors, 15, "a promise, an epoch and three entries of each")
	t.Logf("%d failing writes, each followed by the death of each node", errors)
}

// diskFails reports whether there was such a write.
func diskFails(t *testing.T, failing, write, next int) (hit bool) {
	where := fmt.Sprintf("write %d of n%d, then n%d dies", write, failing+1, next+1)
	c, g := watched(t)
	done := 0
	// die ends the process at the write, when the disk has all before it.
	die := func() {
		h := c.hosts[failing]
		if h.core == nil || hit || h.core.issued < uint64(write) {
			return
		}
		for len(h.writes) > 0 && h.writes[0].ID < uint64(write) {
			c.persist(h, 1)
		}
		hit = true
		c.crash(h)
		for i, o := range c.hosts {
			if i != failing {
				c.step(o, PeerLost{h.cfg.ID})
			}
		}
	}
	for tick := range 60 {
		for i, h := range c.hosts {
			c.step(h, Tick{})
			h.stalled = i == failing && !hit // it goes on below, write by write
		}
		for busy := true; busy; {
			c.settle()
			h := c.hosts[failing]
			busy = false
			if die(); h.core != nil && !hit && len(h.writes) > 0 {
				h.stalled = false
				busy = c.persist(h, 1)
				h.stalled = true
			}
		}
		if l := c.leader(); l != nil && tick%10 == 9 && done < 3 {
			c.propose(l, fmt.Sprint(tick))
			done++
		}
	}
	c.hosts[failing].stalled = false
	require.Empty(t, g.errs, where)
	if h := c.hosts[failing]; h.core == nil {
		require.NoError(t, c.start(h))
		c.run(30)
	}
	c.crash(c.hosts[next])
	c.run(60)
	require.NotNil(t, c.leader(), where)
	comeTogether(t, c, g, where)
	return hit
}

// A node dies in the middle of its synchronization, with any prefix of its writes, and then
// each of the others dies: the quorum that is left elects, and has everything.
func TestEveryQuorumElectsAfterACrashBetweenHistoryAndEpoch(t *testing.T) {
	for prefix := range 5 {
		for dead := range 3 {
			where := fmt.Sprintf("%d writes, then n%d dies", prefix, dead+1)
			c, g := established(t)
			c.crash(c.hosts[0])
			for i := range 3 {
				c.propose(c.hosts[2], fmt.Sprint(i))
				c.settle()
			}
			h := c.hosts[0]
			require.NoError(t, c.start(h))
			h.stalled = true
			c.run(3)
			for range prefix {
				h.stalled = false
				c.persist(h, 1)
				h.stalled = true
				c.settle()
			}
			c.crash(h)
			c.crash(c.hosts[dead])
			h.stalled = false
			require.NoError(t, c.start(h))
			if dead == 0 {
				c.crash(h)
			}
			c.run(80)
			g.survey()
			require.Empty(t, g.errs, where)
			require.NotNil(t, c.leader(), where)
			comeTogether(t, c, g, where)
		}
	}
}
