// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"math"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
)

// transfers is how many transfers have to commit.
func transfers(t testing.TB, usual int) int {
	text := os.Getenv("CONCORD_E2E_TRANSFERS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "CONCORD_E2E_TRANSFERS")
	return n
}

func TestTransfersSurviveLeaderKills(t *testing.T) {
	const workers, leastKills, every, down = 16, 5, 3 * time.Second, 1500 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources()})
	wanted := transfers(t, 10_000)
	var kills atomic.Int64
	l := startLoad(ctx, b, c.dial(), workers,
		func(committed int) bool { return committed >= wanted && kills.Load() >= leastKills })
	for running := true; running; {
		select {
		case <-l.done:
			running = false
		case <-time.After(every):
			leader := c.leader()
			c.kill(leader)
			kills.Add(1)
			time.Sleep(down) // for as long the cluster has to do without this node
			c.start(leader)
		}
	}
	require.NoError(t, ctx.Err())
	t.Logf("%d leaders were killed", kills.Load())
	require.GreaterOrEqual(t, kills.Load(), int64(leastKills))
	c.ready()
	l.wait(t, c)
}

// With nobody left to ask, clients give up after a second and hear that the outcome is
// unknown: that has to be settled afterwards, and to agree with the databases.
func TestTransfersSurviveTheDeathOfTheWholeCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 5 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	var stop atomic.Bool
	l := startLoad(ctx, b, c.dial(), 16, func(int) bool { return stop.Load() }, concord.WithTimeout(time.Second))
	for range 2 {
		before := l.sofar()
		eventually(t, "transfers commit", func() bool { return l.sofar() > before+200 })
		for _, n := range c.nodes {
			require.NoError(t, n.process.Signal(syscall.SIGKILL))
		}
		for _, n := range c.nodes {
			c.buried(n)
		}
		time.Sleep(2 * time.Second) // for as long there is no cluster
		for _, n := range c.nodes {
			c.start(n)
		}
	}
	before := l.sofar()
	eventually(t, "transfers commit", func() bool { return l.sofar() > before+200 })
	stop.Store(true)
	l.wait(t, c)
	require.NotZero(t, l.unknown)
}

// A leader that is killed is missed at once, since its machine closes its connections.
// One that stops where it is, as a machine that hangs or has lost its network, is missed
// when it is silent for too long. The bound is generous, since the machine may be slow;
// what was measured is logged.
func TestLeaderFailover(t *testing.T) {
	const times, bound = 5, 30 * time.Second
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources()})
	client := c.dial()
	for _, x := range []struct {
		name      string
		end, back func(*node)
	}{
		{"killed", c.kill, c.start},
		{"frozen", func(n *node) { require.NoError(t, n.process.Signal(syscall.SIGSTOP)) },
			func(n *node) { require.NoError(t, n.process.Signal(syscall.SIGCONT)) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			var stop atomic.Bool
			l := startLoad(ctx, b, client, 4, func(int) bool { return stop.Load() })
			var took []time.Duration
			for range times {
				leader := c.leader()
				before, ok := leader.status(t)
				require.True(t, ok)
				began := time.Now()
				x.end(leader)
				id, err := b.run(ctx, client)
				require.NoError(t, err)
				took = append(took, time.Since(began))
				require.Len(t, c.get(id).Branches, 2, "a transaction that the cluster never heard of shows nothing")
				x.back(leader)
				c.ready()
				after, ok := c.leader().status(t)
				require.True(t, ok)
				require.NotEqual(t, before.Leader, after.Leader)
				require.Greater(t, after.Epoch, before.Epoch)
			}
			stop.Store(true)
			<-l.done
			slices.Sort(took)
			t.Logf("from the end of the leader to the next acknowledged commit: median %v, worst %v, all %v",
				at(took, 0.5), at(took, 1), took)
			require.Less(t, at(took, 1), bound)
		})
	}
	b.settled(c)
	b.sumHolds()
}

func TestMySQL(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := bankAt(t, postgresServer.Get(t), mysqlServer.Get(t))
	t.Logf("MySQL %s", b.right.server.Version())
	c := startCluster(t, settings{resources: b.resources()})
	var wanted atomic.Int64 // until the leader is killed: more than there can be
	wanted.Store(math.MaxInt64)
	l := startLoad(ctx, b, c.dial(), 8, func(committed int) bool { return int64(committed) >= wanted.Load() })
	eventually(t, "the load has begun", func() bool { return l.sofar() >= 200 })
	leader := c.leader()
	c.kill(leader)
	wanted.Store(int64(l.sofar() + 200))
	l.wait(t, c)
	c.start(leader)
	c.ready()
}
