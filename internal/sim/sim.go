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

	trace   bool
	edition int            // 1 draws a Swarm as the first seeds did; zero is how it is done now
	inhabit func(*cluster) // puts larger hosts than bare cores on the nodes
}

// Result is what a run without a violation says of itself.
type Result struct {
	Hash      uint64 // of all events and messages, in order
	Steps     int
	Committed int
	Epochs    int
	Counters  Counters
}

// How long, in virtual time, the liveness phase may take.
const (
	reunion  = 300 * second // until one leader is established and has everybody
	delivery = 60 * second  // until what it accepts is applied everywhere
	calm     = 5 * second   // that the reign then has to last, at least
	// storm bounds the steps after healing, beyond those that an idle cluster makes: one that
	// needs more of them never rests.
	storm = 50_000
)

// Run runs one seed. The error is a *Violation with the trace that led to it.
func Run(seed uint64, o Options) (Result, error) {
	if o.Steps == 0 {
		o.Steps = 3000
	}
	c := runOnce(seed, o)
	v := c.check.violation
	if v == nil {
		return Result{
			Hash: c.trace.hash, Steps: c.steps, Committed: len(c.check.committed),
			Epochs: len(c.check.epochs), Counters: c.check.counters,
		}, nil
	}
	if !o.trace {
		// Printing every event costs more than running it, so only failures do, again.
		o.trace = true
		again := runOnce(seed, o)
		if w := again.check.violation; w == nil || w.ID != v.ID || w.Detail != v.Detail {
			v.Detail += " (a second run of the same seed went differently)"
		}
		v.Trace = again.trace.last()
	}
	v.Seed, v.Steps, v.At, v.Swarm = seed, c.steps, c.now, c.swarm
	return Result{Counters: c.check.counters}, v
}

func runOnce(seed uint64, o Options) *cluster {
	c := newCluster(seed, o)
	w := newWorkload(c)
	c.startFaults()
	for c.check.violation == nil && c.steps < o.Steps && c.next() {
	}
	w.on = false
	if c.check.violation == nil {
		c.live(w)
	}
	c.check.compare()
	return c
}

// startFaults lets each fault family of the swarm happen again and again.
func (c *cluster) startFaults() {
	s := c.swarm
	c.again(s.Crash, func() {
		n := c.anyNode()
		c.crash(n)
		c.restartLater(n)
	})
	pause := second
	if s.LongPause > 0 {
		pause = s.LongPause
	}
	c.again(s.Pause, func() { c.pause(c.anyNode(), c.about(pause)) })
	c.again(s.Stall, func() { c.stall(c.anyNode(), c.about(second)) })
	c.again(s.Cuts, func() {
		if from, to := c.rng.IntN(len(c.nodes)), c.rng.IntN(len(c.nodes)); from != to {
			c.net.cut(from, to, c.about(2*second))
		}
	})
	c.again(s.Partition, func() {
		mask := c.rng.Uint64()
		c.net.split(func(n int) bool { return mask>>n&1 == 1 }, c.chance(0.7), c.about(3*second))
	})
	c.again(s.Compact, func() { c.compact(c.anyNode()) })
	c.again(s.DiskFail, func() { c.anyNode().failing = true })
	c.again(s.Blackout, c.blackout)
	c.again(s.Replay, c.net.replay)
	c.again(s.Resign, func() { c.event(c.anyNode(), zab.Resigned{Reason: resignReason}) })
	c.again(s.Changes, c.changeMembers)
	if c.propose != nil { // else people do
		c.again(s.Moves, c.moveLeadership)
	}
	c.again(s.Flapping, func() { c.flap(c.rng.IntN(len(c.nodes)), c.rng.IntN(len(c.nodes)), 20) })
}

func (c *cluster) again(mean instant, fault func()) {
	if mean <= 0 {
		return
	}
	c.after(c.about(mean), func() {
		if !c.healed {
			fault()
			c.again(mean, fault)
		}
	})
}

func (c *cluster) anyNode() *node { return c.nodes[c.rng.IntN(len(c.nodes))] }

// stall keeps a disk from finishing a sync for a while.
func (c *cluster) stall(n *node, d instant) {
	if !n.up || n.syncing {
		return
	}
	n.syncing = true
	boot := n.boot
	c.after(d, func() {
		if n.boot == boot {
			n.syncing = false
			c.startSync(n)
		}
	})
}

// flap kills a connection several times in a row.
func (c *cluster) flap(from, to, times int) {
	if from == to || times == 0 || c.healed {
		return
	}
	c.net.kill(c.net.links[from][to])
	c.after(c.about(100*millisecond), func() { c.flap(from, to, times-1) })
}

// live is the second phase: all faults end, and the cluster must come back.
func (c *cluster) live(w *workload) {
	c.heal()
	deadline := c.now + reunion
	if !c.until(deadline, func() bool { return c.disksRest() && c.reunited() && c.linksRest() }) {
		c.notReunited()
		return
	}
	leader := c.leader()
	for range 5 {
		w.payloads++
		w.ask(request{node: leader, data: fmt.Appendf(nil, "after healing %d", w.payloads)})
	}
	expect := after(leader.disk.view, tail(leader.disk.view))
	if !c.until(c.now+delivery, func() bool { return c.allApplied(expect) }) {
		c.check.fail("V2", "%d entries of leader %d were not applied everywhere within %s%s", expect, leader.id, delivery, c.describe())
		return
	}
	epoch := leader.role.Epoch
	c.until(c.now+max(calm, instant(3*c.swarm.Sync)*50*millisecond), func() bool { return false })
	if now := c.leader(); c.check.violation == nil && (now != leader || now.role.Epoch != epoch) {
		c.check.fail("V5", "leader %d of epoch %d did not last without any fault%s", leader.id, epoch, c.describe())
	}
	if c.check.violation == nil && c.swarm.Quiet && !c.wasFaulty {
		c.quiet(w)
	}
}

// quiet is what a seed without faults must look like: one reign, and no proposal of it
// lost.
func (c *cluster) quiet(w *workload) {
	if n := len(c.check.epochs); n != 1 {
		c.check.fail("V5", "%d epochs without any fault", n)
	}
	if n := c.check.counters[ProposalsDropped]; n > 0 {
		c.check.fail("V2", "proposals were dropped %d times without any fault", n)
	}
}

// until runs the cluster until the condition holds, which it asks every 10 ms.
func (c *cluster) until(deadline instant, condition func() bool) bool {
	for c.now < deadline && c.check.violation == nil {
		pause := c.now + 10*millisecond
		for len(c.heap) > 0 && c.heap[0].at <= pause && c.check.violation == nil {
			c.next()
		}
		c.now = pause
		idle := 4 * len(c.nodes) * int((c.now-c.healedAt)/(50*millisecond))
		if c.steps-c.stepsHealed > storm+idle {
			c.check.fail("V5", "%d steps after everything was healed, and no rest yet%s", c.steps-c.stepsHealed, c.describe())
			return false
		}
		if c.check.violation == nil && condition() {
			return true
		}
	}
	return false
}

// heal ends all faults. In some seeds a minority of the voters stays dead.
func (c *cluster) heal() {
	c.healed, c.wasFaulty, c.stepsHealed = true, !c.swarm.Quiet, c.steps
	c.healedAt = c.now
	c.swarm = c.swarm.calm()
	c.net.heal(c.swarm)
	mayDie := 0
	if c.swarm.DeadCore && c.founded() {
		mayDie = c.upTo((c.swarm.Voters - 1) / 2)
	}
	removed := c.removed()
	for _, i := range c.rng.Perm(len(c.nodes)) {
		n := c.nodes[i]
		if removed[n.id] {
			c.check.counters.hit(RemovedStayedDead)
			c.crash(n)
			n.dead = true
		}
		n.tick, n.failing = 50*millisecond, false
		if mayDie > 0 && !n.observer {
			mayDie--
			c.check.counters.hit(MinorityStayedDead)
			c.crash(n)
			n.dead = true
		}
	}
	for _, n := range c.nodes {
		c.resume(n)
		if !n.up && !n.dead {
			c.boot(n)
		}
	}
	c.trace.add("%s healed", c.now)
}

// reunited reports whether one leader is established and has everybody who is up. Both have to say
// so: who was let go and is taken back may believe that it follows, when the leader has only
// just learned to count on it, and ends its reign for want of a quorum.
func (c *cluster) reunited() bool {
	leader := c.leader()
	if leader == nil || leader.host.Status().Transfer != 0 || !c.belongs(leader, leader) {
		return false // or its reign is about to end
	}
	synced := map[zab.NodeID]bool{leader.id: true}
	for _, p := range leader.host.Status().Peers {
		synced[p.ID] = p.Synced
	}
	for _, n := range c.nodes {
		r := n.role
		if !n.dead && c.belongs(leader, n) && (!synced[n.id] || !r.Established || r.Leader != leader.id || r.Epoch != leader.role.Epoch) {
			return false
		}
	}
	return true
}

// disksRest reports whether the stalls that began before the healing are over: a leader
// whose disk still hangs gives up leading, and rightly so.
func (c *cluster) disksRest() bool {
	for _, n := range c.nodes {
		if n.up && (n.syncing || len(n.disk.queue) > 0 || c.now < n.reportAt) {
			return false
		}
	}
	return true
}

// linksRest reports whether the leader and all who are up have heard of the connections between
// them that died before the healing: until then one may still lose the other, and rightly so.
func (c *cluster) linksRest() bool {
	leader := c.leader()
	for _, n := range c.nodes {
		if n.up && n != leader && c.belongs(leader, n) && (c.net.owed(leader.index, n.index) || c.net.owed(n.index, leader.index)) {
			return false
		}
	}
	return true
}

// leader is the established leader of the highest epoch, nil if there is none.
func (c *cluster) leader() *node {
	var best *node
	for _, n := range c.nodes {
		if n.up && n.role.Role == zab.Leading && n.role.Established && (best == nil || best.role.Epoch < n.role.Epoch) {
			best = n
		}
	}
	return best
}

func (c *cluster) notReunited() {
	leader := c.leader()
	if leader == nil {
		c.check.fail("V1", "no leader is established %s after everything was healed%s", reunion, c.describe())
		return
	}
	c.check.fail("V4", "leader %d of epoch %d does not have everybody %s after everything was healed%s", leader.id, leader.role.Epoch, reunion, c.describe())
}

func (c *cluster) allApplied(count int) bool {
	leader := c.leader()
	for _, n := range c.nodes {
		if n.up && leader != nil && c.belongs(leader, n) && n.disk.applied < count {
			return false
		}
	}
	return true
}

func (c *cluster) describe() string {
	s := ""
	for _, n := range c.nodes {
		switch {
		case !n.up:
			s += fmt.Sprintf("\n  n%d is down", n.id)
		default:
			s += fmt.Sprintf("\n  n%d %+v", n.id, n.host.Status())
		}
	}
	return s
}
