// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
)

// small is a cluster without faults that has run for a while: three voters and an observer,
// or as many voters as are asked for.
func small(seed uint64, voters, observers int) (*sim.Cluster, *workload) {
	c := sim.NewCluster(seed, sim.Options{Swarm: func(w *sim.Swarm) {
		*w = w.Calm()
		w.Quiet, w.DeadCore, w.Sessions = false, false, 0
		w.Voters, w.Observers = voters, observers
		w.Heartbeat, w.Sync, w.Init, w.Finalize = 1, 10, 40, 3
		w.Proposals, w.Reads = 50*sim.Millisecond, 100*sim.Millisecond
	}})
	w := newWorkload(c)
	for c.Check.Violation == nil && c.Now < 2*sim.Second && c.Next() {
	}
	return c, w
}

// TestEachLivenessCheckRejectsABadClusterAndAcceptsItsGoodTwin does something to a cluster
// that healing does not end. The two of a row differ only in what the check is about.
func TestEachLivenessCheckRejectsABadClusterAndAcceptsItsGoodTwin(t *testing.T) {
	goOn := func(c *sim.Cluster) { c.Until(c.Now+3*sim.Second, func() bool { return false }) }
	kill := func(c *sim.Cluster, ids ...int) {
		for _, id := range ids {
			c.Crash(c.Nodes[id-1])
			c.Nodes[id-1].Dead = true
		}
		goOn(c)
	}
	alone := func(c *sim.Cluster, id int, d sim.Instant) {
		cut := func() { c.Net.Split(func(n int) bool { return n == id-1 }, true, d) }
		cut()
		goOn(c)
		c.After(1, cut) // and once more when everything is healed
	}
	resign := func(c *sim.Cluster) { c.Event(c.Leader(), zab.Resigned{Reason: sim.ResignReason}) }
	for _, row := range []struct {
		id, name  string
		bad, good func(c *sim.Cluster)
	}{
		{"V1", "no quorum is left",
			func(c *sim.Cluster) { kill(c, 1, 2) },
			func(c *sim.Cluster) { kill(c, 1) }},
		{"V2", "a state machine hangs",
			func(c *sim.Cluster) { c.Nodes[1].Applying = true },
			func(c *sim.Cluster) { c.Nodes[1].Failing = true }},
		{"V4", "an observer is left out for good",
			func(c *sim.Cluster) { alone(c, 4, 1_000_000*sim.Second) },
			func(c *sim.Cluster) { alone(c, 4, 3*sim.Second) }},
		{"V5", "a leader gives up without a fault",
			func(c *sim.Cluster) { c.After(2*sim.Second, func() { resign(c) }) },
			func(c *sim.Cluster) { resign(c) }},
	} {
		t.Run(row.id+" "+row.name, func(t *testing.T) {
			good, w := small(1, 3, 1)
			require.Nil(t, good.Check.Violation)
			w.on = false
			row.good(good)
			w.live()
			require.Nil(t, good.Check.Violation)

			bad, w := small(1, 3, 1)
			w.on = false
			row.bad(bad)
			w.live()
			require.NotNil(t, bad.Check.Violation)
			require.Equal(t, row.id, bad.Check.Violation.ID, bad.Check.Violation.Detail)
		})
	}
}

// V6: links that are cut one way or both leave a quorum whose members all hear each other,
// one of which has the best vote. That is enough to go on, whatever else gets through.
func TestPartialMeshWithAConnectedQuorumGoesOn(t *testing.T) {
	for seed := uint64(1); seed <= 100; seed++ {
		c, _ := small(seed, 5, 0)
		require.Nil(t, c.Check.Violation)
		inQuorum := map[int]bool{bestVote(c).Index: true}
		for len(inQuorum) < 3 {
			inQuorum[c.RNG.IntN(5)] = true
		}
		for from := range c.Nodes {
			for to := range c.Nodes {
				if from != to && (!inQuorum[from] || !inQuorum[to]) && c.Chance(0.6) {
					c.Net.Cut(from, to, 1_000_000*sim.Second)
				}
			}
		}
		cut := c.Now
		before := len(c.Check.Committed)
		c.Until(cut+60*sim.Second, func() bool {
			if c.Now < cut+5*sim.Second { // by then what was committed before the cuts were felt is done
				before = len(c.Check.Committed)
			}
			return len(c.Check.Committed) > before+10
		})
		require.Nil(t, c.Check.Violation, "seed %d", seed)
		require.Greater(t, len(c.Check.Committed), before+10, "seed %d: V6: nothing was committed for a minute%s", seed,
			c.Describe())
	}
}

// bestVote is the node that wins every election in which it is heard.
func bestVote(c *sim.Cluster) *sim.Node {
	best := c.Nodes[0]
	for _, n := range c.Nodes[1:] {
		a, b := n.Host.Status(), best.Host.Status()
		if a.Hard.Current > b.Hard.Current || a.Hard.Current == b.Hard.Current && !a.Stable.Less(b.Stable) {
			best = n
		}
	}
	return best
}
