// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// recent is a transaction of the last while, nil if there is none.
func (w *world) recent() *ghost {
	all := w.check.all
	if len(all) == 0 {
		return nil
	}
	all = all[max(0, len(all)-20):]
	if g := all[w.pick(len(all))]; g.last == nil {
		return g
	}
	return nil // of those others ask
}

// read asks some node, which may have been deposed, what became of a transaction.
func (w *world) read() {
	g := w.recent()
	if g == nil {
		return
	}
	n := w.Nodes[w.pick(len(w.Nodes))]
	if w.odds(0.7) {
		n = w.leaderOrAny()
	}
	if g.alone || !w.Swarm.Quiet && w.odds(0.1) {
		w.readOutcome(n, g)
		return
	}
	op := w.check.history.ask(g.id, askView, w.Now)
	w.question(n, false, func(request uint64) replica.Event {
		return commit.ViewAsked{Request: request, ID: g.id}
	}, func(r commit.Reply) {
		switch {
		case r.Err != nil:
			w.hit(ViewRefused)
		case !r.View.Known && w.mayBePurged(g.id):
			// The reader cannot tell it from an undecided one.
		default:
			w.hit(ViewServed)
			op.answer(r.View.Txn.Decision, w.Now)
		}
	}, func() {})
}

// readOutcome asks for the outcome without knowing anything of the transaction.
func (w *world) readOutcome(n *sim.Node, g *ghost) {
	op := w.check.history.ask(g.id, askOutcome, w.Now)
	w.question(n, false, func(request uint64) replica.Event {
		return commit.OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: g.id}}
	}, func(r commit.Reply) {
		if r.Err != nil {
			return
		}
		op.answer(r.Txn.Decision, w.Now)
		w.check.answered(g, r.Txn.Outcome())
		if r.Txn.Outcome() == txn.Unrecorded && g.told == txn.Commit {
			w.hit(CommittedAloneUnrecorded)
		}
	}, func() {})
}

// mayBePurged reports whether the watermark of some table has ever passed the birth of a
// transaction; after a crash it may not know that any more.
func (w *world) mayBePurged(id txn.ID) bool { return id.Time().Before(w.watermark) }

// operate is an operator who decides what waits, or has dealt with an alarm.
func (w *world) operate() {
	for _, b := range w.banks {
		if n := w.leaderOrAny(); n.Up && w.remembered(n, b).Quarantine != nil && w.odds(0.2) {
			w.acceptAt(n, b)
			return
		}
	}
	g := w.recent()
	if g == nil {
		return
	}
	if w.odds(0.3) && w.abandon() {
		return
	}
	for tries := 3; tries > 0 && g.decision != txn.Undecided; tries-- { // he looks for what waits
		if other := w.recent(); other != nil {
			g = other
		}
	}
	if g = w.alarming(g); len(g.heuristics) > 0 {
		w.question(w.leaderOrAny(), false, func(request uint64) replica.Event {
			return commit.ForgetAsked{Request: request, ID: g.id, Who: "operator", Why: "dealt with"}
		}, func(r commit.Reply) {
			if r.Err == nil {
				w.hit(HeuristicForgotten)
			}
		}, func() {})
		return
	}
	d, kind := txn.Abort, askOutcome
	if g.yes && g.key == "" && w.odds(0.5) { // an operator's commit uses no key
		d, kind = txn.Commit, askCommit
	}
	op := w.check.history.ask(g.id, kind, w.Now)
	w.question(w.leaderOrAny(), false, func(request uint64) replica.Event {
		return w.resolution(request, g, d)
	}, func(r commit.Reply) {
		if r.Err != nil {
			return
		}
		op.answer(r.Txn.Decision, w.Now)
		if r.Txn.By == txn.FromOperator {
			w.hit(OperatorResolved)
		}
	}, func() {})
}

// resolution is what an operator asks for, who knows which databases the transaction changed. They
// are listed as the request arrives.
func (w *world) resolution(request uint64, g *ghost, d txn.Decision) commit.ResolveAsked {
	e := commit.ResolveAsked{Request: request,
		Resolution: txn.Resolution{ID: g.id, Decision: d, Who: "operator", Why: "simulated",
			Force: d == txn.Abort}}
	if d == txn.Abort {
		return e
	}
	for _, b := range g.branches {
		if b.work != 0 {
			e.Resources = append(e.Resources, b.bank.name)
		}
	}
	for _, bank := range w.banks {
		if bank.down || w.Chance(w.loss) {
			e.Unlisted = errConnection
			continue
		}
		for _, p := range bank.list() {
			if p.XID.ID == g.id && p.XID.Cluster == w.formed {
				e.Prepared = append(e.Prepared, txn.Branch{No: p.XID.Branch, Resource: bank.name})
			}
		}
	}
	return e
}

// abandon gives up a branch that nobody has finished yet, as if nobody could.
func (w *world) abandon() bool {
	recent := w.check.all[max(0, len(w.check.all)-20):]
	i := slices.IndexFunc(recent, func(g *ghost) bool { return g.decision == txn.Commit && !g.ended })
	if i < 0 {
		return false
	}
	g := recent[i]
	b := g.branches[w.pick(len(g.branches))]
	if b.confirmed || g.reported(b) {
		return false
	}
	b.expect(txn.HeuristicHazard) // whether the answer arrives or not
	w.question(w.leaderOrAny(), false, func(request uint64) replica.Event {
		return commit.SettleAsked{Request: request, ID: g.id, Branch: b.no, Who: "operator", Why: "simulated"}
	}, func(r commit.Reply) {
		if r.Err == nil {
			w.hit(BranchGivenUp)
		}
	}, func() {})
	return true
}

// alarming prefers a transaction with an alarm.
func (w *world) alarming(g *ghost) *ghost {
	for _, other := range w.check.all[max(0, len(w.check.all)-20):] {
		if len(other.heuristics) > 0 && w.odds(0.3) {
			return other
		}
	}
	return g
}

// administer does after the healing what alarms ask people for: it restarts a server
// that hides a branch, and ends by hand what the cluster must not end, because it is
// older than the log.
func (w *world) administer(leader *sim.Node, b *bank) {
	if w.remembered(leader, b).Quarantine != nil {
		w.acceptAt(leader, b)
	}
	b.list()
	for _, br := range slices.Clone(b.open) {
		switch {
		case br.hidden:
			b.restart(100 * sim.Millisecond)
		case br.listed() && !br.session && w.isReported(leader, br):
			w.hit(EndedByHandAsReported)
			if br.ghost.decision == txn.Commit {
				br.endByHand(committed)
			} else {
				br.endByHand(rolledBack)
			}
		}
	}
}

// isReported reports whether the leader says that it cannot finish the branch, and is
// right to say so.
func (w *world) isReported(leader *sim.Node, br *branch) bool {
	h, g := leader.Host.(*host), br.ghost
	_, known := h.table.Get(g.id)
	tooOld := !known && h.table.TooOld(g.id) && (g.decision != txn.Commit || br.confirmed || g.reported(br))
	// By clocks that are all a year behind, everything comes from the future, and nothing is decided.
	fromTheFuture := !known && g.id.Time().After(w.latestClock().Add(24*time.Hour))
	if !tooOld && !fromTheFuture && !(known && g.givenUp(br)) {
		return false
	}
	name := fmt.Sprintf("%v at %s: ", br.xid(), br.bank.name)
	return slices.ContainsFunc(h.machine.ScanState(br.bank.name).Report,
		func(line string) bool { return strings.HasPrefix(line, name) })
}
