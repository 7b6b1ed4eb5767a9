// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"errors"

	"github.com/concordtx/concord/txn"
)

// ErrBranchEnded says that a branch was used after its vote.
var ErrBranchEnded = errors.New("the branch has ended, as its global transaction was committed or rolled back: " +
	"begin a new one")

// ErrNotCommitted says that a one-phase commit certainly did not happen.
var ErrNotCommitted = errors.New("not committed")

// ErrTorn says that the application's own SQL ended or replaced the transaction of a
// branch, so that part of its work may be committed whatever is decided. An error of
// Prepare, CommitOnePhase or Rollback wraps it, never together with ErrNotCommitted.
var ErrTorn = errors.New("part of the branch may be committed")

// ErrNotEnded is wrapped beside ErrTorn while something of the branch may be left besides: nobody could
// be asked, and Rollback may be called again.
var ErrNotEnded = errors.New("nobody could be asked, so something of it may be left")

// Ended reports whether err, of Rollback, is the last word about a branch.
func Ended(err error) bool {
	return err == nil || errors.Is(err, ErrTorn) && !errors.Is(err, ErrNotEnded)
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
	// session is gone. An error that wraps ErrTorn is the last word, unless it wraps ErrNotEnded, too:
	// nothing is left that a further call could end.
	Rollback(ctx context.Context) error
	// Abandon lets go of the session of a prepared branch whose decision cannot be
	// learned. The branch stays prepared, for the cluster to finish. It does nothing in any
	// other state, does not wait for the database, and may be called again.
	Abandon()
}

// Failing is a Session that remembers what its application was told. Failures returns the errors of
// the statement that failed first and of the one that failed last, as the application got them; it may
// return nil in the place of either, or one that the other wraps. So the transaction can tell which of its branches an
// error came from, also if further statements were tried after it.
type Failing interface {
	Failures() [2]error
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

// Levelled is a Session whose evidence has a newer form than some members of a cluster may know, while
// it is upgraded: they would refuse it. KnownLevel is called before Siblings and Prepare with what every
// member knows. Where nobody calls it, everybody knows everything.
type Levelled interface {
	KnownLevel(level txn.FeatureLevel)
}

// Undecided is a Session whose branch may be ended by somebody else, who asks the cluster for the
// decision. If NeedsDecision reports true there must be one, also when the branch is the only one:
// CommitOnePhase is not called.
type Undecided interface {
	NeedsDecision() bool
}
