// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// Event is something that happened to a coordinator. Events are the only input of a
// Core. Events with a Request are answered by exactly one Reply with that number.
type Event interface{ isEvent() }

// Tick says that one tick went by, and what time it is now. Time only decides when
// something is tried, never what is true.
type Tick struct {
	Now time.Time
	// Peers is the latest that the clock of another node shows, as far as is known.
	Peers time.Time
}

// Peer hands over an event of the replicated log: zab.Received, zab.PeerLost,
// zab.Persisted, zab.Compact, or one about a snapshot.
type Peer struct{ Event zab.Event }

// CommitAsked asks for the decision to commit.
type CommitAsked struct {
	Request uint64
	txn.CommitRequest
}

// OutcomeAsked asks what became of a transaction. Any member may be asked about one that is
// decided.
type OutcomeAsked struct {
	Request uint64
	txn.Inquiry
}

// ResolveAsked is an operator's decision for a transaction that has none.
type ResolveAsked struct {
	Request  uint64
	ID       txn.ID
	Decision txn.Decision
	Who, Why string
}

// ForgetAsked is an operator's word that the heuristic outcomes of a transaction were
// dealt with.
type ForgetAsked struct {
	Request  uint64
	ID       txn.ID
	Who, Why string
}

// SettleAsked is an operator's word that a branch which nobody can finish is given up: it counts
// as a hazard from then on, and the cluster leaves it alone.
type SettleAsked struct {
	Request  uint64
	ID       txn.ID
	Branch   txn.BranchNo
	Who, Why string
}

// ViewAsked asks for a linearizable look at one transaction. With a zero ID it asks for all
// listed branches that are in doubt; what is open is in the applied state.
type ViewAsked struct {
	Request uint64
	ID      txn.ID
}

// PlanAsked asks what recovery would do about these listings. The actions come in no order.
type PlanAsked struct {
	Request  uint64
	Listings map[string][]adapters.Prepared
}

// Finished says what became of an attempt to finish a branch, made by the session
// that prepared it or by a recovery worker.
type Finished struct {
	XID    txn.XID
	Finish txn.Finish
	By     txn.Source // the client's session, or a worker of the cluster
	Who    string     // by whose word, for people
	Why    string     // what a Contradicted or Lost is based on
}

// Failed says that a recovery worker could not finish a branch; it is tried again.
type Failed struct {
	XID txn.XID
	// Interrupted: the attempt was given up because the resource answers again, and says
	// nothing about the branch.
	Interrupted bool
	Why         string
}

// Listed is the answer of a resource to a Scan.
type Listed struct {
	Resource string
	Listing  []adapters.Prepared
	Err      error
}

// Kept is the answer of a resource to an EvidenceAsk.
type Kept struct {
	Resource string
	Evidence []txn.XID // in the order of adapters.Resource.Evidence
	Err      error
}

// Fitness says whether a resource may take part: it must not, for example, if another name
// points to the same database.
type Fitness struct {
	Resource string
	Fit      bool
	Why      string // it is not, for people
	Down     bool   // it does not answer, or not well, at this node
}

func (Tick) isEvent()         {}
func (Peer) isEvent()         {}
func (CommitAsked) isEvent()  {}
func (OutcomeAsked) isEvent() {}
func (ResolveAsked) isEvent() {}
func (ForgetAsked) isEvent()  {}
func (SettleAsked) isEvent()  {}
func (ViewAsked) isEvent()    {}
func (PlanAsked) isEvent()    {}
func (Finished) isEvent()     {}
func (Failed) isEvent()       {}
func (Listed) isEvent()       {}
func (Kept) isEvent()         {}
func (Fitness) isEvent()      {}

// Effects is what the driver has to carry out after a Step. Order matters only within
// one slice. The slices are valid until the next Step.
type Effects struct {
	Send  []zab.Message
	Write []zab.Write
	Reply []Reply
	// SendSnapshot come before Send: who is told of a snapshot may ask for it at once.
	SendSnapshot []zab.SendSnapshot
	// FetchSnapshot, if its session is not 0, and Discard, if not 0: the Ref of a staged
	// snapshot that is not wanted.
	FetchSnapshot zab.FetchSnapshot
	Discard       uint64
	// Finish are branches for the recovery workers: Finished or Failed answers each.
	Finish []Task
	// Scan names resources that shall be listed: Listed answers each.
	Scan []string
	// Forget are branches whose evidence is not needed any more, by resource.
	Forget map[string][]txn.XID
	// Distrust, if not empty, is why this node stops for good: it must be told so at each start.
	Distrust string
	// Evidence are resources that shall list what evidence they keep: Kept answers each.
	Evidence []EvidenceAsk
	Notes    []Note
}

// EvidenceAsk is the order to list a page of the evidence that a resource keeps.
type EvidenceAsk struct {
	Resource string
	After    txn.XID
}

// Task is the order to finish one branch.
type Task struct {
	XID      txn.XID
	Branch   txn.Branch
	Decision txn.Decision
	Again    bool // an earlier attempt has failed
}

// Note is a line for the log of the node.
type Note struct {
	Alarm bool // somebody has to look at it
	Text  string
}

// Reply answers a request. With an error (see requestError) nothing else is set.
type Reply struct {
	Request  uint64
	Err      error
	Decision txn.Decision
	Reason   string
	Zxid     zab.Zxid
	Txn      txn.Txn // as far as it is known
	View     *View   // of a ViewAsked
	Seen     bool    // to a SeenAsked
	Fresh    bool    // to one that wants it
	Lease    txn.Lease
	Plan     []recovery.Action
}

// View is a consistent look at what is not finished.
type View struct {
	// Open are decided transactions with branches to finish or alarms to look at.
	Open []txn.Txn
	// Branches are those of committed transactions that are not finished.
	Branches map[txn.XID]BranchView
	// InDoubt are prepared branches outside of phase two that the last scans listed: of
	// transactions without decision, aborted, or ended before.
	InDoubt map[txn.XID]ListedBranch
	// Unlisted says, for people, which resources have not told lately what they hold prepared,
	// and why: what they hold may be missing here.
	Unlisted []string
	// Txn is the transaction that was asked for, and whether the log knows it.
	Txn   txn.Txn
	Known bool
	// Foreign are listed branches of that id that belong to other clusters.
	Foreign []txn.XID
	// TooOld says that its record may have been forgotten.
	TooOld bool
}

// ListedBranch is a prepared branch as a scan saw it.
type ListedBranch struct {
	Resource string
	Decision txn.Decision // of its transaction; Undecided if the log has none
	Err      string       // of the last attempt to finish it, or of the last scan
}

// BranchView is what the leader knows of one unfinished branch.
type BranchView struct {
	Err      string    // of the last attempt to finish it
	Attempts int       // that failed since its database answers
	Due      time.Time // when it is tried again; in the past: at once
}
