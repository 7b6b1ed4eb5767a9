// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"

	"github.com/concordtx/concord/adapters"
	inmemory "github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// Some seeds have a vault: a database that is the last resource of transactions whose other branches are at the banks.
// It is adapters/memory, with its markers and its way to settle, and their clients are the core of the SDK; what is
// here is the network, deaths, and clients that are stopped between the last prepare and the commit. So what the
// cluster, the core and the adapter make of it is all of the product.

const vaultName = "vault"

// vault is down at times, which ends its sessions; what it has committed it keeps.
type vault struct {
	disk *inmemory.Disk
	r    *inmemory.Resource
	down bool
}

func hasVault(seed uint64) bool { return seed%4 == 2 && seed%5 != 0 }

// openVault gives some seeds a vault. They draw from a generator of their own.
func (w *world) openVault(seed uint64) {
	if !hasVault(seed) {
		return
	}
	w.lots = rand.New(rand.NewPCG(seed, 0x7661756c))
	w.quirks.Retention, w.quirks.Restore, w.quirks.Clock = 0, 0, 0 // of what is forgotten nobody tells anything
	disk := inmemory.NewDisk()
	w.vault = &vault{disk: disk, r: inmemory.New(vaultName, disk)}
}

// isVault reports whether a resource is the vault.
func (w *world) isVault(resource string) bool { return w.vault != nil && resource == vaultName }

func (w *world) lot(mean sim.Instant) sim.Instant {
	return sim.Instant(min(w.lots.ExpFloat64(), 10)*float64(mean)) + 1
}

func (w *world) byLot(p float64) bool { return p > 0 && w.lots.Float64() < p }

func (w *world) startVault() {
	if w.vault == nil {
		return
	}
	for range 1 + w.lots.IntN(3) {
		c := &lastClient{w: w}
		w.lasts = append(w.lasts, c)
		w.After(w.lot(sim.Second), c.begin)
	}
	if w.Swarm.Quiet {
		return
	}
	w.often(w.lot(sim.Second)+sim.Second/5, w.askOfVault)
	w.often(w.lot(3*sim.Second)+sim.Second/2, func() {
		w.vault.down = true
		w.vault.disk.Crash()
		w.hit(VaultDown)
		w.After(w.lot(sim.Second), func() { w.vault.down = false })
	})
}

// askOfVault is somebody who wants to know what became of a transaction of the vault's, or an operator who decides it.
func (w *world) askOfVault() {
	c := w.lasts[w.lots.IntN(len(w.lasts))]
	g := c.ghost
	if g == nil {
		return
	}
	n := w.leaderByLot()
	if w.byLot(0.5) {
		c.inquire(n, g, func(commit.Reply) {}, func() {})
		return
	}
	d := txn.Abort
	if w.byLot(0.5) {
		d = txn.Commit
	}
	w.question(n, false, func(request uint64) replica.Event {
		return commit.ResolveAsked{Request: request, Resolution: txn.Resolution{ID: g.id, Decision: d, Last: vaultName,
			Who: "operator", Why: "simulated", Force: d == txn.Abort}}
	}, func(r commit.Reply) {
		if d := r.Txn.Decision; r.Err == nil && d != txn.Undecided && d != g.decision {
			w.check.Fail("A2", "an operator is told that %v is %v, and the vault has %v", g.id, d, g.decision)
		}
	}, func() {})
}

// has reports whether there is a marker of a transaction.
func (v *vault) has(x txn.XID) bool {
	before := x
	before.Branch--
	kept, _ := v.r.Evidence(context.Background(), before) // it is never behind
	return len(kept) > 0 && kept[0] == x
}

// marking does something at the vault, and tells the checker of the marker that it has left.
func (w *world) marking(g *ghost, d txn.Decision, do func()) {
	name := txn.LastXID(w.formed, g.id)
	before := w.vault.has(name)
	do()
	if !before && w.vault.has(name) {
		_, worked := w.vault.disk.Get(g.id.String())
		w.check.marked(g, d, worked)
	}
}

// settleAt is a worker of a node that settles a transaction.
func (w *world) settleAt(n *sim.Node, t commit.LastTask) {
	boot, g := n.Boot, w.check.ghosts[t.ID]
	w.After(w.lot(20*sim.Millisecond), func() {
		settled := commit.LastSettled{LastTask: t, Err: errConnection}
		lost := w.byLot(w.loss)
		switch {
		case g == nil || g.last == nil || t.Resource != vaultName:
			w.check.Fail("FOREIGN", "node %d settles %v at %s", n.ID, t.ID, t.Resource)
			return
		case w.vault.down || lost && w.byLot(0.5): // it is never asked, or only its answer is lost
		default:
			w.marking(g, txn.Abort, func() {
				settled.Marker, settled.Err = w.vault.r.Settle(context.Background(), w.formed, t.ID)
			})
			w.hit(LastSettledByCluster)
			if lost {
				settled = commit.LastSettled{LastTask: t, Err: errConnection}
			}
		}
		w.After(w.lot(5*sim.Millisecond), func() { w.post(n, boot, settled) })
	})
}

// scanVault lists what the vault has prepared: nothing.
func (w *world) scanVault(n *sim.Node, boot uint32) {
	listed := commit.Listed{Resource: vaultName}
	if w.vault.down || w.byLot(w.loss) {
		listed.Err = errConnection
	}
	w.After(w.lot(10*sim.Millisecond), func() { w.post(n, boot, listed) })
}

// vaultEvidence lists the markers of the vault.
func (w *world) vaultEvidence(n *sim.Node, boot uint32, e commit.EvidenceAsk) {
	kept := commit.Kept{Resource: vaultName, Err: errConnection}
	if !w.vault.down && !w.byLot(w.loss) {
		kept.Evidence, kept.Err = w.vault.r.Evidence(context.Background(), e.After)
	}
	w.After(w.lot(10*sim.Millisecond), func() { w.post(n, boot, kept) })
}

// forgetAtVault removes markers, and raises the row.
func (w *world) forgetAtVault(n *sim.Node, s commit.Spent) {
	boot := n.Boot
	w.After(w.lot(10*sim.Millisecond), func() {
		if w.vault.down || w.byLot(w.loss) {
			return
		}
		if s.To.IsZero() {
			_ = w.vault.r.Forget(context.Background(), s.XIDs) // it cannot fail
			return
		}
		now, err := w.vault.r.Raise(context.Background(), w.formed, s.To, s.XIDs)
		if err == nil {
			w.post(n, boot, commit.Raised{Resource: vaultName, To: s.To, Now: now})
		}
	})
}

// lastGhost is what a transaction with a last resource has besides.
type lastGhost struct {
	logged bool // the log knows the decision
}

// marked is the moment of the decision: A1, it is one with the work of the vault, A2, it is the only one, and AC3, a
// commit has all others prepared.
func (c *checker) marked(g *ghost, d txn.Decision, worked bool) {
	switch {
	case g.decision != txn.Undecided:
		c.Fail("A2", "the vault has a marker to %v for %v, which was %v", d, g.id, g.decision)
		return
	case worked != (d == txn.Commit):
		c.Fail("A1", "the vault has a marker to %v for %v, and its work is there: %v", d, g.id, worked)
		return
	}
	g.decision = d
	if d == txn.Commit {
		if c.jobs[g.job] != nil {
			c.Fail("IDEM", "%v commits the work that %v has committed", g.id, c.jobs[g.job].id)
		}
		c.jobs[g.job] = g
		c.mayCommit(g)
	} else if g.told == txn.Commit {
		c.Fail("A3", "the client of %v was told commit before the vault has a marker to abort", g.id)
	}
}

// lastLogged looks at what the log has of a transaction that the vault decides: A2, it follows, and A4, it knows all
// branches.
func (c *checker) lastLogged(node int, x txn.Txn, g *ghost) {
	switch {
	case g.decision != x.Decision:
		c.Fail("A2", "node %d has %v for %v, and the vault %v", node, x.Decision, g.id, g.decision)
		return
	case g.last.logged:
		return
	}
	g.last.logged, g.at, g.record = true, x.Decided, x.Branches
	for _, b := range g.branches {
		if x.Decision == txn.Commit && !g.has(b) {
			c.Fail("A4", "the log commits %v without branch %d, which is prepared", g.id, b.no)
		}
	}
}

// lastTold is what a client hears: A3.
func (c *checker) lastTold(g *ghost, o txn.Outcome) {
	switch {
	case o == txn.Committed && g.decision != txn.Commit:
		c.Fail("A3", "the client of %v is told commit, and the vault has %v", g.id, g.decision)
	case o == txn.Aborted && g.decision == txn.Commit:
		c.Fail("AC1", "the client of %v is told abort, and the vault has committed", g.id)
	case o == txn.Committed:
		g.told = txn.Commit
	case o == txn.Aborted:
		g.told, g.aborted = txn.Abort, true
	}
}

// leftAtVault names what of the vault's transactions is not in the log, or kept though nobody needs it.
func (w *world) leftAtVault(table *txn.Table) string {
	if w.vault == nil {
		return ""
	}
	for _, c := range w.lasts {
		if c.busy {
			return "a client waits for " + c.ghost.id.String()
		}
	}
	for _, g := range w.check.all {
		if g.last == nil || g.decision != txn.Commit {
			continue
		}
		x, known := table.Get(g.id)
		if !known || !x.Ended {
			return g.id.String() + ", which the vault has committed, has not ended in the log"
		}
		if x.Finished() && w.vault.has(txn.LastXID(w.formed, g.id)) {
			return "the marker of " + g.id.String() + " is kept at the vault, and nobody needs it"
		}
	}
	return ""
}

// lastClient runs one transaction after the other whose last resource is the vault. It is the core of the SDK with
// simulated hands.
type lastClient struct {
	w       *world
	busy    bool
	life    int
	ghost   *ghost
	core    *twopc.Initiator
	session adapters.Session // at the vault
	no      txn.BranchNo     // of that
	limit   sim.Instant      // until when it asks
}

func (c *lastClient) later(mean sim.Instant, do func()) {
	life := c.life
	c.w.After(c.w.lot(mean), func() {
		if c.life == life {
			do()
		}
	})
}

func (c *lastClient) begin() {
	w := c.w
	if !w.beginning || c.busy {
		return
	}
	if w.formed == 0 || w.vault.down {
		c.later(100*sim.Millisecond, c.begin)
		return
	}
	c.life++
	c.busy, c.core = true, &twopc.Initiator{}
	w.jobs++
	id := txn.FirstID(w.clock())
	binary.BigEndian.PutUint64(id[8:], w.lots.Uint64())
	c.ghost = w.check.begun(id.WithClass(txn.LastResource).WithLease(0).WithLast(vaultName), w.jobs)
	c.ghost.last = &lastGhost{}
	for i, at := range w.lots.Perm(len(w.banks))[:1+w.lots.IntN(2)] {
		b := &branch{ghost: c.ghost, no: txn.BranchNo(i + 1), failed: w.byLot(w.failed), work: w.lots.Uint64() | 1}
		if w.quirks.Rows > 0 {
			b.row = w.lots.IntN(w.quirks.Rows)
		}
		w.banks[at].add(b)
		c.core.Step(twopc.Enlisted{No: b.no})
	}
	c.no = txn.BranchNo(len(c.ghost.branches) + 1)
	c.core.Step(twopc.Enlisted{No: c.no})
	if w.byLot(w.crash) {
		c.later(300*sim.Millisecond, c.die)
	}
	c.work(w.Now + 300*sim.Millisecond)
}

// work goes on when every branch has its row, or has waited too long for it.
func (c *lastClient) work(limit sim.Instant) {
	for _, b := range c.ghost.branches {
		if b.lock() || b.failed {
			continue
		}
		if c.w.Now < limit {
			c.later(20*sim.Millisecond, func() { c.work(limit) })
			return
		}
		b.failed = true
	}
	ctx := context.Background()
	var err error
	c.session, err = c.w.vault.r.Open(ctx, txn.XID{Cluster: c.w.formed, ID: c.ghost.id, Branch: c.no})
	if err == nil {
		var tx *inmemory.Tx
		if tx, err = c.w.vault.r.Tx(ctx, enlisted{c.session}); err == nil {
			_ = tx.Put(ctx, c.ghost.id.String(), 1)
			if c.w.byLot(c.w.failed) {
				over, end := context.WithCancel(ctx)
				end()
				_ = tx.Put(over, c.ghost.id.String(), 2) // which fails, and its application takes no notice
			}
		}
	}
	if err != nil || c.w.vault.down {
		c.step(protocol.RollbackAsked{Reason: "the vault is down"})
		return
	}
	c.step(twopc.CommitAsked{Deferred: true, Last: c.no})
}

// enlisted leads to the session of a branch.
type enlisted struct{ adapters.Session }

func (e enlisted) Enlist(context.Context, adapters.Opener) (adapters.Session, error) {
	return e.Session, nil
}

func (c *lastClient) step(e protocol.Event) {
	for _, f := range c.core.Step(e) {
		c.carry(f)
	}
	if c.busy && c.core.Over() {
		c.rest()
	}
}

func (c *lastClient) carry(f protocol.Effect) {
	w := c.w
	switch f := f.(type) {
	case protocol.Prepare:
		c.prepare(c.ghost.branches[f.No-1])
	case twopc.CommitLast:
		c.ghost.yes = true
		c.commitLast(txn.LastMarker{Decision: txn.Commit, Branches: f.Branches})
	case twopc.TellCommitted:
		word := commit.LastDecided{LastDecision: txn.LastDecision{ID: c.ghost.id, Last: vaultName,
			LastMarker: txn.LastMarker{Decision: txn.Commit, Branches: f.Branches}}}
		n := w.leaderByLot()
		c.late(func() { w.Event(n, asked{event: word}) })
	case twopc.Ask:
		c.limit = w.Now + 10*sim.Second
		c.ask()
	case protocol.Finish:
		c.finish(f.No, f.Decision)
	case protocol.Report:
		n, x := w.leaderByLot(), c.ghost.branches[f.No-1].xid()
		c.late(func() {
			w.Event(n, asked{event: commit.Finished{XID: x, Finish: f.Finish, By: txn.FromClient, Who: "client",
				Why: "seen by its session"}})
		})
	case protocol.Reply:
		if f.Outcome == txn.Committed {
			w.hit(LastToldCommit)
		}
		w.check.lastTold(c.ghost, f.Outcome)
	}
}

// late is what may arrive after a death, or never.
func (c *lastClient) late(do func()) {
	if !c.w.byLot(c.w.loss) {
		c.w.After(c.w.lot(10*sim.Millisecond), do)
	}
}

func (w *world) leaderByLot() *sim.Node {
	for _, n := range w.Nodes {
		if n.Up && n.Role.Established && n.Role.Leader == n.ID {
			return n
		}
	}
	return w.Nodes[w.lots.IntN(len(w.Nodes))]
}

// prepare is on its way: it is executed even if the client dies meanwhile, unless its session is gone by then.
func (c *lastClient) prepare(b *branch) {
	life := c.life
	c.w.After(c.w.lot(10*sim.Millisecond), func() {
		vote := txn.VoteNo
		if b.prepare() {
			vote = txn.VoteYes
		}
		if c.life != life {
			return
		}
		record := txn.Branch{No: b.no, Resource: b.bank.name, Holder: "session"}
		if !b.bank.noMarker {
			record.Evidence = "evidence"
		}
		c.step(protocol.Voted{No: b.no, Vote: vote, Branch: record})
	})
}

// commitLast commits at the vault, soon or when the client goes on after it was stopped.
func (c *lastClient) commitLast(m txn.LastMarker) {
	w, life, g, s := c.w, c.life, c.ghost, c.session
	pause := w.lot(10 * sim.Millisecond)
	if !w.Swarm.Quiet && !w.Healed && w.byLot(0.1) {
		pause += w.lot(8 * sim.Second)
		w.hit(LastStopped)
	}
	lost := w.byLot(w.loss)
	w.After(pause, func() {
		if c.life != life && w.lots.IntN(2) == 0 {
			return // it was never sent
		}
		var err error
		w.marking(g, txn.Commit, func() { err = s.(adapters.Last).CommitLast(context.Background(), m) })
		if errors.Is(err, adapters.ErrSettled) {
			w.hit(LastCommitBeaten)
		}
		done := twopc.OnePhaseDone{Outcome: txn.Committed}
		switch {
		case lost:
			done = twopc.OnePhaseDone{Outcome: txn.Unknown, Reason: "the connection broke"}
		case errors.Is(err, adapters.ErrNotCommitted):
			done = twopc.OnePhaseDone{Outcome: txn.Aborted, Reason: err.Error()}
		case err != nil:
			done = twopc.OnePhaseDone{Outcome: txn.Unknown, Reason: err.Error()}
		}
		if c.life == life {
			c.later(5*sim.Millisecond, func() { c.step(done) })
		}
	})
}

// ask asks the cluster, which asks the vault, until it is told or patience ends.
func (c *lastClient) ask() {
	w, life := c.w, c.life
	if w.Now > c.limit {
		c.step(twopc.WaitOver{Reason: "it was asked for long enough"})
		c.die()
		return
	}
	c.inquire(w.leaderByLot(), c.ghost, func(r commit.Reply) {
		switch {
		case c.life != life:
		case r.Err != nil || r.Txn.Decision == txn.Undecided:
			c.later(100*sim.Millisecond, c.ask)
		default:
			c.step(protocol.Decided{Decision: r.Txn.Decision})
		}
	}, func() {
		if c.life == life {
			c.ask()
		}
	})
}

// inquire asks a node for the outcome of a transaction.
func (c *lastClient) inquire(n *sim.Node, g *ghost, hear func(commit.Reply), over func()) {
	c.w.question(n, false, func(request uint64) replica.Event {
		return commit.OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: g.id, Last: vaultName}}
	}, func(r commit.Reply) {
		if d := r.Txn.Decision; r.Err == nil && d != txn.Undecided && d != g.decision {
			c.w.check.Fail("A2", "somebody is told that %v is %v, and the vault has %v", g.id, d, g.decision)
		}
		hear(r)
	}, over)
}

// finish ends a branch on its own session. What does not succeed is tried again, or left to the cluster.
func (c *lastClient) finish(no txn.BranchNo, d txn.Decision) {
	life := c.life
	if no == c.no {
		c.later(5*sim.Millisecond, func() {
			if c.session != nil {
				_ = c.session.Rollback(context.Background()) // a session that died has rolled back
			}
			c.step(protocol.Finished{No: no, Finish: txn.Done})
		})
		return
	}
	b := c.ghost.branches[no-1]
	c.later(10*sim.Millisecond, func() {
		attempt{b: b, d: d, own: true, holder: true, evident: !b.bank.noMarker, done: func(f txn.Finish, err error) {
			if c.life != life {
				return
			}
			b.closeSession()
			if err == nil {
				c.step(protocol.Finished{No: no, Finish: f})
			} else {
				c.later(50*sim.Millisecond, func() { c.step(protocol.FinishFailed{No: no}) })
			}
		}}.run()
	})
}

func (c *lastClient) rest() {
	c.life++
	c.busy = false
	c.later(100*sim.Millisecond, c.begin)
}

// die is a crash of the application. Its sessions end soon or late.
func (c *lastClient) die() {
	if !c.busy {
		return
	}
	for _, b := range slices.Clone(c.ghost.branches) {
		c.w.After(c.w.lot(100*sim.Millisecond), b.closeSession)
	}
	if s := c.session; s != nil {
		c.w.After(c.w.lot(100*sim.Millisecond), func() { _ = s.Rollback(context.Background()) })
	}
	c.rest()
}
