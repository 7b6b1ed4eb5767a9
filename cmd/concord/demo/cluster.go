// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
)

// cluster is three real nodes in one process: real sockets, real stores. Stopping
// one closes its connections without a word, as its death would.
type cluster struct {
	dir     string
	members []replica.Member
	banks   *banks

	mu    sync.Mutex
	nodes map[zab.NodeID]*node
}

type node struct {
	*coordinator.Node
	cancel context.CancelFunc
	ended  chan error
}

func startCluster(ctx context.Context, dir string, members []replica.Member, b *banks) (*cluster, error) {
	c := &cluster{dir: dir, members: members, banks: b, nodes: map[zab.NodeID]*node{}}
	for _, m := range c.members {
		if err := c.start(m); err != nil {
			c.stop()
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for c.snapshot().Leader == 0 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			c.stop()
			return nil, errors.New("the three nodes found no leader in 30 s")
		}
	}
	return c, nil
}

func (c *cluster) start(m replica.Member) error {
	peers, err := net.Listen("tcp", m.Peer)
	if err != nil {
		return err
	}
	clients, err := net.Listen("tcp", m.API)
	if err != nil {
		return errors.Join(err, peers.Close())
	}
	n, err := coordinator.Open(coordinator.Config{Node: m.ID, Members: c.members, Listener: peers,
		DataDir:   filepath.Join(c.dir, "node"+strconv.Itoa(int(m.ID))),
		Resources: c.banks.resources(), Rules: commit.Rules{Grace: time.Second, Scan: time.Second}, Reserve: 16 << 20,
		Logger: quiet()})
	if err != nil {
		return errors.Join(err, peers.Close(), clients.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	node := &node{Node: n, cancel: cancel, ended: make(chan error, 1)}
	go func() {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return n.Run(ctx) })
		g.Go(func() error { return server.Serve(ctx, n, access.Open(), clients, quiet()) })
		node.ended <- g.Wait()
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[m.ID] = node
	return nil
}

// kill stops a node and reports whether it was running.
func (c *cluster) kill(id zab.NodeID) (bool, error) {
	c.mu.Lock()
	n, ok := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	if !ok {
		return false, nil
	}
	n.cancel()
	return true, <-n.ended
}

// killLeader stops the leader, and starts it again a moment later.
func (c *cluster) killLeader(ctx context.Context, say func(string)) (bool, error) {
	id := c.snapshot().Leader
	killed, err := c.kill(id)
	if !killed || err != nil {
		return false, err
	}
	say(fmt.Sprintf("node %d, the leader, is dead", id))
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
	for _, m := range c.members {
		if m.ID == id {
			err = c.start(m)
		}
	}
	say(fmt.Sprintf("node %d is back", id))
	return true, err
}

// snapshot is the cluster as the node sees it that knows most: the leader, if there
// is one.
func (c *cluster) snapshot() coordinator.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	best := coordinator.Snapshot{}
	for _, m := range c.members {
		if n := c.nodes[m.ID]; n != nil {
			s := n.Status()
			if s.Leader == s.Node && s.Leader != 0 && s.Cluster != 0 {
				return *s
			}
			best = *s
		}
	}
	best.Leader = 0
	return best
}

// inDoubt counts what is in doubt; nil if the leader, if there is one, does not know all of it.
func (c *cluster) inDoubt() *int {
	s := c.snapshot()
	if f := s.Known(time.Now()); f != nil && !f.Incomplete() {
		return &f.InDoubt
	}
	return nil
}

func (c *cluster) addresses() string { return strings.Join(c.api(), " ") }

func (c *cluster) api() []string { return apiAddresses(c.members) }

func apiAddresses(members []replica.Member) []string {
	var out []string
	for _, m := range members {
		out = append(out, m.API)
	}
	return out
}

func (c *cluster) stop() {
	for _, m := range c.members {
		_, _ = c.kill(m.ID) // the demonstration is over, its result is known
	}
}
