// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
)

// The adapters notice what the SQL of an application did to a branch; here is what the SDK makes
// of it.
func TestWhatIsTornIsNeverCalledAborted(t *testing.T) {
	broke := errors.New("broke")
	both := func(b *shaky) func(context.Context, *concord.Tx) error { return b.transfer }
	one := func(b *shaky) func(context.Context, *concord.Tx) error {
		return func(ctx context.Context, tx *concord.Tx) error { return b.billing.add(ctx, tx, "A", 5) }
	}
	for name, c := range map[string]struct {
		work func(*shaky) func(context.Context, *concord.Tx) error
		end  func(context.Context, *concord.Tx) error
	}{
		"two branches commit": {both, func(context.Context, *concord.Tx) error { return nil }},
		"one branch commits":  {one, func(context.Context, *concord.Tx) error { return nil }},
		"the function fails":  {both, func(context.Context, *concord.Tx) error { return broke }},
		"the function fails with what another transaction said": {both, func(context.Context, *concord.Tx) error {
			return fmt.Errorf("inner: %w", &concord.AbortedError{Err: broke})
		}},
		"the function commits":    {both, func(ctx context.Context, tx *concord.Tx) error { return tx.Commit(ctx) }},
		"the function rolls back": {both, func(ctx context.Context, tx *concord.Tx) error { return tx.Rollback(ctx) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShaky(t)
			why := errors.New("a statement ended the transaction")
			b.billing.torn = why
			var id concord.ID
			err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				id = tx.ID()
				require.NoError(t, c.work(b)(ctx, tx))
				return c.end(ctx, tx)
			})
			var torn *concord.TornError
			require.ErrorAs(t, err, &torn)
			require.Equal(t, concord.TornError{GID: id, Resource: "billing", Err: torn.Err}, *torn)
			require.ErrorIs(t, err, concord.ErrTorn)
			require.ErrorIs(t, err, why)
			require.NotErrorIs(t, err, concord.ErrAborted)
			require.NotErrorIs(t, err, concord.ErrUnknownOutcome)
			require.Zero(t, b.disks[0].Sum())
			require.Empty(t, b.prepared(t))
			require.NoError(t, b.client.Close())
			commits, _ := b.asked()
			require.Zero(t, commits+b.outcomes(), "it has nothing to tell the cluster")
		})
	}
}

func TestABranchThatIsTornAndOneThatVotesNo(t *testing.T) {
	b := newShaky(t)
	b.billing.torn = errors.New("a statement ended the transaction")
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.NoError(t, b.transfer(ctx, tx))
		m, err := b.orders.Tx(ctx, tx)
		require.NoError(t, err)
		require.ErrorIs(t, m.Put(ctx, "", 1), memory.ErrNoKey)
		return nil
	})
	require.ErrorIs(t, err, concord.ErrTorn)
	require.NotErrorIs(t, err, concord.ErrAborted)
}

func TestAPanicTellsTheLogWhatIsTorn(t *testing.T) {
	var log lockedBuilder
	b := newShaky(t, concord.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	b.billing.torn = errors.New("a statement ended the transaction")
	require.PanicsWithValue(t, "oh no", func() {
		_ = b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			require.NoError(t, b.transfer(ctx, tx))
			panic("oh no")
		})
	})
	require.Contains(t, log.String(), "level=ERROR")
	require.Contains(t, log.String(), "a statement ended the transaction")
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A database that does not answer any more, after a statement that may have ended the transaction of its branch.
func TestWhatIsTornAndLeftIsTornAtOnceAndEndedLater(t *testing.T) {
	b := newShaky(t)
	b.billing.torn, b.billing.left = errors.New("a statement ended the transaction"), 3
	var id concord.ID
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		require.NoError(t, b.transfer(ctx, tx))
		return errors.New("broke")
	})
	var torn *concord.TornError
	require.ErrorAs(t, err, &torn)
	require.Equal(t, "billing", torn.Resource)
	require.NotErrorIs(t, err, concord.ErrAborted)
	b.billing.set(func() { b.billing.torn = nil })
	require.Eventually(t, func() bool { return b.free(t) }, patience, time.Millisecond, "the client ends what is left")
	require.Zero(t, b.outcomes(), "the cluster is told nothing of %v that nobody knows", id)
}
