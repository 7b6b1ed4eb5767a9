// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"encoding/binary"
	"errors"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/txn"
)

// three is everything that ever happened to one three-phase transaction.
type three struct {
	id       txn.ID
	agents   []*agent     // that hold its branches, in order of their numbers
	decision txn.Decision // as the first one who knew it has shown
	by       string       // who that was
}

// noted looks at a decision that somebody acts on or tells: T1, no two of them differ; and T2, a
// commit has the work of every branch durably prepared.
func (c *checker) noted(t *three, d txn.Decision, by string) {
	switch {
	case t == nil:
		c.Fail("T1", "%s decides %v about what nobody began", by, d)
	case t.decision == txn.Undecided:
		t.decision, t.by = d, by
		for no, a := range t.agents {
			h := a.database[txn.XID{Cluster: a.w.formed, ID: t.id, Branch: txn.BranchNo(no)}]
			if d == txn.Commit && (h == nil || h.state != prepared && h.state != committed) {
				c.Fail("T2", "%s decides to commit %v, and branch %d at %s is not prepared", by, t.id, no, a.name)
			}
		}
	case t.decision != d:
		c.Fail("T1", "%s decides %v about %v, and %s has decided %v", by, d, t.id, t.by, t.decision)
	}
}

// driver is an application that runs three-phase transactions, one after the other. It may die at any
// point.
type driver struct {
	w     *world
	busy  bool
	life  int
	t     *three
	asks  txn.CommitRequest
	limit sim.Instant
}

func (d *driver) later(mean sim.Instant, do func()) {
	life := d.life
	d.w.After(d.w.draw(mean), func() {
		if d.life == life {
			do()
		}
	})
}

func (d *driver) begin() {
	w := d.w
	if !w.beginning || d.busy {
		return
	}
	if w.formed == 0 {
		d.later(100*sim.Millisecond, d.begin)
		return
	}
	d.life++
	d.busy = true
	id := txn.FirstID(w.clock())
	binary.BigEndian.PutUint64(id[8:], w.fate.Uint64())
	d.t = &three{id: id.WithClass(txn.ThreePhase).WithLease(0)}
	w.check.threes[d.t.id] = d.t
	for _, i := range w.fate.Perm(len(w.agents))[:1+w.fate.IntN(len(w.agents))] {
		d.t.agents = append(d.t.agents, w.agents[i])
	}
	d.asks = txn.CommitRequest{ID: d.t.id, Protocol: txn.ThreePhaseCommit}
	if w.drawn(w.crash) {
		d.later(300*sim.Millisecond, d.rest)
	}
	d.work(0)
}

// work opens a branch at one agent after the other.
func (d *driver) work(no int) {
	if no == len(d.t.agents) {
		d.limit = d.w.Now + 15*sim.Second
		d.commit()
		return
	}
	a, life := d.t.agents[no], d.life
	lives := a.life()
	x := txn.XID{Cluster: d.w.formed, ID: d.t.id, Branch: txn.BranchNo(no)}
	d.w.ask(a, func(call participant.Call) participant.Event {
		return participant.WorkAsked{Call: call, Branch: participant.Branch{XID: x, Resource: a.resource}, Life: lives,
			Number: 1,
			Work:   statement.Work{Verb: statement.Execute, Text: "work"}}
	}, func(f participant.Effect) {
		if d.life != life {
			return
		}
		answer, ok := f.(participant.Answer)
		if !ok || answer.Failed != "" && d.w.drawn(0.5) {
			d.rollBack()
			return
		}
		d.asks.Agents = append(d.asks.Agents, txn.Agent{Party: a.party(), Epoch: uint64(lives.Epoch),
			Branches: []txn.Branch{{No: x.Branch, Resource: a.resource}},
			Claims:   []txn.Claim{{No: x.Branch, Number: 1, Digest: [32]byte(answer.Digest)}}})
		d.work(no + 1)
	}, func() {
		if d.life == life {
			d.rollBack()
		}
	})
}

// rollBack ends what was never asked to commit.
func (d *driver) rollBack() {
	for no, a := range d.t.agents {
		d.finish(a, txn.BranchNo(no), txn.Abort)
	}
	d.rest()
}

func (d *driver) finish(a *agent, no txn.BranchNo, decision txn.Decision) {
	x := txn.XID{Cluster: d.w.formed, ID: d.t.id, Branch: no}
	d.w.ask(a, func(call participant.Call) participant.Event {
		return participant.Decided{Call: call, Branch: participant.Branch{XID: x, Resource: a.resource},
			Decision: decision}
	}, func(participant.Effect) {}, func() {})
}

// commit asks until there is an answer, or for as long as it has patience; later for the outcome.
func (d *driver) commit() {
	w, life := d.w, d.life
	if w.Now > d.limit {
		w.hit(CouncilNeverTold)
		d.rest()
		return
	}
	asks, outcome := d.asks, w.Now > d.limit-10*sim.Second
	w.question(w.leaderOrAny(), w.drawn(w.loss), func(request uint64) replica.Event {
		if outcome {
			return commit.OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: asks.ID}}
		}
		return commit.CommitAsked{Request: request, CommitRequest: asks}
	}, func(r commit.Reply) {
		switch {
		case d.life != life:
		case errors.Is(r.Err, txn.ErrTooOld):
			d.rest()
		case r.Err != nil:
			d.later(100*sim.Millisecond, d.commit)
		default:
			d.told(r.Txn.Decision)
		}
	}, func() {
		if d.life == life {
			d.commit()
		}
	})
}

func (d *driver) told(decision txn.Decision) {
	d.w.check.noted(d.t, decision, "the cluster, to its client,")
	if decision == txn.Commit {
		d.w.hit(CouncilToldCommit)
	} else {
		d.w.hit(CouncilToldAbort)
	}
	if d.w.drawn(0.5) { // as the SDK does
		for no, a := range d.t.agents {
			d.finish(a, txn.BranchNo(no), decision)
		}
	}
	d.rest()
}

func (d *driver) rest() {
	d.life++
	d.busy = false
	d.later(100*sim.Millisecond, d.begin)
}
