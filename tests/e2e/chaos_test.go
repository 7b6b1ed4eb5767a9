// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/txn"
)

func TestEveryNewLeaderIsKilledFiveTimesInARow(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 6, 20*time.Second)
	var down *node
	for range 5 {
		d.goesOn(20)
		leader := c.leader()
		c.kill(leader)
		if down != nil {
			c.start(down) // two are always left, and the new one leads from an older log
		}
		down = leader
	}
	c.start(down)
	began := time.Now()
	d.goesOn(20)
	t.Logf("decisions went on %v after the last kill", time.Since(began).Round(time.Millisecond))
	c.ready()
	d.end(c)
}

// A leader that runs only half of the time is slower, or makes room for another one; it
// decides nothing that is lost.
func TestLeaderThatIsStoppedHalfOfTheTime(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 6, 20*time.Second)
	d.goesOn(50)
	victim := c.leader()
	epoch := c.seen(victim).GetEpoch()
	const pauses = 12
	for range pauses {
		require.NoError(t, victim.process.Signal(syscall.SIGSTOP))
		time.Sleep(200 * time.Millisecond)
		require.NoError(t, victim.process.Signal(syscall.SIGCONT))
		time.Sleep(200 * time.Millisecond)
	}
	c.ready()
	d.goesOn(50)
	require.LessOrEqual(t, c.seen(c.node(1)).GetEpoch(), epoch+pauses, "at most one election for each pause")
	d.end(c)
}

// All at once stand still for longer than any patience of theirs, as after the pause of a
// virtual machine.
func TestWholeClusterIsStoppedForAWhile(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 6, 20*time.Second)
	d.goesOn(50)
	for _, n := range c.nodes {
		require.NoError(t, n.process.Signal(syscall.SIGSTOP))
	}
	time.Sleep(6 * time.Second)
	for _, n := range c.nodes {
		require.NoError(t, n.process.Signal(syscall.SIGCONT))
	}
	d.goesOn(50)
	c.ready()
	d.end(c)
}

// A rolling restart: each node in turn, the leader among them, gets SIGTERM under load. It
// ends in order within its five seconds, and no client hears of it.
func TestRollingRestartIsNotHeardOfByClients(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 6, 30*time.Second)
	for _, n := range append([]*node{c.leader()}, c.nodes...) {
		d.goesOn(30)
		began := time.Now()
		require.NoError(t, n.process.End(syscall.SIGTERM, patience))
		t.Logf("node %d ended within %v", n.id, time.Since(began).Round(time.Millisecond))
		require.NoError(t, n.process.Err(), "node %d did not end in order:\n%s", n.id, tail(n.log))
		d.goesOn(30)
		c.start(n)
		c.ready()
	}
	require.Empty(t, d.failed, "every request got its answer")
	d.end(c)
}

func TestLeaderWithoutFollowersTellsNothing(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 6, 2*time.Second)
	d.goesOn(50)
	leader := c.leader()
	for _, n := range c.others(leader) {
		c.kill(n)
	}
	eventually(t, "it leads no more", func() bool {
		s := c.seen(leader)
		return s.GetNode() != 0 &&
			s.GetLeader() == 0
	})
	before := d.sofar()
	eventually(t, "clients hear that there is no answer",
		func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(d.failed) >= 12 })
	require.Equal(t, before, d.sofar(), "one of three decides nothing")
	for _, n := range c.others(leader) {
		c.start(n)
	}
	d.goesOn(50)
	c.ready()
	d.end(c)
}

// resident is the memory of a node in bytes.
func (c *cluster) resident(n *node) int64 {
	c.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.process.Pid()))
	require.NoError(c, err)
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(text)[0], 10, 64)
			require.NoError(c, err)
			return kib << 10
		}
	}
	c.Fatal("no VmRSS")
	return 0
}

// burst asks the leader for many decisions at a time, each with a long label, and counts the
// answers: told, busy, or without a word. Nothing is asked twice.
func (c *cluster) burst(leader *node, requests int) (told, busy, silent int) {
	c.Helper()
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	// Every request that finds no stream free dials: without a bound there would be more connections at
	// once than a node keeps, and what it closes has no word for anybody.
	transport := &http.Transport{Protocols: h2, MaxConnsPerHost: 64}
	defer transport.CloseIdleConnections()
	stub := concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: transport}, "http://"+leader.api)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	elsewhere := 0
	var mu sync.Mutex
	var group sync.WaitGroup
	for range requests {
		group.Go(func() {
			_, err := stub.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: txn.NewID(time.Now()), Cluster: c.id,
				Label: strings.Repeat("x", txn.MaxLabel)}))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				told++
			case errors.Is(api.FromStatus(err), txn.ErrBusy):
				busy++
			case errors.As(api.FromStatus(err), new(*txn.NotLeaderError)),
				connect.IsWireError(err) && errors.Is(api.FromStatus(err), txn.ErrUnavailable): // it knows no leader
				elsewhere++
			default:
				if silent++; silent <= 3 {
					c.Logf("%v", err)
				}
			}
		})
	}
	group.Wait()
	if elsewhere > 0 {
		c.Logf("the leader gave up leading on the way: %d were sent elsewhere", elsewhere)
	}
	return told, busy, silent
}

// A quorum that is slow makes the leader say "busy", or give up leading, before its memory
// fills and before its clients run out of patience without a word.
func TestSlowQuorumLeavesNoClientWithoutAWord(t *testing.T) {
	c, w := startNetwork(t, 3)
	leader := c.leader()
	before := c.resident(leader)
	for _, n := range c.others(leader) {
		w.between(leader, n, faultproxy.Fault{Delay: 150 * time.Millisecond})
	}
	told, busy, silent := c.burst(leader, 3000)
	after := c.resident(leader)
	t.Logf("%d told, %d busy, %d neither; memory of the leader %d MiB, then %d MiB", told, busy, silent, before>>20,
		after>>20)
	require.Zero(t, silent, "nobody is left without a word")
	require.Less(t, after, before+512<<20)
	w.heal()
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	d.end(c)
}

// A follower behind a black hole costs the leader no more than what may be on its way to one.
func TestFollowerThatReadsNothingCostsLittle(t *testing.T) {
	c, w := startNetwork(t, 3)
	leader := c.leader()
	deaf := c.others(leader)[0]
	before := c.resident(leader)
	w.way(leader, deaf, faultproxy.Fault{Hold: true}) // its buffers fill
	told := 0
	for range 4 {
		n, _, silent := c.burst(c.leader(), 2000) // on a busy machine it may have become another one
		require.Zero(t, silent)
		told += n
	}
	after := c.resident(leader)
	t.Logf("%d told; memory of the leader %d MiB, then %d MiB", told, before>>20, after>>20)
	require.GreaterOrEqual(t, told, 2000, "two of three go on")
	require.Less(t, after, before+512<<20)
	w.heal()
	c.ready()
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	d.end(c)
}
