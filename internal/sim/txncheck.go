// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"slices"

	"github.com/concordtx/concord/txn"
)

// txnChecker watches transactions: what the log decided, what the banks did, and what
// anybody was told must never disagree.
type txnChecker struct {
	*Checker
	ghosts  map[txn.ID]*txnGhost // looked up by id only
	all     []*txnGhost
	digests map[txn.Position]txn.Digest
}

// txnGhost is everything that ever happened to one transaction.
type txnGhost struct {
	id       txn.ID
	branches []*branch
	decision txn.Decision // of the log
	told     txn.Decision // to the client; Undecided also for "unknown"
	yes      bool         // all branches voted yes
	finals   map[txn.BranchNo]state
	reported map[txn.BranchNo]bool // a heuristic outcome is in the log
}

func newTxnChecker(c *Checker) *txnChecker {
	return &txnChecker{Checker: c, ghosts: map[txn.ID]*txnGhost{}, digests: map[txn.Position]txn.Digest{}}
}

func (c *txnChecker) begun(id txn.ID) *txnGhost {
	g := &txnGhost{id: id, finals: map[txn.BranchNo]state{}, reported: map[txn.BranchNo]bool{}}
	c.ghosts[id] = g
	c.all = append(c.all, g)
	return g
}

// folded looks at what one node's table made of one log entry: DET, AC2, AC3.
func (c *txnChecker) folded(node int, changes txn.Changes) {
	at := changes.Meta.Position
	if d, ok := c.digests[at]; ok && d != changes.Meta.Digest {
		c.fail("DET", "node %d has another digest at %v than others", node, at)
	}
	c.digests[at] = changes.Meta.Digest
	for _, list := range [][]txn.Txn{changes.Open, changes.Finished} {
		for _, x := range list {
			c.decided(node, x)
		}
	}
}

func (c *txnChecker) decided(node int, x txn.Txn) {
	g := c.ghosts[x.ID]
	if g == nil {
		c.fail("AC1", "node %d decided %v, which nobody began", node, x.ID)
		return
	}
	for _, h := range x.Heuristics {
		g.reported[h.Branch] = true
	}
	if g.decision == x.Decision {
		return
	}
	if g.decision != txn.Undecided {
		c.fail("AC2", "node %d has %v for %v, which was %v", node, x.Decision, x.ID, g.decision)
		return
	}
	g.decision = x.Decision
	if g.told != txn.Undecided && g.told != x.Decision {
		c.fail("AC1", "%v is decided %v, but its client was told %v", x.ID, x.Decision, g.told)
	}
	if x.Decision == txn.Commit {
		c.mayCommit(g)
	}
}

// mayCommit is AC3: at the moment of the decision each branch is prepared, with work.
func (c *txnChecker) mayCommit(g *txnGhost) {
	for _, b := range g.branches {
		if b.state != prepared && b.state != lost || b.voted == 0 {
			c.fail("AC3", "%v is decided commit, but branch %d is in state %d with work %x", g.id, b.no, b.state, b.voted)
		}
	}
}

// moved looks at a branch that changed its state: AC1, AC2, AC3w.
func (c *txnChecker) moved(b *branch, before state) {
	g := b.ghost
	if b.state != committed && b.state != rolledBack {
		return
	}
	if final, ok := g.finals[b.no]; ok && final != b.state {
		c.fail("AC2", "branch %d of %v was in state %d and now is in %d", b.no, g.id, final, b.state)
	}
	g.finals[b.no] = b.state
	switch {
	case b.state == committed && g.decision != txn.Commit:
		c.fail("AC1", "branch %d of %v commits, but the decision is %v", b.no, g.id, g.decision)
	case b.state == committed && (b.work == 0 || b.work != b.voted):
		c.fail("AC3w", "branch %d of %v commits work %x after it voted for %x", b.no, g.id, b.work, b.voted)
	case b.state == rolledBack && (g.decision == txn.Commit || g.told == txn.Commit):
		c.fail("AC1", "branch %d of %v rolls back, but the decision is commit", b.no, g.id)
	}
}

// tell looks at what a client hears: AC1, AC2, DUR1.
func (c *txnChecker) tell(g *txnGhost, d txn.Decision) {
	if g.told != txn.Undecided && g.told != d {
		c.fail("AC2", "the client of %v was told %v and now %v", g.id, g.told, d)
	}
	g.told = d
	switch {
	case d == txn.Commit && g.decision != txn.Commit:
		c.fail("DUR1", "the client of %v is told commit, but the log has %v", g.id, g.decision)
	case d == txn.Abort && g.decision == txn.Commit:
		c.fail("AC1", "the client of %v is told abort, but the log has commit", g.id)
	}
}

// leftover names the first thing that is not finished; nothing after healing is AC5.
func (c *txnChecker) leftover() (string, bool) {
	for _, g := range c.all {
		for _, b := range g.branches {
			if b.state == prepared || b.state == active {
				return g.id.String() + " has a branch that is not finished at " + b.bank.name, true
			}
		}
	}
	return "", false
}

// settled compares the banks with the log when all is done: AC1, and a lost branch
// of a committed transaction must be known to the log (HEUR).
func (c *txnChecker) settled() {
	for _, g := range c.all {
		for _, b := range g.branches {
			if g.decision != txn.Commit || b.state == committed {
				continue
			}
			if b.state == lost && g.reported[b.no] {
				continue
			}
			id := "AC1"
			if b.state == lost {
				id = "HEUR"
			}
			c.fail(id, "%v is committed, but branch %d is in state %d and the log does not know", g.id, b.no, b.state)
		}
	}
}

// allCommitted is AC4, for runs without a fault.
func (c *txnChecker) allCommitted() {
	i := slices.IndexFunc(c.all, func(g *txnGhost) bool { return g.yes && g.told != txn.Commit })
	if i >= 0 {
		c.fail("AC4", "all branches of %v voted yes without any fault, and its client was told %v", c.all[i].id, c.all[i].told)
	}
}
