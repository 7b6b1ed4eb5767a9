// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func TestNodeWithALostDiskIsRefusedUntilAnOperatorReplacesIt(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
	leader := c.leader()
	victim := leader.config.Node%3 + 1
	c.storesKnown(3)

	c.kill(victim)
	require.NoError(t, os.RemoveAll(filepath.Join(c.dir, strconv.Itoa(int(victim)))))
	c.start(victim)
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(c.leader().Status().Warnings, "\n"),
			"concord member replace "+strconv.Itoa(int(victim)))
	}, 10*time.Second, 20*time.Millisecond, "the others say why they refuse it")
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision, "two of three go on")
	require.Zero(t, c.nodes[victim].Status().Cluster, "nobody told the blank node anything")

	require.ErrorIs(t, c.leader().Replace(t.Context(), 9, "ann", "why"), txn.ErrNotFound)
	require.ErrorIs(t, c.leader().Replace(t.Context(), c.leader().config.Node, "ann", "why"), txn.ErrRefused)
	require.NoError(t, c.leader().Replace(t.Context(), victim, "ann", "the disk burnt"))
	require.Eventually(t, func() bool {
		s := c.nodes[victim].Status()
		return s.Cluster != 0 && s.Leader != 0
	}, 20*time.Second, 20*time.Millisecond, "it is admitted and fetches the history")
	c.storesKnown(3)

	// Now its voice is needed, and it knows the decision.
	other := 6 - victim - c.leader().config.Node
	c.kill(other)
	require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
}

// storesKnown waits until all running nodes know that many stores.
func (c *testCluster) storesKnown(n int) {
	require.Eventually(c.t, func() bool {
		for _, r := range c.nodes {
			if len(r.peers.Stores()) != n {
				return false
			}
		}
		return true
	}, 10*time.Second, 20*time.Millisecond, "%d stores in the log", n)
}

// A directory that was set back looks whole to its own node: its watermark was set back with
// it. The log knows better.
func TestStoreThatWasSetBackIsRefused(t *testing.T) {
	c := newCluster(t, 3, nobody)
	known := map[txn.ID]txn.Decision{}
	c.decide(5, known)
	c.storesKnown(3)
	victim := c.follower()
	dir, backup := filepath.Join(c.dir, strconv.Itoa(int(victim))), filepath.Join(t.TempDir(), "backup")
	c.kill(victim)
	require.NoError(t, os.CopyFS(backup, os.DirFS(dir)))
	c.start(victim)
	c.decide(5, known)
	c.equal(3)
	_, _, tail, _ := c.nodes[victim].store.Initial()
	old := c.leader().config.Node
	c.kill(old) // the next leader notes at once what the stores hold
	c.decide(5, known)
	c.start(old)
	require.Eventually(t, func() bool {
		for _, r := range c.nodes {
			for _, m := range r.peers.Stores() {
				if m.Node == uint64(victim) && m.Holds.Less(tail) {
					return false
				}
			}
		}
		return true
	}, 10*time.Second, 20*time.Millisecond, "it is not noted that the store holds %v", tail)

	c.kill(victim)
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(backup)))
	c.start(victim)
	warned := func() bool {
		s := strings.Join(c.leader().Status().Warnings, "\n")
		return strings.Contains(s, "was set back") && strings.Contains(s,
			"concord member replace "+strconv.Itoa(int(victim)))
	}
	require.Eventually(t, warned, 10*time.Second, 20*time.Millisecond, "the others say why they refuse it")
	c.decide(2, known)
	require.True(t, warned(), "still")
	require.Zero(t, c.nodes[victim].Status().Leader, "it takes part in nothing")

	c.kill(victim)
	require.NoError(t, c.leader().Replace(t.Context(), victim, "ann", "restored from a backup by mistake"))
	require.NoError(t, os.RemoveAll(dir))
	c.start(victim)
	c.equal(3)
	c.remembered(known)
}

// A new store counts its starts from 1 again, so it speaks in sessions that the leader once took
// for old ones: it was ignored until another node led.
func TestNodeThatWasStartedOftenIsHeardWithABlankDisk(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
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
