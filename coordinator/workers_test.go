// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/txn"
)

// place is where a database is served: which one, and whether anybody answers, can change, as
// when its container is made anew.
type place struct {
	adapters.Resource
	now   atomic.Pointer[memory.Resource]
	asked atomic.Int64
}

func newPlace(r *memory.Resource) *place {
	p := &place{Resource: r}
	p.now.Store(r)
	return p
}

func (p *place) Identity(ctx context.Context) (string, error) {
	p.asked.Add(1)
	return p.now.Load().Identity(ctx)
}

func identityOf(t *testing.T, r adapters.Resource) string {
	id, err := r.Identity(t.Context())
	require.NoError(t, err)
	return id
}

// A client that sees another database than the node knows makes the node look again at once,
// and however many do, the database is asked once a second.
func TestAClientThatSeesAnotherDatabaseMakesTheNodeLookAgain(t *testing.T) {
	was, is := memory.New("orders", memory.NewDisk()), memory.New("orders", memory.NewDisk())
	p := newPlace(was)
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{p} })
	known := func() string { return c.leader().Status().Resources[0].Identity }
	require.Eventually(t, func() bool { return known() == identityOf(t, was) }, 10*time.Second, 10*time.Millisecond)

	asked := p.asked.Load()
	c.leader().Recheck(t.Context(), "orders", identityOf(t, was))
	c.leader().Recheck(t.Context(), "nobody", "x")
	require.Equal(t, asked, p.asked.Load(), "there is no doubt")

	p.now.Store(is)
	c.leader().Recheck(t.Context(), "orders", identityOf(t, is))
	require.Equal(t, identityOf(t, is), known())

	began, asked := time.Now(), p.asked.Load()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for range 2 {
				c.leader().Recheck(t.Context(), "orders", "another one")
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, p.asked.Load()-asked, int64(time.Since(began)/probeGap)+1)
}

// hung does not answer, as a server behind a network that drops everything, until it is back.
type hung struct {
	*memory.Resource
	away  atomic.Bool
	stuck atomic.Int64
}

func (h *hung) wait(ctx context.Context) error {
	if !h.away.Load() {
		return nil
	}
	h.stuck.Add(1)
	<-ctx.Done() // also when the server is back: this connection is dead
	return ctx.Err()
}

func (h *hung) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	return h.Resource.Commit(ctx, x, b)
}

func (h *hung) Recover(ctx context.Context) ([]adapters.Prepared, error) {
	if err := h.wait(ctx); err != nil {
		return nil, err
	}
	return h.Resource.Recover(ctx)
}

// What was asked of a database before it came back may never be answered.
func TestCallsThatHangAreGivenUpWhenTheDatabaseReturns(t *testing.T) {
	disk := memory.NewDisk()
	h := &hung{Resource: memory.New("orders", disk)}
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{h} })
	id := txn.NewID(time.Now())
	b := c.prepared(h.Resource, id, "k")
	h.away.Store(true)
	require.Equal(t, txn.Commit, c.commit(id, b).Decision)
	require.Eventually(t, func() bool { return h.stuck.Load() >= 2 }, 10*time.Second, 10*time.Millisecond, "a worker and the scan hang")
	began := time.Now()
	h.away.Store(false)
	c.leader().workers["orders"].returned()
	require.Eventually(t, func() bool { _, done := disk.Get("k"); return done }, finishTimeout, 10*time.Millisecond)
	require.Less(t, time.Since(began), finishTimeout/2, "the attempt did not run to its own limit")
}

// stubborn cannot finish any branch but those that are prepared.
type stubborn struct {
	*memory.Resource
	failed atomic.Int64
}

func (s *stubborn) Commit(ctx context.Context, x txn.XID, b txn.Branch) (txn.Finish, error) {
	f, err := s.Resource.Commit(ctx, x, b)
	if err == nil && f != txn.Lost {
		return f, nil
	}
	s.failed.Add(1)
	return 0, errors.New("nobody can finish it")
}

// Four thousand branches that nobody can finish, older than a real one: it is finished while most
// of them wait for their next attempt, not behind them.
func TestARealBranchIsFinishedAmongThousandsThatFail(t *testing.T) {
	disk := memory.NewDisk()
	s := &stubborn{Resource: memory.New("orders", disk)}
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{s} })
	leader := c.leader()
	const poison = 4000
	var decided sync.WaitGroup
	for range poison {
		decided.Add(1)
		leader.CommitLater(txn.CommitRequest{ID: txn.NewID(time.Now()), Branches: []txn.Branch{{Resource: "orders"}}}, func(r Reply) {
			defer decided.Done()
			if r.Decision != txn.Commit {
				t.Errorf("%+v", r)
			}
		})
	}
	decided.Wait()
	require.Eventually(t, func() bool { return s.failed.Load() > poison }, time.Minute, 10*time.Millisecond)
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id, c.prepared(s.Resource, id, "k")).Decision)
	before := s.failed.Load()
	require.Eventually(t, func() bool { _, done := disk.Get("k"); return done }, time.Minute, time.Millisecond)
	require.Less(t, s.failed.Load()-before, int64(poison/4))
}
