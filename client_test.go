// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = txn.ClusterID(0xc0ffee01)

// leader is the table of a coordinator behind the API, without a log: what the SDK
// talks to here. The real node is met in the end-to-end tests.
type leader struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	resources []*concordv1.ResourceStatus
	longest   time.Duration // that a transaction may live
	level     txn.FeatureLevel

	mu       sync.Mutex
	id       txn.ClusterID
	table    *txn.Table
	counter  uint64
	commits  int
	finished []api.Finished
	several  []txn.ID // of which somebody asked for the outcome and knew that there were several branches

	outcomesAsked int

	// waiting, if set, answers who waits; else nobody knows the call.
	waiting func(*concordv1.WaitingRequest) *concordv1.WaitingResponse
	told    int // how often it was called

	claimed bool // every key is, by somebody else

	// before, if set, is asked before a commit request is handled: an error is the answer.
	before func(context.Context) error
	// after, if set, is asked before its answer is sent.
	after func(context.Context) error
	// denies, if set, is the answer to whoever asks for an outcome.
	denies error
}

// archive keeps finished transactions; the leader's mutex guards it.
type archive map[txn.ID]txn.Txn

func (a archive) Finished(id txn.ID) (txn.Txn, bool) { x, ok := a[id]; return x, ok }

func (a archive) KeyUse(string) (txn.KeyUse, bool) { return txn.KeyUse{}, false }

func (a archive) Keep(c txn.Changes) {
	for _, x := range c.Finished {
		a[x.ID] = x
	}
}

func (l *leader) decide(r txn.Record) (txn.Verdict, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counter++
	changes, err := l.table.Apply(zab.Zxid{Epoch: 1, Counter: l.counter}, txn.EncodeRecords(nil, r))
	if err != nil {
		return txn.Verdict{}, err
	}
	return changes.Verdicts[0], nil
}

func (l *leader) Commit(ctx context.Context, r *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	if l.before != nil {
		if err := l.before(ctx); err != nil {
			return nil, api.ToStatus(err)
		}
	}
	c, err := api.ParseCommit(r)
	if err == nil && c.Cluster != l.cluster() {
		err = fmt.Errorf("the transaction belongs to another cluster: %w", txn.ErrInvalid)
	}
	if err != nil {
		return nil, api.ToStatus(err)
	}
	v, err := l.decide(txn.CommitRecord{ID: c.ID, Branches: c.Branches})
	if err != nil {
		return nil, api.ToStatus(err)
	}
	l.mu.Lock()
	l.commits++
	l.mu.Unlock()
	if l.after != nil {
		if err := l.after(ctx); err != nil {
			return nil, api.ToStatus(err)
		}
	}
	return &concordv1.CommitResponse{Decision: v.Decision.String(), Reason: v.Reason}, nil
}

func (l *leader) Outcome(_ context.Context, r *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, api.ToStatus(err)
	}
	l.mu.Lock()
	l.outcomesAsked++
	denies := l.denies
	l.mu.Unlock()
	if denies != nil {
		return nil, api.ToStatus(denies)
	}
	v, err := l.decide(txn.AbortRecord{ID: id, Reason: "somebody asked and nobody had committed it",
		Seen: r.GetSeveral()})
	if err != nil {
		return nil, api.ToStatus(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.GetSeveral() {
		l.several = append(l.several, id)
	}
	x, _ := l.table.Get(id)
	outcome := x.Outcome()
	return &concordv1.OutcomeResponse{Outcome: outcome.String(), Reason: v.Reason}, nil
}

func (l *leader) Finished(_ context.Context, r *concordv1.FinishedRequest) (*concordv1.FinishedResponse, error) {
	finished, err := api.ParseFinished(r)
	if err != nil {
		return nil, api.ToStatus(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished = append(l.finished, finished...)
	return &concordv1.FinishedResponse{}, nil
}

// KeyUse finds nothing under any key, as nothing is committed under one here.
func (l *leader) KeyUse(context.Context, *concordv1.KeyUseRequest) (*concordv1.KeyUseResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &concordv1.KeyUseResponse{Claimed: l.claimed}, nil
}

func (l *leader) Waiting(ctx context.Context, r *concordv1.WaitingRequest) (*concordv1.WaitingResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told++
	if l.waiting == nil {
		return l.UnimplementedCoordinatorServiceHandler.Waiting(ctx, r)
	}
	return l.waiting(r), nil
}

func (l *leader) Resources(context.Context, *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id == 0 { // not formed yet
		return &concordv1.ResourcesResponse{}, nil
	}
	return &concordv1.ResourcesResponse{Cluster: l.id.String(), Resources: slices.Clone(l.resources),
		MaxTransactionMs: l.longest.Milliseconds(),
		FeatureLevel:     uint32(l.level)}, nil
}

// set changes what the leader is from now on.
func (l *leader) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

func (l *leader) cluster() txn.ClusterID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

func (l *leader) asked() (commits, finished int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.commits, len(l.finished)
}

// bank is two databases, a leader that knows them, and a client.
type bank struct {
	*leader
	client          *concord.Client
	addr            string
	orders, billing *memory.Resource
	disks           [2]*memory.Disk
}

func newBank(t testing.TB, opts ...concord.Option) *bank { return newBankOf(t, time.Minute, opts...) }

// newBankOf is newBank at a cluster that lets a transaction live for longest.
func newBankOf(t testing.TB, longest time.Duration, opts ...concord.Option) *bank {
	t.Helper()
	b := &bank{leader: &leader{id: cluster, longest: longest, table: txn.NewTable(txn.Meta{}, nil, archive{})},
		disks: [2]*memory.Disk{memory.NewDisk(), memory.NewDisk()}}
	b.orders, b.billing = memory.New("orders", b.disks[0]), memory.New("billing", b.disks[1])
	for _, r := range []*memory.Resource{b.orders, b.billing} {
		identity, err := r.Identity(t.Context())
		require.NoError(t, err)
		b.resources = append(b.resources,
			&concordv1.ResourceStatus{Name: r.Name(), Driver: r.Driver(), Ok: true, Identity: identity})
	}
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(b.leader))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b.addr = server.Listener.Addr().String()
	client, err := concord.Dial(t.Context(), []string{b.addr}, opts...)
	require.NoError(t, err)
	b.client = client
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return b
}

// transfer moves 5 from orders to billing within tx.
func (b *bank) transfer(ctx context.Context, tx *concord.Tx) error {
	for r, delta := range map[*memory.Resource]int64{b.orders: -5, b.billing: 5} {
		m, err := r.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := m.Add(ctx, "A", delta); err != nil {
			return err
		}
	}
	return nil
}

func (b *bank) requireMoved(t *testing.T, amount int64) {
	t.Helper()
	require.Equal(t, -amount, b.disks[0].Sum())
	require.Equal(t, amount, b.disks[1].Sum())
	require.Empty(t, b.prepared(t))
}

func (b *bank) prepared(t *testing.T) (all []adapters.Prepared) {
	t.Helper()
	for _, r := range []*memory.Resource{b.orders, b.billing} {
		list, err := r.Recover(context.WithoutCancel(t.Context()))
		require.NoError(t, err)
		all = append(all, list...)
	}
	return all
}

func TestRunCommitsBothBranchesWithOneRequest(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), b.transfer))
	b.requireMoved(t, 5)
	require.NoError(t, b.client.Close())
	commits, finished := b.asked()
	require.Equal(t, 1, commits)
	require.Equal(t, 2, finished, "Close reports what was finished")
}

func TestOneBranchOrNoneIsCommittedWithoutTheCluster(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), func(context.Context, *concord.Tx) error { return nil }))
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := b.orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		return m.Put(ctx, "A", 7)
	}))
	require.EqualValues(t, 7, b.disks[0].Sum())
	commits, _ := b.asked()
	require.Zero(t, commits)
}

func TestReadOnlyBranchesNeedNoDecision(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
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
	}))
	commits, _ := b.asked()
	require.Zero(t, commits)
}

// readAndWrite reads orders and writes to billing.
func (b *bank) readAndWrite(ctx context.Context, tx *concord.Tx) error {
	from, err := b.orders.Tx(ctx, tx)
	if err != nil {
		return err
	}
	if _, _, err := from.Get(ctx, "A"); err != nil {
		return err
	}
	to, err := b.billing.Tx(ctx, tx)
	if err != nil {
		return err
	}
	return to.Put(ctx, "A", 7)
}

func TestTheOnlyBranchThatWroteIsCommittedWithoutTheCluster(t *testing.T) {
	b := newBank(t)
	require.NoError(t, b.client.Run(t.Context(), b.readAndWrite))
	require.EqualValues(t, 7, b.disks[1].Sum())
	require.Empty(t, b.prepared(t))
	commits, _ := b.asked()
	require.Zero(t, commits)

	require.NoError(t, b.client.Run(t.Context(), b.readAndWrite, concord.Recorded()))
	commits, _ = b.asked()
	require.Equal(t, 1, commits, "unless the outcome will be asked for")
}

func TestAReaderThatVotesNoKeepsTheOnlyWriterFromCommitting(t *testing.T) {
	b := newBank(t)
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if err := b.readAndWrite(ctx, tx); err != nil {
			return err
		}
		from, err := b.orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_ = from.Put(ctx, "", 1) // the branch is doomed, and has written nothing
		return nil
	})
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "orders", aborted.Resource)
	b.requireMoved(t, 0)
}

func TestAnErrorOfTheFunctionRollsBackAndIsReturned(t *testing.T) {
	b := newBank(t)
	broke := errors.New("broke")
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(b.transfer(ctx, tx), broke)
	})
	require.ErrorIs(t, err, broke)
	require.ErrorIs(t, err, concord.ErrAborted)
	b.requireMoved(t, 0)
}

func TestAPanicRollsBackAndGoesOn(t *testing.T) {
	b := newBank(t)
	require.PanicsWithValue(t, "oh no", func() {
		_ = b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			require.NoError(t, b.transfer(ctx, tx))
			panic("oh no")
		})
	})
	b.requireMoved(t, 0)
}

func TestAContextThatEndsInsideTheFunctionRollsBack(t *testing.T) {
	b := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		err := b.transfer(ctx, tx)
		cancel()
		return err
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, context.Canceled)
	b.requireMoved(t, 0)
}

func TestANoAbortsAndNamesTheResource(t *testing.T) {
	b := newBank(t)
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if err := b.transfer(ctx, tx); err != nil {
			return err
		}
		m, err := b.billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_ = m.Put(ctx, "", 1) // the branch is doomed, and the application overlooks it
		return nil
	})
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "billing", aborted.Resource)
	require.ErrorIs(t, err, memory.ErrNoKey)
	b.requireMoved(t, 0)
	commits, _ := b.asked()
	require.Zero(t, commits, "presumed abort sends no message")
}

func TestARefusedRequestAbortsForGood(t *testing.T) {
	b := newBank(t)
	b.before = func(context.Context) error { return fmt.Errorf("resource billing: %w", txn.ErrInvalid) }
	tx, err := b.client.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	err = tx.Commit(t.Context())
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "resource billing: invalid request")
	b.requireMoved(t, 0)
	outcome, err := b.client.Outcome(t.Context(), tx.ID())
	require.NoError(t, err)
	require.Equal(t, concord.Aborted, outcome)
}

func TestAnAnswerThatComesTooLateIsUnknownAndCarriedOutLater(t *testing.T) {
	b := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan struct{})
	b.after = func(ctx context.Context) error {
		cancel() // the application stops waiting once the decision is made
		select {
		case <-answer:
		case <-ctx.Done():
		}
		return nil
	}
	tx, err := b.client.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, b.transfer(ctx, tx))
	err = tx.Commit(ctx)
	var unknown *concord.UnknownError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, tx.ID(), unknown.GID)
	require.ErrorIs(t, err, concord.ErrUnknownOutcome)
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, b.prepared(t), 2, "nothing is finished while nothing is known")

	close(answer)
	require.Eventually(t, func() bool { return len(b.prepared(t)) == 0 }, 10*time.Second, 5*time.Millisecond)
	b.requireMoved(t, 5)
	outcome, err := b.client.Outcome(t.Context(), tx.ID())
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
}

// A context may end because another transaction was aborted: with errgroup, say.
func TestAnUnknownOutcomeIsNeverAlsoAnAbort(t *testing.T) {
	b := newBank(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	answer := make(chan struct{})
	b.after = func(ctx context.Context) error {
		cancel(&concord.AbortedError{Retryable: true, Err: errFunds})
		select {
		case <-answer:
		case <-ctx.Done():
		}
		return nil
	}
	err := b.client.Run(ctx, b.transfer)
	require.ErrorIs(t, err, concord.ErrUnknownOutcome)
	require.ErrorIs(t, err, errFunds)
	require.NotErrorIs(t, err, concord.ErrAborted)
	require.False(t, errors.As(err, new(*concord.AbortedError)))
	close(answer)
	require.Eventually(t, func() bool { return len(b.prepared(t)) == 0 }, 10*time.Second, 5*time.Millisecond)
	b.requireMoved(t, 5)
}

func TestAContextThatEndedBeforeCommitAborts(t *testing.T) {
	b := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	tx, err := b.client.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, b.transfer(ctx, tx))
	cancel()
	require.ErrorIs(t, tx.Commit(ctx), concord.ErrAborted)
	b.requireMoved(t, 0)
}

func TestATransactionEndsOnce(t *testing.T) {
	b := newBank(t)
	tx, err := b.client.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrTxEnded)
	require.ErrorIs(t, tx.Rollback(t.Context()), concord.ErrTxEnded)
	_, err = b.orders.Tx(t.Context(), tx)
	require.ErrorIs(t, err, concord.ErrTxEnded)
	b.requireMoved(t, 5)

	tx, err = b.client.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, b.transfer(t.Context(), tx))
	require.NoError(t, tx.Rollback(t.Context()))
	require.ErrorIs(t, tx.Commit(t.Context()), concord.ErrTxEnded)
	b.requireMoved(t, 5)
}

func TestAResourceThatDoesNotFitIsRefusedAtFirstUse(t *testing.T) {
	b := newBank(t)
	b.leader.set(func() {
		b.resources = append(b.resources,
			&concordv1.ResourceStatus{Name: "other", Driver: "memory", Identity: "memory elsewhere"},
			&concordv1.ResourceStatus{Name: "pg", Driver: "postgres", Identity: "x"},
			&concordv1.ResourceStatus{Name: "silent", Driver: "memory", Error: "connection refused"})
	})
	for name, text := range map[string]string{
		"nowhere": `knows no resource "nowhere", only billing, orders, other, pg, silent`,
		"other":   "at the coordinator, which could not finish a branch of yours",
		"pg":      `"pg" is a memory database here and a postgres database at the coordinator`,
		"silent":  `(connection refused): run "concord resource check silent"`,
	} {
		err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			_, err := memory.New(name, memory.NewDisk()).Tx(ctx, tx)
			return err
		})
		require.ErrorIs(t, err, concord.ErrResource)
		require.ErrorContains(t, err, text)
	}
}

func TestASecondResourceOfTheSameNameDoesNotGetTheBranchOfTheFirst(t *testing.T) {
	b := newBank(t)
	err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		if err := b.transfer(ctx, tx); err != nil {
			return err
		}
		_, err := memory.New("orders", memory.NewDisk()).Tx(ctx, tx)
		return err
	})
	require.ErrorIs(t, err, concord.ErrResource)
	b.requireMoved(t, 0)
}

func TestBadOptionsAreRefused(t *testing.T) {
	b := newBank(t)
	_, err := b.client.Begin(t.Context(), concord.WithProtocol("paxos"))
	require.EqualError(t, err, `begin: WithProtocol: "paxos" is not a protocol that this version knows, want `+
		`two_phase or three_phase`)
	_, err = b.client.Begin(t.Context(), concord.WithTimeout(-1))
	require.ErrorIs(t, err, txn.ErrInvalid)
	_, err = b.client.Begin(t.Context(), concord.WithProtocol("two_phase"), concord.WithTimeout(time.Second))
	require.NoError(t, err)
	require.NoError(t, b.client.Close())
	_, err = b.client.Begin(t.Context())
	require.ErrorIs(t, err, concord.ErrClosed)
}

func TestManyTransactionsAtOnceKeepTheSum(t *testing.T) {
	b := newBank(t)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 25 {
				err := b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
					// One order for all, so that no two databases wait for each other.
					for i, r := range []*memory.Resource{b.orders, b.billing} {
						m, err := r.Tx(ctx, tx)
						if err != nil {
							return err
						}
						if _, err := m.Add(ctx, "A", int64(10*i-5)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	b.requireMoved(t, 1000)
}
