// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Swarm is the configuration of one seed: the cluster's shape and which faults happen
// how often. Each fault family is off in half of the seeds, because faults that are
// always on hide each other. A rate is the mean time between two faults; zero is off.
type Swarm struct {
	Quiet bool // no fault at all

	Voters, Observers                    int
	Heartbeat, Sync, Init, Finalize      int // ticks, for zab.Config
	MaxUncommitted, MaxBatch, WindowSize int // bytes, for zab.Config
	TickSkew                             float64

	Latency   Instant // mean of the one-way delay
	Loss      float64 // per message: the connection dies with it
	HalfOpen  float64 // a dead connection is noticed only when it is opened again
	LateBytes float64 // per message under way on a dying connection: it arrives later
	Duplicate float64 // ditto: it arrives twice
	Cuts      Instant
	Partition Instant
	Flapping  Instant
	Forged    float64 // per ballot: its vote is replaced by a lie

	Fsync     Instant
	Stall     Instant // between two disks that get stuck
	Lag       Instant // mean delay from durable to Persisted
	ApplyTime Instant

	Crash    Instant
	MidCrash float64 // per step: the node dies after some of its effects
	Pause    Instant

	Proposals Instant // between two proposals
	Reads     Instant
	DeadCore  bool // a minority stays dead in the liveness phase

	Compact  Instant // between two offers to cut the log of a node
	Must     float64 // per offer: it has to be cut, whoever needs it
	BreakOff float64 // per part of a snapshot: the transfer ends with it

	DiskFail  Instant // between two writes that fail
	SlowDisk  float64 // how many times slower the disk of the first node is; 0 is as fast as the others
	Blackout  Instant // between two moments at which all nodes lose their power
	Replay    Instant // between two packets of dead connections that arrive after all
	Resign    Instant // between two wishes that a node should not lead
	LongPause Instant // mean length of a pause; zero is a second
	Sessions  int     // clients that go from node to node

	Changes Instant // between two changes of the members
	Moves   Instant // between two moves of leadership
	Gossip  Instant // between two words of each node to each other about who the members are
}

func drawSwarm(s *scheduler) Swarm {
	r := s.RNG
	w := Swarm{
		Voters:    []int{1, 3, 3, 3, 5}[r.IntN(5)],
		Observers: []int{0, 0, 1, 2}[r.IntN(4)],
		Heartbeat: 1, Sync: 8 + r.IntN(13), Init: 30 + r.IntN(71), Finalize: 2 + r.IntN(4),
		MaxUncommitted: 1 << 20, MaxBatch: 1 << 20, WindowSize: 1 << 20,
		Latency:   2 * Millisecond,
		Fsync:     5 * Millisecond,
		ApplyTime: 2 * Millisecond,
		Proposals: Instant(s.logUniform(float64(5*Millisecond), float64(200*Millisecond))),
		Reads:     Instant(s.logUniform(float64(20*Millisecond), float64(500*Millisecond))),
	}
	if s.Chance(0.5) {
		w.MaxBatch, w.WindowSize = 8+r.IntN(64), 8+r.IntN(256)
	}
	if s.Chance(0.2) {
		w.MaxUncommitted = 64 + r.IntN(512)
	}
	if s.Chance(0.05) {
		w.Quiet = true
		return w
	}
	rate := func(low, high Instant) Instant {
		if s.Chance(0.5) {
			return 0
		}
		return Instant(s.logUniform(float64(low), float64(high)))
	}
	share := func(low, high float64) float64 {
		if s.Chance(0.5) {
			return 0
		}
		return s.logUniform(low, high)
	}
	if s.Chance(0.5) {
		w.TickSkew = 0.33
	}
	w.Latency = Instant(s.logUniform(float64(Millisecond/2), float64(60*Millisecond)))
	w.Loss, w.HalfOpen = share(0.0005, 0.05), share(0.05, 1)
	w.LateBytes, w.Duplicate, w.Forged = share(0.05, 1), share(0.01, 0.5), share(0.01, 1)
	w.Cuts, w.Partition, w.Flapping = rate(Second/4, 10*Second), rate(Second/2, 10*Second), rate(Second/2, 10*Second)
	w.Fsync = Instant(s.logUniform(float64(Millisecond/2), float64(100*Millisecond)))
	w.Stall, w.Lag = rate(Second, 10*Second), rate(Millisecond, 100*Millisecond)
	w.ApplyTime = Instant(s.logUniform(float64(Millisecond/10), float64(200*Millisecond)))
	w.Crash, w.MidCrash, w.Pause = rate(Second/4, 10*Second), share(0.0002, 0.02), rate(Second/2, 10*Second)
	w.DeadCore = s.Chance(0.3)
	return w
}

// drawCompaction draws what became part of a Swarm later, with a generator of its own,
// so that older seeds stay what they were.
func (w *Swarm) drawCompaction(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x736e6170))
	if r.IntN(3) == 0 {
		return
	}
	w.Compact = Instant(float64(100*Millisecond) * math.Exp(r.Float64()*math.Log(100)))
	w.Must = []float64{0, 0.1, 1}[r.IntN(3)]
	if !w.Quiet {
		w.BreakOff = []float64{0, 0.02, 0.2}[r.IntN(3)]
	}
}

// drawLast draws what became part of a Swarm last, likewise.
func (w *Swarm) drawLast(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x73657373))
	rate := func(low, high float64) Instant {
		if r.IntN(2) == 0 {
			return 0
		}
		return Instant(float64(Second) * low * math.Exp(r.Float64()*math.Log(high/low)))
	}
	w.Sessions = 1 + r.IntN(4)
	if w.Quiet {
		return
	}
	w.Heartbeat = 1 + r.IntN(3)
	w.DiskFail, w.Blackout, w.Resign, w.Replay = rate(0.5, 10), rate(2, 20), rate(0.5, 10), rate(0.005, 1)
	if r.IntN(4) == 0 {
		w.SlowDisk = 2 + 98*r.Float64()
	}
	if r.IntN(2) == 0 {
		w.LongPause = 3 * Second
	}
	switch r.IntN(8) {
	case 0, 1: // snapshots everywhere, and nodes that die over them
		w.Compact, w.Must, w.BreakOff, w.Crash = 150*Millisecond, 1, 0.02, Second
	case 2: // nodes and disks that stop, and go on as if nothing had been
		w.Pause, w.LongPause, w.Stall, w.Fsync = 2*Second, 3*Second, Second, 20*Millisecond
		w.Reads = Second * 7 / 10
	case 3, 4: // elections without end, won by anybody, and promises that take their time
		w.Voters, w.Forged, w.Cuts, w.Resign, w.LateBytes = 3, 0.5, Second/2, Second, 1
		w.Fsync, w.Lag = 50*Millisecond, 100*Millisecond
	}
}

// drawMembers draws what changes about the members, likewise.
func (w *Swarm) drawMembers(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0x6d656d62))
	rate := func(low, high float64) Instant {
		return Instant(float64(Second) * low * math.Exp(r.Float64()*math.Log(high/low)))
	}
	if w.Quiet || r.IntN(3) > 0 {
		return
	}
	w.Changes, w.Gossip, w.DeadCore = rate(0.1, 2), Second/2, false
	if r.IntN(2) == 0 {
		w.Moves = rate(0.5, 5)
	}
	if r.IntN(3) == 0 { // many that come and go
		w.Voters, w.Observers, w.Crash, w.Changes = 4+r.IntN(2), r.IntN(2), Second, Second/8
	}
}

// Calm is the same cluster with its faults over.
func (w Swarm) Calm() Swarm {
	return Swarm{
		Quiet: true, Voters: w.Voters, Observers: w.Observers,
		Heartbeat: w.Heartbeat, Sync: w.Sync, Init: w.Init, Finalize: w.Finalize,
		MaxUncommitted: w.MaxUncommitted, MaxBatch: w.MaxBatch, WindowSize: w.WindowSize,
		Latency: 2 * Millisecond, Fsync: 5 * Millisecond, ApplyTime: 2 * Millisecond,
		DeadCore: w.DeadCore, Gossip: w.Gossip,
	}
}

// String prints the numbers that shape the run, for the head of a failure.
func (w Swarm) String() string { return fmt.Sprintf("%+v", w.plain()) }

// plain drops the String method, so that fmt prints the fields.
func (w Swarm) plain() any {
	type fields Swarm
	return fields(w)
}
