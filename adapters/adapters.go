// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"errors"
	"time"

	"github.com/concordtx/concord/txn"
)

// ErrBranchEnded says that a branch was used after its vote.
var ErrBranchEnded = errors.New("the branch has ended: its global transaction was committed or rolled back")

// Resource is the recovery half: what coordinator nodes need of a database. All
// methods may be called concurrently.
type Resource interface {
	// Name is the name that the application and the coordinator share.
	Name() string
	// Driver is "postgres", "mysql", "pebble", "memory" or "agent".
	Driver() string
	// Identity tells which database this is, in a form that is equal for two connections
	// exactly when a branch prepared through one can be finished through the other.
	Identity(ctx context.Context) (string, error)
	// Commit finishes a prepared branch that was decided to commit. b is the branch as
	// the decision record keeps it. See rule 2 for the answer.
	Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error)
	// Rollback finishes a branch that was decided to abort. Here a branch that is not
	// there and for which no evidence of a commit exists is AlreadyDone: an aborted
	// transaction has nothing to lose. b may hold no more than number and resource.
	Rollback(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error)
	// Validate returns an error if evidence or holder of b cannot come from a session of
	// this adapter, so that nobody could ever finish the branch by them. It asks nobody, and
	// what it accepts may still be untrue. Either may be empty.
	Validate(b txn.Branch) error
	// Recover lists the prepared branches that are ours, of every cluster.
	Recover(ctx context.Context) ([]Prepared, error)
	// Forget removes what the resource keeps as evidence for branches that need none any
	// more, such as marker rows. It may do less.
	Forget(ctx context.Context, xs []txn.XID) error
	// Evidence lists branches whose evidence is kept, so that what nobody needs any more
	// can be forgotten although whoever should have done that is gone: those behind after,
	// in the order of cluster, id and branch, so that of one cluster the oldest come
	// first. It lists at most EvidencePage of them; fewer means that these are all. A
	// branch that has not ended may be among them or not. A resource that keeps none
	// returns nil.
	Evidence(ctx context.Context, after txn.XID) ([]txn.XID, error)
	// Check tells whether the database is fit to take part. An error means that it could
	// not be asked; what is wrong with it is in the report.
	Check(ctx context.Context) (Report, error)
	// Close releases connections that the resource opened itself.
	Close() error
}

// EvidencePage is how many branches one call of Evidence lists at most.
const EvidencePage = 500

// Prepared is one listed branch.
type Prepared struct {
	XID txn.XID
	// Since is when it was prepared, by the database's clock; zero if it does not say.
	Since time.Time
	// Owner is the role that prepared it, for people; empty if the database does not say.
	Owner string
}

// Report is the preflight of one resource.
type Report struct {
	Version  string
	Findings []Finding
}

// OK reports whether no finding is a problem.
func (r Report) OK() bool {
	for _, f := range r.Findings {
		if f.Problem {
			return false
		}
	}
	return true
}

// Finding is one thing that a preflight looked at.
type Finding struct {
	What    string // e.g. "max_prepared_transactions"
	Detail  string // e.g. "0: prepared transactions are disabled"
	Problem bool   // false: fine, or only worth knowing
	Fix     string // the next step, e.g. "set max_prepared_transactions = 100 and restart"
}

// Session is the session half: one open branch on one session. Its methods are
// called one at a time by the global transaction that it belongs to. The application may be
// in the middle of a statement, or begin one, while any of them runs.
type Session interface {
	// Prepare ends the work and votes. With VoteYes the branch carries evidence and
	// holder. With VoteNo the error says why, and nothing of the branch is left. An error
	// with any other vote cannot be. When the connection broke on the way, the branch may
	// be prepared all the same: the vote is No, and Rollback, which is called after every
	// No, finds out.
	Prepare(ctx context.Context) (txn.Vote, txn.Branch, error)
	// CommitOnePhase commits a branch that is the only one, without Prepare. It returns
	// nil, an error that wraps ErrNotCommitted if the branch is certainly rolled back, or
	// any other error if nobody can tell.
	CommitOnePhase(ctx context.Context) error
	// Commit finishes the prepared branch on this session.
	Commit(ctx context.Context) (txn.Finish, error)
	// Rollback ends the branch in every state that it may be in, also while a statement of
	// the application runs: that one is cut off, later ones are refused with ErrBranchEnded.
	// nil says that nothing of the branch is left: no transaction, no lock, nothing prepared;
	// where that is known already it asks nobody. An error means that something may be left.
	// It may be called again then, and tries again, through another connection if this
	// session is gone. An error that wraps ErrTorn is the last word: nothing is left that a
	// further call could end.
	Rollback(ctx context.Context) error
	// Abandon lets go of the session of a prepared branch whose decision cannot be
	// learned. The branch stays prepared, for the cluster to finish. It does nothing in any
	// other state, does not wait for the database, and may be called again.
	Abandon()
}

// Failing is a Session that remembers what its application was told. Failure returns the
// error of the statement that failed last, as the application got it, or nil. So the
// transaction can tell which of its branches an error came from.
type Failing interface {
	Failure() error
}

// Reading is a Session that knows what its application does. OnlyRead reports whether it has seen
// nothing but reads; it asks nobody, and may be mistaken: the vote tells. Where all branches but one
// only read, these vote first, and the one that wrote needs no Prepare.
type Reading interface {
	OnlyRead() bool
}

// Counted is a Session whose prepared branch says in its own database, durably, which branches its
// transaction has, so that whoever has to decide without the client can tell whether all are there.
// Siblings is called before Prepare, with the numbers of all branches that may have written.
type Counted interface {
	Siblings(nos []txn.BranchNo)
}

// Inspector is a Resource that can be asked what its database itself knows of one branch. Inspect
// changes nothing.
type Inspector interface {
	Inspect(ctx context.Context, x txn.XID) (Inspection, error)
}

// Inspection is what a database knows of one branch.
type Inspection struct {
	Prepared  bool
	Committed bool           // it has the evidence
	Siblings  []txn.BranchNo // of a prepared branch: all that its transaction has, itself included; nil if it does not say
	Blocked   []Blocked      // by a prepared branch, as far as the database tells; at most MaxBlocked
}

// MaxBlocked is how many sessions an Inspection names at most.
const MaxBlocked = 20

// Blocked is a session of a database that waits for a lock of a branch. It is told of for people.
type Blocked struct {
	Session   string        // as its database names it
	For       time.Duration // it has waited; 0 if the database does not say
	Statement string        // shortened
}

// Undecided is a Session whose branch may be ended by somebody else, who asks the cluster for the
// decision. If NeedsDecision reports true there must be one, also when the branch is the only one:
// CommitOnePhase is not called.
type Undecided interface {
	NeedsDecision() bool
}

// ErrNotCommitted says that a one-phase commit certainly did not happen.
var ErrNotCommitted = errors.New("not committed")

// ErrTorn says that the application's own SQL ended or replaced the transaction of a
// branch, so that part of its work may be committed whatever is decided. An error of
// Prepare, CommitOnePhase or Rollback wraps it, never together with ErrNotCommitted.
var ErrTorn = errors.New("part of the branch may be committed")

// Opener is a resource that can open branches; concord's own adapters all are.
type Opener interface {
	Resource
	// Open begins a branch on a session of its own.
	Open(ctx context.Context, x txn.XID) (Session, error)
	// Transient reports whether what failed with err may well succeed when its whole transaction
	// is done again: it could not be serialized, was the victim of a deadlock, or waited for a
	// lock in vain. It asks nobody.
	Transient(err error) bool
}

// Global is a global transaction as an adapter sees it: concord.Tx of the SDK.
type Global interface {
	// Enlist returns the open branch of this resource, opening it at first use: within one
	// global transaction a resource has one branch, so that its work sees itself.
	Enlist(ctx context.Context, r Opener) (Session, error)
}
