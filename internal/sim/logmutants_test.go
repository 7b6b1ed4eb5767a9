// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

import "testing"

// logMutants are the mistakes that the replicated log could make. The core's own checks
// stop some of them too, but later: what counts is that the simulator sees them first.
var logMutants = map[string]hunt{
	"X01": {checks: []string{"S10", "L5"}, seeds: 50, run: runLog(500, nil)},
	"X04": {checks: []string{"S8"}, seeds: 50, run: runLog(500, nil)},
	"X05": {checks: []string{"S2", "S3", "S6"}, seeds: 3000, run: runLog(1000, lateBytes)},
	"X21": {checks: []string{"S7"}, seeds: 500, run: runLog(1000, nil)},
	"X22": {checks: []string{"S10", "L5"}, seeds: 50, run: runLog(500, nil)},
	"X23": {checks: []string{"S9"}, seeds: 200, run: runLog(1000, nil)},
	"X24": {checks: []string{"S6"}, seeds: 1000, run: runLog(1000, nil)},
	"X25": {checks: []string{"S15"}, seeds: 500, run: runLog(3000, pausedLeaders)},
	"X26": {checks: []string{"S15"}, seeds: 500, run: runLog(3000, pausedLeaders)},
	"X32": {checks: []string{"S4"}, seeds: 200, run: runLog(1000, nil)},
	"X37": {checks: []string{"S8"}, seeds: 500, run: runLog(1000, changingMembers)},
	"X34": {checks: []string{"V1", "V4"}, seeds: 500, run: runLog(1000, nil)},
}

// deeperMutants are those that are seen at first sight in what a node says, once more with
// that sight muted: then what a leader makes of it has to tell.
var deeperMutants = map[string]hunt{
	"X01": {checks: []string{"S10", "S8"}, seeds: 50, run: runLog(500, nil, "L5")},
	"X22": {checks: []string{"S10"}, seeds: 100, run: runLog(500, nil, "L5")},
}

// TestMutantsAreSeenByDeeperChecksToo kills some mutants of the log without the first check
// that would.
func TestMutantsAreSeenByDeeperChecksToo(t *testing.T) {
	for id, h := range deeperMutants {
		t.Run(id, func(t *testing.T) { h.kill(t, id) })
	}
}

// lateBytes is leaders that die often, and whose last words come late, to logs that
// wait for them.
func lateBytes(w *Swarm) {
	w.Quiet = false
	w.Latency, w.Fsync, w.Proposals, w.Reads = 20*millisecond, millisecond, 40*millisecond, second
	w.Replay, w.Crash, w.Sync, w.Finalize, w.Lag = 3*millisecond, second, 8, 2, 0
	w.Pause, w.Stall, w.Blackout, w.Forged, w.Compact, w.DiskFail, w.SlowDisk = 0, 0, 0, 0, 0, 0, 0
}

// changingMembers is few nodes that come and go all the time, and leaders that die over it.
func changingMembers(w *Swarm) {
	w.Quiet, w.DeadCore = false, false
	w.Voters, w.Observers, w.Sync, w.Finalize = 3, 0, 8, 2
	w.Latency, w.Fsync, w.Lag, w.Proposals, w.Reads = 5*millisecond, 5*millisecond, 0, 100*millisecond, second
	w.Changes, w.Gossip, w.Moves = 60*millisecond, second/4, 0
	w.Crash, w.Partition, w.Cuts, w.Loss = second, second, second, 0
	w.MidCrash, w.Blackout, w.Pause, w.Stall, w.Forged, w.Resign, w.Compact, w.DiskFail, w.SlowDisk = 0, 0, 0, 0, 0, 0, 0, 0, 0
}

// pausedLeaders is nodes that stop for longer than it takes to elect another leader, and
// that are asked so rarely that the first question of all comes too late.
func pausedLeaders(w *Swarm) {
	w.Quiet = false
	w.Voters, w.Observers, w.Heartbeat, w.Sync = 3, 0, 3, 8
	w.Latency, w.Fsync, w.Proposals, w.Reads = millisecond, millisecond, 50*millisecond, 700*millisecond
	w.Pause, w.LongPause = 2*second, 2*second
	w.Sessions = 0
	w.Crash, w.MidCrash, w.Blackout, w.Partition, w.Cuts, w.Loss = 0, 0, 0, 0, 0, 0
	w.DiskFail, w.SlowDisk, w.Stall, w.Forged, w.Resign, w.Compact = 0, 0, 0, 0, 0, 0
}

// runLog hunts with runs of the log alone, of so many steps.
func runLog(steps int, swarm func(*Swarm), mute ...string) func(seed uint64) error {
	return func(seed uint64) error {
		_, err := Run(seed, Options{Steps: steps, Swarm: swarm, Mute: mute})
		return err
	}
}
