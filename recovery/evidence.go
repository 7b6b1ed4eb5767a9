// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// Contradicted returns the evidence of branches that have committed although their transactions were
// decided to abort, unless that is on record. An abort of which nobody has seen a prepared branch says
// nothing about a database that committed alone.
func Contradicted(kept []txn.XID, d Decisions, r Rules) (contradicted []txn.XID) {
	for _, x := range kept {
		if x.Cluster != r.Cluster || x.Branch == txn.LastBranch { // which is no branch
			continue
		}
		t, known := d.Get(x.ID)
		onRecord := slices.ContainsFunc(t.Heuristics, func(h txn.Heuristic) bool { return h.Branch == x.Branch })
		if known && t.Decision == txn.Abort && t.Outcome() != txn.Unrecorded && !onRecord {
			contradicted = append(contradicted, x)
		}
	}
	return contradicted
}

// Spent returns the evidence that nobody needs any more, of what a resource keeps. Needed is
// that of a branch whose transaction is not finished or has an alarm that nobody has dealt
// with; that of an aborted transaction, which proves that somebody committed the branch; and
// that of a transaction without decision. What belongs to another cluster is left alone. The marker of a last
// resource that says abort stays for as long as its transaction is remembered: a client that was stopped may wake up
// and try to commit, and has to meet it.
func Spent(kept []txn.XID, d Decisions, r Rules) (spent []txn.XID) {
	for _, x := range kept {
		if x.Cluster != r.Cluster {
			continue
		}
		t, known := d.Get(x.ID)
		dealtWith := t.Decision == txn.Commit || len(t.Heuristics) > 0 && x.Branch != txn.LastBranch ||
			mutant.AbortMarkerForgotten && x.Branch == txn.LastBranch
		if known && t.Finished() && dealtWith || !known && d.TooOld(x.ID) {
			spent = append(spent, x)
		}
	}
	return spent
}
