// SPDX-License-Identifier: Apache-2.0

package twopc

import "github.com/concordtx/concord/txn"

// Effect is something that the driver has to carry out, in order. Every effect may be
// carried out at once: a core withholds what is not safe yet.
type Effect interface{ isEffect() }

// Prepare asks for a vote: of the branch's session (Initiator), of the agent that holds
// it (Coordinator), of the resource (Participant). It ends with Voted.
type Prepare struct{ No txn.BranchNo }

// CommitOnePhase asks the only branch's session to commit without Prepare. It ends
// with OnePhaseDone.
type CommitOnePhase struct{ No txn.BranchNo }

// Ask is the one commit request. It ends with Decided or WaitOver.
type Ask struct{ Branches []txn.Branch }

// Propose asks for a decision record in the log. It ends with Delivered, which may
// bring another decision, or with the end of this leadership.
type Propose struct {
	Decision txn.Decision
	Branches []txn.Branch // that voted Yes; none for an abort
	Reason   string
}

// Finish asks to end a branch by the decision, prepared or not: on its session
// (Initiator), by a message to its agent or through a connection of our own
// (Coordinator), at the resource (Participant). It ends with Finished or
// FinishFailed.
type Finish struct {
	No       txn.BranchNo
	Decision txn.Decision
	// Again says that it failed before, so that it has to wait for a while first, and that the
	// session may be gone (Initiator).
	Again bool
}

// TellAborted tells the coordinator that the transaction is aborted, although it was never
// asked to commit it: something of a branch may be left, and whoever asks may die
// (Initiator). It may be lost.
type TellAborted struct{}

// Report tells the coordinator what finishing a branch found (Initiator and
// Participant). It may be lost.
type Report struct {
	No     txn.BranchNo
	Finish txn.Finish
}

// CastVote tells the coordinator the vote of the branch (Participant).
type CastVote struct {
	Vote   txn.Vote
	Branch txn.Branch
	Reason string
}

// Inquire asks the coordinator for the decision (Participant).
type Inquire struct{}

// Reply answers who asked. To the application (Initiator) Outcome is Committed,
// Aborted or Unknown, and Branch is the branch that is to blame for an abort, if By
// says that there is one. To a commit request (Coordinator) it is Committed or Aborted.
type Reply struct {
	Outcome txn.Outcome
	Reason  string
	By      bool
	Branch  txn.BranchNo
}

// Alarm asks for a heuristic record: the branch did not end as it was decided, or nobody
// can tell (Coordinator).
type Alarm struct {
	No      txn.BranchNo
	Outcome txn.Outcome // HeuristicRollback for a contradicted commit, HeuristicCommit for a contradicted abort, HeuristicHazard for a lost branch
}

// End asks for the End record: every branch of a committed transaction has been
// finished (Coordinator).
type End struct{}

func (Prepare) isEffect()        {}
func (CommitOnePhase) isEffect() {}
func (Ask) isEffect()            {}
func (Propose) isEffect()        {}
func (Finish) isEffect()         {}
func (TellAborted) isEffect()    {}
func (Report) isEffect()         {}
func (CastVote) isEffect()       {}
func (Inquire) isEffect()        {}
func (Reply) isEffect()          {}
func (Alarm) isEffect()          {}
func (End) isEffect()            {}
