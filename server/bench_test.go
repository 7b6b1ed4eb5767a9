// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

// BenchmarkDecisions measures the whole way of a bare decision, client included, with
// three nodes in this process, for profiles: "concord-bench decisions" has real processes.
func BenchmarkDecisions(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(strconv.Itoa(clients), func(b *testing.B) { benchmarkDecisions(b, clients) })
	}
}

func benchmarkDecisions(b *testing.B, clients int) {
	c, cluster := startNodes(b)
	b.ResetTimer()
	b.ReportAllocs()
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for i := n; i < b.N; i += clients {
				res, err := c.Commit(b.Context(),
					api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: cluster}))
				if err != nil || res.GetDecision() != "commit" {
					b.Errorf("%v %v", res, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}

// startNodes runs a cluster of three and returns a client of it.
func startNodes(tb testing.TB) (*api.Client, txn.ClusterID) {
	dir := tb.TempDir()
	var members []replica.Member
	var listeners [][2]net.Listener
	for id := zab.NodeID(1); id <= 3; id++ {
		var pair [2]net.Listener
		for i := range pair {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(tb, err)
			pair[i] = l
		}
		listeners = append(listeners, pair)
		members = append(members, replica.Member{ID: id, Peer: pair[0].Addr().String(), API: pair[1].Addr().String()})
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	tb.Cleanup(func() { cancel(); wg.Wait() })
	quiet := slog.New(slog.DiscardHandler)
	var addrs []string
	for i, m := range members {
		n, err := coordinator.Open(coordinator.Config{Node: m.ID, Members: members, Listener: listeners[i][0],
			DataDir: filepath.Join(dir, strconv.Itoa(i)), Logger: quiet})
		require.NoError(tb, err)
		wg.Go(func() { _ = n.Run(ctx) })
		wg.Go(func() { _ = server.Serve(ctx, n, access.Open(), listeners[i][1], quiet) })
		addrs = append(addrs, m.API)
	}
	c, err := api.Dial(addrs, api.ClientOptions{})
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = c.Close() })
	var cluster txn.ClusterID
	require.Eventually(tb, func() bool {
		r, err := c.Resources(ctx, &concordv1.ResourcesRequest{})
		if err == nil {
			cluster, err = api.ParseCluster("cluster", r.GetCluster())
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	return c, cluster
}
