// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

// patience bounds waits for what must happen soon.
const patience = 30 * time.Second

func newShaky(t *testing.T, opts ...concord.Option) *shaky {
	b := newBank(t, opts...)
	return &shaky{bank: b, billing: newScripted("billing", b.disks[1])}
}

func (b *shaky) requireNothingLeft(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(b.prepared(t)) == 0 }, patience, time.Millisecond,
		"the client ends what is left")
}

// requireTold demands that the cluster decided to abort.
func (l *leader) requireTold(t *testing.T, id concord.ID) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		x, known := l.table.Get(id)
		return known && x.Decision == txn.Abort
	}, patience, time.Millisecond, "the cluster is told")
}

func (l *leader) outcomes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outcomesAsked
}

func TestALostAnswerToPrepareLeavesNothing(t *testing.T) {
	for _, failing := range []int{0, 1, 5} {
		b := newShaky(t)
		b.billing.lost[callPrepare], b.billing.dropped[callRollback] = 1, failing
		var id concord.ID
		err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			id = tx.ID()
			return b.transfer(ctx, tx)
		})
		var aborted *concord.AbortedError
		require.ErrorAs(t, err, &aborted)
		require.Equal(t, "billing", aborted.Resource)
		require.ErrorIs(t, err, errBroke)
		b.requireNothingLeft(t)
		b.requireMoved(t, 0)
		if failing > 0 {
			b.requireTold(t, id)
		} else {
			require.Zero(t, b.outcomes(), "nobody has to be told of an ordinary abort")
		}
		commits, _ := b.asked()
		require.Zero(t, commits)
	}
}

func TestARollbackThatFailsIsTriedAgainAndTold(t *testing.T) {
	broke := errors.New("broke")
	for name, end := range map[string]func(context.Context, *concord.Tx) error{
		"the function fails": func(context.Context, *concord.Tx) error { return broke },
		"it rolls back": func(ctx context.Context,
			tx *concord.Tx) error {
			return errors.Join(tx.Rollback(ctx), broke)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShaky(t)
			b.billing.dropped[callRollback] = 3
			var id concord.ID
			err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				id = tx.ID()
				require.NoError(t, b.transfer(ctx, tx))
				return end(ctx, tx)
			})
			require.ErrorIs(t, err, broke)
			b.requireTold(t, id)
			require.Eventually(t, func() bool { _, found := b.disks[1].Get("A"); return !found && b.free(t) }, patience,
				time.Millisecond)
			b.requireMoved(t, 0)
		})
	}
}

// free reports whether nobody holds the row of billing.
func (b *shaky) free(t *testing.T) bool {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	return b.client.Run(ctx, func(ctx context.Context,
		tx *concord.Tx) error {
		return b.billing.add(ctx, tx, "A", 0)
	}) == nil
}

func TestAnAbortThatTheClusterDecidedIsNotTold(t *testing.T) {
	b := newShaky(t)
	b.billing.dropped[callRollback] = 3
	tx, err := b.client.Begin(t.Context())
	require.NoError(t, err)
	outcome, err := b.client.Outcome(t.Context(), tx.ID())
	require.NoError(t, err)
	require.NotEqual(t, concord.Committed, outcome)
	require.NoError(t, b.transfer(t.Context(), tx))
	require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrAborted)
	b.requireNothingLeft(t)
	b.requireMoved(t, 0)
	require.Equal(t, 1, b.outcomes(), "ours")
}

func TestALostAnswerToCommitIsNoReasonToWaitForTheCluster(t *testing.T) {
	for name, script := range map[string]func(*scripted){
		"the answer": func(r *scripted) { r.lost[callCommit] = 1 },
		"the call":   func(r *scripted) { r.dropped[callCommit] = 1 },
		"the call, and the first attempts afterwards": func(r *scripted) {
			r.dropped[callCommit],
				r.dropped[callRecovery] = 1, 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShaky(t)
			script(b.billing)
			require.NoError(t, b.client.Run(t.Context(), b.transfer))
			b.requireNothingLeft(t)
			b.requireMoved(t, 5)
			require.Eventually(t, func() bool { _, finished := b.asked(); return finished == 2 }, patience,
				time.Millisecond)
		})
	}
}

func TestCloseEndsTheAttempts(t *testing.T) {
	b := newShaky(t)
	b.billing.lost[callPrepare], b.billing.dropped[callRollback] = 1, 1<<30
	var id concord.ID
	require.ErrorIs(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		return b.transfer(ctx, tx)
	}), concord.ErrAborted)
	require.NoError(t, b.client.Close())
	b.requireTold(t, id)
	require.Len(t, b.prepared(t), 1, "which the cluster ends, since it was told")
}
