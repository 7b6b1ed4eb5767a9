// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// quick retries without pauses that a test would have to wait for.
func quick(attempts int) concord.TxOption {
	return concord.WithRetry(concord.RetryPolicy{Attempts: attempts, Initial: time.Microsecond, Max: time.Millisecond})
}

func TestWhatPassesIsDoneAgainUnderANewID(t *testing.T) {
	b := newShaky(t)
	b.billing.passing = errDeadlock
	seen := map[concord.ID]bool{}
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		seen[tx.ID()] = true
		if err := b.transfer(ctx, tx); err != nil {
			return err
		}
		if len(seen) < 3 {
			return fmt.Errorf("transfer: %w", b.billing.fails(errDeadlock))
		}
		return nil
	}, quick(5)))
	require.Len(t, seen, 3)
	b.requireMoved(t, 5)
}

func TestADeadlockOfTwoTransactionsIsSolvedByRetry(t *testing.T) {
	b := newBank(t)
	var both [2]chan struct{}
	both[0], both[1] = make(chan struct{}), make(chan struct{})
	done := make(chan error, 2)
	for i, keys := range [2][2]string{{"A", "B"}, {"B", "A"}} {
		first := true
		go func() {
			done <- b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				m, err := b.orders.Tx(ctx, tx)
				if err != nil {
					return err
				}
				if _, err := m.Add(ctx, keys[0], 1); err != nil {
					return err
				}
				if first { // each holds what the other one wants
					first = false
					close(both[i])
					<-both[1-i]
				}
				_, err = m.Add(ctx, keys[1], 1)
				return err
			}, quick(100))
		}()
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.EqualValues(t, 4, b.disks[0].Sum())
}

func TestACoordinatorThatCannotBeAskedInTimeIsRetryable(t *testing.T) {
	b := newBank(t)
	calls := 0
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if calls++; calls == 1 { // as of a resource that could not be checked
			return fmt.Errorf("check resource orders: %w",
				&api.NoAnswerError{Op: "list the resources", Err: context.DeadlineExceeded})
		}
		return b.transfer(ctx, tx)
	}, quick(5)))
	require.Equal(t, 2, calls)
	b.requireMoved(t, 5)
}

// However it ends, what may have committed is never done again.
func TestWhatMayHaveCommittedIsNotRetryable(t *testing.T) {
	inner := &concord.UnknownError{GID: concord.ID{1}, Err: errDeadlock}
	for name, c := range map[string]struct {
		do  func(*shaky)
		fn  func(*shaky) func(context.Context, *concord.Tx) error
		opt []concord.TxOption
	}{
		"the decision cannot be learned": {
			do: func(b *shaky) {
				b.before = func(ctx context.Context) error {
					<-ctx.Done()
					return txn.ErrUnavailable
				}
			},
			opt: []concord.TxOption{concord.WithTimeout(200 * time.Millisecond)}},
		"the only branch is lost in the middle of its commit": {
			do: func(b *shaky) { b.billing.lost[callOnePhase] = 1 },
			fn: func(b *shaky) func(context.Context, *concord.Tx) error {
				return func(ctx context.Context, tx *concord.Tx) error { return b.billing.add(ctx, tx, "A", 1) }
			}},
		"it is torn": {do: func(b *shaky) { b.billing.torn = errDeadlock }},
		"another transaction, inside of the function, is of unknown outcome": {
			fn: func(b *shaky) func(context.Context, *concord.Tx) error {
				return func(ctx context.Context, tx *concord.Tx) error {
					return errors.Join(b.transfer(ctx, tx), b.billing.fails(errDeadlock), inner)
				}
			}},
		"what fails would fail again": {
			fn: func(b *shaky) func(context.Context, *concord.Tx) error {
				return func(ctx context.Context,
					tx *concord.Tx) error {
					return errors.Join(b.transfer(ctx, tx), errFunds)
				}
			}},
		"its time limit": {
			opt: []concord.TxOption{concord.WithTimeout(20 * time.Millisecond)},
			fn: func(b *shaky) func(context.Context, *concord.Tx) error {
				return func(ctx context.Context, tx *concord.Tx) error { <-ctx.Done(); return ctx.Err() }
			}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShaky(t)
			b.billing.passing = errDeadlock
			if c.do != nil {
				c.do(b)
			}
			fn, calls := b.transfer, 0
			if c.fn != nil {
				fn = c.fn(b)
			}
			err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				calls++
				return fn(ctx, tx)
			}, append(c.opt, quick(5))...)
			require.Error(t, err)
			require.False(t, concord.Retryable(err), "%v", err)
			require.Equal(t, 1, calls)
		})
	}
	require.False(t, concord.Retryable(nil))
	require.False(t, concord.Retryable(memory.ErrNoKey))
}

func TestAPanicIsNotRetried(t *testing.T) {
	b := newBank(t)
	calls := 0
	require.Panics(t, func() {
		_ = b.client.Run(t.Context(), func(context.Context, *concord.Tx) error { calls++; panic("oh no") }, quick(5))
	})
	require.Equal(t, 1, calls)
}
