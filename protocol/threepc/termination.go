// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// How agents end a transaction among themselves.

// electionDue makes this agent a candidate, under a number that nobody has used.
func (p *Participant) electionDue() []protocol.Effect {
	switch {
	case !p.entry.State.takesPart() || p.run.phase != idle:
		return nil
	case mutant.TimeoutCommits && p.entry.State == PreCommitted:
		return p.decide(txn.Commit, p.self)
	case mutant.TimeoutAborts && p.entry.State == Wait:
		return p.decide(txn.Abort, p.self)
	}
	p.seen++
	e := txn.Election{N: p.seen, By: p.self}
	p.entry.LastElected = e
	effects := p.force()
	p.run.elect(e, p.entry.List, p.self, p.entry.State, p.entry.LastAttempt)
	return append(effects, p.sayAll(Elect{Election: e, List: p.entry.List})...)
}

// promise answers a candidate.
func (p *Participant) promise(from txn.PartyID, m Elect) []protocol.Effect {
	e := m.Election
	switch s := p.entry.State; {
	case s.Decision() != txn.Undecided:
		return p.repeat(from, Decided{Decision: s.Decision()})
	case s == Nothing && (p.gaveUp || p.holds(opened)) && !(p.voted && p.vote == txn.VoteReadOnly):
		if mutant.OpenBranchVotesLater {
			return p.repeat(from, Decided{Decision: txn.Abort})
		}
		effects := p.giveUp("an election began before the vote was asked for")
		return append(effects, p.repeat(from, Decided{Decision: txn.Abort})...)
	case s == Nothing:
		return p.repeat(from, NotMember{Election: e})
	case mutant.AbortedWithoutForce && s == Wait && !p.voted:
		return p.repeat(from, Decided{Decision: txn.Abort})
	}
	if m.List.Short {
		p.entry.List.adopt(m.List.Members)
	}
	if !p.entry.LastElected.Less(e) && !(mutant.NumberAlone && e.N >= p.entry.LastElected.N &&
		e != p.entry.LastElected) {
		return p.repeat(from, Refused{Election: e, LastElected: p.entry.LastElected})
	}
	p.see(e)
	p.entry.LastElected = e
	effects := p.force()
	answer := Answer{Election: e, State: p.entry.State, LastAttempt: p.entry.LastAttempt, Short: p.entry.List.short()}
	return append(effects, p.say(from, answer)...)
}

// accept takes part in an attempt, unless a later election was promised.
func (p *Participant) accept(from txn.PartyID, e txn.Election, kind txn.Decision, short []txn.Party) []protocol.Effect {
	ack := Ack{Election: e, Kind: kind}
	switch s := p.entry.State; {
	case s.Decision() != txn.Undecided:
		return p.repeat(from, Decided{Decision: s.Decision()})
	case s == Nothing:
		return p.repeat(from, NotMember{Election: e})
	case e == p.entry.LastAttempt && s != accepted(kind):
		return []protocol.Effect{Breach{From: from, Told: kind, Known: s.accepted()}}
	case e == p.entry.LastAttempt:
		return p.repeat(from, ack)
	case e.Less(p.entry.LastElected) && !mutant.AttemptBelowPromise:
		return p.repeat(from, Refused{Election: e, LastElected: p.entry.LastElected})
	}
	p.see(e)
	p.entry.List.adopt(short)
	p.entry.State, p.entry.LastElected, p.entry.LastAttempt = accepted(kind), e, e
	return append(p.force(), p.say(from, ack)...)
}

// timeUp ends a candidate's wait: with what was answered it chooses or steps back.
func (p *Participant) timeUp() []protocol.Effect {
	if p.run.phase == idle {
		return nil
	}
	if kind, ok := p.run.choose(); ok && p.run.phase == electing {
		return p.attempt(kind)
	}
	blocked := Blocked{Election: p.run.election, Missing: p.run.missing()}
	p.run.stepBack()
	return []protocol.Effect{blocked}
}

// attempt accepts its own choice, and asks the others to once that is durable.
func (p *Participant) attempt(kind txn.Decision) []protocol.Effect {
	e := p.run.election
	p.entry.List.adopt(p.run.list.short())
	p.run.attempt(e, p.entry.List, p.self, kind)
	ask := attempt(e, kind, p.entry.List.short())
	if mutant.ChoiceUnforced {
		return p.sayAll(ask)
	}
	p.entry.State, p.entry.LastElected, p.entry.LastAttempt = accepted(kind), e, e
	effects := p.force()
	return append(effects, p.sayAll(ask)...)
}
