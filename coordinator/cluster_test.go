// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// testCluster is real nodes in one process: real sockets, real stores in temp folders.
type testCluster struct {
	t       *testing.T
	dir     string
	members []replica.Member
	rules   commit.Rules
	files   map[zab.NodeID]vfs.FS // nil: the real one
	open    func() []adapters.Resource
	tune    func(*Config) // nil: nothing is special

	mu    sync.Mutex
	nodes map[zab.NodeID]*runningNode
}

type runningNode struct {
	*Node
	stop context.CancelFunc
	done chan error
}

func newCluster(t *testing.T, size int, open func() []adapters.Resource) *testCluster {
	return newTunedCluster(t, size, open, nil)
}

func newTunedCluster(t *testing.T, size int, open func() []adapters.Resource, tune func(*Config)) *testCluster {
	c := &testCluster{t: t, dir: t.TempDir(), open: open, tune: tune, nodes: map[zab.NodeID]*runningNode{},
		rules: commit.Rules{MaxTransaction: time.Second, Grace: 200 * time.Millisecond, Scan: 200 * time.Millisecond}}
	for id := 1; id <= size; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c.members = append(c.members, replica.Member{ID: zab.NodeID(id), Peer: l.Addr().String(),
			API: "api-" + strconv.Itoa(id)})
		require.NoError(t, l.Close())
	}
	for _, m := range c.members {
		c.start(m.ID)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.kill(m.ID)
		}
	})
	return c
}

func (c *testCluster) start(id zab.NodeID) {
	config := Config{Node: id, Members: c.members, DataDir: filepath.Join(c.dir, strconv.Itoa(int(id))),
		FS:        c.files[id],
		Resources: c.open(), Rules: c.rules, Logger: slog.New(slog.DiscardHandler)}
	if c.tune != nil {
		c.tune(&config)
	}
	n, err := Open(config)
	require.NoError(c.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningNode{Node: n, stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[id] = r
}

func (c *testCluster) kill(id zab.NodeID) {
	c.mu.Lock()
	r := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	if r != nil {
		r.stop()
		require.NoError(c.t, <-r.done)
	}
}

// leader waits until a node says that it leads.
func (c *testCluster) leader() *runningNode {
	var leader *runningNode
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for id, r := range c.nodes {
			if s := r.Status(); s.Leader == id && s.Cluster != 0 {
				leader = r
			}
		}
		return leader != nil
	}, 10*time.Second, 10*time.Millisecond, "no leader")
	return leader
}

// commit asks the leader, whoever it is, until it answers.
func (c *testCluster) commit(id txn.ID, branches ...txn.Branch) commit.Reply {
	deadline := time.Now().Add(20 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		r, err := c.leader().Commit(ctx, txn.CommitRequest{ID: id, Branches: branches})
		cancel()
		if err == nil {
			return r
		}
		require.True(c.t, errors.Is(err, txn.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) ||
			errors.As(err, new(*txn.NotLeaderError)), "%v", err)
		require.True(c.t, time.Now().Before(deadline), "no answer: %v", err)
	}
}

func (c *testCluster) prepared(r *memory.Resource, id txn.ID, key string) txn.Branch {
	x := txn.XID{Cluster: c.leader().Status().Cluster, ID: id}
	s, err := r.Open(c.t.Context(), x)
	require.NoError(c.t, err)
	tx, err := r.Tx(c.t.Context(), enlisted{s})
	require.NoError(c.t, err)
	require.NoError(c.t, tx.Put(c.t.Context(), key, 1))
	vote, b, err := s.Prepare(c.t.Context())
	require.NoError(c.t, err)
	require.Equal(c.t, txn.VoteYes, vote)
	return b
}

type enlisted struct{ s adapters.Session }

func (e enlisted) Enlist(context.Context, adapters.Opener) (adapters.Session, error) { return e.s, nil }

// A node can lead, and be asked, before its ticker has ticked for the first time.
func TestANodeKnowsTheTimeFromItsFirstTurnOn(t *testing.T) {
	n, err := Open(Config{Node: 1, Members: []replica.Member{{ID: 1, Peer: "127.0.0.1:0", API: "api-1"}},
		DataDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, n.Run(ctx))
	require.False(t, n.core.Clock().IsZero())
}

func TestDecisionsSurviveTheDeathOfEveryLeader(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	var ids []txn.ID
	for range 4 {
		for range 5 {
			id := txn.NewID(time.Now())
			require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
			ids = append(ids, id)
		}
		dead := c.leader().config.Node
		c.kill(dead)
		for _, id := range ids {
			require.Equal(t, txn.Commit, c.commit(id).Txn.Decision, "asking again gives the same answer")
		}
		c.start(dead)
	}
	r, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: ids[0]})
	require.NoError(t, err)
	require.Equal(t, txn.Committed, r.Txn.Outcome())
}

func TestAskingForTheOutcomeAbortsWhatIsUndecided(t *testing.T) {
	c := newCluster(t, 1, func() []adapters.Resource { return nil })
	id := txn.NewID(time.Now())
	r, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: id})
	require.NoError(t, err)
	require.Equal(t, txn.Abort, r.Txn.Decision)
	late := c.commit(id)
	require.Equal(t, txn.Abort, late.Txn.Decision)
	require.Contains(t, late.Txn.Reason, "asked for its outcome")
}

func TestClusterFinishesWhatTheClientLeaves(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 3, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	orders := memory.New("orders", disk)
	id := txn.NewID(time.Now())
	b := c.prepared(orders, id, "k")
	require.Equal(t, txn.Commit, c.commit(id, b).Txn.Decision)
	require.Eventually(t, func() bool {
		v, err := c.leader().View(t.Context(), id)
		return err == nil && v.Known && v.Txn.Ended
	}, 10*time.Second, 20*time.Millisecond)
	v, found := disk.Get("k")
	require.True(t, found)
	require.EqualValues(t, 1, v)
}

func TestOrphanIsRolledBackAndItsLateCommitRefused(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 3, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	orders := memory.New("orders", disk)
	id := txn.NewID(time.Now())
	b := c.prepared(orders, id, "k")
	require.Eventually(t, func() bool {
		listing, err := orders.Recover(t.Context())
		return err == nil && len(listing) == 0
	}, 10*time.Second, 20*time.Millisecond)
	_, found := disk.Get("k")
	require.False(t, found)
	late := c.commit(id, b)
	require.Equal(t, txn.Abort, late.Txn.Decision)
	require.Contains(t, late.Txn.Reason, "orphan")
}

// A listing may be some seconds old. What its client has finished since is not shown.
func TestBranchThatItsClientFinishedIsNotShownAsPrepared(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	c.leader()
	restart := func() { c.kill(1); c.start(1) }
	c.rules = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: time.Hour}
	restart()
	orders := memory.New("orders", disk)
	id := txn.NewID(time.Now())
	b := c.prepared(orders, id, "k")
	restart() // which scans once
	view := func() *commit.View {
		v, err := c.leader().View(t.Context(), id)
		require.NoError(t, err)
		return v
	}
	require.Eventually(t, func() bool { return len(view().InDoubt) == 1 }, 10*time.Second, 20*time.Millisecond)
	require.Equal(t, txn.Commit, c.commit(id, b).Txn.Decision)
	x := txn.XID{Cluster: c.leader().Status().Cluster, ID: id}
	_, err := orders.Commit(t.Context(), x, b)
	require.NoError(t, err)
	c.leader().Finished(id, b.No, txn.Done, commit.Reporter{})
	require.Eventually(t, func() bool { return view().Txn.Ended }, 10*time.Second, 20*time.Millisecond)
	require.Empty(t, view().InDoubt)
}

func TestUnknownResourceIsAnAbortWithTheReason(t *testing.T) {
	c := newCluster(t, 1, func() []adapters.Resource { return nil })
	r := c.commit(txn.NewID(time.Now()), txn.Branch{Resource: "nobody"})
	require.Equal(t, txn.Abort, r.Txn.Decision)
	require.Contains(t, r.Txn.Reason, `no resource "nobody"`)
}

// The name that is listed first goes on: it is the healthy one, whose branches are under way.
func TestSecondNameForOneDatabaseIsRefusedAndTheFirstStays(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 1, func() []adapters.Resource {
		return []adapters.Resource{memory.New("b", disk), memory.New("other", memory.NewDisk()), memory.New("a", disk),
			memory.New("c", disk)}
	})
	require.Eventually(t, func() bool {
		of := c.leader().Status().Resources
		return of[0].OK && of[1].OK && of[2].Identity != "" && !of[2].OK && of[3].Identity != "" && !of[3].OK
	}, 10*time.Second, 10*time.Millisecond)
	for _, second := range []string{"a", "c"} {
		r := c.commit(txn.NewID(time.Now()), txn.Branch{Resource: second})
		require.Equal(t, txn.Abort, r.Txn.Decision)
		require.Contains(t, r.Txn.Reason, "same database as resource b")
	}
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id, c.prepared(memory.New("b", disk), id, "k")).Txn.Decision)
}

// Nobody would finish them, and they would keep their locks.
func TestAResourceWithBranchesToFinishMustNotLeave(t *testing.T) {
	disk := memory.NewDisk()
	with := func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} }
	c := newCluster(t, 1, with)
	c.leader()
	restart := func(open func() []adapters.Resource) { c.kill(1); c.open = open; c.start(1) }
	c.rules = commit.Rules{MaxTransaction: time.Hour, Grace: time.Hour, Scan: time.Hour}
	restart(with)
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id, c.prepared(memory.New("orders", disk), id, "k")).Txn.Decision)
	require.NoError(t, c.leader().MayDrop("billing"))
	require.ErrorIs(t, c.leader().MayDrop("orders"), ErrDropped)
	c.kill(1)
	c.open = nobody
	_, err := c.openNode(1, c.members)
	require.ErrorIs(t, err, ErrDropped)
	require.ErrorContains(t, err, "orders has "+id.String()+"/0")
	c.open = with
	c.start(1)
	c.rules.Grace = time.Millisecond
	restart(with)
	require.Eventually(t, func() bool { _, found := disk.Get("k"); return found }, 10*time.Second, 20*time.Millisecond)
}

func TestWhoIsTurnedAwayAtThePeerPortIsCounted(t *testing.T) {
	c := newCluster(t, 1, nobody)
	conn, err := net.Dial("tcp", c.members[0].Peer)
	require.NoError(t, err)
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool { return c.nodes[1].Status().TurnedAway == 1 }, 10*time.Second,
		10*time.Millisecond)
}
