// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// meteredFS is a real disk that says it has as much space as the test wants.
type meteredFS struct {
	vfs.FS
	free *atomic.Uint64
}

func newMeteredFS() meteredFS {
	f := meteredFS{FS: vfs.Default, free: &atomic.Uint64{}}
	f.free.Store(1 << 30)
	return f
}

func (f meteredFS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := f.free.Load()
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: 2 << 30, UsedBytes: 2<<30 - free}, nil
}

func TestANodeWithAFullDiskFinishesWhatWasBegunAndTakesNothingNewUntilItHeals(t *testing.T) {
	data, files := memory.NewDisk(), newMeteredFS()
	c := newCluster(t, 0, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", data)} })
	c.members = []replica.Member{{ID: 1, Peer: "127.0.0.1:0", API: "api-1"}}
	c.files = map[zab.NodeID]vfs.FS{1: files}
	c.start(1)
	orders := memory.New("orders", data)
	open, refused := txn.NewID(time.Now()), txn.NewID(time.Now())
	b := c.prepared(orders, open, "k")
	require.Equal(t, txn.Commit, c.commit(open, b).Txn.Decision)

	files.free.Store(wal.DefaultReserve - 1)
	require.Eventually(t, func() bool { return c.leader().Status().Disk.Low }, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, c.leader().Status().Warnings[0], "node 1: the disk is nearly full (64 MiB free)")

	_, err := c.leader().Commit(t.Context(), txn.CommitRequest{ID: refused})
	require.ErrorIs(t, err, txn.ErrUnavailable)
	require.ErrorContains(t, err, "the disk of node 1, the leader, is nearly full (64.0 MiB of 2048.0 MiB free)")
	again, err := c.leader().Commit(t.Context(), txn.CommitRequest{ID: open, Branches: []txn.Branch{b}})
	require.NoError(t, err)
	require.Equal(t, txn.Commit, again.Txn.Decision, "what is decided is told")
	require.Eventually(t, func() bool {
		v, err := c.leader().View(t.Context(), open)
		return err == nil && v.Known && v.Txn.Ended
	}, 10*time.Second, 20*time.Millisecond, "and finished")
	undecided := txn.NewID(time.Now())
	r, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: undecided})
	require.NoError(t, err)
	require.Equal(t, txn.Abort, r.Txn.Decision, "who was refused can settle it")

	files.free.Store(wal.DefaultReserve + 1) // within the margin: not yet
	_, err = c.leader().Commit(t.Context(), txn.CommitRequest{ID: refused})
	require.ErrorIs(t, err, txn.ErrUnavailable)
	files.free.Store(1 << 30)
	require.Eventually(t, func() bool { return !c.leader().Status().Disk.Low }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, txn.Commit, c.commit(refused).Txn.Decision, "nothing was decided meanwhile")
	require.Empty(t, c.leader().Status().Warnings)
}

func TestALeaderWithAFullDiskStepsAsideForOneWithSpace(t *testing.T) {
	c := newCluster(t, 0, func() []adapters.Resource { return nil })
	c.files = map[zab.NodeID]vfs.FS{}
	files := map[zab.NodeID]meteredFS{}
	for id := zab.NodeID(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c.members = append(c.members, replica.Member{ID: id, Peer: l.Addr().String(), API: "api"})
		require.NoError(t, l.Close())
		files[id] = newMeteredFS()
		c.files[id] = files[id]
	}
	for id := range files {
		c.start(id)
	}
	full := map[zab.NodeID]bool{}
	leaderWithSpace := func() (r *runningNode) { // who stepped aside may say for a moment that it leads
		t.Helper()
		require.Eventually(t, func() bool {
			r = c.leader()
			return !full[r.config.Node]
		}, 30*time.Second, 10*time.Millisecond)
		return r
	}
	for range 2 {
		id := leaderWithSpace().config.Node
		files[id].free.Store(10 << 20)
		full[id] = true
		leaderWithSpace()
		require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
	}
	// The last one has nobody to step aside for.
	last := leaderWithSpace()
	files[last.config.Node].free.Store(10 << 20)
	require.Eventually(t, func() bool {
		_, err := last.Commit(t.Context(), txn.CommitRequest{ID: txn.NewID(time.Now())})
		return errors.Is(err, txn.ErrUnavailable) && strings.Contains(err.Error(), "nearly full")
	}, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool { return len(last.Status().Warnings) == 3 }, 10*time.Second, 10*time.Millisecond,
		"it knows of all three")
}

// stallingFS is a real disk whose writes of the log hang while it stalls.
type stallingFS struct {
	vfs.FS
	gate atomic.Pointer[chan struct{}]
}

func newStallingFS() *stallingFS {
	f := &stallingFS{}
	f.FS = errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if c := f.gate.Load(); c != nil && strings.HasSuffix(op.Path, ".log") &&
			op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			<-*c
		}
		return nil
	}))
	return f
}

func (f *stallingFS) stall() { c := make(chan struct{}); f.gate.Store(&c) }

func (f *stallingFS) heal() {
	if c := f.gate.Swap(nil); c != nil {
		close(*c)
	}
}

func TestALeaderWhoseDiskStallsIsReplacedAndFollowsWhenItIsBack(t *testing.T) {
	c := newCluster(t, 0, func() []adapters.Resource { return nil })
	c.files = map[zab.NodeID]vfs.FS{}
	disks := map[zab.NodeID]*stallingFS{}
	for id := zab.NodeID(1); id <= 3; id++ {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c.members = append(c.members, replica.Member{ID: id, Peer: l.Addr().String(), API: "api"})
		require.NoError(t, l.Close())
		disks[id] = newStallingFS()
		c.files[id] = disks[id]
		t.Cleanup(disks[id].heal)
	}
	for id := range disks {
		c.start(id)
	}
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
	stalled := c.leader()
	disks[stalled.config.Node].stall()
	id := txn.NewID(time.Now())
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	_, err := stalled.Commit(ctx, txn.CommitRequest{ID: id})
	require.ErrorAs(t, err, new(*txn.NotLeaderError), "its clients are told to ask elsewhere")
	require.Eventually(t, func() bool { return c.leader() != stalled }, 15*time.Second, 10*time.Millisecond)
	require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
	require.Contains(t, strings.Join(stalled.Status().Warnings, "\n"), "a sync of its log took")

	disks[stalled.config.Node].heal()
	require.Eventually(t, func() bool {
		own, lead := stalled.Status(), c.leader().Status()
		return own.Leader == lead.Node && own.Nodes[own.Node-1].State == "following" && own.Nodes[own.Node-1].Lag == 0
	}, 15*time.Second, 10*time.Millisecond)
}

func TestPeersHearOfAFullOrSlowDisk(t *testing.T) {
	d := Disk{Space: wal.Space{Free: 5 << 20, Low: true}, Latency: wal.Latency{Slowest: 2345 * time.Millisecond}}
	told := diskOf(d.report())
	require.Equal(t, d, told)
	require.Equal(t, []string{
		"node 3: the disk is nearly full (5 MiB free): while it leads, new transactions are refused; free or add space",
		"node 3: a sync of its log took 2.3s within the last minute: check its disk, and what else uses it",
	}, told.warnings(3))
	require.Empty(t, Disk{Latency: wal.Latency{Slowest: slowDisk - 1}}.warnings(3))
}
