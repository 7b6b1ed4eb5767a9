// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"

	"github.com/concordtx/concord/protocol/zab"
)

// Options choose a run. The zero value is a sound cluster and a default length.
type Options struct {
	Steps   int            // of cores in the safety phase; zero means 3,000
	Planted Planted        // a bug of the driver
	Mute    []string       // ids of checks that are off
	Swarm   func(w *Swarm) // changes what was drawn, for directed runs

	Trace   bool
	Edition int            // 1 draws a Swarm as the first seeds did; zero is how it is done now
	Inhabit func(*Cluster) // puts larger hosts than bare cores on the nodes
}

// What bounds the liveness phase.
const (
	Reunion = 300 * Second // until one leader is established and has everybody
	// storm bounds the steps after healing, beyond those that an idle cluster makes: one that
	// needs more of them never rests.
	storm = 50_000
)

// StartFaults lets each fault family of the swarm happen again and again.
func (c *Cluster) StartFaults() {
	s := c.Swarm
	c.Again(s.Crash, func() {
		n := c.AnyNode()
		c.Crash(n)
		c.restartLater(n)
	})
	pause := Second
	if s.LongPause > 0 {
		pause = s.LongPause
	}
	c.Again(s.Pause, func() { c.pause(c.AnyNode(), c.About(pause)) })
	c.Again(s.Stall, func() { c.stall(c.AnyNode(), c.About(Second)) })
	c.Again(s.Cuts, func() {
		if from, to := c.RNG.IntN(len(c.Nodes)), c.RNG.IntN(len(c.Nodes)); from != to {
			c.Net.Cut(from, to, c.About(2*Second))
		}
	})
	c.Again(s.Partition, func() {
		mask := c.RNG.Uint64()
		c.Net.Split(func(n int) bool { return mask>>n&1 == 1 }, c.Chance(0.7), c.About(3*Second))
	})
	c.Again(s.Compact, func() { c.compact(c.AnyNode()) })
	c.Again(s.DiskFail, func() { c.AnyNode().Failing = true })
	c.Again(s.Blackout, c.blackout)
	c.Again(s.Replay, c.Net.replay)
	c.Again(s.Resign, func() { c.Event(c.AnyNode(), zab.Resigned{Reason: ResignReason}) })
	c.Again(s.Changes, c.changeMembers)
	if c.Propose != nil { // else people do
		c.Again(s.Moves, c.moveLeadership)
	}
	c.Again(s.Flapping, func() { c.flap(c.RNG.IntN(len(c.Nodes)), c.RNG.IntN(len(c.Nodes)), 20) })
}

func (c *Cluster) Again(mean Instant, fault func()) {
	if mean <= 0 {
		return
	}
	c.After(c.About(mean), func() {
		if !c.Healed {
			fault()
			c.Again(mean, fault)
		}
	})
}

func (c *Cluster) AnyNode() *Node { return c.Nodes[c.RNG.IntN(len(c.Nodes))] }

// stall keeps a disk from finishing a sync for a while.
func (c *Cluster) stall(n *Node, d Instant) {
	if !n.Up || n.syncing {
		return
	}
	n.syncing = true
	boot := n.Boot
	c.After(d, func() {
		if n.Boot == boot {
			n.syncing = false
			c.startSync(n)
		}
	})
}

// flap kills a connection several times in a row.
func (c *Cluster) flap(from, to, times int) {
	if from == to || times == 0 || c.Healed {
		return
	}
	c.Net.kill(c.Net.Links[from][to])
	c.After(c.About(100*Millisecond), func() { c.flap(from, to, times-1) })
}

// Until runs the cluster until the condition holds, which it asks every 10 ms.
func (c *Cluster) Until(deadline Instant, condition func() bool) bool {
	for c.Now < deadline && c.Check.Violation == nil {
		pause := c.Now + 10*Millisecond
		for len(c.heap) > 0 && c.heap[0].at <= pause && c.Check.Violation == nil {
			c.Next()
		}
		c.Now = pause
		idle := 4 * len(c.Nodes) * int((c.Now-c.healedAt)/(50*Millisecond))
		if c.Steps-c.stepsHealed > storm+idle {
			c.Check.Fail("V5", "%d steps after everything was healed, and no rest yet%s", c.Steps-c.stepsHealed,
				c.Describe())
			return false
		}
		if c.Check.Violation == nil && condition() {
			return true
		}
	}
	return false
}

// Heal ends all faults. In some seeds a minority of the voters stays dead.
func (c *Cluster) Heal() {
	c.Healed, c.WasFaulty, c.stepsHealed = true, !c.Swarm.Quiet, c.Steps
	c.healedAt = c.Now
	c.Swarm = c.Swarm.Calm()
	c.Net.heal(c.Swarm)
	mayDie := 0
	if c.Swarm.DeadCore && c.Founded() {
		mayDie = c.upTo((c.Swarm.Voters - 1) / 2)
	}
	removed := c.removed()
	for _, i := range c.RNG.Perm(len(c.Nodes)) {
		n := c.Nodes[i]
		if removed[n.ID] {
			c.Check.Counters.Hit(RemovedStayedDead)
			c.Crash(n)
			n.Dead = true
		}
		n.tick, n.Failing = 50*Millisecond, false
		if mayDie > 0 && !n.Observer {
			mayDie--
			c.Check.Counters.Hit(MinorityStayedDead)
			c.Crash(n)
			n.Dead = true
		}
	}
	for _, n := range c.Nodes {
		c.resume(n)
		if !n.Up && !n.Dead {
			c.boot(n)
		}
	}
	c.Trace.add("%s healed", c.Now)
}

// Reunited reports whether one leader is established and has everybody who is up. Both have to say
// so: who was let go and is taken back may believe that it follows, when the leader has only
// just learned to count on it, and ends its reign for want of a quorum.
func (c *Cluster) Reunited() bool {
	leader := c.Leader()
	if leader == nil || leader.Host.Status().Transfer != 0 || !c.Belongs(leader, leader) {
		return false // or its reign is about to end
	}
	synced := map[zab.NodeID]bool{leader.ID: true}
	for _, p := range leader.Host.Status().Peers {
		synced[p.ID] = p.Synced
	}
	for _, n := range c.Nodes {
		r := n.Role
		if !n.Dead && c.Belongs(leader, n) &&
			(!synced[n.ID] || !r.Established || r.Leader != leader.ID || r.Epoch != leader.Role.Epoch) {
			return false
		}
	}
	return true
}

// DisksRest reports whether the stalls that began before the healing are over: a leader
// whose disk still hangs gives up leading, and rightly so.
func (c *Cluster) DisksRest() bool {
	for _, n := range c.Nodes {
		if n.Up && (n.syncing || len(n.Disk.queue) > 0 || c.Now < n.reportAt) {
			return false
		}
	}
	return true
}

// LinksRest reports whether the leader and all who are up have heard of the connections between
// them that died before the healing: until then one may still lose the other, and rightly so.
func (c *Cluster) LinksRest() bool {
	leader := c.Leader()
	for _, n := range c.Nodes {
		if n.Up && n != leader && c.Belongs(leader, n) &&
			(c.Net.owed(leader.Index, n.Index) || c.Net.owed(n.Index, leader.Index)) {
			return false
		}
	}
	return true
}

// Leader is the established leader of the highest epoch, nil if there is none.
func (c *Cluster) Leader() *Node {
	var best *Node
	for _, n := range c.Nodes {
		if n.Up && n.Role.Role == zab.Leading && n.Role.Established && (best == nil || best.Role.Epoch < n.Role.Epoch) {
			best = n
		}
	}
	return best
}

func (c *Cluster) NotReunited() {
	leader := c.Leader()
	if leader == nil {
		c.Check.Fail("V1", "no leader is established %s after everything was healed%s", Reunion, c.Describe())
		return
	}
	c.Check.Fail("V4", "leader %d of epoch %d does not have everybody %s after everything was healed%s", leader.ID,
		leader.Role.Epoch, Reunion, c.Describe())
}

func (c *Cluster) AllApplied(count int) bool {
	leader := c.Leader()
	for _, n := range c.Nodes {
		if n.Up && leader != nil && c.Belongs(leader, n) && n.Disk.Applied < count {
			return false
		}
	}
	return true
}

func (c *Cluster) Describe() string {
	s := ""
	for _, n := range c.Nodes {
		switch {
		case !n.Up:
			s += fmt.Sprintf("\n  n%d is down", n.ID)
		default:
			s += fmt.Sprintf("\n  n%d %+v", n.ID, n.Host.Status())
		}
	}
	return s
}
