// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package logsim

import (
	"testing"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/internal/sim/simtest"
)

// hunted are the mistakes that the replicated log could make. The core's own checks
// stop some of them too, but later: what counts is that the simulator sees them first.
var hunted = map[string]simtest.Hunt{
	"X01": {Checks: []string{"S10", "L5"}, Seeds: 50, Run: runLog(500, nil)},
	"X04": {Checks: []string{"S8"}, Seeds: 50, Run: runLog(500, nil)},
	"X05": {Checks: []string{"S2", "S3", "S6"}, Seeds: 3000, Run: runLog(1000, lateBytes)},
	"X21": {Checks: []string{"S7"}, Seeds: 500, Run: runLog(1000, nil)},
	"X22": {Checks: []string{"S10", "L5"}, Seeds: 50, Run: runLog(500, nil)},
	"X23": {Checks: []string{"S9"}, Seeds: 200, Run: runLog(1000, nil)},
	"X24": {Checks: []string{"S6"}, Seeds: 1000, Run: runLog(1000, nil)},
	"X25": {Checks: []string{"S15"}, Seeds: 500, Run: runLog(3000, pausedLeaders)},
	"X26": {Checks: []string{"S15"}, Seeds: 500, Run: runLog(3000, pausedLeaders)},
	"X32": {Checks: []string{"S4"}, Seeds: 200, Run: runLog(1000, nil)},
	"X37": {Checks: []string{"S8"}, Seeds: 500, Run: runLog(1000, changingMembers)},
	"X34": {Checks: []string{"V1", "V4"}, Seeds: 500, Run: runLog(1000, nil)},
}

// deeperMutants are those that are seen at first sight in what a node says, once more with
// that sight muted: then what a leader makes of it has to tell.
var deeperMutants = map[string]simtest.Hunt{
	"X01": {Checks: []string{"S10", "S8"}, Seeds: 50, Run: runLog(500, nil, "L5")},
	"X22": {Checks: []string{"S10"}, Seeds: 100, Run: runLog(500, nil, "L5")},
}

// TestMutantsAreSeenByDeeperChecksToo kills some mutants of the log without the first check
// that would.
func TestMutantsAreSeenByDeeperChecksToo(t *testing.T) {
	for id, h := range deeperMutants {
		t.Run(id, func(t *testing.T) { h.Kill(t, id) })
	}
}

// lateBytes is leaders that die often, and whose last words come late, to logs that
// wait for them.
func lateBytes(w *sim.Swarm) {
	w.Quiet = false
	w.Latency, w.Fsync, w.Proposals, w.Reads = 20*sim.Millisecond, sim.Millisecond, 40*sim.Millisecond, sim.Second
	w.Replay, w.Crash, w.Sync, w.Finalize, w.Lag = 3*sim.Millisecond, sim.Second, 8, 2, 0
	w.Pause, w.Stall, w.Blackout, w.Forged, w.Compact, w.DiskFail, w.SlowDisk = 0, 0, 0, 0, 0, 0, 0
}

// changingMembers is few nodes that come and go all the time, and leaders that die over it.
func changingMembers(w *sim.Swarm) {
	w.Quiet, w.DeadCore = false, false
	w.Voters, w.Observers, w.Sync, w.Finalize = 3, 0, 8, 2
	w.Latency, w.Fsync, w.Lag, w.Proposals, w.Reads = 5*sim.Millisecond, 5*sim.Millisecond, 0, 100*sim.Millisecond,
		sim.Second
	w.Changes, w.Gossip, w.Moves = 60*sim.Millisecond, sim.Second/4, 0
	w.Crash, w.Partition, w.Cuts, w.Loss = sim.Second, sim.Second, sim.Second, 0
	w.MidCrash, w.Blackout, w.Pause, w.Stall, w.Forged, w.Resign, w.Compact, w.DiskFail, w.SlowDisk = 0, 0, 0, 0, 0, 0,
		0, 0, 0
}

// pausedLeaders is nodes that stop for longer than it takes to elect another leader, and
// that are asked so rarely that the first question of all comes too late.
func pausedLeaders(w *sim.Swarm) {
	w.Quiet = false
	w.Voters, w.Observers, w.Heartbeat, w.Sync = 3, 0, 3, 8
	w.Latency, w.Fsync, w.Proposals, w.Reads = sim.Millisecond, sim.Millisecond, 50*sim.Millisecond, 700*sim.Millisecond
	w.Pause, w.LongPause = 2*sim.Second, 2*sim.Second
	w.Sessions = 0
	w.Crash, w.MidCrash, w.Blackout, w.Partition, w.Cuts, w.Loss = 0, 0, 0, 0, 0, 0
	w.DiskFail, w.SlowDisk, w.Stall, w.Forged, w.Resign, w.Compact = 0, 0, 0, 0, 0, 0
}

// runLog hunts with runs of the log alone, of so many steps.
func runLog(steps int, swarm func(*sim.Swarm), mute ...string) func(seed uint64) error {
	return func(seed uint64) error {
		_, err := Run(seed, sim.Options{Steps: steps, Swarm: swarm, Mute: mute})
		return err
	}
}

func TestMutants(t *testing.T) { simtest.Mutants(t, "internal/sim/logsim", hunted) }
