// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// leased begins transactions until one has a lease: the cluster switches them on when all of
// its members know them.
func leased(t *testing.T, c *concord.Client) *concord.Tx {
	t.Helper()
	var tx *concord.Tx
	require.Eventually(t, func() bool {
		var err error
		tx, err = c.Begin(t.Context())
		require.NoError(t, err)
		if tx.ID().Lease() == 0 {
			require.NoError(t, tx.Rollback(t.Context()))
			return false
		}
		return true
	}, 20*time.Second, 50*time.Millisecond)
	return tx
}

func TestAClientHasOneLeaseForAllItsTransactions(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	other, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	one, two, foreign := leased(t, c), leased(t, c), leased(t, other)
	require.Equal(t, one.ID().Lease(), two.ID().Lease())
	require.NotEqual(t, one.ID().Lease(), foreign.ID().Lease())
	for _, tx := range []*concord.Tx{one, two, foreign} {
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// Two transactions, one of them without a word for longer than the lease lasts, and a change
// of leader: as long as the client lives its lease does.
func TestALiveClientKeepsItsLease(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	status, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, status.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	tx := leased(t, c)
	require.NoError(t, must(t, orders, tx).Put(t.Context(), "a", 1))
	require.NoError(t, must(t, billing, tx).Put(t.Context(), "b", 1))
	leader := n.leader(status)
	n.stops[leader]()
	n.stops[leader] = nil
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		n.leader(status)
		time.Sleep(100 * time.Millisecond) // nothing else happens meanwhile
	}
	n.start(leader)
	require.NoError(t, tx.Commit(t.Context()))
	again := leased(t, c)
	require.Equal(t, tx.ID().Lease(), again.ID().Lease())
	require.NoError(t, again.Rollback(t.Context()))
}

func TestCloseGivesTheLeaseBack(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	tx := leased(t, c)
	require.NoError(t, tx.Rollback(t.Context()))
	raw, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	renew := &concordv1.LeaseRequest{Lease: uint32(tx.ID().Lease())}
	res, err := raw.Lease(t.Context(), renew)
	require.NoError(t, err)
	require.Equal(t, renew.GetLease(), res.GetLease())
	require.NoError(t, c.Close())
	res, err = raw.Lease(t.Context(), renew)
	require.NoError(t, err)
	require.Zero(t, res.GetLease(), "it has ended")
}

// The cluster has ended the lease while the application was working.
func TestNothingIsCommittedUnderALeaseThatHasEnded(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	raw, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	work := func(tx *concord.Tx) {
		require.NoError(t, must(t, orders, tx).Put(t.Context(), tx.ID().String(), 1))
		require.NoError(t, must(t, billing, tx).Put(t.Context(), tx.ID().String(), 1))
	}
	tx, second := leased(t, c), leased(t, c)
	work(tx)
	work(second)
	_, err = raw.Lease(t.Context(), &concordv1.LeaseRequest{Lease: uint32(tx.ID().Lease()), End: true})
	require.NoError(t, err)
	err = tx.Commit(t.Context())
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "lease")
	err = second.Commit(t.Context()) // which the client knows by now
	require.EqualError(t, err, "transaction "+second.ID().String()+" was aborted: the cluster had not heard from this "+
		"client for too long (was it stopped, or cut off?), has ended its lease, and rolls back what it holds: "+
		"begin again")
	require.True(t, concord.Retryable(err))
	outcome, err := c.Outcome(t.Context(), tx.ID())
	require.NoError(t, err)
	require.Equal(t, concord.Aborted, outcome)
	for _, r := range []*memory.Resource{orders, billing} {
		require.Eventually(t, func() bool {
			list, err := r.Recover(t.Context())
			return err == nil && len(list) == 0
		}, 20*time.Second, 10*time.Millisecond)
	}
	require.Zero(t, n.disks[0].Sum()+n.disks[1].Sum())
	require.Eventually(t, func() bool { // the client hears of it, and gets another one
		next := leased(t, c)
		work(next)
		err := next.Commit(t.Context())
		require.True(t, err == nil || next.ID().Lease() == tx.ID().Lease(), "%v", err)
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

// A cluster that knows no leases, or does not answer: transactions go on without one.
func TestWithoutLeasesEverythingIsAsItWas(t *testing.T) {
	b := newBank(t)
	for range 3 {
		require.NoError(t, b.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			require.Zero(t, tx.ID().Lease())
			return b.transfer(ctx, tx)
		}))
	}
	b.requireMoved(t, 15)
}
