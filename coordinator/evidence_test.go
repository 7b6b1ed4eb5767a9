// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/txn"
)

// The same with nodes: the leader is killed before it lets anything be forgotten.
func TestEvidenceOfADeadLeaderIsForgottenByTheNext(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 3, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	orders := memory.New("orders", disk)
	leader := c.leader()
	x := txn.XID{Cluster: leader.Status().Cluster}
	for range 10 {
		x.ID = txn.NewID(time.Now())
		b := c.prepared(orders, x.ID, x.ID.String())
		require.Equal(t, txn.Commit, c.commit(x.ID, b).Decision)
		_, err := orders.Commit(t.Context(), x, b)
		require.NoError(t, err)
		c.leader().Finished(x.ID, b.No, txn.Done)
	}
	require.Eventually(t, func() bool {
		v, err := c.leader().View(t.Context(), x.ID)
		return err == nil && v.Known && v.Txn.Ended
	}, 10*time.Second, 10*time.Millisecond)
	c.kill(c.leader().config.Node)
	require.Eventually(t, func() bool {
		kept, err := orders.Evidence(t.Context(), txn.XID{})
		require.NoError(t, err)
		return len(kept) == 0
	}, time.Minute, 50*time.Millisecond)
}
