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
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
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

func TestAnAnswerAtTheDecisionDoesNotWaitForTheBranches(t *testing.T) {
	b := newShaky(t)
	b.billing.committing = make(chan struct{})
	release := sync.OnceFunc(func() { close(b.billing.committing) })
	t.Cleanup(release)
	require.NoError(t, b.client.Run(t.Context(), b.transfer, concord.WithAnswerAtDecision()))
	require.NotEmpty(t, b.prepared(t), "billing is still committing")
	closed := make(chan error, 1)
	go func() { closed <- b.client.Close() }()
	require.Eventually(t, func() bool {
		tx, err := b.client.Begin(t.Context())
		if err == nil {
			err = tx.Rollback(t.Context())
		}
		return errors.Is(err, concord.ErrClosed)
	}, patience, time.Millisecond)
	select {
	case <-closed:
		t.Fatal("Close has not waited for a branch that is being committed")
	default:
	}
	release()
	require.NoError(t, <-closed)
	b.requireMoved(t, 5)
	require.Empty(t, b.prepared(t))
	_, finished := b.asked()
	require.Equal(t, 2, finished, "both are reported")
}

func TestABranchThatFailsBehindAnAnswerAtTheDecisionIsCommittedLater(t *testing.T) {
	b := newShaky(t)
	b.billing.dropped[callCommit] = 1
	require.NoError(t, b.client.Run(t.Context(), b.transfer, concord.WithAnswerAtDecision()))
	b.requireNothingLeft(t)
	b.requireMoved(t, 5)
}

func TestAnAbortIsAnsweredAfterTheBranchesAlsoAtTheDecision(t *testing.T) {
	b := newShaky(t)
	b.billing.dropped[callPrepare] = 1
	err := b.client.Run(t.Context(), b.transfer, concord.WithAnswerAtDecision())
	require.ErrorIs(t, err, concord.ErrAborted)
	require.Empty(t, b.prepared(t), "nothing is left when it is said")
	b.requireMoved(t, 0)
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
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.NoError(t, b.transfer(ctx, tx))
		return errors.New("broke")
	})
	var torn *concord.TornError
	require.ErrorAs(t, err, &torn)
	require.Equal(t, "billing", torn.Resource)
	require.NotErrorIs(t, err, concord.ErrAborted)
	b.billing.set(func() { b.billing.torn = nil })
	require.Eventually(t, func() bool { return b.free(t) }, patience, time.Millisecond, "the client ends what is left")
	b.leader.set(func() {
		require.NotContains(t, b.leader.several, torn.GID, "the cluster is told nothing that nobody knows")
	})
}

// requireUnsure demands that the cluster was told to abort, and not that no database has committed anything by itself.
func (l *leader) requireUnsure(t *testing.T, id concord.ID) {
	t.Helper()
	l.requireTold(t, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NotContains(t, l.several, id)
}

// Who began it may have committed alone, in one phase, before this service was called: by a call that came late, say.
func TestAServiceIsNotSureThatNothingIsCommitted(t *testing.T) {
	b := newShaky(t)
	b.billing.dropped[callRollback] = 1
	secret := txn.NewSecret()
	p := api.Propagation{Cluster: cluster, Deadline: time.Now().Add(time.Minute), Capability: secret.Capability(),
		Call: 1, ID: txn.NewID(time.Now()).WithCapability(secret.Capability()), Branches: 8}
	header, err := api.Text(p.Message())
	require.NoError(t, err)
	j, err := b.client.Join(t.Context(), header)
	require.NoError(t, err)
	require.NoError(t, b.client.Run(j.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return b.billing.add(ctx, tx, "A", 1)
	}))
	said, err := api.ParseParticipation(j.Leave(nil, ""))
	require.NoError(t, err)
	_, err = b.client.JoinService().Conclude(t.Context(), &concordv1.ConcludeRequest{Gid: p.ID.String(),
		Instance: said.Instance, Decision: txn.Abort.String(), Proof: secret.Proof(txn.Abort)})
	require.NoError(t, err)
	b.requireUnsure(t, p.ID)
}

// deaf is a service that cannot be reached any more.
type deaf struct{}

var errDeaf = api.ToStatus(txn.Unavailablef("connection refused"))

func (deaf) Vote(context.Context, *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	return nil, errDeaf
}

func (deaf) Conclude(context.Context, *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error) {
	return nil, errDeaf
}

// Its application's own SQL may have committed something there.
func TestNobodySpeaksForAServiceThatCannotBeAsked(t *testing.T) {
	b := newShaky(t)
	var id concord.ID
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		call, err := tx.Call(ctx, "stock:80", func(string) (concord.Peer, error) { return deaf{}, nil })
		require.NoError(t, err)
		p, err := api.ParsePropagation(call.Header())
		require.NoError(t, err)
		answer, err := api.Text(api.Participation{Call: p.Call, Instance: p.Path[0], Branches: []api.OpenedBranch{
			{No: p.First, Resource: "stock", Driver: "memory"}}}.Message())
		require.NoError(t, err)
		require.NoError(t, call.Answered(answer))
		return errFunds
	})
	require.ErrorIs(t, err, errFunds)
	b.requireUnsure(t, id)
}

// An answer is lost in the moment of the commit: what was done there is not known, so nothing commits.
func TestACommitDoesNotOvertakeALostAnswer(t *testing.T) {
	b := newShaky(t)
	for range 300 {
		tx, err := b.client.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, b.billing.add(t.Context(), tx, "A", 1))
		call, err := tx.Call(t.Context(), "stock:80", nil)
		require.NoError(t, err)
		var lost sync.WaitGroup
		lost.Go(func() { call.Failed(errors.New("connection reset")) })
		require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrAborted)
		lost.Wait()
	}
}
