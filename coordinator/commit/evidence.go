// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// Evidence is forgotten when its transaction is finished, by whoever leads then. What is left
// behind, because that node died or its word did not arrive, is found by a sweep: the leader
// lets each resource list what it keeps, a page at a time, from the oldest on. The same sweep finds evidence of
// commits that were decided to be aborts. It comes at once when a branch without a decision to commit has
// vanished from a listing, since somebody has ended it.

const (
	// evidenceAfter is when a leader begins to sweep: its predecessor may have left a lot.
	evidenceAfter = 5 * time.Second
	// evidenceEvery is the interval between two sweeps of a resource.
	evidenceEvery = 20 * time.Second
	// evidencePage is the interval between two pages of one sweep.
	evidencePage = 200 * time.Millisecond
)

// evidenceSweep is how far a sweep of one resource is.
type evidenceSweep struct {
	due     time.Time // zero: the leader has just begun
	running bool
	after   txn.XID // the last one of the page before; zero: from the first one of this cluster on
}

// sweepEvidence asks for pages of evidence that are due.
func (c *Machine) sweepEvidence() {
	for _, name := range c.config.Resources {
		e := &c.scans[name].evidence
		switch {
		case e.due.IsZero():
			e.due = c.core.Now().Add(evidenceAfter)
		case !e.running && !c.core.Now().Before(e.due):
			e.running, e.after.Cluster = true, c.table.Cluster()
			c.fx.Evidence = append(c.fx.Evidence, EvidenceAsk{Resource: name, After: e.after})
		}
	}
}

// onKept plans for one page. It is as long as it is so that no turn takes long.
func (c *Machine) onKept(k Kept) {
	s := c.scans[k.Resource]
	if !c.core.Leading() || s == nil {
		return
	}
	s.evidence = evidenceSweep{due: c.core.Now().Add(evidenceEvery)}
	if k.Err != nil {
		return
	}
	if spent := recovery.Spent(k.Evidence, c.table, c.rules()); len(spent) > 0 {
		c.evidence[k.Resource] = append(c.evidence[k.Resource], spent...)
	}
	for _, x := range recovery.Contradicted(k.Evidence, c.table, c.rules()) {
		c.heuristic(Finished{XID: x, By: txn.FromCluster, Who: k.Resource,
			Why: "decided abort, and the marker of the branch is in the database: somebody committed it by hand"},
			txn.HeuristicCommit)
	}
	// What comes behind that of this cluster belongs to others.
	if n := len(k.Evidence); n >= adapters.EvidencePage && k.Evidence[n-1].Cluster == c.table.Cluster() {
		s.evidence.due, s.evidence.after = c.core.Now().Add(evidencePage), k.Evidence[n-1]
	}
}

// evidenceDone notes that the evidence of a finished transaction is not needed any
// more. Nothing that is alarming is finished, so a contradiction keeps its evidence.
func (c *Machine) evidenceDone(x txn.Txn) {
	for _, b := range x.Branches {
		c.evidence[b.Resource] = append(c.evidence[b.Resource], c.xid(x.ID, b.No))
	}
}
