// SPDX-License-Identifier: Apache-2.0

package concordtest

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
)

const (
	nodeCount = 3
	// patience bounds whatever has to happen.
	patience = 30 * time.Second
	// soon is how long the cluster leaves branches to their client, and the interval of its scans:
	// short, so that tests need not wait for what it does by itself.
	soon = 200 * time.Millisecond
)

// Database is a database of the cluster: one of Memory, Postgres, PostgresAt, MySQL, MySQLAt and MariaDB.
type Database interface {
	// open makes the database, and what ends with the test.
	open(c *Cluster)
	// resource is what a node finishes branches through. The caller closes it.
	resource(c *Cluster) adapters.Resource
}

// Cluster is three nodes and a client, in the process of a test. Its methods may be called by several
// goroutines; those that fail end the test.
type Cluster struct {
	t         testing.TB
	databases []Database
	servers   servers
	faults    faults
	members   []replica.Member
	client    *concord.Client
	status    *api.Client

	mu    sync.Mutex // held while nodes start and stop
	nodes [nodeCount]*node
}

// node is one of them, while it runs.
type node struct {
	disk *vfs.MemFS
	stop func() // and wait until it is over
}

// New starts a cluster whose resources are these databases, and waits until it can decide. It ends with the test.
func New(t testing.TB, databases ...Database) *Cluster {
	t.Helper()
	c := &Cluster{t: t, databases: databases}
	for _, d := range databases {
		d.open(c)
	}
	var listeners [nodeCount]struct{ peer, api net.Listener }
	for i := range listeners {
		listeners[i].peer, listeners[i].api = c.listen("127.0.0.1:0"), c.listen("127.0.0.1:0")
		c.members = append(c.members, replica.Member{ID: zab.NodeID(i + 1),
			Peer: listeners[i].peer.Addr().String(), API: listeners[i].api.Addr().String()})
	}
	t.Cleanup(c.stop)
	for i, l := range listeners {
		c.nodes[i] = c.start(i, vfs.NewCrashableMem(), l.peer, l.api)
	}
	status, err := api.Dial(c.Addrs(), api.ClientOptions{})
	if err != nil {
		t.Fatal("concordtest: ", err)
	}
	c.status = status
	t.Cleanup(func() { _ = status.Close() }) // always nil
	c.client = c.Dial()
	c.leader(0)
	c.fit()
	return c
}

// fit waits until the nodes have asked every database which it is.
func (c *Cluster) fit() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		res, err := c.status.Resources(ctx, &concordv1.ResourcesRequest{})
		unfit := slices.IndexFunc(res.GetResources(), func(r *concordv1.ResourceStatus) bool { return !r.GetOk() })
		switch {
		case err == nil && unfit < 0 && len(res.GetResources()) == len(c.databases):
			return
		case ctx.Err() != nil && err == nil && unfit >= 0:
			c.t.Fatalf("concordtest: %s: %s", res.GetResources()[unfit].GetName(), res.GetResources()[unfit].GetError())
		case ctx.Err() != nil:
			c.t.Fatalf("concordtest: ask for the resources: %v", err)
		}
		_ = api.Wait(ctx, 5*time.Millisecond)
	}
}

// Client returns the client of this cluster. It is closed when the test ends.
func (c *Cluster) Client() *concord.Client { return c.client }

// Addrs returns the addresses of the nodes, for concord.Dial.
func (c *Cluster) Addrs() (addrs []string) {
	for _, m := range c.members {
		addrs = append(addrs, m.API)
	}
	return addrs
}

// Dial returns one more client, such as one with options. It is closed when the test ends. The faults of
// this cluster are faults of its clients, of all that New and Dial return.
func (c *Cluster) Dial(options ...concord.Option) *concord.Client {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := concord.Dial(ctx, c.Addrs(), append(options, concord.WithHook(c.faults.hook))...)
	if err != nil {
		c.t.Fatal("concordtest: ", err)
	}
	c.t.Cleanup(func() {
		if err := client.Close(); err != nil {
			c.t.Error("concordtest: ", err)
		}
	})
	return client
}

// KillLeader ends the node that leads, in the middle of whatever it does, and what it has not synced to its
// disk is lost. When another one leads, it starts again with that disk. So it can be called
// again and again.
func (c *Cluster) KillLeader() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.leader(0)
	disk := c.nodes[i].disk.CrashClone(vfs.CrashCloneCfg{})
	c.nodes[i].stop()
	c.nodes[i] = nil
	c.leader(c.members[i].ID)
	c.nodes[i] = c.start(i, disk, c.listen(c.members[i].Peer), c.listen(c.members[i].API))
}

// leader waits until a node leads, another one than that with the number, and returns its index.
func (c *Cluster) leader(other zab.NodeID) int {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		s, err := c.status.Status(ctx, &concordv1.StatusRequest{})
		if id := s.GetLeader(); err == nil && id != 0 && zab.NodeID(id) != other {
			return int(id) - 1
		}
		last = err
		_ = api.Wait(ctx, 5*time.Millisecond)
	}
	c.t.Fatalf("concordtest: no node leads: %v", last)
	return 0
}

func (c *Cluster) listen(addr string) net.Listener {
	c.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		c.t.Fatal("concordtest: ", err)
	}
	return l
}

// start runs a node on a disk.
func (c *Cluster) start(i int, disk *vfs.MemFS, peer, front net.Listener) *node {
	c.t.Helper()
	log := slog.New(slog.DiscardHandler)
	var resources []adapters.Resource
	for _, d := range c.databases {
		resources = append(resources, d.resource(c))
	}
	n, err := coordinator.Open(coordinator.Config{
		Node: c.members[i].ID, Members: c.members, DataDir: "/node", FS: disk, Listener: peer, Resources: resources,
		Rules: commit.Rules{Grace: soon, Scan: soon}, Logger: log,
	})
	if err != nil {
		c.t.Fatal("concordtest: ", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	web := &http.Server{Handler: server.Handler(n, access.Open(), log), Protocols: protocols,
		ReadHeaderTimeout: patience}
	var running sync.WaitGroup
	running.Go(func() { _ = n.Run(ctx) })       // its error is that it was stopped
	running.Go(func() { _ = web.Serve(front) }) // likewise
	return &node{disk: disk, stop: func() {
		_ = web.Close() // cuts connections, as a death does
		cancel()
		running.Wait()
		for _, r := range resources {
			if err := r.Close(); err != nil {
				c.t.Errorf("concordtest: %v", err)
			}
		}
	}}
}

func (c *Cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n != nil {
			n.stop()
		}
	}
}
