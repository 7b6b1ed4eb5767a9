// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func nobody() []adapters.Resource { return nil }

func shortLog(c *Config) { c.MaxLogEntries = 16 }

// decide commits some transactions and says no to some; every answer is noted.
func (c *testCluster) decide(n int, known map[txn.ID]txn.Decision) {
	c.t.Helper()
	for i := range n {
		id := txn.NewID(time.Now())
		if i%5 == 4 {
			r, err := c.leader().Outcome(c.t.Context(), txn.Inquiry{ID: id})
			require.NoError(c.t, err)
			known[id] = r.Txn.Decision
			continue
		}
		known[id] = c.commit(id).Txn.Decision
	}
}

// remembered asks again for what was decided.
func (c *testCluster) remembered(known map[txn.ID]txn.Decision) {
	c.t.Helper()
	for id, d := range known {
		require.Equal(c.t, d, c.commit(id).Txn.Decision)
	}
}

// equal waits until all running nodes have stored the same state, and returns its zxid.
func (c *testCluster) equal(nodes int) (at zab.Zxid) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		states := map[zab.Zxid][][32]byte{}
		for _, r := range c.nodes {
			z, digest := r.store.Applied()
			states[z] = append(states[z], digest)
			at = z
		}
		if len(states) != 1 || len(states[at]) != nodes {
			return false
		}
		for _, d := range states[at] {
			if d != states[at][0] {
				return false
			}
		}
		return true
	}, 20*time.Second, 10*time.Millisecond, "the nodes do not become equal")
	return at
}

func (c *testCluster) follower() zab.NodeID {
	leader := c.leader().config.Node
	return zab.NodeID(uint64(leader)%uint64(len(c.members)) + 1)
}

func TestNodeThatWasAwayForLongComesBackBySnapshot(t *testing.T) {
	c := newTunedCluster(t, 3, nobody, shortLog)
	known := map[txn.ID]txn.Decision{}
	c.decide(10, known)
	away := c.follower()
	c.kill(away)
	c.decide(60, known)
	require.Eventually(t, func() bool {
		log := c.leader().Status().Log
		return !log.Base.IsZero() && log.Entries <= 16
	}, 10*time.Second, 10*time.Millisecond, "the log is not cut")
	base := c.leader().Status().Log.Base

	c.start(away)
	c.equal(3)
	back := c.nodes[away]
	_, installed, _, _ := back.store.Initial()
	require.False(t, installed.Less(base), "it came back by snapshot: its log begins at %v, the leader's began at %v",
		installed, base)
	c.remembered(known)

	// It may lead, or be half of a quorum, and knows all decisions; and after a restart.
	c.kill(c.leader().config.Node)
	c.remembered(known)
	c.decide(5, known)
	if c.nodes[away] != nil {
		c.kill(away)
	}
	for _, m := range c.members {
		if c.nodes[m.ID] == nil {
			c.start(m.ID)
		}
	}
	c.remembered(known)
	c.equal(3)
	finished := 0
	require.NoError(t, c.nodes[away].EachFinished(txn.ID{}, func(x txn.Txn) bool {
		require.Equal(t, known[x.ID], x.Decision)
		finished++
		return true
	}))
	require.Equal(t, len(known), finished)
}

// Decisions go on while nodes come back by snapshot, again and again, each behind a log
// that is cut all the time.
func TestDecisionsGoOnWhileNodesComeBackBySnapshot(t *testing.T) {
	snapshots := &lineCounter{text: "the state is now that of a snapshot"}
	c := newTunedCluster(t, 3, nobody, func(c *Config) {
		c.MaxLogEntries = 8
		c.Logger = slog.New(slog.NewTextHandler(snapshots, nil))
	})
	known := map[txn.ID]txn.Decision{}
	c.decide(10, known)
	// Decisions share entries, so a node may come back before the log was cut behind it.
	for i := 0; snapshots.lines.Load() < 4; i++ {
		require.Less(t, i, 40, "the log is cut, and nodes come back by snapshot")
		away := c.follower()
		if i%2 == 1 {
			away = c.leader().config.Node
		}
		c.kill(away)
		c.decide(30, known)
		c.start(away)
		c.decide(30, known)
		c.equal(3)
	}
	c.remembered(known)
}

// lineCounter counts lines of a log that contain a text.
type lineCounter struct {
	text  string
	lines atomic.Int64
}

func (l *lineCounter) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte(l.text)) {
		l.lines.Add(1)
	}
	return len(line), nil
}

func TestObserverWithoutADiskIsFedByASnapshot(t *testing.T) {
	c := &testCluster{t: t, dir: t.TempDir(), open: nobody, tune: shortLog, nodes: map[zab.NodeID]*runningNode{}}
	for id := zab.NodeID(1); id <= 2; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c.members = append(c.members, replica.Member{ID: id, Observer: id == 2, Peer: l.Addr().String(), API: "api"})
		require.NoError(t, l.Close())
	}
	t.Cleanup(func() { c.kill(1); c.kill(2) })
	c.start(1)
	known := map[txn.ID]txn.Decision{}
	c.decide(40, known)
	c.start(2)
	c.equal(2)
	_, base, _, _ := c.nodes[2].store.Initial()
	require.False(t, base.IsZero())
	c.decide(40, known)
	c.equal(2)
	require.Eventually(t, func() bool { entries, _ := c.nodes[2].store.LogSize(); return entries <= 16 },
		10*time.Second, 10*time.Millisecond,
		"an observer cuts its log too")
}

// breaker passes connections on to a node and breaks those on which the node answers
// with more than a handshake, which is how snapshots come.
type breaker struct {
	to     string
	limit  atomic.Int64 // bytes of an answer after which it breaks the connection
	broken chan struct{}
}

func newBreaker(t *testing.T, to string) (*breaker, string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &breaker{to: to, broken: make(chan struct{}, 100)}
	b.limit.Store(1 << 40)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.pass(ctx, conn) })
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	return b, l.Addr().String()
}

func (b *breaker) pass(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", b.to)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { _ = near.Close(); _ = far.Close() })()
	go func() {
		_, _ = io.Copy(far, near)
		_ = far.Close()
	}()
	for sent, buf := int64(0), make([]byte, 512); ; {
		n, err := far.Read(buf)
		if sent += int64(n); sent > b.limit.Load() {
			b.broken <- struct{}{}
			return
		}
		if _, werr := near.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// The connection breaks in the middle of each snapshot, and then the machine of the node
// that fetches it loses its power: it comes back with the state that it had, and in the
// end with the new one.
func TestSnapshotThatBreaksOffLeavesTheOldState(t *testing.T) {
	disks := map[zab.NodeID]*vfs.MemFS{}
	listeners := map[zab.NodeID]string{}
	c := &testCluster{t: t, dir: "/data", open: nobody, nodes: map[zab.NodeID]*runningNode{}}
	var breakers []*breaker
	for id := zab.NodeID(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners[id] = l.Addr().String()
		require.NoError(t, l.Close())
		b, addr := newBreaker(t, listeners[id])
		breakers = append(breakers, b)
		c.members = append(c.members, replica.Member{ID: id, Peer: addr, API: "api"})
		disks[id] = vfs.NewCrashableMem()
	}
	c.tune = func(config *Config) {
		shortLog(config)
		l, err := net.Listen("tcp", listeners[config.Node])
		require.NoError(t, err)
		config.Listener, config.FS, config.DataDir = l, disks[config.Node], filepath.ToSlash(config.DataDir)
	}
	t.Cleanup(func() {
		for _, m := range c.members {
			c.kill(m.ID)
		}
	})
	for _, m := range c.members {
		c.start(m.ID)
	}
	known := map[txn.ID]txn.Decision{}
	c.decide(8, known)
	c.storesKnown(3) // the last records that nobody asked for
	before := c.equal(3)
	away := c.follower()
	c.kill(away)
	c.decide(60, known)
	for _, b := range breakers {
		b.limit.Store(2000)
	}
	c.start(away)
	for i := range 3 {
		for _, b := range breakers {
			if m := b; m.to == listeners[c.leader().config.Node] {
				select {
				case <-m.broken:
				case <-time.After(20 * time.Second):
					require.FailNow(t, "no snapshot was tried", "try %d", i)
				}
			}
		}
		applied, _ := c.nodes[away].store.Applied()
		require.Equal(t, before, applied)
		clone := disks[away].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[i],
			RNG: rand.New(rand.NewPCG(1, uint64(i)))})
		c.kill(away)
		disks[away] = clone
		c.start(away)
		applied, _ = c.nodes[away].store.Applied()
		require.False(t, before.Less(applied), "it had %v and begins with %v", before, applied)
	}
	for _, b := range breakers {
		b.limit.Store(1 << 40)
	}
	c.equal(3)
	c.remembered(known)
	c.decide(5, known)
	c.equal(3)
}

// linked is newTunedCluster with a link between each two nodes.
func linked(t *testing.T, tune func(*Config)) (*testCluster, map[[2]zab.NodeID]*faultproxy.Link) {
	links := map[[2]zab.NodeID]*faultproxy.Link{}
	c := newTunedCluster(t, 3, nobody, func(c *Config) {
		own := append([]replica.Member(nil), c.Members...)
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
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
	for _, l := range links {
		l.Set(faultproxy.Forward, faultproxy.Fault{Delay: 150 * time.Millisecond})
	}
	leader := c.leader()
	label := strings.Repeat("x", txn.MaxLabel)
	var mu sync.Mutex
	told, busy, others := map[txn.ID]bool{}, map[txn.ID]bool{}, []error{}
	var waiting sync.WaitGroup
	for range 3 * replica.MaxWaiting / txn.MaxLabel {
		id := txn.NewID(time.Now())
		waiting.Add(1)
		leader.CommitLater(txn.CommitRequest{ID: id, Label: label}, func(r commit.Reply) {
			mu.Lock()
			defer mu.Unlock()
			defer waiting.Done()
			switch {
			case errors.Is(r.Err, txn.ErrBusy):
				busy[id] = true
			case r.Err != nil:
				others = append(others, r.Err)
			default:
				told[id] = r.Txn.Decision == txn.Commit
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
		require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
	}
	for id := range busy { // was no decision
		require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
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
		r, err := c.leader().Commit(t.Context(),
			txn.CommitRequest{ID: id, Label: strings.Repeat(string(rune('a'+i%26)), 800)})
		require.NoError(t, err)
		known[id] = r.Txn.Decision
	}
	require.Eventually(t, func() bool { return !c.leader().Status().Log.Base.IsZero() }, 10*time.Second,
		10*time.Millisecond, "the log is not cut")
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
		require.Equal(t, d, c.commit(id).Txn.Decision)
	}
}
