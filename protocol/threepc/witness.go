// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// The leader as the witness of an open gid: an acceptor whose memory is the log, and a candidate.

func (c *Coordinator) list() List { return List{Members: c.witness.Members, Short: true} }

// see takes notice of an election. A refusal that names no later one says that the promise was
// given already.
func (c *Coordinator) see(e txn.Election) {
	c.seen = max(c.seen, e.N)
	c.run.hears(e)
}

// asks takes a question of a candidate, which the log has to answer, if it is not too late. Of a
// gid without a record the witness knows that nobody has committed it, and makes sure that
// nobody will.
func (c *Coordinator) asks(q pending) []protocol.Effect {
	switch c.phase {
	case unheard, collecting:
		c.wonders(q.from)
		return c.propose(txn.Abort, "an election began before the votes were complete")
	case proposing:
		if !q.attempt { // one that was begun without the witness
			c.wait(q)
		}
		return nil
	case open:
		if q.attempt || !c.witness.LastElected.Less(q.election) {
			return c.answer(q)
		}
		if !c.wait(q) {
			return nil
		}
		effects := []protocol.Effect{Propose{Record: txn.PromiseRecord{ID: c.id, Election: q.election}}}
		if mutant.AnswerBeforePromise {
			effects = append(effects, Send{To: q.from, Message: c.promised(q.election)})
		}
		return effects
	}
	return []protocol.Effect{Send{To: q.from, Message: Decided{Decision: c.decision}}}
}

// asksToAccept takes an attempt of a candidate.
func (c *Coordinator) asksToAccept(from txn.PartyID, e txn.Election, kind txn.Decision) []protocol.Effect {
	q := pending{from: from, election: e, attempt: true}
	if c.phase != open || e.Less(c.witness.LastElected) || e == c.witness.LastAttempt {
		return c.asks(q)
	}
	if !c.wait(q) {
		return nil
	}
	return []protocol.Effect{Propose{Record: record(c.id, e, kind)}}
}

func record(id txn.ID, e txn.Election, kind txn.Decision) txn.Record {
	if kind == txn.Commit {
		return txn.PreCommitRecord{ID: id, Election: e}
	}
	return txn.PreAbortRecord{ID: id, Election: e}
}

// wait has a question wait for the log. It reports whether it is new.
func (c *Coordinator) wait(q pending) bool {
	if slices.Contains(c.pending, q) {
		return false
	}
	c.pending = append(c.pending, q)
	slices.SortFunc(c.pending, func(a, b pending) int {
		switch {
		case a.election != b.election:
			return a.election.Compare(b.election)
		case a.attempt == b.attempt:
			return a.from.Compare(b.from)
		case a.attempt:
			return 1
		}
		return -1
	})
	return true
}

// answer says what the log has to say about a question, or nothing if it has not come so far.
func (c *Coordinator) answer(q pending) []protocol.Effect {
	w := &c.witness
	send := func(m Message) []protocol.Effect { return []protocol.Effect{Send{To: q.from, Message: m}} }
	switch {
	case q.attempt && w.LastAttempt == q.election:
		return send(Ack{Election: q.election, Kind: w.Accepted})
	case q.election.Less(w.LastElected):
		return send(Refused{Election: q.election, LastElected: w.LastElected})
	case !q.attempt && w.LastElected == q.election && slices.Contains(c.pending, q):
		return send(c.promised(q.election))
	case !q.attempt && w.LastElected == q.election:
		return send(Refused{Election: q.election, LastElected: w.LastElected}) // it was answered
	}
	return nil
}

func (c *Coordinator) promised(e txn.Election) Answer {
	w := &c.witness
	return Answer{Election: e, State: accepted(w.Accepted), LastAttempt: w.LastAttempt, Short: w.Members}
}

// folded takes what the log has made of the witness, and does what waited for that.
func (c *Coordinator) folded(w txn.Witness) []protocol.Effect {
	if c.phase >= proven {
		return nil
	}
	var effects []protocol.Effect
	opened := c.phase != open
	c.witness, c.phase = w, open
	c.see(w.LastElected)
	if opened && w.LastElected == txn.FirstElection {
		if effects = c.attempt(w.LastAttempt, w.Accepted); c.phase == proven {
			return effects
		}
	}
	for _, q := range c.pending {
		answers := c.answer(q)
		if opened && !q.attempt && w.LastElected.Less(q.election) { // asked before the gid was open
			answers = []protocol.Effect{Propose{Record: txn.PromiseRecord{ID: c.id, Election: q.election}}}
		}
		effects = append(effects, answers...)
	}
	c.pending = slices.DeleteFunc(slices.Clone(c.pending), func(q pending) bool {
		still := w.LastElected.Less(q.election) || q.attempt && q.election == w.LastElected &&
			w.LastAttempt != q.election
		return !still
	})
	switch c.run.phase {
	case promising:
		if w.LastElected == c.run.election {
			c.run.elect(w.LastElected, c.list(), txn.PartyID{}, accepted(w.Accepted), w.LastAttempt)
			effects = append(effects, sendAll(w.Members, Elect{Election: w.LastElected, List: c.list()})...)
		}
	case accepting:
		if w.LastAttempt == c.run.election {
			effects = append(effects, c.attempt(w.LastAttempt, w.Accepted)...)
		}
	}
	return effects
}

// attempt asks everybody for what the witness has accepted, which may be a quorum alone.
func (c *Coordinator) attempt(e txn.Election, kind txn.Decision) []protocol.Effect {
	c.run.attempt(e, c.list(), txn.PartyID{}, kind)
	if c.run.accepted() {
		return c.prove(kind)
	}
	return sendAll(c.witness.Members, attempt(e, kind, c.witness.Members))
}

// terminate makes the witness a candidate, under a number that nobody has used.
func (c *Coordinator) terminate() []protocol.Effect {
	if c.phase != open || c.proving {
		return nil
	}
	if w := &c.witness; mutant.NewLeaderAborts && c.resumed {
		return c.record(txn.Abort, "found open by a new leader")
	} else if mutant.TwoLeadersChoose && c.resumed && w.LastElected.By.IsWitness() &&
		w.LastAttempt.Less(w.LastElected) {
		c.run.elect(w.LastElected, c.list(), txn.PartyID{}, accepted(w.Accepted), w.LastAttempt)
		return sendAll(w.Members, Elect{Election: w.LastElected, List: c.list()})
	}
	c.seen++
	c.run = candidate{phase: promising, election: txn.Election{N: c.seen}, list: c.list()}
	return []protocol.Effect{Propose{Record: txn.PromiseRecord{ID: c.id, Election: c.run.election}}}
}

// choose ends the wait for answers.
func (c *Coordinator) choose() []protocol.Effect {
	kind, ok := c.run.choose()
	if !ok {
		blocked := Blocked{Election: c.run.election, Missing: c.run.missing()}
		c.run.stepBack()
		return []protocol.Effect{blocked}
	}
	e := c.run.election
	effects := []protocol.Effect{Propose{Record: record(c.id, e, kind)}}
	if mutant.TwoLeadersChoose {
		c.run.attempt(e, c.list(), txn.PartyID{}, kind)
		return append(effects, sendAll(c.witness.Members, attempt(e, kind, c.witness.Members))...)
	}
	c.run = candidate{phase: accepting, election: e, list: c.list(), choice: kind}
	return effects
}

// hears takes the decision that another member tells, for the log.
func (c *Coordinator) hears(from txn.PartyID, d txn.Decision) []protocol.Effect {
	if c.phase >= proven {
		if d != c.decision {
			return []protocol.Effect{Breach{From: from, Told: d, Known: c.decision}}
		}
		if c.phase == proven {
			c.wonders(from) // who hears it back need not say it again, so the log has to have it
			return nil
		}
		return []protocol.Effect{Send{To: from, Message: Decided{Decision: d}}}
	}
	c.run.stepBack()
	c.wonders(from)
	return c.record(d, "told by "+from.String())
}

// forgotten answers every member who waits that nothing is known, and begins anew: the log will
// refuse whatever comes of it.
func (c *Coordinator) forgotten() (effects []protocol.Effect) {
	for _, q := range c.pending {
		effects = append(effects, Send{To: q.from, Message: NotMember{Election: q.election}})
	}
	for _, m := range c.curious {
		effects = append(effects, Send{To: m, Message: NotMember{}})
	}
	*c = Coordinator{id: c.id}
	return effects
}
