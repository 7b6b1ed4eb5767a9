// SPDX-License-Identifier: Apache-2.0

package adapters

import (
	"context"
	"errors"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// A transaction may have one last resource: all its other branches are prepared, and then the session of this one
// commits its work together with a marker. That commit is the decision; the log of the cluster follows it. The other
// names of the same thing are last resource commit and commit markable resource.

// ErrSettled says that the marker of a last resource met one to abort: the cluster has settled the transaction. It is
// wrapped together with ErrNotCommitted.
var ErrSettled = errors.New("the cluster was asked for the outcome before the commit, and has aborted it in its " +
	"last resource: run it again")

// ErrLastHeld says that a last resource could not be settled, because a transaction that has not ended may hold its
// marker: whoever began it may be committing at this moment.
var ErrLastHeld = errors.New("a session of the last resource has written the marker of the transaction, or may have, " +
	"and has not ended: the server ends it when it has been idle for too long; try again")

// Last is a Session that can be that of a last resource.
type Last interface {
	// BeLast is called after Open and before anything is done: the branch is that of a last resource. It makes sure
	// that a marker can be written there. The branch is never prepared.
	BeLast(ctx context.Context) error
	// CommitLast writes the marker beside the work, also if there is none, and commits both in one, durably. It
	// returns nil, an error that wraps ErrNotCommitted if certainly nothing of it is committed and nothing will be,
	// or any other error if nobody can tell. Whatever it is, the branch has ended as far as this session goes.
	CommitLast(ctx context.Context, m txn.LastMarker) error
}

// Tagged is a Session whose branch can be prepared beside a last resource: the name under which it is prepared has
// the tag of that. SetTag is called after Open and before anything is done.
type Tagged interface {
	SetTag(t txn.LastTag)
}

// Settler is the recovery half of a last resource.
type Settler interface {
	// Settle makes certain whether a transaction commits there, and returns its marker. If it finds none it writes
	// one to abort, durably and in a transaction of its own: whoever comes later to commit meets that. It waits for
	// a moment for a transaction that holds the marker; the error wraps ErrLastHeld if that does not end.
	Settle(ctx context.Context, c txn.ClusterID, id txn.ID) (txn.LastMarker, error)
}

// SettleMarker is Settle for an adapter: insert writes a text as the marker if there is none, and reports whether it
// has; read returns the one that is there. What is written is durable when insert returns.
func SettleMarker(insert func(text string) (bool, error),
	read func() (text string, found bool, err error)) (txn.LastMarker, error) {
	abort := txn.LastMarker{Decision: txn.Abort}
	if !mutant.SettleReads {
		switch inserted, err := insert(abort.Text()); {
		case err != nil:
			return txn.LastMarker{}, err
		case inserted:
			return abort, nil
		}
	}
	text, found, err := read()
	switch {
	case err != nil:
		return txn.LastMarker{}, err
	case mutant.DuplicateIsCommit:
		return txn.LastMarker{Decision: txn.Commit}, nil
	case !found && mutant.SettleReads:
		return abort, nil
	case !found: // it was removed in between
		return txn.LastMarker{}, ErrLastHeld
	}
	return txn.ParseLastMarker(text)
}
