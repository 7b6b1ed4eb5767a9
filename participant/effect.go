// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"time"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// Effect is something that the driver has to carry out, in order. Every effect may be carried out
// at once: the core withholds what is not safe yet.
type Effect interface{ isEffect() }

// Run does a piece of work in a branch. With Open its session is begun first. It ends with WorkDone.
type Run struct {
	Branch  Branch
	Number  uint64
	Open    bool
	Work    statement.Work
	Limits  statement.Limits
	Timeout time.Duration
}

// Prepare asks the branch's session for its vote. It ends with Voted.
type Prepare struct{ Branch Branch }

// Finish ends a branch by the decision, prepared or not: on its session if it has one, else by the
// resource, with Record as far as it is known. It ends with Finished or FinishFailed.
type Finish struct {
	Branch   Branch
	Decision txn.Decision
	Record   txn.Branch
}

// Inquire asks the cluster for the decision. With Settle the question may decide: the transaction
// is aborted if nobody has decided it. It ends with Informed or Uninformed.
type Inquire struct {
	Cluster txn.ClusterID
	ID      txn.ID
	Settle  bool
}

// Report tells the cluster what finishing a branch found. It may be lost.
type Report struct {
	Branch Branch
	Finish txn.Finish
}

// Say tells another member of a three-phase transaction something. It may be lost. Where To has no
// address it is the cluster.
type Say struct {
	ID      txn.ID
	To      txn.Party
	Message threepc.Message
}

// Note is for people.
type Note struct {
	ID    txn.ID
	Alarm bool // somebody has to look
	Text  string
}

// Write puts an entry into the journal in place of the one that its transaction has; one without
// branches removes it. With Turn it is forced, and ends with Written of that number or a larger one.
// All entries of one turn of the driver share one force. The entry without an ID stands for none: what
// was written before is forced.
type Write struct {
	Entry Entry
	Turn  uint64 // 0: not forced
}

// Answer answers a WorkAsked.
type Answer struct {
	Call   Call
	Number uint64
	Digest Digest
	Result statement.Result
	Failed string // why the work was not done
	// NotSent: the database has not seen the work that failed
	NotSent bool
}

// Cast answers a PrepareAsked.
type Cast struct {
	Call   Call
	Vote   txn.Vote
	Branch txn.Branch
	Reason string
	Torn   bool
}

// Synced answers a SyncAsked.
type Synced struct{ Call Call }

// Ended answers a Decided.
type Ended struct {
	Call   Call
	Finish txn.Finish
}

// Refuse answers any request: nothing was done.
type Refuse struct {
	Call Call
	Err  *Refusal
}

// Refusal is why a request was not taken.
type Refusal struct {
	Kind RefusalKind
	Text string
}

func (r *Refusal) Error() string { return r.Text }

// RefusalKind is what a caller does about a refusal.
type RefusalKind uint8

// Invalid: the request is wrong, whenever it comes. Refused: it does not fit the state of the
// branch. Unknown: what it names is not here. Busy: there is no room, later there may be.
// Unavailable: another agent, or this one later, may do it.
const (
	Invalid RefusalKind = iota + 1
	Refused
	Unknown
	Busy
	Unavailable
)

// String returns the kind in lower case.
func (k RefusalKind) String() string {
	if k >= Invalid && k <= Unavailable {
		return [...]string{"invalid", "refused", "unknown", "busy", "unavailable"}[k-1]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (Run) isEffect()     {}
func (Prepare) isEffect() {}
func (Finish) isEffect()  {}
func (Inquire) isEffect() {}
func (Report) isEffect()  {}
func (Write) isEffect()   {}
func (Say) isEffect()     {}
func (Note) isEffect()    {}
func (Answer) isEffect()  {}
func (Cast) isEffect()    {}
func (Synced) isEffect()  {}
func (Ended) isEffect()   {}
func (Refuse) isEffect()  {}
