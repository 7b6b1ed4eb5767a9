// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package txnsim

import (
	"slices"
	"testing"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/internal/sim/simtest"
)

// hunted are the mistakes that coordinators, clients and workers could make. Checks that
// would notice them too, and sooner, are mute.
var hunted = map[string]simtest.Hunt{
	"X03": hunt(100, "DUR1"),
	"X07": hunt(1000, "AC1", "AC2"),
	"X08": hunt(1000, "AC1", "AC2", "AC3w", "A2"),
	"X11": hunt(100, "AC1"),
	"X12": hunt(1000, "AC5", "HEUR"),
	"X13": hunt(100, "AC5"),
	"X18": hunt(1000, "AC1", "AC2"),
	"X19": hunt(100, "FOREIGN"),
	"X20": {Seeds: 1000, Checks: []string{"AC4"}, Run: withoutFaults},
	"X31": hunt(500, "HEUR"),
	"X35": hunt(100, "AC1"),
	"X36": hunt(200, "LEASE"),
	"X38": huntWithAgents(1000, "T1", "T2", "T3"),
	"X40": huntWithAgents(1000, "T1", "T3"),
	"X57": hunt(200, "IDEM", "KEY"),
	"X60": huntWithServices(400, "JOIN"),
	"X61": huntWithServices(400, "JOIN"),
	"X62": huntWithServices(400, "JOIN", "AC1", "AC3"),
	"X64": huntWithVault(400, "A2"),
	"X65": huntWithVault(400, "A1"),
	"X66": huntWithVault(400, "A2"),
	"X67": huntWithVault(1000, "A2", "AC1", "AC2"),
	"X68": huntWithVault(400, "A4"),
	"X69": huntWithVault(400, "A2", "A4"),
}

func hunt(seeds uint64, checks ...string) simtest.Hunt {
	mute := slices.DeleteFunc([]string{"LIN", "HEUR", "AC6"},
		func(id string) bool { return slices.Contains(checks, id) })
	return simtest.Hunt{Seeds: seeds, Checks: checks, Run: func(seed uint64) error {
		_, err := Run(seed, Options{trace: true, Mute: mute})
		return err
	}}
}

// huntWithAgents runs only seeds that have agents.
func huntWithAgents(seeds uint64, checks ...string) simtest.Hunt {
	h := hunt(seeds, checks...)
	run := h.Run
	h.Run = func(seed uint64) error {
		if seed%5 != 0 {
			return nil
		}
		return run(seed)
	}
	return h
}

// huntWithServices runs only seeds that have services.
func huntWithServices(seeds uint64, checks ...string) simtest.Hunt {
	h := hunt(seeds, checks...)
	run := h.Run
	h.Run = func(seed uint64) error {
		if seed%8 != 3 || seed%5 == 0 {
			return nil
		}
		return run(seed)
	}
	return h
}

// huntWithVault runs only seeds that have a last resource.
func huntWithVault(seeds uint64, checks ...string) simtest.Hunt {
	h := hunt(seeds, checks...)
	run := h.Run
	h.Run = func(seed uint64) error {
		if !hasVault(seed) {
			return nil
		}
		return run(seed)
	}
	return h
}

// withoutFaults runs a seed only if it is one without faults.
func withoutFaults(seed uint64) error {
	if !sim.NewCluster(seed, sim.Options{}).Swarm.Quiet {
		return nil
	}
	_, err := Run(seed, Options{trace: true, Mute: []string{"AC6"}})
	return err
}

func TestMutants(t *testing.T) { simtest.Mutants(t, "internal/sim/txnsim", hunted) }
