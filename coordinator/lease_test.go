// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/txn"
)

// patient rules make sure that nothing but a lease ends a transaction.
var patient = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: time.Hour, Lease: time.Second}

func (c *testCluster) restartWith(r commit.Rules) {
	c.t.Helper()
	c.rules = r
	for _, m := range c.members {
		c.kill(m.ID)
	}
	for _, m := range c.members {
		c.start(m.ID)
	}
}

// lease asks for one until the cluster has switched leases on.
func (c *testCluster) lease() (n txn.Lease) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		var err error
		n, err = c.leader().GrantLease(c.t.Context())
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
	return n
}

// renewed renews a lease at whoever leads, and reports whether it is still there.
func (c *testCluster) renewed(n txn.Lease) bool {
	active, err := c.leader().RenewLease(n)
	return err != nil || active
}

func under(n txn.Lease) txn.ID { return txn.NewID(time.Now()).WithLease(n) }

func TestBranchesOfASilentClientAreRolledBackAtOnce(t *testing.T) {
	disk := memory.NewDisk()
	orders := memory.New("orders", disk)
	c := newCluster(t, 3, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	c.restartWith(patient)
	dead, alive, none := under(c.lease()), under(c.lease()), under(0)
	require.NotEqual(t, dead.Lease(), alive.Lease())
	b := c.prepared(orders, dead, "dead")
	kept := c.prepared(orders, alive, "alive")
	c.prepared(orders, none, "none")
	require.Eventually(t, func() bool {
		require.True(t, c.renewed(alive.Lease()))
		listing, err := orders.Recover(t.Context())
		return err == nil && len(listing) == 2
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, txn.Aborted, c.called(dead))
	late := c.commit(dead, b)
	require.Equal(t, txn.Abort, late.Txn.Decision)
	require.Contains(t, late.Txn.Reason, "lease 1")
	require.Equal(t, txn.Commit, c.commit(alive, kept).Txn.Decision)

	fresh := under(dead.Lease()) // of which nothing is prepared, and nothing is known
	refused := c.commit(fresh, txn.Branch{Resource: "orders"})
	require.Equal(t, txn.Abort, refused.Txn.Decision)
	require.Contains(t, refused.Txn.Reason, "has ended")
	require.Equal(t, txn.Aborted, c.called(fresh))
	for _, m := range c.members { // it has ended for ever
		c.kill(m.ID)
		c.start(m.ID)
		active, err := c.leader().RenewLease(dead.Lease())
		require.NoError(t, err)
		require.False(t, active)
	}
}

func TestALeaseThatIsGivenBackEndsAtOnce(t *testing.T) {
	disk := memory.NewDisk()
	orders := memory.New("orders", disk)
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	long := patient
	long.Lease = time.Hour
	c.restartWith(long)
	n := c.lease()
	c.prepared(orders, under(n), "k")
	require.NoError(t, c.leader().EndLease(t.Context(), n))
	require.False(t, c.renewed(n))
	require.Eventually(t, func() bool {
		listing, err := orders.Recover(t.Context())
		return err == nil && len(listing) == 0
	}, 20*time.Second, 20*time.Millisecond)
	require.NoError(t, c.leader().EndLease(t.Context(), n), "once more does no harm")
	require.NoError(t, c.leader().EndLease(t.Context(), 999))
}

// Who was not heard because there was no leader is not dead.
func TestAChangeOfLeaderEndsNoLease(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	rules := patient
	rules.Lease = 3 * time.Second
	c.restartWith(rules)
	n := c.lease()
	for range 3 {
		dead := c.leader().config.Node
		c.kill(dead)
		c.leader()
		require.True(t, c.renewed(n))
		require.Equal(t, txn.Commit, c.commit(under(n)).Txn.Decision)
		c.start(dead)
	}
}

func TestLeasesAreNotGrantedBeforeAllMembersKnowThem(t *testing.T) {
	c := newTunedCluster(t, 1, func() []adapters.Resource { return nil },
		func(config *Config) { config.FeatureLevel = txn.LevelBase })
	_, err := c.leader().GrantLease(t.Context())
	require.ErrorIs(t, err, txn.ErrRefused)
	require.ErrorContains(t, err, "not switched on")
}
