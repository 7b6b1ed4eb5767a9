// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"math/bits"
	"time"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// The moves of three-phase commit: a kind, and the number of what it is about.
const (
	getLetter explore.Move = iota << 8
	logGoesOn
	journalForces
	baseRefuses
	baseObeys
	markPasses
	tombstoneComes
	leaderFails
	agentFails
	leaderTries
	leaderWaited
	clientAsks
	leaderGivesUp
	leaderRepeats
	agentTries
	agentWaited
	agentGivesUp
	agentRepeats
	baseLists

	kindMask explore.Move = 0xff << 8
)

func (w *threePC) Moves(s *sitting, moves []explore.Move) []explore.Move {
	w.repeatable(s, func(m explore.Move, o *deed) {
		if !o.quiet && (!o.begun || s.elections > 0) {
			moves = append(moves, m)
		}
	})
	if s.records[0] != 0 {
		moves = append(moves, logGoesOn)
	}
	for n := range w.size.Agents {
		m := explore.Move(n)
		if s.writes[n][0] != 0 {
			moves = append(moves, journalForces|m)
		}
		if s.bases[n].ask || s.bases[n].finish != txn.Undecided {
			moves = append(moves, baseObeys|m)
			if s.bases[n].ask && s.bases[n].state == working {
				moves = append(moves, baseRefuses|m)
			}
		}
		if s.crashes > 0 {
			moves = append(moves, agentFails|m)
		}
	}
	if s.watermarks > 0 {
		moves = append(moves, markPasses)
	}
	if s.tombstones > 0 {
		moves = append(moves, tombstoneComes)
	}
	if s.crashes > 0 {
		moves = append(moves, leaderFails)
	}
	return moves
}

// repeatable visits what may happen however often, with what its core does then.
func (w *threePC) repeatable(s *sitting, visit func(explore.Move, *deed)) {
	for i, word := range s.net {
		for ; word != 0; word &= word - 1 {
			at := i*64 + bits.TrailingZeros64(word)
			visit(getLetter|explore.Move(at), w.letterStep(s, at))
		}
	}
	for _, x := range leaderEvents {
		e := x.event
		if x.at == evAsked {
			e = w.asked
		}
		visit(x.move, w.leaders.step(s.leader, x.at, e))
	}
	for n := range w.size.Agents {
		for _, x := range agentEvents {
			visit(x.move|explore.Move(n), w.agents.step(s.agents[n], x.at, x.event))
		}
		if s.bases[n].state == ready {
			visit(baseLists|explore.Move(n), w.agents.step(s.agents[n], evListed, protocol.Listed{No: txn.BranchNo(n)}))
		}
	}
}

type repeated struct {
	move  explore.Move
	at    int
	event protocol.Event
}

var (
	leaderEvents = []repeated{
		{clientAsks, evAsked, nil},
		{leaderGivesUp, evRollback, protocol.RollbackAsked{}},
		{leaderRepeats, evTick, protocol.Tick{}},
		{leaderTries, evElection, threepc.ElectionDue{}},
		{leaderWaited, evTimeUp, threepc.TimeUp{}},
	}
	agentEvents = []repeated{
		{agentTries, evElection, threepc.ElectionDue{}},
		{agentWaited, evTimeUp, threepc.TimeUp{}},
		{agentGivesUp, evRollback, protocol.RollbackAsked{}},
		{agentRepeats, evTick, protocol.Tick{}},
	}
)

// letterStep is what the addressee of a letter does with it.
func (w *threePC) letterStep(s *sitting, at int) *deed {
	l := &w.letters[at]
	if l.to == theLeader {
		return w.leaders.step(s.leader, evFixed+evEvery*at, l.event)
	}
	return w.agents.step(s.agents[l.to], evFixed+evEvery*at, l.event)
}

// saturate does everything that only adds messages; see TwoPC.
func (w *threePC) saturate(s *sitting) {
	for before := (sitting{}); before.net != s.net; {
		before.net = s.net
		w.repeatable(s, func(_ explore.Move, o *deed) {
			if o.quiet {
				for i := range s.net {
					s.net[i] |= o.net[i]
				}
				s.decided |= o.told
			}
		})
	}
	w.prune(s)
}

// Do makes a move, and whatever only adds messages then.
func (w *threePC) Do(s *sitting, m explore.Move) {
	w.do(s, m)
	w.finishAtOnce(s)
	w.forceAtOnce(s)
	w.rest(s)
	w.forgetNumbers(s)
	w.saturate(s)
}

func (w *threePC) do(s *sitting, m explore.Move) {
	n := int(m &^ kindMask)
	no := txn.BranchNo(n)
	switch m & kindMask {
	case getLetter:
		if l := &w.letters[n]; l.to == theLeader {
			w.leaderDoes(s, w.letterStep(s, n))
		} else {
			w.agentDoes(s, l.to, w.letterStep(s, n))
		}
	case logGoesOn:
		w.deliver(s)
	case journalForces:
		w.forced(s, n)
	case baseRefuses:
		s.bases[n].ask = false
		s.bases[n].state = undone
		w.agentStep(s, n, evNo, protocol.Voted{No: no, Vote: txn.VoteNo})
	case baseObeys:
		w.baseDoes(s, n)
	case baseLists:
		w.agentStep(s, n, evListed, protocol.Listed{No: no})
	case markPasses:
		s.watermarks--
		before := w.folds[s.log].open
		w.foldOne(s, w.record(txn.Watermark{Time: time.UnixMilli(2_000)}))
		if before && !w.folds[s.log].open {
			s.fail(w, "T3: the log forgot what the witness had accepted")
		}
	case tombstoneComes:
		s.tombstones--
		w.foldOne(s, w.record(txn.AbortRecord{ID: w.id}))
		s.decided |= 1 << w.folds[s.log].decided.Decision &^ 1
		w.tellLeader(s, false)
	case leaderFails:
		s.crashes--
		w.crashLeader(s)
	case agentFails:
		s.crashes--
		w.crashAgent(s, n)
	case clientAsks:
		w.leaderStep(s, evAsked, w.asked)
	case leaderGivesUp:
		w.leaderStep(s, evRollback, protocol.RollbackAsked{})
	case leaderRepeats:
		w.leaderStep(s, evTick, protocol.Tick{})
	case leaderTries:
		w.leaderStep(s, evElection, threepc.ElectionDue{})
	case leaderWaited:
		w.leaderStep(s, evTimeUp, threepc.TimeUp{})
	case agentTries:
		w.agentStep(s, n, evElection, threepc.ElectionDue{})
	case agentWaited:
		w.agentStep(s, n, evTimeUp, threepc.TimeUp{})
	case agentGivesUp:
		w.agentStep(s, n, evRollback, protocol.RollbackAsked{})
	case agentRepeats:
		w.agentStep(s, n, evTick, protocol.Tick{})
	}
}

// forced has a journal finish its earliest write.
func (w *threePC) forced(s *sitting, n int) {
	at, silent := s.writes[n][0]&^unforced-1, s.writes[n][0]&unforced != 0
	before, after := w.entries[s.disks[n]], w.entries[at]
	s.disks[n] = at
	copy(s.writes[n][:], s.writes[n][1:])
	s.writes[n][maxWrites-1] = 0
	switch {
	case before.State >= threepc.Committed && after.State != before.State:
		s.fail(w, "T3: the journal of agent %v went from %v to %v", w.members[n], before.State, after.State)
	case after.State != threepc.Nothing && after.LastElected.Less(before.LastElected):
		s.fail(w, "T3: the promise of agent %v fell", w.members[n])
	}
	switch e := after.LastAttempt; after.State {
	case threepc.PreCommitted:
		s.tried[0] |= 1 << w.election(e)
		w.accepts(s, n, e)
	case threepc.PreAborted:
		s.tried[1] |= 1 << w.election(e)
		w.accepts(s, n, e)
	}
	if !silent {
		w.agentStep(s, n, evForced, threepc.Forced{})
	}
}

// baseDoes has a database prepare or finish.
func (w *threePC) baseDoes(s *sitting, n int) {
	b := &s.bases[n]
	no := txn.BranchNo(n)
	if b.ask {
		b.ask = false
		switch b.state {
		case working:
			b.state = ready
			yes := protocol.Voted{No: no, Vote: txn.VoteYes, Branch: txn.Branch{No: no, Resource: w.members[n].Agent}}
			w.agentStep(s, n, evYes, yes)
		case wrote:
			b.state = over
			w.agentStep(s, n, evReadOnly, protocol.Voted{No: no, Vote: txn.VoteReadOnly})
		default:
			w.agentStep(s, n, evNo, protocol.Voted{No: no, Vote: txn.VoteNo})
		}
		return
	}
	d := b.finish
	b.finish = txn.Undecided
	found, at := txn.AlreadyDone, evAlready
	switch {
	case b.state == ready && d == txn.Commit:
		b.state, found, at = done, txn.Done, evDone
	case b.state == ready, b.state == working && d == txn.Abort, b.state == wrote && d == txn.Abort:
		b.state, found, at = undone, txn.Done, evDone
	case b.state == done && d == txn.Abort, b.state == undone && d == txn.Commit:
		found, at = txn.Contradicted, evContradicted
	case d == txn.Commit && b.state != done && b.state != over:
		s.fail(w, "T6: agent %v was to commit a branch that is %v", w.members[n], b.state)
		found, at = txn.Lost, evLost
	}
	w.agentStep(s, n, at, protocol.Finished{No: no, Finish: found})
}

// crashAgent has an agent start again with what its journal has.
func (w *threePC) crashAgent(s *sitting, n int) {
	s.writes[n] = [maxWrites]uint16{}
	s.agents[n] = w.recovered(n, s.disks[n])
	b := &s.bases[n]
	b.ask, b.finish = false, txn.Undecided
	switch b.state {
	case working:
		b.state = lost
	case wrote:
		b.state = over
	}
}

// recovered is an agent that started again with what its journal has.
func (w *threePC) recovered(n int, disk uint16) uint32 {
	key := [2]uint16{uint16(n), disk}
	if w.restarts[key] == 0 {
		entry, epoch := w.entries[disk], uint64(2)
		if entry.State != threepc.Nothing {
			epoch = 1 // it is compared only where there is no entry: see reduce.go
		}
		w.restarts[key] = w.agents.number(threepc.Recover(w.members[n], epoch, entry))
	}
	return w.restarts[key]
}

// prune drops letters that have no effect any more, now and for ever. What they would be answered
// with is in the net already.
func (w *threePC) prune(s *sitting) {
	for i := range s.net {
		for word := s.net[i]; word != 0; word &= word - 1 {
			at := bits.TrailingZeros64(word)
			if l := &w.letters[i*64+at]; w.dead(s, l) {
				s.net[i] &^= 1 << at
			}
		}
	}
}

func (w *threePC) dead(s *sitting, l *letter) bool {
	m := l.event.(threepc.Received).Message
	running, waiting := txn.Election{}, false
	var disk threepc.Entry
	if l.to == theLeader {
		running, waiting = w.leaders.cores[s.leader].Running()
	} else {
		running, waiting = w.agents.cores[s.agents[l.to]].Running()
		disk = w.entries[s.disks[l.to]]
		if _, told := m.(threepc.Decided); disk.State >= threepc.Committed && !told {
			return true
		}
	}
	f := &w.folds[s.log]
	decided := f.decided.Decision != txn.Undecided
	switch m := m.(type) {
	case threepc.Answer:
		return m.Election != running || !waiting
	case threepc.NotMember:
		return m.Election != running && m.Election != (txn.Election{}) || m.Election == running && !waiting
	case threepc.Ack:
		if mutant.AckOfAnother {
			return false
		}
		if l.to == theLeader { // a later leader may repeat the attempt
			return decided || f.open && m.Election.Less(f.witness.LastElected)
		}
		return m.Election != running
	case threepc.Refused:
		if l.to == theLeader {
			return decided || f.open && m.Election != running && m.LastElected.N <= f.witness.LastElected.N
		}
		return m.Election != running && m.LastElected.N <= disk.LastElected.N
	case threepc.Elect:
		if l.to == theLeader {
			return decided || f.open && !f.witness.LastElected.Less(m.Election)
		}
		return disk.State != threepc.Nothing && !disk.LastElected.Less(m.Election) && !mutant.NumberAlone
	case threepc.PreCommit:
		return w.deadAttempt(s, l, m.Election)
	case threepc.PreAbort:
		return w.deadAttempt(s, l, m.Election)
	case threepc.Vote, threepc.Inquire:
		return decided || f.open
	case threepc.Finished: // which matters only to who may end a commit
		return s.ended || f.decided.Decision == txn.Abort
	case threepc.Decided: // it is answered by what it says, and who knows better has broken T1 by that
		if l.to == theLeader {
			return decided
		}
		return disk.State >= threepc.Committed && (l.from != theLeader || decided && disk.Finished)
	}
	return false
}

func (w *threePC) deadAttempt(s *sitting, l *letter, e txn.Election) bool {
	if l.to == theLeader {
		f := &w.folds[s.log]
		return f.decided.Decision != txn.Undecided || f.open &&
			(e.Less(f.witness.LastElected) || e == f.witness.LastAttempt)
	}
	disk := w.entries[s.disks[l.to]]
	refused := e.Less(disk.LastElected) && !mutant.AttemptBelowPromise
	return disk.State != threepc.Nothing && (refused || e == disk.LastAttempt)
}
