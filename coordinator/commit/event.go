// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

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

// KeyAsked asks which transaction was committed under an idempotency key, if any, and claims the key at the leader if
// none was. Any member may be asked.
type KeyAsked struct {
	Request uint64
	Key     string
	Claim   KeyClaim
}

// ResolveAsked is an operator's decision for a transaction that has none.
type ResolveAsked struct {
	Request uint64
	txn.Resolution
	Census // for a commit, taken for this request
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

// EndAsked asks whether an operator may end a branch in its database himself, which a listing that was made
// for this has shown. The answer is no error then.
type EndAsked struct {
	Request  uint64
	Resource string
	Prepared adapters.Prepared
	Decision txn.Decision
	Who, Why string
}

// RetryAsked is an operator's wish that the branches of a transaction, or One of them, are tried now that wait to be
// tried again.
type RetryAsked struct {
	Request uint64
	ID      txn.ID
	One     bool
	Branch  txn.BranchNo
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
	// Reporter is who says so, if that is a client.
	Reporter Reporter
}

// Reporter is on which resources a client may report what became of branches: all, unless it is
// limited. On others its word counts for nothing.
type Reporter struct {
	Limited   bool
	Resources []string // if Limited
}

func (r Reporter) on(resource string) bool {
	return !r.Limited || slices.Contains(r.Resources, resource)
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

// Behind says that the database of a resource has less than the log remembered when it was asked.
type Behind struct {
	Resource string
	Has      txn.HighWater // zero: it has no row
}

// Raised says that the high-water row of a database, which was to be raised to To, is at Now.
type Raised struct {
	Resource string
	To, Now  txn.HighWater
}

// AcceptAsked is an operator's word that the cluster may go on with a database that was set back.
type AcceptAsked struct {
	Request  uint64
	Resource string
	Who, Why string
}

// Fitness says whether a resource may take part: it must not, for example, if another name
// points to the same database.
type Fitness struct {
	Resource string
	Fit      bool
	Why      string // it is not, for people
	Down     bool   // it does not answer, or not well, at this node
}

func (CommitAsked) IsEvent()  {}
func (OutcomeAsked) IsEvent() {}
func (KeyAsked) IsEvent()     {}
func (ResolveAsked) IsEvent() {}
func (ForgetAsked) IsEvent()  {}
func (SettleAsked) IsEvent()  {}
func (EndAsked) IsEvent()     {}
func (RetryAsked) IsEvent()   {}
func (ViewAsked) IsEvent()    {}
func (PlanAsked) IsEvent()    {}
func (Finished) IsEvent()     {}
func (Failed) IsEvent()       {}
func (Listed) IsEvent()       {}
func (Kept) IsEvent()         {}
func (Fitness) IsEvent()      {}
func (Behind) IsEvent()       {}
func (Raised) IsEvent()       {}
func (AcceptAsked) IsEvent()  {}

// RequestNo implements replica.Asking.
func (e CommitAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e OutcomeAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e KeyAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e ResolveAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e ForgetAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e SettleAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e EndAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e RetryAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e ViewAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e PlanAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e AcceptAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e LeaseAsked) RequestNo() uint64 { return e.Request }

// RequestNo implements replica.Asking.
func (e LeaseEndAsked) RequestNo() uint64 { return e.Request }

// Effects is what the driver has to carry out after a turn. Order matters only within
// one slice. The slices are valid until the next.
type Effects struct {
	Reply []Reply
	// Finish are branches for the recovery workers: Finished or Failed answers each.
	Finish []Task
	// Scan names resources that shall be listed: Listed answers each.
	Scan []string
	// Forget is evidence that is not needed any more, by resource. Raised answers what raises a row.
	Forget map[string]Spent
	// Send are messages to members of three-phase transactions.
	Send []Letter
	// Evidence are resources that shall list what evidence they keep: Kept answers each.
	Evidence []EvidenceAsk
	// Settle are transactions to be settled at their last resources: LastSettled answers each.
	Settle []LastTask
	// Waits are resources that shall list who waits for whom: Waits answers each.
	Waits []WaitsAsk
}

// Spent is the order to remove the evidence of some branches.
type Spent struct {
	XIDs []txn.XID
	// From is what the log remembers of the database, and To what its high-water row is to be raised to
	// together with it; zero: it has none.
	From, To txn.HighWater
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
	Again    bool   // an earlier attempt has failed
	Trace    string // the traceparent of the transaction's span, if this node knows
}

// Reply answers a request. With an error (see package txn) nothing else is set.
type Reply struct {
	Request uint64
	Err     error
	Zxid    zab.Zxid
	Txn     txn.Txn     // as far as it is known: of a question about one, what was decided
	View    *View       // of a ViewAsked
	Key     *txn.KeyUse // of a KeyAsked, with the Txn; nil if no use is remembered
	Claimed bool        // of a KeyAsked without Key: somebody else has claimed it
	Acts    []*txn.Act  // of an ActsAsked, the oldest first. They must not be changed
	Lease   txn.Lease
	Retried int // branches, of a RetryAsked
	// Deadlocks are those of which a transaction of a WaitsAsked is the victim, and Look is the last look at the
	// databases that has ended.
	Deadlocks []deadlock.Deadlock
	Look      uint64
	Plan      []recovery.Action
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
	// Acts are all of people that are kept, the oldest first. They must not be changed.
	Acts []*txn.Act
	// Foreign are listed branches of that id that belong to other clusters.
	Foreign []txn.XID
	// TooOld says that its record may have been forgotten.
	TooOld bool
	// Councils are three-phase transactions that their members decide, and have not.
	Councils []CouncilView
}

// CouncilView is what is known of a transaction that its members decide.
type CouncilView struct {
	txn.Witness
	Missing []string // who did not answer the last election of the cluster, if it was blocked
}

// ListedBranch is a prepared branch as a scan saw it.
type ListedBranch struct {
	Resource string
	Decision txn.Decision // of its transaction; Undecided if the log has none
	Last     string       // its last resource, which decides it; empty if it has none, or none that is known here
	Err      string       // of the last attempt to finish it, or of the last scan
	Tried
}

// BranchView is what the leader knows of one unfinished branch.
type BranchView struct {
	Err string // of the last attempt to finish it
	Tried
}

// Tried is how far the cluster is with a branch.
type Tried struct {
	Attempts int       // that failed since its database answers
	Failed   time.Time // the last of them; zero: none
	Due      time.Time // when it is tried again; in the past: at once
}

// DiskChanged says that the disk of this node got full, or is full no more. A leader
// with a full disk takes no new transaction; what was begun is finished.
type DiskChanged struct {
	Full bool
	Why  string // it takes no new transactions, for people
}

func (DiskChanged) IsEvent() {}
