// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"regexp"

	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// What keeps a world small beside the letters that only add letters (saturate) and those that have no
// effect any more (prune). Each of these leaves every decision, promise and attempt reachable that was
// reachable without it:
//
//   - Reasons are for people. Cores, records and votes that differ in them alone are the same.
//   - An agent compares its epoch where it has no entry. Recovered with one, it is as if it had never
//     been away, but for what its journal did not have.
//   - Where no crash is left, journals force at once (forceAtOnce). What an agent withholds until then
//     is late in reaching others; so may be any letter. What it does not repeat meanwhile is lost; so may
//     be any letter. Nothing else that it does depends on how far its journal is, and what a crash would
//     find on the disk nobody will see.
//
//   - Where no crash is left, databases finish at once (finishAtOnce). A database that was told a decision
//     tells its agent alone, and that tells the cluster that it is finished: late, as any letter may be. Who
//     finds the branch prepared meanwhile tells the database once more.
//   - A client asks at once for the answer of a leader that goes on with an open or a decided transaction.
//     What it hears the members hear as well, or the log has it already.
//   - What the log has decided, no leader answers in another way than one that begins then (newLeader): with
//     the decision. Whom it told, who waits and which election it held is of no consequence any more.
//   - Where the log has decided, an agent that has finished as decided, and has all of it in its journal, is
//     what it would be after a restart (rest): what distinguishes the two are its vote, which nobody counts
//     any more, and whether it goes on telling the cluster, which knows.
//   - Whoever may be told what the log has decided is told (tellAll), whether the leader knows that somebody
//     waits for it or not; so it does not matter whom it knows to wait.
//   - Where nobody may begin another election, the greatest number that somebody has seen, which the next
//     election would exceed, is not looked at any more (forgetNumbers).
//
// Agents are not interchangeable: elections of one number are compared by the names of who began them.

var (
	// reasons are the fields of cores that only people read.
	reasons           = regexp.MustCompile(`reason:"[^"]*"`)
	reasonsAndCurious = regexp.MustCompile(`reason:"[^"]*"|curious:.*?, proving`)
	numbersSeen       = regexp.MustCompile(`seen:0x[0-9a-f]+`)
)

// forceAtOnce has journals write what they are to write, if nobody crashes any more.
func (w *threePC) forceAtOnce(s *sitting) {
	if s.crashes > 0 {
		return
	}
	for n := range w.size.Agents {
		for s.writes[n][0] != 0 {
			w.forced(s, n)
		}
	}
}

// finishAtOnce has databases do what they were told of a decision, if nobody crashes any more.
func (w *threePC) finishAtOnce(s *sitting) {
	for n := range w.size.Agents {
		b := &s.bases[n]
		if b.finish != txn.Undecided && !b.ask && (s.crashes == 0 || w.size.Voted || w.size.Attempted) {
			w.baseDoes(s, n)
		}
	}
}

// rest replaces agents that have nothing left to do by what a restart would make of them, which is one state
// in place of many.
func (w *threePC) rest(s *sitting) {
	if w.folds[s.log].decided.Decision == txn.Undecided {
		return
	}
	for n := range w.size.Agents {
		disk := w.entries[s.disks[n]]
		idle := s.writes[n][0] == 0 && !s.bases[n].ask && s.bases[n].finish == txn.Undecided
		if idle && disk.State >= threepc.Committed && disk.Finished {
			s.agents[n] = w.recovered(n, s.disks[n])
		}
	}
}

// tellAll has the cluster say to all agents what the log has decided.
func (w *threePC) tellAll(s *sitting, d txn.Decision) {
	for n := range w.size.Agents {
		w.post(&s.net, theLeader, w.members[n], threepc.Decided{Decision: d})
	}
}

// forgetNumbers makes one of those who differ in the elections that they have seen, once there will be none.
func (w *threePC) forgetNumbers(s *sitting) {
	if s.elections > 0 || w.size.Lonely { // who is left alone begins others
		return
	}
	s.leader = w.leaders.unseen[s.leader]
	for n := range w.size.Agents {
		s.agents[n] = w.agents.unseen[s.agents[n]]
	}
}
