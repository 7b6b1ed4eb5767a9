// SPDX-License-Identifier: Apache-2.0

// Package sim runs whole clusters of real cores inside one goroutine, on virtual
// time, a virtual network and virtual disks, all drawn from one seed. The same seed
// gives the same run, event for event, so that whatever a seed finds can be replayed.
//
// A run has two phases. In the safety phase the faults of the seed's Swarm happen. After
// each event the Checker compares what the nodes did with what must always hold. Then
// everything is healed, except perhaps a minority that stays dead, and the liveness
// phase asks that the cluster comes back, nobody left out, within a bounded number of
// ticks.
//
// # Faults
//
// Connections die, half-open or not; links are cut one way or both, flap, and are split.
// What died with a connection may arrive late, twice, or at any time after. Ballots lie, so
// that anybody is elected. Clocks differ by up to a half, and nodes stop for a while
// and then get everything at once. Nodes crash at any event and between any two effects of
// one, and all at once. A disk keeps any prefix of the writes that it was not done with. A
// write is one atomic batch with a checksum, so a torn one is as one that never began, and
// is lost whole. Disks are slow, get stuck, and fail a write, which ends the node for good
// with the writes before it. Logs are cut, and snapshots break off on their way. Leaders
// are asked to resign, or to hand over. In a third of the seeds members come and go, change their
// roles, and hear late who is one; who was removed may stay dead after healing.
//
// # Checks
//
// L1 to L6, S1 to S15 and V1 to V6 are those of the specification of the core:
//
//	L1 promises only grow, Current <= Accepted   L2 logs have no gap
//	L3 applied <= commit <= stable <= tail       L4 nothing is said for an epoch below the promise
//	L5 what a message claims is durable, is      L6 a restart finds the fold of what is applied
//	S1 one leader for each epoch                 S2 one proposal for each zxid, of that leader
//	S3 logs that share an entry agree up to it   S4 what is applied was proposed, and only once
//	S5 all apply a prefix of one sequence        S6 a new leader has all that is committed
//	S7 Current = e means: all before e is here   S8 committed is on a quorum's disks, always
//	S9 cuts and snapshots lose nothing committed S10 acknowledgements counted are true
//	S11 an epoch's entries without a gap         S12 epochs never go back
//	S13 nothing old after a leader's first       S14 observers hold what is committed, no more
//	S15 reads are linearizable, for each client and wherever it asks
//	V1 a leader after healing                    V2 what it accepts is applied everywhere
//	V3 nobody waits for ever in between          V4 nobody is left out
//	V5 and then it rests                         V6 a connected quorum is enough
//
// S15 needs no search: the committed sequence is the one order in which reads and writes
// must fit, so that a read sees all that was committed when it was asked, nothing that was
// not when it is answered, and no less than its client saw before. V6 is a test of its
// own, because the liveness phase heals all links. S16 is about leases, and there are none.
// S7 and S8 assume that disks lose nothing that they reported durable. "panic" is a core
// that stopped itself.
//
// The Checker is itself tested: each of its checks has hand-made histories that it must
// reject and accept, and there are drivers with planted bugs and, with the build tag
// mutant, cores with planted mistakes that it must catch. Situations are counted: a block of
// seeds in which one never happens has gone quiet, and fails.
//
// # Running it
//
// This package is the engine: cluster, network, disks, faults and checks. Package logsim runs the
// replicated log alone in it, and package txnsim whole coordinators with databases and clients. A
// failure ends with the command that replays it. To run for long: -sim.seed=N -sim.time=10m in
// logsim, or Block there and in txnsim, which is what the tests call.
package sim
