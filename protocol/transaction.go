// SPDX-License-Identifier: Apache-2.0

package protocol

import "github.com/concordtx/concord/txn"

// Transaction is one global transaction as the leader holds it in hand, whatever its protocol.
//
// Its driver is the same for all of them: it steps what is said about the gid, puts what is
// proposed into the log, and steps what the log delivers. What meeting an orphan (OrphanMet)
// means, the protocol says. Two-phase: nobody asked to commit it and nobody will, so a
// tombstone. Three-phase: a tombstone as long as the log knows nothing of it; where the log
// says that agents may have accepted a commit, an election, which finds out.
//
// Invariants of every implementation:
//  1. Decision is what the log delivered, and never changes once it is there.
//  2. Unfinished is empty without a decision.
//  3. Closed says that nothing is left to do but to answer questions; it stays so.
type Transaction interface {
	Step(Event) []Effect
	// Decision returns what was delivered, or Undecided.
	Decision() txn.Decision
	// Unfinished returns the branches of a decided transaction that nobody has reported
	// finished, in order of No.
	Unfinished() []txn.BranchNo
	// Closed reports whether nothing is left to do but to answer questions.
	Closed() bool
}
