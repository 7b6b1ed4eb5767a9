// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// checker watches transactions: what the log decided, what the banks did, and what
// anybody was told must never disagree. Its checks:
//
//	AC1     all who decide agree            AC2    nobody ever decides otherwise
//	AC3     a commit has all prepared       AC3w   and commits the work that was voted for
//	AC4     without faults all commit       AC5    everything ends, and not before it is done
//	AC6     only old branches are orphans   DUR1   told commit is in the log of a quorum
//	DET     equal digests at all nodes      IDEM   one piece of work takes effect once
//	HEUR    what a DBA or a loss made is reported once, and nothing else is
//	LEASE   nothing is committed under a lease that has ended
//	KEY     a key is found with the transaction that is committed under it
//	BEHIND  nothing is ended at a database that is behind, and no other one is taken for that
//	FOREIGN what belongs to others is left alone
//	JOIN    what a service does for a call is done once, for who began the transaction, and is voted for
//	LIN     the decision of a gid is a write-once register (see history)
//	A1      work and marker of a last resource are one
//	A2      and the log, and whoever asks, follow the marker
//	A3      no client is told commit before it
//	A4      and the log knows all branches of a commit
//	T1      of a three-phase transaction nobody decides otherwise than others
//	T2      and a commit of one has all work prepared
//	T3      no member is told a decision that cannot be
//	T6      an agent commits nothing that is not prepared
type checker struct {
	*sim.Checker
	ghosts  map[txn.ID]*ghost // looked up by id only
	threes  map[txn.ID]*three // likewise
	all     []*ghost
	digests map[zab.Zxid]txn.Digest
	foreign map[txn.ID]bool        // of branches of others
	leases  map[txn.Lease]zab.Zxid // where they ended
	jobs    map[int]*ghost         // which transaction has done a piece of work
	seen    []seenContradiction    // by workers
	maxAge  sim.Instant            // after which a branch may be an orphan
	// quorumHas reports whether the logs of a quorum hold the entry.
	quorumHas func(zab.Zxid) bool
	banks     func() []*bank
	// remembered is what the log remembers of banks, by the latest entry that anybody delivered.
	remembered txn.Meta
	now        func() sim.Instant
	history    history
}

// ghost is everything that ever happened to one transaction.
type ghost struct {
	id         txn.ID
	job        int         // the piece of work that it is to do
	key        string      // under which it is to be committed; empty: none
	born       sim.Instant // by the only true clock
	alone      bool        // one database decides it, and the cluster never hears of it
	aborted    bool        // somebody was told that it is aborted
	branches   []*branch
	decision   txn.Decision // of the log
	at         zab.Zxid     // of the decision
	record     []txn.Branch // in the log
	ended      bool
	told       txn.Decision // to the client; Undecided also for "unknown"
	yes        bool         // all branches voted yes
	heuristics []txn.Heuristic
	made       map[api.CallName]bool // calls of services, by who takes part in it
	last       *lastGhost            // nil unless the vault decides it
}

// watch is what the checker remembers of a branch.
type watch struct {
	final     state // made by the product
	taken     bool  // hands or fate moved it since it was prepared
	confirmed bool  // somebody was rightly told that it is committed
	may       map[txn.Outcome]bool
}

// seenContradiction is a report that a node must make, unless its reign ends before.
type seenContradiction struct {
	b     *branch
	epoch uint32
	at    sim.Instant
}

func newChecker(c *sim.Checker) *checker {
	return &checker{Checker: c, ghosts: map[txn.ID]*ghost{}, threes: map[txn.ID]*three{},
		digests: map[zab.Zxid]txn.Digest{}, foreign: map[txn.ID]bool{}, leases: map[txn.Lease]zab.Zxid{},
		jobs: map[int]*ghost{}, quorumHas: func(zab.Zxid) bool { return true },
		now: func() sim.Instant { return 0 }, banks: func() []*bank { return nil }}
}

func (c *checker) begun(id txn.ID, job int) *ghost {
	g := &ghost{id: id, job: job, born: c.now()}
	c.ghosts[id] = g
	c.all = append(c.all, g)
	return g
}

// folded looks at what one node's table made of one log entry: DET, and each decision.
func (c *checker) folded(node int, changes txn.Changes) {
	at := changes.Meta.Zxid
	if d, ok := c.digests[at]; ok && d != changes.Meta.Digest {
		c.Fail("DET", "node %d has another digest at %v than others", node, at)
	}
	c.digests[at] = changes.Meta.Digest
	c.leasesFolded(changes)
	c.bankFolded(node, changes)
	for _, list := range [][]txn.Txn{changes.Open, changes.Finished} {
		for _, x := range list {
			if x.ID.Class() == txn.ThreePhase {
				c.noted(c.threes[x.ID], x.Decision, fmt.Sprintf("the log of node %d", node))
				continue
			}
			c.decided(node, x)
		}
	}
}

// bankFolded looks at what the log remembers of banks: BEHIND.
func (c *checker) bankFolded(node int, changes txn.Changes) {
	if !c.remembered.Zxid.Less(changes.Meta.Zxid) {
		return // another node was faster
	}
	c.remembered = changes.Meta
	for _, b := range c.banks() {
		if slices.Contains(changes.Quarantined, b.name) && !b.restored {
			c.Fail("BEHIND", "node %d has %s quarantined, which was never set back", node, b.name)
		}
		if slices.Contains(changes.Accepted, b.name) {
			b.restored, b.accepted = b.row.Less(c.known(b).HighWater), c.now()
		}
	}
}

func (c *checker) known(b *bank) txn.Remembered {
	for _, r := range c.remembered.Remembered {
		if r.Resource == b.name {
			return r
		}
	}
	return txn.Remembered{}
}

// held reports whether a transaction may be aborted because one of its banks is quarantined, or was when
// the abort was proposed.
func (c *checker) held(g *ghost) bool {
	return slices.ContainsFunc(g.branches, func(b *branch) bool {
		return c.known(b.bank).Quarantine != nil || b.bank.accepted > g.born
	})
}

// endsAt looks at a worker that is about to end a branch: BEHIND. What counts is what its node has
// delivered of the log.
func (c *checker) endsAt(n *sim.Node, b *bank, known txn.Remembered) {
	if n.Up && (b.row.Less(known.HighWater) || known.Quarantine != nil) {
		c.Fail("BEHIND", "node %d ends a branch at %s, which has %v of %v", n.ID, b.name, b.row.At, known.At)
	}
}

// decided looks at a transaction as a table has it: AC1, AC2, AC6, FOREIGN, IDEM.
func (c *checker) decided(node int, x txn.Txn) {
	g := c.ghosts[x.ID]
	switch {
	case g == nil && c.foreign[x.ID]:
		c.Fail("FOREIGN", "node %d decided %v, which belongs to others", node, x.ID)
		return
	case g == nil:
		c.Fail("AC1", "node %d decided %v, which nobody began", node, x.ID)
		return
	case g.last != nil:
		c.lastLogged(node, x, g)
	case g.decision == txn.Undecided:
		c.first(g, x)
	case g.decision != x.Decision:
		c.Fail("AC2", "node %d has %v for %v, which was %v", node, x.Decision, x.ID, g.decision)
		return
	}
	if known := len(g.heuristics); len(x.Heuristics) >= known {
		g.heuristics = x.Heuristics // also what an operator forgot
		for _, h := range x.Heuristics[known:] {
			c.reported(g, h)
		}
	}
	if x.Ended && !g.ended {
		g.ended = true
		c.mayEnd(g)
	}
}

// first is the moment of the decision.
func (c *checker) first(g *ghost, x txn.Txn) {
	g.decision, g.at, g.record = x.Decision, x.Decided, x.Branches
	switch {
	case g.told != txn.Undecided && g.told != x.Decision && !g.alone:
		c.Fail("AC1", "%v is decided %v, but its client was told %v", x.ID, x.Decision, g.told)
	case x.Decision == txn.Abort:
		switch {
		case x.By == txn.FromCluster && c.beaten(g), c.held(g):
			c.history.ask(g.id, askOutcome, c.now())
		case x.By == txn.FromCluster:
			c.orphaned(g)
		}
	case c.jobs[g.job] != nil:
		c.Fail("IDEM", "%v commits the work that %v has committed", g.id, c.jobs[g.job].id)
	case x.Decision == txn.Commit:
		c.leased(x)
		if g.job != 0 {
			c.jobs[g.job] = g
		}
		c.mayCommit(g)
	}
}

// orphaned is AC6. The scan has asked for the outcome, as far as the history goes.
func (c *checker) orphaned(g *ghost) {
	_, gone := c.leases[g.id.Lease()]
	if age := c.now() - g.born; age < c.maxAge && !gone {
		c.Fail("AC6", "%v is aborted as an orphan at the age of %s, and may live for %s", g.id, age, c.maxAge)
	}
	c.history.ask(g.id, askOutcome, c.now())
}

// mayCommit is AC3: at the moment of the decision each branch has been prepared, with
// work. Somebody else may have taken it since.
func (c *checker) mayCommit(g *ghost) {
	for _, b := range g.branches {
		if b.voted == 0 || b.state != prepared && !b.taken {
			c.Fail("AC3", "%v is decided commit, but branch %d is in state %d with work %x", g.id, b.no, b.state,
				b.voted)
		}
	}
}

// has reports whether the commit record names the branch.
func (g *ghost) has(b *branch) bool {
	return slices.ContainsFunc(g.record, func(r txn.Branch) bool { return r.No == b.no })
}

// mayEnd is AC5: a transaction ends when the end of each branch is known. What is known
// not to be as decided is reported before: HEUR.
func (c *checker) mayEnd(g *ghost) {
	for _, b := range g.branches {
		switch {
		case g.decision != txn.Commit || !g.has(b) || b.confirmed || g.reported(b):
		case len(b.may) > 0:
			c.Fail("HEUR", "%v ends, and the log does not know that branch %d, which is in state %d, did not end as "+
				"decided", g.id, b.no, b.state)
		default:
			c.Fail("AC5", "%v ends, but nobody knows how branch %d ended, which is in state %d", g.id, b.no, b.state)
		}
	}
}

// reported reports whether the log knows that the branch did not end as decided.
func (g *ghost) reported(b *branch) bool {
	return slices.ContainsFunc(g.heuristics, func(h txn.Heuristic) bool { return h.Branch == b.no })
}

// givenUp reports whether an operator has given up the branch: what becomes of it is his.
func (g *ghost) givenUp(b *branch) bool {
	return slices.ContainsFunc(g.heuristics,
		func(h txn.Heuristic) bool { return h.Branch == b.no && h.By == txn.FromOperator })
}

// standing counts the reports on a branch that nobody has dealt with.
func (g *ghost) standing(no txn.BranchNo) (n int) {
	for _, h := range g.heuristics {
		if h.Branch == no && !h.Forgotten {
			n++
		}
	}
	return n
}

// reported is HEUR: a report must be true, and there is one for each branch, or another
// one after an operator has dealt with it.
func (c *checker) reported(g *ghost, h txn.Heuristic) {
	i := slices.IndexFunc(g.branches, func(b *branch) bool { return b.no == h.Branch })
	switch {
	case i < 0:
		c.Fail("HEUR", "%v has a report on branch %d, which it does not have", g.id, h.Branch)
	case !g.branches[i].may[h.Outcome] && !g.branches[i].contradicts(h.Outcome):
		c.Fail("HEUR", "%v has the false alarm %v for branch %d", g.id, h.Outcome, h.Branch)
	case g.standing(h.Branch) > 1:
		c.Fail("HEUR", "%v has two reports on branch %d", g.id, h.Branch)
	}
}

// moved looks at a branch that changed its state: AC1, AC2, AC3w, IDEM. What a DBA or a
// loss did is not the fault of the product.
func (c *checker) moved(b *branch, before state, by mover) {
	g := b.ghost
	switch {
	case by != ours:
		b.taken = true
		return
	case b.state == prepared:
		b.taken = false
		return
	case !b.state.final():
		return
	}
	if b.final != absent && b.final != b.state {
		c.Fail("AC2", "branch %d of %v was in state %d and now is in %d", b.no, g.id, b.final, b.state)
	}
	b.final = b.state
	c.joinedCommits(b)
	switch {
	case b.state == committed && g.aborted:
		c.Fail("AC1", "branch %d of %v commits, and somebody was told that it is aborted", b.no, g.id)
	case b.state == committed && g.alone:
		c.commitsAlone(g)
	case b.state == committed && g.decision != txn.Commit:
		c.Fail("AC1", "branch %d of %v commits, but the decision is %v", b.no, g.id, g.decision)
	case b.state == committed && (b.work == 0 || b.work != b.voted):
		c.Fail("AC3w", "branch %d of %v commits work %x after it voted for %x", b.no, g.id, b.work, b.voted)
	case b.state == committed && b.applied > 1:
		c.Fail("IDEM", "the work of branch %d of %v takes effect %d times", b.no, g.id, b.applied)
	case b.state == rolledBack && (g.decision == txn.Commit || g.told == txn.Commit):
		c.Fail("AC1", "branch %d of %v rolls back, but the decision is commit", b.no, g.id)
	}
}

// commitsAlone is the moment at which a database decides a transaction: IDEM.
func (c *checker) commitsAlone(g *ghost) {
	if c.jobs[g.job] != nil {
		c.Fail("IDEM", "%v commits the work that %v has committed", g.id, c.jobs[g.job].id)
	}
	c.jobs[g.job] = g
}

// tellAlone looks at what a client hears from its only database: AC1.
func (c *checker) tellAlone(g *ghost, done bool) {
	if !done {
		return
	}
	g.yes, g.told = true, txn.Commit
	if g.aborted {
		c.Fail("AC1", "the client of %v is told commit, and somebody was told that it is aborted", g.id)
	}
}

// answered looks at what somebody who has nothing to do with a transaction hears of it: AC1.
func (c *checker) answered(g *ghost, o txn.Outcome) {
	if o != txn.Aborted {
		return
	}
	g.aborted = true
	for _, b := range g.branches {
		if b.state == committed && !b.taken {
			c.Fail("AC1", "somebody is told that %v is aborted, but branch %d is committed", g.id, b.no)
		}
	}
}

// concluded compares what an adapter makes of a branch with the truth: HEUR.
func (c *checker) concluded(a attempt, f txn.Finish) {
	b := a.b
	wrong := func() {
		c.Fail("HEUR", "branch %d of %v is in state %d, and whoever wanted to %v it hears %v", b.no, b.ghost.id,
			b.state, a.d, f)
	}
	done := f == txn.Done || f == txn.AlreadyDone
	switch {
	case a.d == txn.Commit && done && b.state == committed:
		b.confirmed = true
	case done && a.d == txn.Commit && b.hidden && b.bank.noMarker && !a.holder:
		b.confirmed = true // the server said so, and there is nothing to check it by until its restart
	case done && a.d == txn.Abort && b.state != committed:
	case done && a.d == txn.Abort && a.proof() != provesCommit: // nobody can know
	case f == txn.Contradicted && a.d == txn.Commit && b.state == rolledBack:
		b.expect(txn.HeuristicRollback)
	case f == txn.Contradicted && a.d == txn.Abort && b.state == committed:
		b.expect(txn.HeuristicCommit)
	case f == txn.Lost && a.d == txn.Commit && a.proof() == unproven:
		b.expect(txn.HeuristicHazard)
	default:
		wrong()
	}
}

func (b *branch) expect(o txn.Outcome) {
	if b.may == nil {
		b.may = map[txn.Outcome]bool{}
	}
	b.may[o] = true
}

// contradicts reports whether the branch is, now, what a report says.
func (b *branch) contradicts(o txn.Outcome) bool {
	return o == txn.HeuristicCommit && b.state == committed && b.ghost.decision == txn.Abort
}

// showsMarker is when a listing of evidence has the marker of a branch: if it was to be aborted somebody has
// committed it by hand.
func (b *branch) showsMarker() {
	if b.contradicts(txn.HeuristicCommit) {
		b.expect(txn.HeuristicCommit)
	}
}

// heard is a contradiction that arrived at a leader.
func (c *checker) heard(b *branch, epoch uint32) {
	c.seen = append(c.seen, seenContradiction{b: b, epoch: epoch, at: c.now()})
}

// onTheWay reports whether what a leader heard may still be on its way into the log.
func (c *checker) onTheWay() bool {
	return slices.ContainsFunc(c.seen, func(s seenContradiction) bool {
		return c.now()-s.at < 5*sim.Second &&
			!s.b.ghost.reported(s.b)
	})
}

// tell looks at what a client hears: AC1, AC2, DUR1.
func (c *checker) tell(g *ghost, d txn.Decision) {
	if g.told != txn.Undecided && g.told != d {
		c.Fail("AC2", "the client of %v was told %v and now %v", g.id, g.told, d)
	}
	g.told = d
	switch {
	case d == txn.Undecided:
		c.Fail("AC1", "the client of %v is told that it is decided, but not how", g.id)
	case d == txn.Commit && g.decision != txn.Commit:
		c.Fail("DUR1", "the client of %v is told commit, but the log has %v", g.id, g.decision)
	case d == txn.Commit && !c.quorumHas(g.at):
		c.Fail("DUR1", "the client of %v is told commit, but no quorum has %v", g.id, g.at)
	case d == txn.Abort && g.decision == txn.Commit:
		c.Fail("AC1", "the client of %v is told abort, but the log has commit", g.id)
	}
}

// leftover names the first thing that is not finished; nothing after healing is AC5.
func (c *checker) leftover(banks []*bank) (string, *branch) {
	for _, bank := range banks {
		for _, b := range bank.open {
			if !b.state.final() {
				return b.ghost.id.String() + " has a branch that is not finished at " + bank.name, b
			}
		}
	}
	return "", nil
}

// settled compares the banks with the log when all is done: AC1, and HEUR.
func (c *checker) settled(epoch uint32) {
	for _, g := range c.all {
		for _, b := range g.branches {
			c.ended(g, b)
		}
	}
	for _, s := range c.seen {
		if s.epoch == epoch && !s.b.ghost.reported(s.b) {
			c.Fail("HEUR", "the leader heard that branch %d of %v is in state %d, and the log does not know", s.b.no,
				s.b.ghost.id, s.b.state)
		}
	}
	for _, g := range c.all {
		if g.told == txn.Commit && (g.last == nil || g.last.logged) && !c.quorumHas(g.at) {
			c.Fail("DUR1", "the client of %v was told commit, and now no quorum has %v", g.id, g.at)
		}
	}
}

func (c *checker) ended(g *ghost, b *branch) {
	switch {
	case g.decision == txn.Commit && g.givenUp(b):
	case g.decision != txn.Commit && b.state == committed && !b.taken && !g.alone:
		c.Fail("AC1", "%v is not committed, but branch %d is", g.id, b.no)
	case g.decision != txn.Commit || b.state == committed:
	case !b.taken && b.state != committed:
		c.Fail("AC1", "%v is committed, but branch %d is in state %d", g.id, b.no, b.state)
	case !b.confirmed && !g.reported(b):
		c.Fail("HEUR", "%v is committed, but branch %d is in state %d and the log does not know", g.id, b.no, b.state)
	}
}

// allCommitted is AC4, for runs without a fault.
func (c *checker) allCommitted() {
	i := slices.IndexFunc(c.all, func(g *ghost) bool { return g.yes && g.told != txn.Commit && !c.beaten(g) })
	if i >= 0 {
		c.Fail("AC4", "all branches of %v voted yes without any fault, and its client was told %v", c.all[i].id,
			c.all[i].told)
	}
}
