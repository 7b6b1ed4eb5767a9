// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"fmt"

	"github.com/concordtx/concord/internal/sim"
)

// Result is what a run without a violation says of itself.
type Result struct {
	Hash      uint64 // of all events and messages, in order
	Steps     int
	Committed int
	Epochs    int
	Counters  sim.Counters
}

// Run runs one seed. The error is a *Violation with the trace that led to it.
func Run(seed uint64, o sim.Options) (Result, error) {
	if o.Steps == 0 {
		o.Steps = 3000
	}
	c := runOnce(seed, o)
	v := c.Check.Violation
	if v == nil {
		return Result{
			Hash: c.Trace.Hash, Steps: c.Steps, Committed: len(c.Check.Committed),
			Epochs: len(c.Check.Epochs), Counters: c.Check.Counters,
		}, nil
	}
	if !o.Trace {
		// Printing every event costs more than running it, so only failures do, again.
		o.Trace = true
		again := runOnce(seed, o)
		if w := again.Check.Violation; w == nil || w.ID != v.ID || w.Detail != v.Detail {
			v.Detail += " (a second run of the same seed went differently)"
		}
		v.Trace = again.Trace.Last()
	}
	v.Seed, v.Steps, v.At, v.Swarm, v.Replay = seed, c.Steps, c.Now, c.Swarm, "./internal/sim/logsim -run 'TestSim$'"
	return Result{Counters: c.Check.Counters}, v
}

func runOnce(seed uint64, o sim.Options) *sim.Cluster {
	c := sim.NewCluster(seed, o)
	w := newWorkload(c)
	c.StartFaults()
	for c.Check.Violation == nil && c.Steps < o.Steps && c.Next() {
	}
	w.on = false
	if c.Check.Violation == nil {
		w.live()
	}
	c.Check.Compare()
	return c
}

// How long, in virtual time, the liveness phase may take, beyond sim.Reunion.
const (
	delivery = 60 * sim.Second // until what the leader accepts is applied everywhere
	calm     = 5 * sim.Second  // that its reign then has to last, at least
)

// live is the second phase: all faults end, and the cluster must come back.
func (w *workload) live() {
	c := w.c
	c.Heal()
	deadline := c.Now + sim.Reunion
	if !c.Until(deadline, func() bool { return c.DisksRest() && c.Reunited() && c.LinksRest() }) {
		c.NotReunited()
		return
	}
	leader := c.Leader()
	for range 5 {
		w.payloads++
		w.ask(request{node: leader, data: fmt.Appendf(nil, "after healing %d", w.payloads)})
	}
	expect := sim.After(leader.Disk.View, sim.Tail(leader.Disk.View))
	if !c.Until(c.Now+delivery, func() bool { return c.AllApplied(expect) }) {
		c.Check.Fail("V2", "%d entries of leader %d were not applied everywhere within %s%s", expect, leader.ID,
			delivery, c.Describe())
		return
	}
	epoch := leader.Role.Epoch
	c.Until(c.Now+max(calm, sim.Instant(3*c.Swarm.Sync)*50*sim.Millisecond), func() bool { return false })
	if now := c.Leader(); c.Check.Violation == nil && (now != leader || now.Role.Epoch != epoch) {
		c.Check.Fail("V5", "leader %d of epoch %d did not last without any fault%s", leader.ID, epoch, c.Describe())
	}
	if c.Check.Violation == nil && c.Swarm.Quiet && !c.WasFaulty {
		w.quiet()
	}
}

// quiet is what a seed without faults must look like: one reign, and no proposal of it
// lost.
func (w *workload) quiet() {
	c := w.c
	if n := len(c.Check.Epochs); n != 1 {
		c.Check.Fail("V5", "%d epochs without any fault", n)
	}
	if n := c.Check.Counters[sim.ProposalsDropped]; n > 0 {
		c.Check.Fail("V2", "proposals were dropped %d times without any fault", n)
	}
}
