// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
)

// nodes are three real coordinator nodes in this process, with stores in files.
type nodes struct {
	t       *testing.T
	members []replica.Member
	dirs    []string
	disks   [2]*memory.Disk
	stops   []func() // nil while a node is down
}

func startNodes(t *testing.T) *nodes {
	n := &nodes{t: t, disks: [2]*memory.Disk{memory.NewDisk(), memory.NewDisk()}, stops: make([]func(), 3)}
	for i := range 3 {
		n.members = append(n.members, replica.Member{ID: zab.NodeID(i + 1), Peer: freeAddr(t), API: freeAddr(t)})
		n.dirs = append(n.dirs, t.TempDir())
	}
	for i := range 3 {
		n.start(i)
	}
	t.Cleanup(func() {
		for _, stop := range n.stops {
			if stop != nil {
				stop()
			}
		}
	})
	return n
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func (n *nodes) start(i int) {
	log := slog.New(slog.DiscardHandler)
	node, err := coordinator.Open(coordinator.Config{
		Node: n.members[i].ID, Members: n.members, DataDir: n.dirs[i], Logger: log,
		Resources: []adapters.Resource{memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])},
	})
	require.NoError(n.t, err)
	listener, err := net.Listen("tcp", n.members[i].API)
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = node.Run(ctx) })                                         // its error is that it was stopped
	running.Go(func() { _ = server.Serve(ctx, node, access.Open(), listener, log) }) // likewise
	n.stops[i] = func() { cancel(); running.Wait() }
}

func (n *nodes) addrs() (addrs []string) {
	for _, m := range n.members {
		addrs = append(addrs, m.API)
	}
	return addrs
}

// leader waits until a node is leading and returns its index.
func (n *nodes) leader(c *api.Client) (index int) {
	require.Eventually(n.t, func() bool {
		s, err := c.Status(n.t.Context(), &concordv1.StatusRequest{})
		index = int(s.GetLeader()) - 1
		return err == nil && index >= 0 && n.stops[index] != nil
	}, 20*time.Second, 20*time.Millisecond)
	return index
}

func TestTransfersSurviveLeaderLossesOnRealNodes(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	status, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, status.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])

	var mu sync.Mutex
	var moved int64
	var doubtful []concord.ID
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			key := fmt.Sprint("account-", w)
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
					from, err := orders.Tx(ctx, tx)
					if err != nil {
						return err
					}
					if _, err := from.Add(ctx, key, -1); err != nil {
						return err
					}
					to, err := billing.Tx(ctx, tx)
					if err != nil {
						return err
					}
					_, err = to.Add(ctx, key, 1)
					return err
				})
				var unknown *concord.UnknownError
				mu.Lock()
				switch {
				case err == nil:
					moved++
				case errors.As(err, &unknown):
					doubtful = append(doubtful, unknown.GID)
				case !errors.Is(err, concord.ErrAborted):
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	progress := func() {
		mu.Lock()
		before := moved
		mu.Unlock()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return moved >= before+20
		}, 30*time.Second, 10*time.Millisecond)
	}
	progress()
	for range 2 {
		i := n.leader(status)
		n.stops[i]()
		n.stops[i] = nil
		progress()
		n.start(i)
	}
	close(stop)
	workers.Wait()
	for _, id := range doubtful {
		outcome, err := c.Outcome(t.Context(), id)
		require.NoError(t, err)
		if outcome == concord.Committed {
			moved++
		}
	}
	require.NoError(t, c.Close())
	for _, r := range []*memory.Resource{orders, billing} {
		require.Eventually(t, func() bool {
			list, err := r.Recover(t.Context())
			return err == nil && len(list) == 0
		}, 30*time.Second, 20*time.Millisecond, "the cluster finishes what sessions left")
	}
	require.Equal(t, -moved, n.disks[0].Sum())
	require.Equal(t, moved, n.disks[1].Sum())
	t.Logf("%d transfers, %d outcomes asked for", moved, len(doubtful))
}
