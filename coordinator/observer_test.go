// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// A new store counts its starts from 1 again, so it speaks in sessions that the leader once took
// for old ones: it was ignored until another node led.
func TestNodeThatWasStartedOftenIsHeardWithABlankDisk(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Decision)
	leader := c.leader()
	epoch := leader.Status().Epoch
	victim := leader.config.Node%3 + 1
	c.storesKnown(3)
	for range 3 {
		c.kill(victim)
		c.start(victim)
		c.follows(victim)
	}
	c.kill(victim)
	require.NoError(t, os.RemoveAll(filepath.Join(c.dir, strconv.Itoa(int(victim)))))
	require.NoError(t, c.leader().Replace(t.Context(), victim, "ann", "the disk burnt"))
	c.start(victim)
	c.follows(victim)
	require.Equal(t, epoch, c.nodes[victim].Status().Epoch, "nobody else had to lead for that")
}

// follows waits until a node follows a leader and knows the cluster.
func (c *testCluster) follows(id zab.NodeID) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		s := c.nodes[id].Status()
		return s.Cluster != 0 && s.Leader != 0
	}, 20*time.Second, 20*time.Millisecond, "node %d follows", id)
}
