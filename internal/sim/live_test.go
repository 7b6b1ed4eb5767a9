// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// small is a cluster without faults that has run for a while: three voters and an observer,
// or as many voters as are asked for.
func small(seed uint64, voters, observers int) (*cluster, *workload) {
	c := newCluster(seed, Options{Swarm: func(w *Swarm) {
		*w = w.calm()
		w.Quiet, w.DeadCore, w.Sessions = false, false, 0
		w.Voters, w.Observers = voters, observers
		w.Heartbeat, w.Sync, w.Init, w.Finalize = 1, 10, 40, 3
		w.Proposals, w.Reads = 50*millisecond, 100*millisecond
	}})
	w := newWorkload(c)
	for c.check.violation == nil && c.now < 2*second && c.next() {
	}
	return c, w
}

// TestEachLivenessCheckRejectsABadClusterAndAcceptsItsGoodTwin does something to a cluster
// that healing does not end. The two of a row differ only in what the check is about.
func TestEachLivenessCheckRejectsABadClusterAndAcceptsItsGoodTwin(t *testing.T) {
	goOn := func(c *cluster) { c.until(c.now+3*second, func() bool { return false }) }
	kill := func(c *cluster, ids ...int) {
		for _, id := range ids {
			c.crash(c.nodes[id-1])
			c.nodes[id-1].dead = true
		}
		goOn(c)
	}
	alone := func(c *cluster, id int, d instant) {
		cut := func() { c.net.split(func(n int) bool { return n == id-1 }, true, d) }
		cut()
		goOn(c)
		c.after(1, cut) // and once more when everything is healed
	}
	resign := func(c *cluster) { c.event(c.leader(), zab.Resigned{Reason: resignReason}) }
	for _, row := range []struct {
		id, name  string
		bad, good func(c *cluster)
	}{
		{"V1", "no quorum is left",
			func(c *cluster) { kill(c, 1, 2) },
			func(c *cluster) { kill(c, 1) }},
		{"V2", "a state machine hangs",
			func(c *cluster) { c.nodes[1].applying = true },
			func(c *cluster) { c.nodes[1].failing = true }},
		{"V4", "an observer is left out for good",
			func(c *cluster) { alone(c, 4, 1_000_000*second) },
			func(c *cluster) { alone(c, 4, 3*second) }},
		{"V5", "a leader gives up without a fault",
			func(c *cluster) { c.after(2*second, func() { resign(c) }) },
			func(c *cluster) { resign(c) }},
	} {
		t.Run(row.id+" "+row.name, func(t *testing.T) {
			good, w := small(1, 3, 1)
			require.Nil(t, good.check.violation)
			w.on = false
			row.good(good)
			good.live(w)
			require.Nil(t, good.check.violation)

			bad, w := small(1, 3, 1)
			w.on = false
			row.bad(bad)
			bad.live(w)
			require.NotNil(t, bad.check.violation)
			require.Equal(t, row.id, bad.check.violation.ID, bad.check.violation.Detail)
		})
	}
}

// V6: links that are cut one way or both leave a quorum whose members all hear each other,
// one of which has the best vote. That is enough to go on, whatever else gets through.
func TestPartialMeshWithAConnectedQuorumGoesOn(t *testing.T) {
	for seed := uint64(1); seed <= 100; seed++ {
		c, _ := small(seed, 5, 0)
		require.Nil(t, c.check.violation)
		inQuorum := map[int]bool{c.bestVote().index: true}
		for len(inQuorum) < 3 {
			inQuorum[c.rng.IntN(5)] = true
		}
		for from := range c.nodes {
			for to := range c.nodes {
				if from != to && (!inQuorum[from] || !inQuorum[to]) && c.chance(0.6) {
					c.net.cut(from, to, 1_000_000*second)
				}
			}
		}
		cut := c.now
		before := len(c.check.committed)
		c.until(cut+60*second, func() bool {
			if c.now < cut+5*second { // by then what was committed before the cuts were felt is done
				before = len(c.check.committed)
			}
			return len(c.check.committed) > before+10
		})
		require.Nil(t, c.check.violation, "seed %d", seed)
		require.Greater(t, len(c.check.committed), before+10, "seed %d: V6: nothing was committed for a minute%s", seed, c.describe())
	}
}

// bestVote is the node that wins every election in which it is heard.
func (c *cluster) bestVote() *node {
	best := c.nodes[0]
	for _, n := range c.nodes[1:] {
		a, b := n.host.Status(), best.host.Status()
		if a.Hard.Current > b.Hard.Current || a.Hard.Current == b.Hard.Current && !a.Stable.Less(b.Stable) {
			best = n
		}
	}
	return best
}
