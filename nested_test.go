// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

func TestARunWithinARunIsAPartOfIt(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, outer *concord.Tx) error {
		joined, ok := concord.FromContext(ctx)
		require.True(t, ok)
		require.Same(t, outer, joined)
		require.NoError(t, b.client.Run(ctx, func(ctx context.Context, inner *concord.Tx) error {
			require.Same(t, outer, inner)
			return b.transfer(ctx, inner)
		}))
		commits, _ := b.asked()
		require.Zero(t, commits, "nothing is decided yet")
		return nil
	}))
	commits, _ := b.asked()
	require.Equal(t, 1, commits)
	b.requireMoved(t, 5)
}

func TestAPartThatFailsMakesTheWholeAbort(t *testing.T) {
	for name, part := range map[string]func(b *bank, ctx context.Context) error{
		"an error": func(b *bank, ctx context.Context) error {
			return b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
				return errors.Join(b.transfer(ctx, tx), errFunds)
			})
		},
		"a panic": func(b *bank, ctx context.Context) (err error) {
			defer func() {
				if recover() != nil {
					err = errFunds
				}
			}()
			return b.client.Run(ctx, func(context.Context, *concord.Tx) error { panic("oh no") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBank(t)
			err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				require.NoError(t, b.transfer(ctx, tx))
				require.ErrorIs(t, part(b, ctx), errFunds)
				return nil // as if nothing had happened
			})
			require.ErrorIs(t, err, concord.ErrAborted)
			require.ErrorContains(t, err, "a part of the transaction failed")
			b.requireMoved(t, 0)
		})
	}
}

func TestARunThatMustNotJoinSaysSo(t *testing.T) {
	b, other := newBank(t), newBank(t)
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, outer *concord.Tx) error {
		none := func(context.Context, *concord.Tx) error { t.Error("it ran"); return nil }
		err := b.client.Run(ctx, none, concord.NoJoin())
		require.ErrorIs(t, err, concord.ErrNested)
		err = b.client.Run(ctx, none, concord.Recorded())
		require.ErrorIs(t, err, concord.ErrNested)

		// Another client, or a context that carries none: another transaction.
		require.NoError(t, other.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
			require.NotEqual(t, outer.ID(), tx.ID())
			return other.transfer(ctx, tx)
		}, concord.NoJoin()))
		other.requireMoved(t, 5)
		require.NoError(t, b.client.Run(concord.NewContext(ctx, nil), func(_ context.Context, tx *concord.Tx) error {
			require.NotEqual(t, outer.ID(), tx.ID())
			return nil
		}))
		return nil
	}))
	require.NoError(t, b.client.Run(t.Context(), b.transfer, concord.NoJoin()), "where there is none to join")
	_, ok := concord.FromContext(t.Context())
	require.False(t, ok)
}

func TestACallThatOutlivesItsTransactionIsRefused(t *testing.T) {
	b := newBank(t)
	var kept context.Context
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		kept = ctx
		return b.transfer(ctx, tx)
	}))
	err := b.client.Run(kept, func(context.Context, *concord.Tx) error { t.Error("it ran"); return nil })
	require.ErrorIs(t, err, concord.ErrTxEnded)
	b.requireMoved(t, 5)
}

// A function may begin another transaction, and return what became of that.
func TestRunOnceIsNotTakenInByTheUnknownOutcomeOfAnother(t *testing.T) {
	b := newBank(t)
	b.leader.set(func() { b.level = txn.LevelKeys })
	var other concord.ID
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		other = tx.ID()
		return b.transfer(ctx, tx)
	}))
	once, err := b.client.RunOnce(t.Context(), "order 4711", func(ctx context.Context, tx *concord.Tx) error {
		if err := b.transfer(ctx, tx); err != nil {
			return err
		}
		return &concord.UnknownError{GID: other, Err: errBroke}
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.Zero(t, once)
	b.requireMoved(t, 5)
}

// Whoever ends the transaction himself hears from Run what became of it, and never to begin a new one when
// it is committed.
func TestRunSaysWhatBecameOfATransactionThatItsFunctionEnded(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.NoError(t, b.transfer(ctx, tx))
		return tx.Commit(ctx)
	}))
	b.requireMoved(t, 5)

	b.leader.set(func() { b.level = txn.LevelKeys })
	once, err := b.client.RunOnce(t.Context(), "ended by hand", func(ctx context.Context, tx *concord.Tx) error {
		require.NoError(t, b.transfer(ctx, tx))
		return tx.Commit(ctx)
	})
	require.NoError(t, err)
	require.False(t, once.Replayed)
	b.requireMoved(t, 10)

	require.ErrorIs(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.NoError(t, b.transfer(ctx, tx))
		return tx.Rollback(ctx)
	}), concord.ErrAborted)
	b.requireMoved(t, 10)
}
