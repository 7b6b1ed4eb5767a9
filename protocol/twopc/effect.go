// SPDX-License-Identifier: Apache-2.0

package twopc

import "github.com/concordtx/concord/txn"

// What only an Initiator asks for, or a LastCoordinator (Settle). The rest is in package protocol.

// CommitOnePhase asks the session of the only branch that wrote to commit without Prepare. It
// ends with OnePhaseDone.
type CommitOnePhase struct{ No txn.BranchNo }

// Ask is the one commit request. It ends with Decided or WaitOver.
type Ask struct{ Branches []txn.Branch }

// TellAborted tells the coordinator that the transaction is aborted, although it was never
// asked to commit it: something of a branch may be left, and whoever asks may die. It may be
// lost.
type TellAborted struct{}

// CommitLast asks the session of the last resource to commit its work together with a marker that has all other
// branches: that is the decision. It ends with OnePhaseDone.
type CommitLast struct {
	No       txn.BranchNo
	Branches []txn.Branch
}

// TellCommitted tells the coordinator that the last resource has committed, and which branches there are besides. It
// may be lost.
type TellCommitted struct{ Branches []txn.Branch }

// Settle asks the last resource for its marker, and inserts one to abort if there is none. It ends with MarkerFound
// or SettleFailed.
type Settle struct {
	// Again says that it failed before, so that it has to wait for a while first.
	Again bool
}

func (CommitLast) IsEffect()     {}
func (TellCommitted) IsEffect()  {}
func (Settle) IsEffect()         {}
func (CommitOnePhase) IsEffect() {}
func (Ask) IsEffect()            {}
func (TellAborted) IsEffect()    {}
