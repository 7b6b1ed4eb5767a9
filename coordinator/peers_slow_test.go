// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// linked is newTunedCluster with a link between each two nodes.
func linked(t *testing.T, tune func(*Config)) (*testCluster, map[[2]zab.NodeID]*faultproxy.Link) {
	links := map[[2]zab.NodeID]*faultproxy.Link{}
	c := newTunedCluster(t, 3, nobody, func(c *Config) {
		own := append([]Member(nil), c.Members...)
		for i, m := range own {
			if m.ID == c.Node {
				continue
			}
			ends := [2]zab.NodeID{c.Node, m.ID}
			if links[ends] == nil {
				l, err := faultproxy.New(m.Peer)
				require.NoError(t, err)
				t.Cleanup(l.Close)
				links[ends] = l
			}
			own[i].Peer = links[ends].Addr()
		}
		c.Members = own
		if tune != nil {
			tune(c)
		}
	})
	return c, links
}

func TestSlowQuorumMakesTheLeaderSayBusy(t *testing.T) {
	c, links := linked(t, nil)
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Decision)
	for _, l := range links {
		l.Set(faultproxy.Forward, faultproxy.Fault{Delay: 150 * time.Millisecond})
	}
	leader := c.leader()
	label := strings.Repeat("x", api.MaxLabel)
	var mu sync.Mutex
	told, busy, others := map[txn.ID]bool{}, map[txn.ID]bool{}, []error{}
	var waiting sync.WaitGroup
	for range 3 * maxWaiting / api.MaxLabel {
		id := txn.NewID(time.Now())
		waiting.Add(1)
		leader.CommitLater(txn.CommitRequest{ID: id, Label: label}, func(r Reply) {
			mu.Lock()
			defer mu.Unlock()
			defer waiting.Done()
			switch {
			case errors.Is(r.Err, api.ErrBusy):
				busy[id] = true
			case r.Err != nil:
				others = append(others, r.Err)
			default:
				told[id] = r.Decision == txn.Commit
			}
		})
	}
	waiting.Wait()
	require.NotEmpty(t, busy)
	if len(others) == 0 { // else the machine was so slow that the leader gave up: nobody is told anything
		require.NotEmpty(t, told)
	}
	for _, l := range links {
		l.Heal()
	}
	for id := range told {
		require.True(t, told[id])
		require.Equal(t, txn.Commit, c.commit(id).Decision)
	}
	for id := range busy { // was no decision
		require.Equal(t, txn.Commit, c.commit(id).Decision)
		break
	}
}

// A snapshot has a connection of its own, and shares a slow line with heartbeats: they come
// through, and nobody misses the leader.
func TestSnapshotOverASlowLineStarvesNoHeartbeat(t *testing.T) {
	c, links := linked(t, shortLog)
	known := map[txn.ID]txn.Decision{}
	c.decide(10, known)
	away := c.follower()
	c.kill(away)
	for i := range 240 {
		id := txn.NewID(time.Now())
		r, err := c.leader().Commit(t.Context(), txn.CommitRequest{ID: id, Label: strings.Repeat(string(rune('a'+i%26)), 800)})
		require.NoError(t, err)
		known[id] = r.Decision
	}
	require.Eventually(t, func() bool { return !c.leader().Status().Log.Base.IsZero() }, 10*time.Second, 10*time.Millisecond, "the log is not cut")
	leader := c.leader()
	epoch := leader.Status().Epoch
	slow := faultproxy.Fault{Rate: 32_000} // 256 kbit/s, for messages and snapshot together
	for _, ends := range [][2]zab.NodeID{{leader.config.Node, away}, {away, leader.config.Node}} {
		links[ends].Set(faultproxy.Forward, slow)
		links[ends].Set(faultproxy.Backward, slow)
	}
	began := time.Now()
	c.start(away)
	require.Eventually(t, func() bool {
		_, base, _, _ := c.nodes[away].store.Initial()
		return !base.IsZero()
	}, 60*time.Second, 20*time.Millisecond, "the snapshot does not arrive")
	t.Logf("the snapshot took %v", time.Since(began).Round(time.Millisecond))
	c.equal(3)
	require.Equal(t, leader.config.Node, c.leader().config.Node)
	require.Equal(t, epoch, c.leader().Status().Epoch, "nobody voted meanwhile")
	for id, d := range known {
		require.Equal(t, d, c.commit(id).Decision)
	}
}
