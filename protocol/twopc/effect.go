// SPDX-License-Identifier: Apache-2.0

package twopc

import "github.com/concordtx/concord/txn"

// What an Initiator only asks for. The rest is in package protocol.

// CommitOnePhase asks the session of the only branch that wrote to commit without Prepare. It
// ends with OnePhaseDone.
type CommitOnePhase struct{ No txn.BranchNo }

// Ask is the one commit request. It ends with Decided or WaitOver.
type Ask struct{ Branches []txn.Branch }

// TellAborted tells the coordinator that the transaction is aborted, although it was never
// asked to commit it: something of a branch may be left, and whoever asks may die. It may be
// lost.
type TellAborted struct{}

func (CommitOnePhase) IsEffect() {}
func (Ask) IsEffect()            {}
func (TellAborted) IsEffect()    {}
