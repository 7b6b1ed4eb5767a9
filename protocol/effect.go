// SPDX-License-Identifier: Apache-2.0

package protocol

import "github.com/concordtx/concord/txn"

// Effect is something that the driver has to carry out, in order. Every effect may be
// carried out at once: a core withholds what is not safe yet.
type Effect interface{ IsEffect() }

// Prepare asks for a vote: of who holds the branch, or of its resource. It ends with Voted.
type Prepare struct{ No txn.BranchNo }

// Propose asks for a decision record in the log. It ends with Delivered, which may
// bring another decision, or with the end of this leadership.
type Propose struct {
	Decision txn.Decision
	Branches []txn.Branch // that voted Yes; none for an abort
	Reason   string
}

// Finish asks to end a branch by the decision, prepared or not: on its session (by who holds
// it), by a message to its agent (by who drives the transaction, or the witness), at the resource (by a
// participant). It ends with Finished or FinishFailed.
type Finish struct {
	No       txn.BranchNo
	Decision txn.Decision
	// Again says that it failed before, so that it has to wait for a while first, and that the
	// session may be gone (by who holds it).
	Again bool
}

// Report tells the coordinator what finishing a branch found. It may be lost.
type Report struct {
	No     txn.BranchNo
	Finish txn.Finish
}

// CastVote tells the coordinator the vote of the branch (by a participant).
type CastVote struct {
	Vote   txn.Vote
	Branch txn.Branch
	Reason string
}

// Inquire asks the coordinator for the decision (by a participant).
type Inquire struct{}

// Reply answers who asked. To the application Outcome is Committed, Aborted or Unknown, and
// Branch is the branch that is to blame for an abort, if By says that there is one. To a
// commit request (by a Transaction) it is Committed or Aborted.
type Reply struct {
	Outcome txn.Outcome
	Reason  string
	By      bool
	Branch  txn.BranchNo
}

// Alarm asks for a heuristic record: the branch did not end as it was decided, or nobody
// can tell (by a Transaction).
type Alarm struct {
	No txn.BranchNo
	// Outcome is HeuristicRollback for a contradicted commit, HeuristicCommit for a contradicted
	// abort, HeuristicHazard for a lost branch.
	Outcome txn.Outcome
}

// End asks for the End record: every branch of a committed transaction has been
// finished (by a Transaction).
type End struct{}

// IsEffect marks what may be asked for, here and in the packages of the protocols.
func (Prepare) IsEffect()  {}
func (Propose) IsEffect()  {}
func (Finish) IsEffect()   {}
func (Report) IsEffect()   {}
func (CastVote) IsEffect() {}
func (Inquire) IsEffect()  {}
func (Reply) IsEffect()    {}
func (Alarm) IsEffect()    {}
func (End) IsEffect()      {}
