// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

const voters, observers = 3, 2

func startObserved(t testing.TB) *cluster {
	t.Helper()
	return startCluster(t, settings{nodes: voters + observers, observers: observers})
}

// observing waits until an observer follows a leader and has caught up with it.
func (c *cluster) observing(n *node) {
	c.Helper()
	eventually(c, "the observer has caught up", func() bool {
		s, ok := n.status(c)
		return ok && s.Nodes[n.id-1].State == "observing" && s.Nodes[n.id-1].Lag == 0 && s.CutOff == ""
	})
}

func TestObserversAreShownAndServe(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startObserved(t)
	caller := c.caller()
	id, _ := c.decide(ctx, caller)
	watchers := c.nodes[voters:]

	t.Run("status", func(t *testing.T) {
		c := c.in(t)
		var s statusJSON
		eventually(t, "the leader has heard of everybody, and they have caught up", func() bool {
			s, _ = c.leader().status(t)
			current := 0
			for _, n := range s.Nodes {
				if n.Reachable && n.Lag == 0 && n.State != "unknown" {
					current++
				}
			}
			return current == len(c.nodes)
		})
		for i, n := range s.Nodes {
			if i < voters {
				require.Equal(t, "voter", n.Role)
			} else {
				require.Equal(t, "observer", n.Role)
				require.Equal(t, "observing", n.State)
			}
		}
		for _, n := range watchers {
			own, ok := n.status(t)
			require.True(t, ok)
			require.Equal(t, s.Leader, own.Leader)
			table := command(t, "status", "--addr", n.api)
			require.Equal(t, 0, table.code, "%v", table)
			require.Regexp(t, `(?m)^\d +observer +observing `, table.stdout)
		}
	})

	t.Run("outcomes by themselves, the rest through the leader", func(t *testing.T) {
		c := c.in(t)
		for _, n := range watchers {
			c.agree(ctx, n, id, "committed")
			fresh := txn.NewID(time.Now())
			handed, info := connect.NewClientContext(ctx)
			res, err := n.raw().Commit(handed, c.bare(fresh))
			require.NoError(t, err)
			require.Equal(t, "commit", res.GetDecision())
			require.NotEmpty(t, info.ResponseHeader().Get(api.HandedOnHeader))
			c.agree(ctx, n, fresh, "committed")
			open := recordedID()
			_, err = n.raw().Outcome(itself(ctx), &concordv1.OutcomeRequest{Gid: open.String()})
			require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "only the leader settles it: %v", err)
			settled, err := n.raw().Outcome(ctx, &concordv1.OutcomeRequest{Gid: open.String()})
			require.NoError(t, err)
			require.Equal(t, "aborted", settled.GetOutcome())
			r := command(t, "tx", "get", fresh.String(), "--addr", n.api)
			require.Equal(t, 0, r.code, "%v", r)
		}
	})

	t.Run("streams too", func(t *testing.T) {
		c := c.in(t)
		const requests = 200
		stream, err := watchers[0].streaming().Decide(ctx)
		require.NoError(t, err)
		m := &concordv1.DecideRequest{}
		for i := range requests {
			m.Commits = append(m.Commits,
				&concordv1.NumberedCommit{Number: uint64(i), Request: c.bare(txn.NewID(time.Now()))})
		}
		require.NoError(t, stream.Send(m))
		require.NoError(t, stream.CloseRequest())
		seen := map[uint64]bool{}
		for len(seen) < requests {
			m, err := stream.Receive()
			require.NoError(t, err)
			for _, a := range m.GetAnswers() {
				require.Nil(t, a.GetError())
				require.Equal(t, "commit", a.GetResponse().GetDecision())
				require.False(t, seen[a.GetNumber()])
				seen[a.GetNumber()] = true
			}
		}
	})

	t.Run("a call is handed on once", func(t *testing.T) {
		handed, info := connect.NewClientContext(ctx)
		info.RequestHeader().Set(api.HandedOnHeader, "9")
		_, err := watchers[0].raw().Commit(handed, c.bare(txn.NewID(time.Now())))
		require.Equal(t, connect.CodeFailedPrecondition, connect.CodeOf(err), "%v", err)
	})

	t.Run("a leader that died is followed by another", func(t *testing.T) {
		c := c.in(t)
		dead := c.leader()
		c.kill(dead)
		for _, n := range watchers {
			eventually(t, "the observer follows the new leader", func() bool {
				s, ok := n.status(t)
				return ok && s.Leader != 0 && s.Leader != dead.id
			})
			fresh := txn.NewID(time.Now())
			_, err := n.raw().Commit(ctx, c.bare(fresh))
			require.NoError(t, err)
			c.agree(ctx, n, fresh, "committed")
		}
		c.start(dead)
		c.ready()
	})

	t.Run("without a quorum they are cut off", func(t *testing.T) {
		c := c.in(t)
		c.signal(syscall.SIGSTOP, c.nodes[:voters]...)
		for _, n := range watchers {
			eventually(t, "the observer says that it is cut off", func() bool {
				s, _ := n.status(t)
				return s.CutOff != ""
			})
			_, err := n.raw().Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})
			require.Equal(t, connect.CodeUnavailable, connect.CodeOf(err), "%v", err)
		}
		c.signal(syscall.SIGCONT, c.nodes[:voters]...)
		c.ready()
		c.observing(watchers[0])
	})
}

// Observers are in no quorum: what happens to them is nothing to a commit.
func TestObserversComeAndGoUnderLoad(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := startObserved(t)
	load, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	var committed atomic.Int64
	for i := range 4 {
		caller, err := api.Dial(c.addrs()[:voters], api.ClientOptions{Patience: patience})
		require.NoError(t, err)
		defer caller.Close()
		group.Go(func() {
			for n := 0; load.Err() == nil; n++ {
				res, err := caller.Commit(ctx, c.bare(txn.NewID(time.Now())))
				if !assert.NoError(t, err, "worker %d, commit %d", i, n) || !assert.Equal(t, "commit",
					res.GetDecision()) {
					return
				}
				committed.Add(1)
			}
		})
	}
	more := func() {
		was := committed.Load()
		eventually(t, "the load goes on", func() bool { return committed.Load() > was+50 })
	}
	for round := range 3 {
		for _, n := range c.nodes[voters:] {
			more()
			c.kill(n)
		}
		more() // with none of them
		for i, n := range c.nodes[voters:] {
			if round == 1 && i == 0 {
				require.NoError(t, os.RemoveAll(filepath.Join(n.dir, "data")))
			}
			c.start(n)
		}
		more()
	}
	stop()
	group.Wait()
	id, _ := c.decide(ctx, c.caller())
	for _, n := range c.nodes[voters:] {
		c.observing(n)
		c.agree(ctx, n, id, "committed")
	}
	t.Logf("%d commits, none failed", committed.Load())
}

// A voter with a blank disk has to be admitted by an operator. An observer is not.
func TestObserverWithABlankDiskComesBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	c := startObserved(t)
	caller := c.caller()
	n, began := c.nodes[voters], time.Now()
	var ids []txn.ID
	for range 20 {
		id, _ := c.decide(ctx, caller)
		ids = append(ids, id)
	}
	for range 2 { // its starts are numbered, and the leader remembers that
		c.observing(n)
		c.kill(n)
		c.start(n)
	}
	c.observing(n)
	c.kill(n)
	eventually(t, "it was not started more than once a second",
		func() bool { return time.Since(began) > 4*time.Second })
	require.NoError(t, os.RemoveAll(filepath.Join(n.dir, "data")))
	id, _ := c.decide(ctx, caller)
	c.start(n)
	c.observing(n)
	for _, id := range append(ids, id) {
		c.agree(ctx, n, id, "committed")
	}
	s, ok := c.leader().status(t)
	require.True(t, ok)
	require.Empty(t, s.Warnings)
}
