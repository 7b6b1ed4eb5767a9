// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/txn"
)

// network is the links between the nodes of a cluster: each node reaches each other one at
// an address of its own.
type network struct {
	c     *cluster
	links map[[2]int]*faultproxy.Link // of who dials, and whom
}

// newNetwork is newCluster with links between the nodes.
func newNetwork(t testing.TB, nodes int) (*cluster, *network) {
	t.Helper()
	c := newCluster(t, settings{nodes: nodes})
	w := &network{c: c, links: map[[2]int]*faultproxy.Link{}}
	for _, from := range c.nodes {
		b, err := os.ReadFile(from.config)
		require.NoError(t, err)
		head, members, found := strings.Cut(string(b), "members:\n")
		require.True(t, found)
		for _, to := range c.nodes {
			if to == from {
				continue
			}
			link, err := faultproxy.New(to.peer)
			require.NoError(t, err)
			t.Cleanup(link.Close)
			w.links[[2]int{from.id, to.id}] = link
			members = strings.Replace(members, "peer: "+to.peer, "peer: "+link.Addr(), 1)
		}
		require.NoError(t, os.WriteFile(from.config, []byte(head+"members:\n"+members), 0o600))
	}
	return c, w
}

// startNetwork starts a cluster with links between its nodes.
func startNetwork(t testing.TB, nodes int) (*cluster, *network) {
	t.Helper()
	c, w := newNetwork(t, nodes)
	for _, n := range c.nodes {
		c.start(n)
	}
	c.ready()
	return c, w
}

// way sets what happens to what one node sends to another, on the connections of both.
func (w *network) way(from, to *node, f faultproxy.Fault) {
	w.links[[2]int{from.id, to.id}].Set(faultproxy.Forward, f)
	w.links[[2]int{to.id, from.id}].Set(faultproxy.Backward, f)
}

// between sets what happens to what two nodes send to each other.
func (w *network) between(a, b *node, f faultproxy.Fault) {
	w.way(a, b, f)
	w.way(b, a, f)
}

func (w *network) heal() {
	for _, l := range w.links {
		l.Heal()
	}
}

// each visits the links to and from a node.
func (w *network) each(n *node, visit func(*faultproxy.Link)) {
	for ends, l := range w.links {
		if ends[0] == n.id || ends[1] == n.id {
			visit(l)
		}
	}
}

// decisions is a load of commit requests without branches, which remembers what it was told.
type decisions struct {
	testing.TB
	caller *api.Client
	stop   context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	told    map[txn.ID]bool // that it commits
	unknown map[txn.ID]bool
	failed  []error
}

// startDecisions starts workers that ask at some addresses. patience is that of one request.
func (c *cluster) startDecisions(t testing.TB, addrs []string, workers int, patience time.Duration) *decisions {
	t.Helper()
	caller, err := api.Dial(addrs, api.ClientOptions{Patience: patience})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	d := &decisions{TB: t, caller: caller, stop: stop, done: make(chan struct{}), told: map[txn.ID]bool{},
		unknown: map[txn.ID]bool{}}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil {
				d.one(ctx, c.id)
				time.Sleep(2 * time.Millisecond) // the machine is for the nodes
			}
		})
	}
	go func() { group.Wait(); close(d.done) }()
	t.Cleanup(func() {
		stop()
		<-d.done
		require.NoError(t, caller.Close())
	})
	return d
}

func (d *decisions) one(ctx context.Context, cluster txn.ClusterID) {
	id := txn.NewID(time.Now())
	res, err := d.caller.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: id, Cluster: cluster}))
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil && res.GetDecision() == txn.Commit.String():
		d.told[id] = true
	case err == nil:
		d.Errorf("%v: nobody asked for %s: %s", id, res.GetDecision(), res.GetReason())
	default:
		d.unknown[id] = true
		if ctx.Err() == nil {
			d.failed = append(d.failed, err)
			if !errors.Is(err, txn.ErrUnavailable) {
				d.Errorf("%v: neither an answer nor unavailable: %v", id, err)
			}
		}
	}
}

func (d *decisions) sofar() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.told)
}

// goesOn waits until so many more have committed.
func (d *decisions) goesOn(n int) {
	d.Helper()
	before := d.sofar()
	eventually(d, fmt.Sprintf("%d more decisions", n), func() bool { return d.sofar() >= before+n })
}

// end stops the load and asks for everything again: what was told holds, and what was
// not has one answer. It returns how many were told and unknown.
func (d *decisions) end(c *cluster) (told, unknown int) {
	d.Helper()
	d.stop()
	<-d.done
	require.NoError(d, d.caller.Close()) // the nodes' files are counted afterwards
	caller := c.caller()
	defer caller.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for id := range d.told {
		group.Go(func() error {
			res, err := caller.Outcome(asking, &concordv1.OutcomeRequest{Gid: id.String()})
			if err == nil && res.GetOutcome() != txn.Committed.String() {
				err = fmt.Errorf("%v was told to commit, and is lost: %s", id, res.GetOutcome())
			}
			return err
		})
	}
	require.NoError(d, group.Wait())
	for id := range d.unknown {
		first, err := caller.Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})
		require.NoError(d, err)
		again, err := caller.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: id, Cluster: c.id}))
		require.NoError(d, err)
		require.Equal(d, first.GetOutcome() == txn.Committed.String(), again.GetDecision() == txn.Commit.String(),
			"%v has two answers", id)
	}
	d.Logf("%d told to commit, %d without an answer", len(d.told), len(d.unknown))
	return len(d.told), len(d.unknown)
}

// seen is the status as one node sees it; a zero one if it does not answer.
func (c *cluster) seen(n *node) *concordv1.StatusResponse {
	c.Helper()
	caller, err := api.Dial([]string{n.api}, api.ClientOptions{Patience: time.Second})
	require.NoError(c, err)
	defer caller.Close()
	s, err := caller.Status(context.Background(), &concordv1.StatusRequest{})
	if err != nil {
		return &concordv1.StatusResponse{}
	}
	return s
}

// another waits until a node other than one leads, in a later epoch, as a node sees it that can know.
func (c *cluster) another(than *node, epoch uint32, seenBy []*node) {
	c.Helper()
	eventually(c, "another node leads", func() bool {
		for _, n := range seenBy {
			if s := c.seen(n); s.GetLeader() != 0 && s.GetLeader() != uint64(than.id) && s.GetEpoch() > epoch {
				return true
			}
		}
		return false
	})
}

// fds is how many files, sockets among them, a node has open.
func (c *cluster) fds(n *node) int {
	c.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.process.Pid()))
	require.NoError(c, err)
	return len(entries)
}

// goroutines ends a node by asking it what its goroutines do, and counts them.
func (c *cluster) goroutines(n *node) int {
	c.Helper()
	require.NoError(c, n.process.End(syscall.SIGQUIT, patience))
	b, err := os.ReadFile(n.log)
	require.NoError(c, err)
	return strings.Count(string(b), "\ngoroutine ")
}

// metric reads one number from a node's metrics.
func (c *cluster) metric(n *node, name string) float64 {
	c.Helper()
	res, err := http.Get("http://" + n.api + "/metrics")
	require.NoError(c, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(c, err)
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			require.NoError(c, err)
			return v
		}
	}
	c.Fatalf("node %d has no metric %s", n.id, name)
	return 0
}

func TestIsolatedLeaderTellsNothingThatIsLost(t *testing.T) {
	c, w := startNetwork(t, 3)
	old := c.leader()
	epoch := c.seen(old).GetEpoch()
	all := c.startDecisions(t, c.addrs(), 6, 10*time.Second)
	pinned := c.startDecisions(t, []string{old.api}, 6, time.Second) // these reach the old leader only
	all.goesOn(100)
	pinned.goesOn(100)

	for _, n := range c.others(old) { // not a word, not an end: a black hole
		w.between(old, n, faultproxy.Fault{Drop: true})
	}
	began := time.Now()
	c.another(old, epoch, c.others(old))
	t.Logf("another node led %v after the connections had become black holes",
		time.Since(began).Round(time.Millisecond))
	all.goesOn(100)
	eventually(t, "the old leader knows that it leads no more", func() bool { return c.seen(old).GetLeader() == 0 })
	before := pinned.sofar()
	eventually(t, "who reaches only the old leader hears that nobody knows", func() bool {
		pinned.mu.Lock()
		defer pinned.mu.Unlock()
		return len(pinned.unknown) >= 12
	})
	require.Equal(t, before, pinned.sofar(), "nothing is told without a quorum")
	caller, err := api.Dial([]string{old.api}, api.ClientOptions{Patience: time.Second})
	require.NoError(t, err)
	defer caller.Close()
	_, err = caller.List(t.Context(), &concordv1.ListRequest{})
	require.ErrorIs(t, err, txn.ErrUnavailable, "nor is anything read")

	w.heal()
	c.ready()
	pinned.goesOn(50)
	all.end(c)
	_, unknown := pinned.end(c)
	require.NotZero(t, unknown)
}

func TestOneWayCutToOneFollowerLeavesTheOthersAlone(t *testing.T) {
	c, w := startNetwork(t, 3)
	leader := c.leader()
	epoch := c.seen(leader).GetEpoch()
	d := c.startDecisions(t, c.addrs(), 6, 10*time.Second)
	d.goesOn(50)
	deaf := c.others(leader)[0]
	w.way(leader, deaf, faultproxy.Fault{Drop: true})
	eventually(t, "the follower misses the leader",
		func() bool { s := c.seen(deaf); return s.GetNode() != 0 && s.GetLeader() == 0 })
	d.goesOn(500)
	eventually(t, "both ends of the cut have noticed it", func() bool {
		s := c.seen(deaf)
		return s.GetNode() != 0 && !s.GetNodes()[leader.id-1].GetReachable()
	})
	d.goesOn(100)
	w.heal()
	c.ready()
	require.LessOrEqual(t, c.seen(leader).GetEpoch(), epoch+2,
		"one that hears nothing does not make the others vote again and again")
	d.end(c)
}

func TestLeaderThatHearsNobodyStepsDown(t *testing.T) {
	c, w := startNetwork(t, 3)
	deaf := c.leader()
	epoch := c.seen(deaf).GetEpoch()
	d := c.startDecisions(t, c.addrs(), 6, 10*time.Second)
	d.goesOn(50)
	for _, n := range c.others(deaf) {
		w.way(n, deaf, faultproxy.Fault{Drop: true})
	}
	c.another(deaf, epoch, c.others(deaf)) // although they hear the old one
	d.goesOn(100)
	eventually(t, "it leads no more", func() bool {
		s := c.seen(deaf)
		return s.GetNode() != 0 &&
			s.GetLeader() != uint64(deaf.id)
	})
	w.heal()
	c.ready()
	d.goesOn(50)
	d.end(c)
}

// A bridge: two on either side see each other and the one in the middle. A ring: each sees
// its two neighbours. The leader still has a majority, so the cluster goes on, and those who
// do not hear the leader do not make the others vote again and again.
func TestFiveVotersGoOnInABridgeAndInARing(t *testing.T) {
	c, w := startNetwork(t, 5)
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	for _, x := range []struct {
		name string
		sees func(a, b int) bool // places of nodes, 0 to 4; the leader is at 0, the middle is 2
	}{
		{"bridge", func(a, b int) bool { return a == 2 || b == 2 || (a < 2) == (b < 2) }},
		{"ring", func(a, b int) bool { return (a-b+5)%5 == 1 || (b-a+5)%5 == 1 }},
	} {
		leader := c.leader()
		epoch := c.seen(leader).GetEpoch()
		place := func(n *node) int { return (n.id - leader.id + 5) % 5 }
		for _, a := range c.nodes {
			for _, b := range c.nodes[a.id:] {
				if !x.sees(place(a), place(b)) {
					w.between(a, b, faultproxy.Fault{Drop: true})
				}
			}
		}
		d.goesOn(100)
		time.Sleep(1500 * time.Millisecond) // whoever still had a leader behind the cut has missed it by now
		d.goesOn(100)
		require.LessOrEqual(t, c.seen(leader).GetEpoch(), epoch+2, x.name)
		w.heal()
		c.ready()
	}
	d.goesOn(50)
	d.end(c)
}

func TestFlappingLinksEndInPeaceAndLeaveNothingBehind(t *testing.T) {
	const flaps = 20
	c, w := startNetwork(t, 3)
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	fds := map[int]int{}
	for _, n := range c.nodes {
		fds[n.id] = c.fds(n)
	}
	epoch := c.seen(c.node(1)).GetEpoch()
	for i := range flaps {
		victim := c.node(i%3 + 1)
		switch i / 3 % 3 {
		case 0:
			w.each(victim, func(l *faultproxy.Link) { l.Cut() })
		case 1:
			for _, n := range c.others(victim) {
				w.between(victim, n, faultproxy.Fault{Drop: true})
			}
		case 2: // the bytes of these connections arrive when there are others
			w.each(victim, func(l *faultproxy.Link) { l.Freeze() })
		}
		time.Sleep(200 * time.Millisecond)
		w.heal()
	}
	c.ready()
	d.goesOn(100)
	require.LessOrEqual(t, c.seen(c.node(1)).GetEpoch(), epoch+flaps+5, "not more elections than there were faults")
	d.end(c)
	for _, n := range c.nodes {
		eventually(t, fmt.Sprintf("node %d has let go of the connections (%d files before)", n.id, fds[n.id]),
			func() bool { return c.fds(n) <= fds[n.id]+12 })
	}
	for _, n := range c.nodes {
		require.LessOrEqual(t, c.goroutines(n), 150, "node %d:\n%s", n.id, tail(n.log))
	}
}

// What is damaged on the way is noticed by the checksum of the frame, what is strange by its
// length or kind; the connection is opened again and the cluster goes on.
func TestNoiseAmongTheBytesOfPeersCostsAConnection(t *testing.T) {
	c, w := startNetwork(t, 3)
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	for i, noise := range []string{"\x00", strings.Repeat("\xff", 9), strings.Repeat("\x00", 4096),
		"GET / HTTP/1.1\r\n\r\n"} {
		for _, l := range w.links {
			l.Inject(faultproxy.Forward, []byte(noise))
		}
		if i == 0 { // the answers, too: nobody expects any
			for _, l := range w.links {
				l.HalfClose(faultproxy.Backward)
			}
		}
		c.ready()
		d.goesOn(50)
	}
	d.end(c)
	for _, n := range c.nodes {
		require.True(t, n.process.Alive(), "node %d:\n%s", n.id, tail(n.log))
	}
}
