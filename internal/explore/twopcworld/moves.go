// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"math/bits"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// The moves of two-phase commit: a kind, and the number of what it is about.
const (
	doTask    explore.Move = iota << 8 // votes Yes where a vote is to be chosen
	doTaskNo                           // votes No
	deliverIt                          // a message
	logDelivers
	leaderFinishes // what nobody has reported finished
	leaderAborts
	waitEnds
	scanFinds // a prepared branch
	agentTicks
	agentAborts
	agentLists
	enlistLate
	resourceForgets
	leaderCrashes
	initiatorCrashes
	agentCrashes

	kindMask explore.Move = 0xff << 8
)

// Moves lists first what may be repeated without an effect on anything but the
// network.
func (w *twoPC) Moves(d *deal, moves []explore.Move) []explore.Move {
	moves = w.repeatable(d, moves)
	for tasks := d.tasks &^ w.again; tasks != 0; tasks &= tasks - 1 {
		at := explore.Move(bits.TrailingZeros64(tasks))
		moves = append(moves, doTask|at)
		if i := &w.tasks[at]; i.to == toResource && d.resources[i.no].state == active {
			_, prepare := i.effect.(protocol.Prepare)
			_, alone := i.effect.(twopc.CommitOnePhase)
			if (prepare || alone) && !d.resources[i.no].readOnly {
				moves = append(moves, doTaskNo|at)
			}
		}
	}
	if d.initiator != 0 {
		for n := range w.size.Late {
			if n += w.size.Branches; d.resources[n].state == unused {
				moves = append(moves, enlistLate|explore.Move(n))
			}
		}
	}
	if d.losses > 0 {
		for n, r := range d.resources {
			if r.state == durable {
				moves = append(moves, resourceForgets|explore.Move(n))
			}
		}
	}
	if d.crashes == 0 {
		return moves
	}
	moves = append(moves, leaderCrashes)
	if d.initiator != 0 {
		moves = append(moves, initiatorCrashes)
	}
	for n, p := range d.participants {
		if p != 0 {
			moves = append(moves, agentCrashes|explore.Move(n))
		}
	}
	return moves
}

// repeatable lists what may happen however often, whatever else is there.
func (w *twoPC) repeatable(d *deal, moves []explore.Move) []explore.Move {
	for net := d.net; net != 0; net &= net - 1 {
		moves = append(moves, deliverIt|explore.Move(bits.TrailingZeros64(net)))
	}
	for tasks := d.tasks & w.again; tasks != 0; tasks &= tasks - 1 {
		moves = append(moves, doTask|explore.Move(bits.TrailingZeros64(tasks)))
	}
	if d.decision != txn.Undecided {
		moves = append(moves, logDelivers)
	}
	moves = append(moves, leaderFinishes, leaderAborts)
	if d.initiator != 0 {
		moves = append(moves, waitEnds)
	}
	for n, r := range d.resources {
		if r.state == durable {
			moves = append(moves, scanFinds|explore.Move(n))
		}
	}
	for n, p := range d.participants {
		if p == 0 {
			continue
		}
		moves = append(moves, agentTicks|explore.Move(n), agentAborts|explore.Move(n))
		if d.resources[n].state == durable {
			moves = append(moves, agentLists|explore.Move(n)) // which is news only after a restart
		}
	}
	return moves
}

// saturate does everything that only adds messages.
func (w *twoPC) saturate(d *deal) {
	for net, tasks := ^d.net, ^d.tasks; net != d.net || tasks != d.tasks; {
		net, tasks = d.net, d.tasks
		w.scratch = w.repeatable(d, w.scratch[:0])
		for _, m := range w.scratch {
			t := *d
			w.do(&t, m)
			net, tasks := t.net, t.tasks
			t.net, t.tasks = d.net, d.tasks|tasks&^w.again
			if t == *d {
				d.net, d.tasks = net, tasks
			}
		}
		w.prune(d)
	}
}

// prune drops messages that have no effect any more, now and for ever.
func (w *twoPC) prune(d *deal) {
	if d.initiator == 0 {
		d.net &^= w.toDead
	}
	if d.decision != txn.Undecided {
		d.net &^= w.toLog
	}
}

// Do makes a move, and whatever only adds messages then.
func (w *twoPC) Do(d *deal, m explore.Move) {
	w.do(d, m)
	w.prune(d)
	w.saturate(d)
}

func (w *twoPC) do(d *deal, m explore.Move) {
	n := int(m &^ kindMask)
	switch m & kindMask {
	case doTask:
		d.tasks &^= 1 << n &^ w.again
		w.happen(d, &w.tasks[n], txn.VoteYes)
	case doTaskNo:
		d.tasks &^= 1 << n
		w.happen(d, &w.tasks[n], txn.VoteNo)
	case deliverIt:
		w.happen(d, &w.items[n], txn.VoteYes)
	case logDelivers:
		w.logDelivers(d)
	case leaderFinishes:
		for _, no := range w.coordinators.cores[d.coordinator].Unfinished() {
			w.finishes(d, no)
		}
	case leaderAborts:
		w.coordinatorStep(d, w.numbers.rollback, protocol.RollbackAsked{})
	case waitEnds:
		w.initiatorStep(d, w.numbers.waitOver, twopc.WaitOver{})
	case scanFinds:
		w.meets(d, txn.BranchNo(n))
	case agentTicks:
		w.participantStep(d, txn.BranchNo(n), w.numbers.tick, protocol.Tick{})
	case agentAborts:
		w.participantStep(d, txn.BranchNo(n), w.numbers.rollback, protocol.RollbackAsked{})
	case agentLists:
		w.participantStep(d, txn.BranchNo(n), w.numbers.listed, protocol.Listed{})
	case enlistLate:
		w.enlist(d, n)
	case resourceForgets:
		d.losses--
		d.resources[n].state, d.resources[n].lost = aborted, true
	case leaderCrashes:
		d.crashes--
		w.crashLeader(d)
	case initiatorCrashes:
		d.crashes--
		w.crashInitiator(d)
	case agentCrashes:
		d.crashes--
		w.crashAgent(d, n)
	}
}

// happen delivers a message or does a task.
func (w *twoPC) happen(d *deal, i *item, vote txn.Vote) {
	switch i.to {
	case toInitiator:
		w.initiatorStep(d, i.at, i.event)
	case toCoordinator:
		w.coordinatorStep(d, i.at, i.event)
	case toParticipant:
		w.participantStep(d, i.no, i.at, i.event)
	case toResource:
		d.tasks |= w.say(w.holder, i.no, w.atResource(d, i, vote))
	case toTakeover:
		d.net |= w.say(toCoordinator, i.no, w.atResource(d, i, vote))
	case toLog:
		w.propose(d, i.effect.(protocol.Propose))
	}
}

// atResource does what a session, an agent or the leader asks a resource for.
func (w *twoPC) atResource(d *deal, i *item, vote txn.Vote) said {
	r := &d.resources[i.no]
	switch f := i.effect.(type) {
	case protocol.Finish:
		return r.finish(f.Decision, i.to == toTakeover, w.mistake)
	case twopc.CommitOnePhase:
		return r.commitAlone(vote)
	}
	return r.prepare(vote)
}

// say returns the word of a resource as a task, or as a message if it goes to the leader.
func (w *twoPC) say(to place, no txn.BranchNo, what said) uint64 {
	set := &w.words[to][no][what]
	if *set == 0 {
		if i := (item{to: to, no: no, event: what.event(no)}); to == toCoordinator {
			*set = w.message(i)
		} else {
			*set = w.task(i)
		}
	}
	return *set
}

// enlist opens one more branch, if the initiator takes it.
func (w *twoPC) enlist(d *deal, n int) {
	before := d.initiator
	w.atInitiator(d, twopc.Enlisted{No: txn.BranchNo(n)})
	if d.initiator != before {
		d.resources[n] = resource{state: active, work: true}
	}
}
