// SPDX-License-Identifier: Apache-2.0

package twopc

import "github.com/concordtx/concord/txn"

// Event is something that happened. Step handles one at a time. A core ignores an event
// that its state has no use for, such as a repeated one.
type Event interface{ isEvent() }

// Enlisted says that a branch was opened. To an Initiator.
type Enlisted struct{ No txn.BranchNo }

// CommitAsked says that the application wants to commit. Recorded says that the cluster shall
// decide in any case, so that the outcome can be asked for ever after. To an Initiator.
type CommitAsked struct{ Recorded bool }

// RollbackAsked says that somebody wants to abort: the application (to an Initiator);
// an operator or a time limit (to a Coordinator); an agent's time limit (to a Participant,
// which obeys only before its Yes). It never undoes a decision.
type RollbackAsked struct{ Reason string }

// Asked is the commit request. Branches have voted Yes already and are held by whoever
// asks; Missing are held by agents and have not voted. To a Coordinator.
type Asked struct{ Branches, Missing []txn.Branch }

// PrepareAsked says that the coordinator wants a vote. To a Participant.
type PrepareAsked struct{}

// Voted is the vote of a branch. To an Initiator or Participant it comes from the
// resource, and a Yes says that the branch is durable; to a Coordinator from an agent.
// Branch is set for a Yes, Reason for a No.
type Voted struct {
	No     txn.BranchNo
	Vote   txn.Vote
	Branch txn.Branch
	Reason string
}

// OnePhaseDone ends a CommitOnePhase: Committed, Aborted or Unknown. To an Initiator.
type OnePhaseDone struct {
	Outcome txn.Outcome
	Reason  string
}

// Delivered says that the log delivered a decision. It is the first for this
// transaction, whoever proposed it: an earlier leader may have, so Branches are those of the
// record. To a Coordinator.
type Delivered struct {
	Decision txn.Decision
	Branches []txn.Branch // of a commit: those that voted Yes
	Reason   string
}

// Decided brings the decision to who asked for it: Initiator or Participant.
type Decided struct {
	Decision txn.Decision
	Reason   string
}

// WaitOver says that the application waits no longer. Before Ask that aborts the
// transaction; after it the decision may still arrive as Decided, and is carried out then.
// To an Initiator.
type WaitOver struct{ Reason string }

// Finished says what finishing a branch found.
type Finished struct {
	No     txn.BranchNo
	Finish txn.Finish
}

// FinishFailed says that finishing a branch found nothing out: it has to be tried again.
type FinishFailed struct{ No txn.BranchNo }

// NotAsked says that Ask was not carried out and will not be: nobody has heard of the
// transaction. To an Initiator, which aborts it.
type NotAsked struct{ Reason string }

// Inquired says that the holder of a prepared branch asks what became of it, or that a
// scan found one that nobody speaks for. To a Coordinator.
type Inquired struct{ No txn.BranchNo }

// Opened says that work began on the branch. To a Participant.
type Opened struct{}

// Listed says that the resource lists the branch as prepared, seen after a restart. To a
// Participant.
type Listed struct{}

// Tick says that it is time to ask again for what is still missing. To a Coordinator
// or Participant.
type Tick struct{}

func (Enlisted) isEvent()      {}
func (CommitAsked) isEvent()   {}
func (RollbackAsked) isEvent() {}
func (Asked) isEvent()         {}
func (PrepareAsked) isEvent()  {}
func (Voted) isEvent()         {}
func (OnePhaseDone) isEvent()  {}
func (Delivered) isEvent()     {}
func (Decided) isEvent()       {}
func (WaitOver) isEvent()      {}
func (Finished) isEvent()      {}
func (FinishFailed) isEvent()  {}
func (NotAsked) isEvent()      {}
func (Inquired) isEvent()      {}
func (Opened) isEvent()        {}
func (Listed) isEvent()        {}
func (Tick) isEvent()          {}
