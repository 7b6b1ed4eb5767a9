// SPDX-License-Identifier: Apache-2.0

// Package sim runs whole clusters of real cores inside one goroutine, on virtual
// time, a virtual network and virtual disks, all drawn from one seed. The same seed
// gives the same run, event for event, so that whatever a seed finds can be replayed.
//
// A run has two phases. In the safety phase the faults of the seed's Swarm happen:
// connections die, links are cut one way, disks stall, nodes pause and crash at any
// event and keep any prefix of what they had not synced; logs are cut, and snapshots
// break off on their way. After each event the Checker compares what the nodes did with
// what must always hold. Then everything is healed, except perhaps a minority that stays
// dead, and the liveness phase asks that the cluster comes back, nobody left out, within
// a bounded number of ticks.
//
// The Checker is itself tested: each of its checks has hand-made histories that it
// must reject and accept, and drivers with planted bugs that it must catch.
//
// To replay a failure: go test ./internal/sim -run 'TestSim$' -sim.seed=N -sim.seeds=1
package sim
