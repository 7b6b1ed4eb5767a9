// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// hang runs a transaction whose function does not return before release is closed, and
// returns what Run says in the end.
func (b *bank) hang(t *testing.T, ctx context.Context, opts ...concord.TxOption) (release func(error) error) {
	t.Helper()
	working, end, said := make(chan struct{}), make(chan error, 1), make(chan error, 1)
	go func() {
		said <- b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
			err := b.transfer(ctx, tx)
			close(working)
			return errors.Join(err, <-end)
		}, opts...)
	}()
	<-working
	return func(err error) error { end <- err; return <-said }
}

// requireFree locks the rows of transfer, once nobody holds them any more, and changes nothing.
func (b *bank) requireFree(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		return b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
			for _, r := range []*memory.Resource{b.orders, b.billing} {
				m, err := r.Tx(ctx, tx)
				if err != nil {
					return err
				}
				if _, _, err := m.Get(ctx, "A"); err != nil {
					return err
				}
			}
			return nil
		}) == nil
	}, patience, time.Millisecond)
	b.requireMoved(t, 0)
}

func TestTheLimitFreesTheLocksOfAFunctionThatHangs(t *testing.T) {
	const limit = 500 * time.Millisecond // a slow machine gets to the hanging before
	for name, c := range map[string]struct {
		ctx     func(context.Context) (context.Context, func())
		longest time.Duration
		opts    []concord.TxOption
		text    string
		is      error
	}{
		"its own": {opts: []concord.TxOption{concord.WithTimeout(limit)}, is: context.DeadlineExceeded,
			text: "its time limit of 500ms (WithTimeout) was reached"},
		"the cluster's": {longest: limit, is: context.DeadlineExceeded,
			text: "the cluster's time limit of 500ms was reached: "},
		"the cluster's, of one who wanted more": {longest: limit,
			opts: []concord.TxOption{concord.WithTimeout(time.Hour)}, is: context.DeadlineExceeded,
			text: "the cluster's time limit of 500ms was reached, which is shorter than the 1h0m0s of WithTimeout"},
		// it began a little after the context
		"the caller's deadline": {is: context.DeadlineExceeded,
			text: "after the transaction began: context deadline exceeded",
			ctx: func(ctx context.Context) (context.Context, func()) {
				ctx, cancel := context.WithTimeout(ctx, limit)
				return ctx, func() { time.AfterFunc(time.Minute, cancel) }
			}},
		"the caller's word": {is: context.Canceled, text: "the caller's context ended ",
			ctx: func(ctx context.Context) (context.Context, func()) { return context.WithCancel(ctx) }},
	} {
		for end, returned := range map[string]error{"succeeds late": nil, "fails late": errors.New("broke")} {
			t.Run(name+", "+end, func(t *testing.T) {
				b := newBank(t)
				if c.longest > 0 {
					b = newBankOf(t, c.longest)
				}
				ctx, cancel := t.Context(), func() {}
				if c.ctx != nil {
					ctx, cancel = c.ctx(ctx)
				}
				release := b.hang(t, ctx, c.opts...)
				cancel()
				b.requireFree(t)
				err := release(returned)
				require.ErrorIs(t, err, concord.ErrAborted)
				require.ErrorIs(t, err, c.is)
				require.ErrorContains(t, err, c.text)
				if returned != nil {
					require.ErrorIs(t, err, returned)
				}
				b.requireMoved(t, 0)
				require.Zero(t, b.outcomes())
			})
		}
	}
}

func TestAfterTheLimitNothingIsDoneAnyMore(t *testing.T) {
	b := newBank(t)
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := b.orders.Tx(ctx, tx)
		require.NoError(t, err)
		require.NoError(t, m.Put(ctx, "A", 7))
		<-ctx.Done()
		lasting := context.WithoutCancel(ctx)
		require.Eventually(t, func() bool { return errors.Is(m.Put(lasting, "B", 1), adapters.ErrBranchEnded) },
			patience, time.Millisecond)
		_, err = b.billing.Tx(lasting, tx)
		require.ErrorContains(t, err, "its time limit of 1s (WithTimeout) was reached")
		return nil
	}, concord.WithTimeout(time.Second))
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Empty(t, aborted.Resource)
	b.requireMoved(t, 0)
}

// A transaction that its application forgets, with its client.
func TestTheLimitEndsWhatNobodyEnds(t *testing.T) {
	b := newBank(t)
	tx, err := b.client.Begin(t.Context(), concord.WithTimeout(time.Second))
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	b.requireFree(t)
	require.NoError(t, tx.Rollback(t.Context()), "it is rolled back")
	require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrAborted)
	b.requireMoved(t, 0)
}

func TestTheLimitAndCommitAreDecidedOnce(t *testing.T) {
	b := newBank(t)
	moved := int64(0)
	for range 300 {
		err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			return b.transfer(ctx, tx)
		}, concord.WithTimeout(time.Duration(rand.Int64N(int64(4*time.Millisecond)))+1))
		var unknown *concord.UnknownError
		switch {
		case err == nil:
			moved += 5
		case errors.As(err, &unknown):
			outcome, err := b.client.Outcome(t.Context(), unknown.GID)
			require.NoError(t, err)
			if outcome == concord.Committed {
				moved += 5
			}
		default:
			require.ErrorIs(t, err, concord.ErrAborted)
		}
		require.Eventually(t, func() bool { return len(b.prepared(t)) == 0 }, patience, time.Millisecond)
		b.requireMoved(t, moved)
	}
	t.Logf("%d of 300 were faster than their limit", moved/5)
}

func TestTheLimitIsToldWhenItPassesDuringCommit(t *testing.T) {
	b := newBank(t)
	b.before = func(ctx context.Context) error { <-ctx.Done(); return txn.ErrUnavailable }
	tx, err := b.client.Begin(t.Context(), concord.WithTimeout(time.Second))
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	err = tx.Commit(t.Context())
	require.ErrorIs(t, err, concord.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "its time limit of 1s (WithTimeout) was reached")
}

func TestCloseRefusesAndWaits(t *testing.T) {
	b := newBank(t)
	release := b.hang(t, t.Context())
	var closing sync.WaitGroup
	for range 2 {
		closing.Go(func() {
			if err := b.client.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool {
		tx, err := b.client.Begin(t.Context())
		if err == nil {
			err = tx.Rollback(t.Context())
		}
		return errors.Is(err, concord.ErrClosed)
	}, patience, time.Millisecond)
	require.NoError(t, release(nil), "what had begun is committed")
	closing.Wait()
	b.requireMoved(t, 5)
	require.NoError(t, b.client.Close())
	require.ErrorIs(t, b.client.Run(t.Context(), b.transfer), concord.ErrClosed)
}

func TestCloseWaitsForAFunctionThatHangsUntilItsLimit(t *testing.T) {
	b := newBank(t)
	release := b.hang(t, t.Context(), concord.WithTimeout(50*time.Millisecond))
	require.NoError(t, b.client.Close())
	b.requireMoved(t, 0)
	err := release(nil)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "its time limit of 50ms (WithTimeout) was reached")
	b.requireMoved(t, 0)
	commits, _ := b.asked()
	require.Zero(t, commits)
}

// allVictims names every transaction that waits a victim, and notes what it was told.
func (b *shaky) allVictims() <-chan *concordv1.WaitingRequest {
	told := make(chan *concordv1.WaitingRequest, 100)
	b.leader.set(func() {
		b.leader.waiting = func(r *concordv1.WaitingRequest) *concordv1.WaitingResponse {
			select {
			case told <- r:
			default:
			}
			res := &concordv1.WaitingResponse{Look: 5}
			for _, x := range r.GetTransactions() {
				res.Deadlocks = append(res.Deadlocks, &concordv1.Deadlock{Victim: x.GetGid(),
					Others: []string{anotherID.String()}, Resources: []string{"billing", "orders"}})
			}
			return res
		}
	})
	return told
}

var anotherID = txn.NewID(time.Now())

// waitForAnswer works, and waits for its database until somebody ends that.
func (b *shaky) waitForAnswer(ctx context.Context, tx *concord.Tx) error {
	if err := b.transfer(ctx, tx); err != nil {
		return err
	}
	b.billing.set(func() { b.billing.waits = true })
	<-ctx.Done()
	return ctx.Err()
}

func TestTheVictimOfADeadlockIsRolledBackAndToldSo(t *testing.T) {
	b := newShaky(t)
	told := b.allVictims()
	err := b.client.Run(t.Context(), b.waitForAnswer)
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Empty(t, aborted.Resource, "none is to blame")
	var why *concord.DeadlockError
	require.ErrorAs(t, err, &why)
	require.Equal(t, &concord.DeadlockError{Resources: []string{"billing", "orders"}, Others: []concord.ID{anotherID}},
		why)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.True(t, concord.Retryable(err))
	r := <-told
	require.Zero(t, r.GetHeard())
	require.Len(t, r.GetTransactions(), 1)
	require.Equal(t, aborted.GID.String(), r.GetTransactions()[0].GetGid())
	require.False(t, r.GetTransactions()[0].GetVoting())
	require.Len(t, r.GetTransactions()[0].GetBranches(), 1, "the other one cannot tell its session")
	require.Equal(t, "billing session 7 true", fmt.Sprint(r.GetTransactions()[0].GetBranches()[0].GetResource(), " ",
		r.GetTransactions()[0].GetBranches()[0].GetSession(), " ", r.GetTransactions()[0].GetBranches()[0].GetWaits()))
	b.billing.set(func() { b.billing.waits = false })
	b.requireFree(t)
}

// Who begins by himself learns it from Commit; Rollback has nothing to add.
func TestTheVictimOfADeadlockIsToldByCommit(t *testing.T) {
	for name, end := range map[string]func(*concord.Tx) error{
		"commit":   func(tx *concord.Tx) error { return tx.Commit(t.Context()) },
		"rollback": func(tx *concord.Tx) error { return tx.Rollback(t.Context()) },
	} {
		b := newShaky(t)
		b.allVictims()
		tx, err := b.client.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.transfer(t.Context(), tx))
		b.billing.set(func() { b.billing.waits = true })
		require.Eventually(t, func() bool {
			_, err := b.orders.Tx(t.Context(), tx)
			return errors.As(err, new(*concord.DeadlockError))
		}, patience, time.Millisecond)
		b.billing.set(func() { b.billing.waits = false })
		err = end(tx)
		if name == "rollback" {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, concord.ErrAborted)
			require.ErrorAs(t, err, new(*concord.DeadlockError))
			require.True(t, concord.Retryable(err))
		}
		b.requireFree(t)
	}
}

// Whoever is in the middle of his commit is no victim, whatever the cluster says.
func TestWhatIsBeingCommittedIsNoVictim(t *testing.T) {
	b := newShaky(t)
	told := b.allVictims()
	preparing := make(chan struct{})
	b.billing.set(func() { b.billing.preparing = preparing })
	said := make(chan error, 1)
	go func() { said <- b.client.Run(context.WithoutCancel(t.Context()), b.transfer) }()
	r := <-told
	require.True(t, r.GetTransactions()[0].GetVoting())
	<-told // it has heard the answer
	close(preparing)
	require.NoError(t, <-said)
	b.requireMoved(t, 5)
}

// A cluster of an older release is asked once in a while; what waits goes on waiting.
func TestAClusterThatKnowsNoDeadlocksIsNotBotheredWithThem(t *testing.T) {
	b := newShaky(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := b.client.Run(ctx, b.waitForAnswer)
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	b.leader.set(func() { require.Equal(t, 1, b.leader.told) })
}

// A database that hangs in its vote keeps no locks in others: not at the limit, and not after a No.
func TestAVoteThatHangsKeepsNoLocksElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		no      bool
	}{
		"until the limit": {timeout: 300 * time.Millisecond},
		"after a no":      {timeout: time.Hour, no: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShaky(t)
			b.billing.hangs = make(chan struct{})
			said := make(chan error, 1)
			go func() {
				said <- b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
					if err := b.transfer(ctx, tx); err != nil {
						return err
					}
					m, err := b.orders.Tx(ctx, tx)
					if err == nil && c.no {
						if err := m.Put(ctx, "", 1); !errors.Is(err, memory.ErrNoKey) { // ignored, so that it votes no
							return fmt.Errorf("a row without a key: %w", err)
						}
					}
					return err
				}, concord.WithTimeout(c.timeout))
			}()
			require.Eventually(t, func() bool {
				b.billing.mu.Lock()
				defer b.billing.mu.Unlock()
				return b.billing.hanging
			}, patience, time.Millisecond)
			require.Eventually(t, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
					m, err := b.orders.Tx(ctx, tx)
					if err == nil {
						err = m.Put(ctx, "A", 0)
					}
					return err
				}) == nil
			}, patience, time.Millisecond, "the row of orders is free")
			select {
			case err := <-said:
				require.Fail(t, "nobody knows yet whether the branch is torn", "%v", err)
			default:
			}
			close(b.billing.hangs)
			require.ErrorIs(t, <-said, concord.ErrAborted)
			b.requireNothingLeft(t)
		})
	}
}
