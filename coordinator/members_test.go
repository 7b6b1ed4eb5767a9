// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/peer"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// listed waits until the log says who the members are.
func (c *testCluster) listed() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		for _, r := range c.nodes {
			if r.Members().At.IsZero() {
				return false
			}
		}
		return true
	}, 20*time.Second, 20*time.Millisecond, "the log says who the members are")
}

// newMember makes up a member at a free address.
func (c *testCluster) newMember(id int) replica.Member {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(c.t, err)
	require.NoError(c.t, l.Close())
	m := replica.Member{ID: zab.NodeID(id), Peer: l.Addr().String(), API: "api-" + strconv.Itoa(id)}
	c.members = append(c.members[:len(c.members):len(c.members)], m)
	return m
}

// again repeats a call to the leader, as the client of the API does.
func (c *testCluster) again(do func(ctx context.Context, n *Node) error) error {
	deadline := time.Now().Add(40 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		err := do(ctx, c.leader().Node)
		cancel()
		retry := errors.Is(err, txn.ErrUnavailable) || errors.Is(err, txn.ErrBusy) || errors.Is(err,
			context.DeadlineExceeded) || errors.As(err, new(*txn.NotLeaderError))
		if !retry || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *testCluster) add(m replica.Member) {
	c.t.Helper()
	key := txn.NewID(time.Now()).String()
	require.NoError(c.t, c.again(func(ctx context.Context,
		n *Node) error {
		return n.AddMember(ctx, m, key, "ann", "more")
	}))
}

// remove removes a member once it may be: a leader that has just begun, or has just made a voter,
// refuses for as long as too few of the others follow it.
func (c *testCluster) remove(id zab.NodeID) {
	c.t.Helper()
	key := txn.NewID(time.Now()).String()
	var err error
	require.Eventually(c.t, func() bool {
		err = c.again(func(ctx context.Context, n *Node) error { return n.RemoveMember(ctx, id, key, "ann", "less") })
		return !errors.Is(err, txn.ErrRefused)
	}, 40*time.Second, 20*time.Millisecond, "node %d may be removed", id)
	require.NoError(c.t, err)
}

// anotherVoter is one that does not lead.
func (c *testCluster) anotherVoter() zab.NodeID {
	c.t.Helper()
	leader := c.leader()
	for _, m := range leader.Members().Members {
		if !m.Observer && m.ID != leader.config.Node {
			return m.ID
		}
	}
	require.FailNow(c.t, "the leader is the only voter")
	return 0
}

// role waits until the leader knows a node in a role.
func (c *testCluster) role(id zab.NodeID, role string) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		m, ok := c.leader().Members().Find(id)
		return ok && m.Role() == role
	}, 40*time.Second, 20*time.Millisecond, "node %d is a %s", id, role)
}

// load decides transactions until its end is called, which returns them.
func (c *testCluster) load(workers int) (end func() map[txn.ID]txn.Decision) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	known := map[txn.ID]txn.Decision{}
	stop := make(chan struct{})
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := txn.NewID(time.Now())
				d := c.commit(id).Txn.Decision
				mu.Lock()
				known[id] = d
				mu.Unlock()
			}
		})
	}
	return func() map[txn.ID]txn.Decision {
		close(stop)
		wg.Wait()
		return known
	}
}

func TestAClusterGrowsAndShrinksUnderLoad(t *testing.T) {
	c := newCluster(t, 3, nobody)
	c.listed()
	end := c.load(4)
	for id := 4; id <= 5; id++ {
		m := c.newMember(id)
		if id == 4 { // before it is added: it waits
			c.start(m.ID)
		}
		c.add(m)
		if id == 5 {
			c.role(m.ID, "learner")
			c.start(m.ID)
		}
		c.role(m.ID, "voter")
	}
	c.storesKnown(5)
	first := c.leader().config.Node
	c.remove(first)
	c.told(first)
	second := c.anotherVoter()
	c.remove(second)
	c.told(second)
	known := end()
	require.NotEmpty(t, known)
	c.remembered(known)
	c.equal(3)

	// One that was removed is told so, whenever it comes back.
	removed := c.opened(first)
	require.ErrorIs(t, removed.Run(t.Context()), peer.ErrRemoved)

	// All stop, and come back with the configurations that they had: the log knows better.
	for id := range c.nodes {
		c.kill(id)
	}
	for _, m := range c.members {
		if m.ID != first && m.ID != second {
			c.start(m.ID)
		}
	}
	c.remembered(known)
	require.Len(t, c.leader().Members().Members, 3)

	// A removed one comes back as a new one.
	require.NoError(t, os.RemoveAll(filepath.Join(c.dir, strconv.Itoa(int(first)))))
	back, _ := replica.List{Members: c.members}.Find(first)
	c.add(back)
	c.start(first)
	c.role(first, "voter")
	c.equal(4)
}

// told waits until a node has ended because it was removed.
func (c *testCluster) told(id zab.NodeID) {
	c.t.Helper()
	c.mu.Lock()
	r := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	require.ErrorIs(c.t, <-r.done, peer.ErrRemoved)
}

// openNode opens a node without running it.
func (c *testCluster) openNode(id zab.NodeID, members []replica.Member) (*Node, error) {
	return Open(Config{Node: id, Members: members, DataDir: filepath.Join(c.dir, strconv.Itoa(int(id))),
		Rules: c.rules, Logger: slog.New(slog.DiscardHandler)})
}

func (c *testCluster) opened(id zab.NodeID) *Node {
	n, err := c.openNode(id, c.members)
	require.NoError(c.t, err)
	return n
}

// N1: one edited line made two clusters out of one.
func TestAListThatTheLogDoesNotKnowIsRefused(t *testing.T) {
	c := newCluster(t, 3, nobody)
	three := c.members
	check := func(where string) {
		for name, members := range map[string][]replica.Member{
			"only itself": three[:1],
			"one less":    three[:2],
			"one more":    append(three[:3:3], replica.Member{ID: 4, Peer: "127.0.0.1:1", API: "x"}),
			"a role":      {three[0], three[1], {ID: 3, Observer: true, Peer: three[2].Peer, API: three[2].API}},
		} {
			n, err := c.openNode(1, members)
			if err == nil {
				_ = n.store.Close()
			}
			require.ErrorIs(t, err, ErrMembers, "%s %s", name, where)
			for _, text := range []string{"in the log", "1 voter", "3 voter", "concord member add"} {
				require.ErrorContains(t, err, text, "%s %s", name, where)
			}
		}
		moved := append(three[:0:0], three...)
		moved[1].Peer, moved[1].API = "127.0.0.1:9", "elsewhere"
		n, err := c.openNode(1, []replica.Member{moved[2], moved[0], moved[1]})
		require.NoError(t, err, "in another order, and at other addresses")
		require.NoError(t, n.listenerClosed())
	}
	c.listed()
	c.kill(1)
	check("when the log says it")
	c.start(1)

	c.add(c.newMember(4))
	require.Eventually(t, func() bool { // in its own log
		l := c.nodes[1].Members()
		return len(l.Members) == 4 && !c.nodes[1].Applied().Less(l.At)
	}, 20*time.Second, 20*time.Millisecond)
	c.kill(1)
	n, err := c.openNode(1, three)
	require.NoError(t, err, "a list that the cluster had")
	require.NoError(t, n.listenerClosed())
	c.start(1) // and the one that it has
}

// listenerClosed closes a node that was never run.
func (n *Node) listenerClosed() error {
	return errors.Join(n.config.Listener.Close(), n.store.Close())
}

// A majority of empty disks must not found another cluster while the one who knows the log is away.
func TestAMajorityThatDoesNotKnowTheLogFoundsNothing(t *testing.T) {
	c := newCluster(t, 3, nobody)
	known := map[txn.ID]txn.Decision{}
	c.decide(3, known)
	c.storesKnown(3)
	for id := range zab.NodeID(3) {
		c.kill(id + 1)
	}
	for _, id := range []string{"2", "3"} {
		require.NoError(t, os.RemoveAll(filepath.Join(c.dir, id)))
	}
	c.start(2)
	c.start(3)
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(c.nodes[2].Status().Warnings, "\n"), "has not met node 1:")
	}, 10*time.Second, 20*time.Millisecond)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		require.Zero(t, c.nodes[2].Status().Cluster)
		require.Zero(t, c.nodes[3].Status().Leader)
	}
	c.start(1) // knows that these are not the stores that it knew
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(c.nodes[1].Status().Warnings, "\n"),
			"a different store from the one that the cluster knows")
	}, 10*time.Second, 20*time.Millisecond)
	require.Zero(t, c.nodes[2].Status().Cluster)
}

func TestMembersThatCannotBeChangedLikeThat(t *testing.T) {
	c := newCluster(t, 3, nobody)
	c.listed()
	ctx := t.Context()
	do := func(f func(*Node) error) error {
		return c.again(func(context.Context, *Node) error { return f(c.leader().Node) })
	}
	addr := func(id int) replica.Member {
		return replica.Member{ID: zab.NodeID(id), Peer: "127.0.0.1:1", API: "127.0.0.1:2"}
	}
	for name, x := range map[string]struct {
		do   func(n *Node) error
		kind error
		text string
	}{
		"add who is there": {func(n *Node) error { return n.AddMember(ctx, addr(2), "a", "ann", "why") },
			txn.ErrRefused, "node 2 is a member already (voter)"},
		"an address that is taken": {func(n *Node) error {
			return n.AddMember(ctx, replica.Member{ID: 4, Peer: c.members[0].Peer, API: "127.0.0.1:2"}, "b", "ann",
				"why")
		}, txn.ErrRefused, "is that of node 1"},
		"remove nobody": {func(n *Node) error { return n.RemoveMember(ctx, 9, "c", "ann", "why") }, txn.ErrNotFound,
			"there is no member 9"},
		"lead by nobody": {func(n *Node) error { return n.Lead(ctx, 9, "ann", "why") }, txn.ErrNotFound,
			"there is no member 9"},
	} {
		err := do(x.do)
		require.ErrorIs(t, err, x.kind, name)
		require.ErrorContains(t, err, x.text, name)
	}
	require.NoError(t, do(func(n *Node) error { return n.AddMember(ctx, addr(4), "k", "ann", "why") }))
	require.NoError(t, do(func(n *Node) error { return n.AddMember(ctx, addr(4), "k", "ann", "why") }), "asked again")
	require.NoError(t, do(func(n *Node) error { return n.AddMember(ctx, addr(4), "other", "ann", "why") }),
		"to go on waiting")
	err := do(func(n *Node) error {
		return n.AddMember(ctx, replica.Member{ID: 5, Peer: "127.0.0.1:3", API: "127.0.0.1:4"}, "l", "ann", "why")
	})
	require.ErrorIs(t, err, txn.ErrRefused)
	require.ErrorContains(t, err, "node 4 is being added and has not caught up yet")
	err = do(func(n *Node) error { return n.Lead(ctx, 4, "ann", "why") })
	require.ErrorContains(t, err, "node 4 is not a voter (learner)")
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(c.leader().Status().Warnings, "\n"), "node 4 is learning")
	}, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, do(func(n *Node) error { return n.RemoveMember(ctx, 4, "m", "ann", "why") }),
		"a learner that never came")

	// Without a third, another must not go.
	down := c.follower()
	c.kill(down)
	other := 6 - down - c.leader().config.Node
	require.Eventually(t, func() bool {
		err = do(func(n *Node) error { return n.RemoveMember(ctx, other, "n"+time.Now().String(), "ann", "why") })
		return errors.Is(err, txn.ErrRefused)
	}, 20*time.Second, 50*time.Millisecond)
	require.ErrorContains(t, err, "too few of the voters that are left follow")
	c.remove(down)

	// Without a quorum nothing changes.
	c.kill(other)
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, r := range c.nodes {
		require.Error(t, r.AddMember(short, addr(4), "q", "ann", "why"))
	}
	c.start(other)
	if err := do(func(n *Node) error { return n.RemoveMember(ctx, 4, "y", "ann", "why") }); err != nil {
		require.ErrorIs(t, err, txn.ErrNotFound) // unless a leader that had lost its quorum had taken it
	}
	c.remove(other)
	c.told(other)
	require.Len(t, c.leader().Members().Members, 1)
	err = do(func(n *Node) error { return n.RemoveMember(ctx, n.config.Node, "z", "ann", "why") })
	require.ErrorIs(t, err, txn.ErrRefused)
	require.ErrorContains(t, err, "is the last voter")
}

func TestLeadershipMovesUnderLoad(t *testing.T) {
	c := newCluster(t, 3, nobody)
	c.listed()
	end := c.load(4)
	for _, to := range []zab.NodeID{1, 2, 3, 1} {
		require.NoError(t, c.again(func(ctx context.Context,
			n *Node) error {
			return n.Act(ctx, txn.ActRecord{Kind: txn.ActLead, Node: uint64(to), Who: "ann", Why: "maintenance"},
				func() (string, error) { return "", n.Lead(ctx, to, "ann", "maintenance") })
		}))
		require.Eventually(t, func() bool { return c.nodes[to].Status().Leader == to }, 10*time.Second,
			10*time.Millisecond)
	}
	known := end()
	require.NotEmpty(t, known)
	c.remembered(known)
	require.Eventually(t, func() bool {
		acts, err := c.leader().Acts(t.Context())
		return err == nil && len(acts) >= 3 && !slices.ContainsFunc(acts,
			func(a *txn.Act) bool { return a.Outcome != txn.ActDone })
	}, 10*time.Second, 20*time.Millisecond, "they are in the log, and who leads next says that they are done")
	down := zab.NodeID(2)
	c.kill(down)
	require.Eventually(t, func() bool {
		err := c.leader().Lead(t.Context(), down, "ann", "why")
		return errors.Is(err, txn.ErrUnavailable) && strings.Contains(err.Error(), "cannot take over leadership now")
	}, 20*time.Second, 50*time.Millisecond)
	require.EqualValues(t, 1, c.leader().config.Node, "it leads on")
}

// Addresses follow the word of each node, and clients hear of it.
func TestAnAddressThatChangesIsToldToAll(t *testing.T) {
	c := newCluster(t, 3, nobody)
	c.listed()
	victim := c.follower()
	c.kill(victim)
	c.members = append(c.members[:0:0], c.members...)
	c.members[victim-1].API = "elsewhere"
	c.start(victim)
	for id := range c.nodes {
		require.Eventually(t, func() bool { return c.nodes[id].APIAddress(uint64(victim)) == "elsewhere" },
			20*time.Second, 20*time.Millisecond)
	}
}

// A node whose state has gone another way than that of the majority stops for good.
func TestANodeThatDivergesStopsForGood(t *testing.T) {
	for _, leads := range []bool{true, false} {
		t.Run(map[bool]string{true: "the leader", false: "a follower"}[leads], func(t *testing.T) {
			c := newCluster(t, 3, nobody)
			known := map[txn.ID]txn.Decision{}
			c.decide(5, known)
			c.listed()
			c.equal(3)
			victim := c.follower()
			if leads {
				victim = c.leader().config.Node
			}
			c.falsify(victim)
			require.Eventually(t, func() bool { return c.nodes[victim].Status().Distrusted != "" }, 30*time.Second,
				20*time.Millisecond)
			r := c.nodes[victim]
			require.Eventually(t, func() bool { // the mark is there
				text, found, err := r.store.ReadNote(wal.DistrustNote)
				return err == nil && found && strings.Contains(text, "differs")
			}, 10*time.Second, 20*time.Millisecond)
			_, err := r.Commit(t.Context(), txn.CommitRequest{ID: txn.NewID(time.Now())})
			require.ErrorIs(t, err, txn.ErrUnavailable)
			require.ErrorContains(t, err, "concord member replace "+strconv.Itoa(int(victim)))
			_, err = r.Outcome(t.Context(), txn.Inquiry{ID: txn.NewID(time.Now())})
			require.ErrorIs(t, err, txn.ErrUnavailable)
			require.Zero(t, r.Status().Leader)

			// The others go on, and it stays as it is.
			c.mu.Lock()
			delete(c.nodes, victim)
			c.mu.Unlock()
			c.decide(3, known)
			c.remembered(known)
			r.stop()
			require.NoError(t, <-r.done)
			c.start(victim)
			require.Eventually(t, func() bool { return c.nodes[victim].Status().Distrusted != "" }, 10*time.Second,
				20*time.Millisecond)
			require.Eventually(t, func() bool {
				for _, n := range c.leader().Status().Nodes {
					if n.ID == victim {
						return n.State == "diverged"
					}
				}
				return false
			}, 10*time.Second, 20*time.Millisecond)

			// Until its store is replaced.
			c.kill(victim)
			require.NoError(t, os.RemoveAll(filepath.Join(c.dir, strconv.Itoa(int(victim)))))
			require.NoError(t, c.again(func(ctx context.Context,
				n *Node) error {
				return n.Replace(ctx, victim, "ann", "diverged")
			}))
			c.start(victim)
			c.equal(3)
			require.Empty(t, c.nodes[victim].Status().Distrusted)
		})
	}
}

// Where no majority agrees nobody answers.
func TestWhereNoMajorityAgreesAllStop(t *testing.T) {
	c := newCluster(t, 3, nobody)
	c.decide(5, map[txn.ID]txn.Decision{})
	c.listed()
	c.equal(3)
	c.falsify(1)
	c.falsify(2)
	for id := range zab.NodeID(3) {
		require.Eventually(t, func() bool { return c.nodes[id+1].Status().Distrusted != "" }, 30*time.Second,
			20*time.Millisecond, "node %d", id+1)
		_, err := c.nodes[id+1].Outcome(t.Context(), txn.Inquiry{ID: txn.NewID(time.Now())})
		require.ErrorIs(t, err, txn.ErrUnavailable)
	}
}

// Two that differ, and the third away: neither knows who is right, so neither answers, until
// the third says it.
func TestTwoThatDifferWaitForTheThird(t *testing.T) {
	c := newCluster(t, 3, nobody)
	known := map[txn.ID]txn.Decision{}
	c.decide(5, known)
	c.listed()
	c.equal(3)
	away := c.follower()
	c.kill(away)
	wrong := 6 - away - c.leader().config.Node
	c.falsify(wrong)
	right := 6 - away - wrong
	for _, id := range []zab.NodeID{wrong, right} {
		require.Eventually(t, func() bool {
			return strings.Contains(c.nodes[id].Status().Distrusted,
				"it answers nothing until it knows with whom the majority agrees")
		}, 30*time.Second, 20*time.Millisecond)
	}
	c.start(away)
	require.Eventually(t, func() bool {
		return strings.Contains(c.nodes[wrong].Status().Distrusted,
			"takes part in nothing")
	}, 60*time.Second, 20*time.Millisecond)
	require.Eventually(t, func() bool { return c.nodes[right].Status().Distrusted == "" }, 60*time.Second,
		20*time.Millisecond)
}

// falsify lets a node fold something else than the others do from the next entry on.
func (c *testCluster) falsify(id zab.NodeID) {
	c.t.Helper()
	r := c.nodes[id]
	did := make(chan bool, 1)
	forge := func(uint64) replica.Event {
		x, err := r.readRestored(r.core.Zxid())
		require.NoError(c.t, err)
		m := x.table.Meta()
		if m.Zxid != r.core.Zxid() { // something is on its way to the store
			did <- false
			return replica.Tick{Now: time.Now()}
		}
		m.Digest[0] ^= byte(id)
		x.table = txn.NewTable(m, x.table.Open(), r.archive)
		r.restored.Store(x)
		require.NoError(c.t, r.commits.Load())
		did <- true
		return replica.Tick{Now: time.Now()}
	}
	require.Eventually(c.t, func() bool {
		r.submit(forge, func(commit.Reply) {})
		return <-did
	}, 20*time.Second, 10*time.Millisecond)
	c.leader().CommitLater(txn.CommitRequest{ID: txn.NewID(time.Now())}, func(commit.Reply) {})
}
