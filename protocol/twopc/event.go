// SPDX-License-Identifier: Apache-2.0

package twopc

import "github.com/concordtx/concord/txn"

// What happens to an Initiator only. The rest is in package protocol.

// Enlisted says that a branch was opened. To an Initiator.
type Enlisted struct{ No txn.BranchNo }

// OnlyRead says that the session of a branch has seen nothing but reads. Its vote says whether that
// is so: it may not know what a function of the database did. To an Initiator, before CommitAsked.
type OnlyRead struct{ No txn.BranchNo }

// CommitAsked says that the application wants to commit. Recorded says that the cluster shall
// decide in any case, so that the outcome can be asked for ever after. With Deferred the branch Last is
// that of a last resource: it commits when all others are prepared, and that is the decision. With AtDecision the
// application does not wait until a commit that is decided has reached the branches. To an Initiator.
type CommitAsked struct {
	Recorded   bool
	Deferred   bool
	Last       txn.BranchNo // if Deferred
	AtDecision bool
}

// OnePhaseDone ends a CommitOnePhase, or a CommitLast: Committed, Aborted or Unknown. To an Initiator.
type OnePhaseDone struct {
	Outcome txn.Outcome
	Reason  string
}

// WaitOver says that the application waits no longer. Before Ask that aborts the
// transaction; after it the decision may still arrive as Decided, and is carried out then.
// To an Initiator.
type WaitOver struct{ Reason string }

// NotAsked says that Ask was not carried out and will not be: nobody has heard of the
// transaction. To an Initiator, which aborts it.
type NotAsked struct{ Reason string }

// MarkerFound says which marker the last resource has; Reason, of an abort, how it came there. To a LastCoordinator.
type MarkerFound struct {
	Marker txn.LastMarker
	Reason string
}

// SettleFailed says that the last resource could not be asked, or that the transaction of who might have committed
// there has not ended: it has to be tried again. To a LastCoordinator.
type SettleFailed struct{}

func (MarkerFound) IsEvent()  {}
func (SettleFailed) IsEvent() {}
func (Enlisted) IsEvent()     {}
func (OnlyRead) IsEvent()     {}
func (CommitAsked) IsEvent()  {}
func (OnePhaseDone) IsEvent() {}
func (WaitOver) IsEvent()     {}
func (NotAsked) IsEvent()     {}
