// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"time"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// Event is something that happened. Step handles one at a time. A core ignores an event that its
// state has no use for, such as a repeated one.
type Event interface{ isEvent() }

// Call numbers a request of the wire until it is answered, once, or until its caller has gone.
type Call uint64

// Epoch counts the lives of an agent. It grows with each start and is durable before anybody hears
// of it.
type Epoch uint32

// Life is one life of one agent. What was opened in another is not here any more, unless it voted.
type Life struct {
	Journal txn.JournalID
	Epoch   Epoch
}

// Digest stands for all work of a branch that was answered, in its order: each answer brings the
// next one. It begins as zero.
type Digest = statement.Sum

// Branch names a branch and where it is.
type Branch struct {
	XID      txn.XID
	Resource string
}

// WorkAsked is a numbered request to work in a branch. The first, with number 1, opens it.
type WorkAsked struct {
	Call   Call
	Branch Branch
	Life   Life // that the caller means
	Number uint64
	Work   statement.Work
	// Limits bound the result, Timeout the time that it may take.
	Limits  statement.Limits
	Timeout time.Duration
	// Silence is how long the caller may say nothing after the answer; 0: as long as the rules allow.
	Silence time.Duration
}

// WorkDone is the end of a Run. With Failed the work was not done, and what the branch is worth now
// its session knows.
type WorkDone struct {
	XID    txn.XID
	Number uint64
	Result statement.Result
	Failed string
	// NotSent says that the database has not seen the work that failed: the branch is as it was.
	NotSent bool
	Sum     statement.Sum // of Result, or of nothing
}

// PrepareAsked asks for the vote. Number and Digest are those of the last answer that the caller
// got. DecideBy is how long it collects votes at most: before that the decision is not asked for in
// a way that settles it.
type PrepareAsked struct {
	Call     Call
	Branch   Branch
	Life     Life
	Number   uint64
	Digest   Digest
	DecideBy time.Duration
}

// Voted is the vote of the resource. Torn says that part of the branch may be committed although
// the vote is No.
type Voted struct {
	XID    txn.XID
	Vote   txn.Vote
	Branch txn.Branch // for a Yes
	Reason string     // for a No
	Torn   bool
}

// Decided brings the decision from a caller, who waits for what finishing the branch found. Record
// is what the decision record has of the branch, if anything.
type Decided struct {
	Call     Call
	Branch   Branch
	Decision txn.Decision
	Record   txn.Branch
}

// Heard brings what another member of a three-phase transaction says; From without a name is the
// cluster.
type Heard struct {
	Cluster txn.ClusterID
	ID      txn.ID
	From    txn.Party
	To      txn.PartyID
	Message threepc.Message
}

// Finished says what finishing a branch found.
type Finished struct {
	XID    txn.XID
	Finish txn.Finish
}

// FinishFailed says that finishing a branch found nothing out.
type FinishFailed struct {
	XID txn.XID
	Why string
}

// Informed ends an Inquire with the decision and the branches of its record.
type Informed struct {
	ID       txn.ID
	Decision txn.Decision
	Branches []txn.Branch
}

// Uninformed ends an Inquire that brought no decision.
type Uninformed struct{ ID txn.ID }

// Listing is what one resource lists as prepared, all of it, of this cluster.
type Listing struct {
	Resource string
	XIDs     []txn.XID
}

// Written says that the forced writes up to this number are durable.
type Written struct{ Turn uint64 }

// Joined says which cluster the agent belongs to, once that is known and durable, and how old a
// transaction may become there before its prepared branches count as orphans.
type Joined struct {
	Cluster txn.ClusterID
	MaxAge  time.Duration
}

// SyncAsked asks to hear when all that was to be written so far is durable. It is answered by Synced.
type SyncAsked struct{ Call Call }

// Left says that a caller waits no longer.
type Left struct{ Call Call }

// Tick tells the time.
type Tick struct{ Now time.Time }

// Stop ends the life of the agent: nothing is opened any more, and what is not prepared is rolled
// back.
type Stop struct{}

func (WorkAsked) isEvent()    {}
func (WorkDone) isEvent()     {}
func (PrepareAsked) isEvent() {}
func (Voted) isEvent()        {}
func (Decided) isEvent()      {}
func (Heard) isEvent()        {}
func (Finished) isEvent()     {}
func (FinishFailed) isEvent() {}
func (Informed) isEvent()     {}
func (Uninformed) isEvent()   {}
func (Listing) isEvent()      {}
func (Written) isEvent()      {}
func (Joined) isEvent()       {}
func (SyncAsked) isEvent()    {}
func (Left) isEvent()         {}
func (Tick) isEvent()         {}
func (Stop) isEvent()         {}
