// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"time"

	"github.com/concordtx/concord/txn"
)

// Database is what both halves of an adapter say of themselves.
type Database interface {
	// Name is the name that the application and the coordinator share.
	Name() string
	// Driver is "postgres", "mysql", "pebble", "memory" or "agent".
	Driver() string
	// Identity tells which database this is, in a form that is equal for two connections
	// exactly when a branch prepared through one can be finished through the other.
	Identity(ctx context.Context) (string, error)
}

// Finisher ends prepared branches as was decided.
type Finisher interface {
	// Commit finishes a prepared branch that was decided to commit. b is the branch as
	// the decision record keeps it. See rule 2 for the answer.
	Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error)
	// Rollback finishes a branch that was decided to abort. Here a branch that is not
	// there and for which no evidence of a commit exists is AlreadyDone: an aborted
	// transaction has nothing to lose. b may hold no more than number and resource.
	Rollback(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error)
}

// Batching is a Resource that ends many branches in a few round trips, where one at a time takes several for each.
type Batching interface {
	// FinishAll is Commit or Rollback for each of the branches. An answer that is zero leaves its branch to those:
	// nothing was done, or what was done has to be looked into, or ending it means to wait for somebody. An error is
	// that of all branches without an answer.
	FinishAll(ctx context.Context, all []Decided) ([]txn.Finish, error)
}

// Decided is a prepared branch, as the decision record keeps it, and what was decided about it.
type Decided struct {
	XID      txn.XID
	Branch   txn.Branch
	Decision txn.Decision
}

// Lister lists what is prepared.
type Lister interface {
	// Recover lists the prepared branches that are ours, of every cluster.
	Recover(ctx context.Context) ([]Prepared, error)
}

// Validator tells records that nobody could ever act on.
type Validator interface {
	// Validate returns an error if evidence or holder of b cannot come from a session of
	// this adapter, so that nobody could ever finish the branch by them. It asks nobody, and
	// what it accepts may still be untrue. Either may be empty.
	Validate(b txn.Branch) error
}

// Keeper keeps the evidence of branches for as long as somebody needs it.
type Keeper interface {
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
}

// Resource is the recovery half: what coordinator nodes need of a database. All
// methods may be called concurrently.
type Resource interface {
	Database
	Finisher
	Lister
	Validator
	Keeper
	Checker
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
	// Last is the tag of the last resource that decides it; zero unless its class is LastResource.
	Last txn.LastTag
}
