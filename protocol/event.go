// SPDX-License-Identifier: Apache-2.0

package protocol

import "github.com/concordtx/concord/txn"

// Event is something that happened. Step handles one at a time. A core ignores an event
// that its state has no use for, such as a repeated one.
type Event interface{ IsEvent() }

// RollbackAsked says that somebody wants to abort: the application (to who holds its sessions);
// an operator or a time limit (to a Transaction); an agent's time limit (to a participant,
// which obeys only before its Yes). It never undoes a decision.
type RollbackAsked struct{ Reason string }

// OrphanMet says that a scan found a prepared branch, older than anybody's patience, that nobody
// speaks for. To a Transaction, and what it means is the protocol's business: see there.
type OrphanMet struct{ Reason string }

// Asked is the commit request. Its branches have voted Yes already. To a Transaction.
type Asked struct{ Branches []txn.Branch }

// PrepareAsked says that whoever drives the transaction wants a vote. To a participant.
type PrepareAsked struct{}

// Voted is the vote of a branch, from its resource; a Yes says that the branch is durable. Branch is
// set for a Yes, Reason for a No.
type Voted struct {
	No     txn.BranchNo
	Vote   txn.Vote
	Branch txn.Branch
	Reason string
}

// Delivered says that the log delivered a decision. It is the first for this
// transaction, whoever proposed it: an earlier leader may have, so Branches are those of the
// record. A core reads Decision, Branches and Reason. To a Transaction.
type Delivered struct{ txn.Txn }

// Decided brings the decision to who asked for it, or holds a branch.
type Decided struct {
	Decision txn.Decision
	Reason   string
}

// Finished says what finishing a branch found.
type Finished struct {
	No     txn.BranchNo
	Finish txn.Finish
}

// FinishFailed says that finishing a branch found nothing out: it has to be tried again.
type FinishFailed struct{ No txn.BranchNo }

// Opened says that work began on the branch. To a participant; No is for those that have several.
type Opened struct{ No txn.BranchNo }

// Listed says that the resource lists the branch as prepared, seen after a restart. To a
// participant; No is for those that have several.
type Listed struct{ No txn.BranchNo }

// Tick says that it is time to ask again for what is still missing. To a participant, or to a
// Transaction that asks by messages.
type Tick struct{}

// IsEvent marks what may happen, here and in the packages of the protocols.
func (RollbackAsked) IsEvent() {}
func (OrphanMet) IsEvent()     {}
func (Asked) IsEvent()         {}
func (PrepareAsked) IsEvent()  {}
func (Voted) IsEvent()         {}
func (Delivered) IsEvent()     {}
func (Decided) IsEvent()       {}
func (Finished) IsEvent()      {}
func (FinishFailed) IsEvent()  {}
func (Opened) IsEvent()        {}
func (Listed) IsEvent()        {}
func (Tick) IsEvent()          {}
