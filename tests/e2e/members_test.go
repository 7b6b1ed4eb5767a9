// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// newNode makes the configuration of one more node, which names the members that there are and
// itself.
func (c *cluster) newNode(id int) *node {
	c.Helper()
	n := &node{id: id, dir: c.TempDir(),
		api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(c)), peer: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(c))}
	n.config, n.log = filepath.Join(n.dir, "concord.yaml"), filepath.Join(n.dir, "concord.log")
	var members strings.Builder
	for _, m := range append(c.nodes[:len(c.nodes):len(c.nodes)], n) {
		fmt.Fprintf(&members, "  - {id: %d, peer: %s, api: %s}\n", m.id, m.peer, m.api)
	}
	text := fmt.Sprintf("node: %d\ndata_dir: %s\napi: {listen: %s}\npeer: {listen: %s}\nmembers:\n%s", id,
		filepath.Join(n.dir, "data"), n.api, n.peer, &members)
	require.NoError(c, os.WriteFile(n.config, []byte(text), 0o600))
	return n
}

// byLog waits until the log says who the members are.
func (c *cluster) byLog() {
	c.Helper()
	for _, n := range c.nodes {
		c.logged(n, "the members are ")
	}
}

// member is what a node says of another in "member ls"; its ID is 0 if it is no member.
func (c *cluster) member(id int) (m memberJSON) {
	c.Helper()
	r := c.command("member", "ls", "-o", "json")
	if r.code != 0 {
		return m
	}
	var all []memberJSON
	decode(c, r.stdout, &all)
	for _, m := range all {
		if m.ID == id {
			return m
		}
	}
	return m
}

type memberJSON struct {
	ID    int    `json:"id"`
	Role  string `json:"role"`
	State string `json:"state"`
	Lag   int    `json:"lag"`
	Peer  string `json:"peer"`
	API   string `json:"api"`
}

// add is "concord member add" of a node.
func (c *cluster) add(n *node, more ...string) {
	c.Helper()
	r := c.command(append([]string{"member", "add", fmt.Sprint(n.id), "--peer", n.peer, "--api", n.api, "--timeout",
		"40s"}, more...)...)
	require.Equal(c, 0, r.code, "%v", r)
}

// leaves removes a node, which is told so and ends with exit code 2.
func (c *cluster) leaves(n *node) {
	c.Helper()
	r := c.command("member", "remove", fmt.Sprint(n.id), "--timeout", "40s")
	require.Equal(c, 0, r.code, "%v", r)
	c.nodes = c.others(n)
	c.toldThatItWasRemoved(n)
}

func (c *cluster) toldThatItWasRemoved(n *node) {
	c.Helper()
	eventually(c, fmt.Sprintf("node %d ends", n.id), func() bool { return !n.process.Alive() })
	require.Equal(c, 2, n.process.State().ExitCode(), "%s", tail(n.log))
	require.Contains(c, tail(n.log), "this node was removed from its cluster")
	require.Contains(c, tail(n.log), fmt.Sprintf("concord member add %d", n.id))
	_ = n.process.End(syscall.SIGKILL, patience) // and its watchdog
}

func TestMembersComeAndGoUnderLoad(t *testing.T) {
	c := startCluster(t, settings{})
	c.byLog()
	d := c.startDecisions(t, c.addrs(), 4, 30*time.Second)
	d.goesOn(50)
	four, five := c.newNode(4), c.newNode(5)
	c.start(four) // before anybody knows of it
	c.add(four)
	c.nodes = append(c.nodes, four)
	d.goesOn(50)
	require.Equal(t, "voter", c.member(4).Role)

	r := c.command("member", "add", "5", "--peer", five.peer, "--api", five.api, "--wait", "1s")
	require.Equal(t, 4, r.code, "%v", r)
	for _, text := range []string{"node 5 is a learner and has not caught up within 1s", "concord member remove 5"} {
		require.Contains(t, r.stderr, text)
	}
	r = c.command("member", "add", "6", "--peer", "127.0.0.1:1", "--api", "127.0.0.1:2")
	require.Equal(t, 5, r.code, "%v", r)
	require.Contains(t, r.stderr, "node 5 is being added")
	c.start(five)
	c.add(five) // goes on waiting
	c.nodes = append(c.nodes, five)
	c.ready()
	d.goesOn(50)

	leader := c.leader()
	c.leaves(leader)
	d.goesOn(50)
	c.leaves(c.others(c.leader())[0])
	d.goesOn(50)
	c.ready()

	// A new voter's voice counts: with it and without another the cluster goes on.
	for _, n := range c.others(c.leader()) {
		c.kill(n)
		d.goesOn(20)
		c.start(n)
		c.ready()
	}

	// A voter with a blank disk, and then all at once: the configurations are those of the start.
	blank := c.others(c.leader())[0]
	c.kill(blank)
	require.NoError(t, os.RemoveAll(filepath.Join(blank.dir, "data")))
	r = c.command("member", "replace", fmt.Sprint(blank.id), "--reason", "the disk burnt", "--yes")
	require.Equal(t, 0, r.code, "%v", r)
	c.start(blank)
	c.ready()
	for _, n := range c.nodes {
		c.kill(n)
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	c.ready()
	d.goesOn(50)
	d.end(c)

	// Who was removed is told so again, and comes back as a new node.
	c.start(leader)
	c.toldThatItWasRemoved(leader)
	require.NoError(t, os.RemoveAll(filepath.Join(leader.dir, "data")))
	c.start(leader)
	c.logged(leader, fmt.Sprintf("concord member add %d", leader.id))
	c.add(leader)
	c.nodes = append(c.nodes, leader)
	c.ready()
}

// Two clusters out of one by one edited line: it was enough to leave the others out.
func TestListThatTheLogDoesNotKnowEndsTheNode(t *testing.T) {
	c := startCluster(t, settings{})
	c.byLog()
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	stray := c.others(c.leader())[0]
	c.stopped(stray)
	before, err := os.ReadFile(stray.config)
	require.NoError(t, err)
	only := fmt.Sprintf("members:\n  - {id: %d, peer: %s, api: %s}\n", stray.id, stray.peer, stray.api)
	more := string(before) + fmt.Sprintf("  - {id: 4, peer: 127.0.0.1:%d, api: 127.0.0.1:%d}\n", testdb.FreePort(t),
		testdb.FreePort(t))
	for what, text := range map[string]string{
		"alone":    string(before[:strings.Index(string(before), "members:")]) + only,
		"one more": more,
	} {
		require.NoError(t, os.WriteFile(stray.config, []byte(text), 0o600))
		r := command(t, "serve", "--config", stray.config)
		require.Equal(t, 2, r.code, "%s: %v", what, r)
		for _, part := range []string{"\"members\" in the file", "in the log", "1 voter", "3 voter",
			"concord member add"} {
			require.Contains(t, r.stderr, part, what)
		}
		d.goesOn(20)
	}
	require.NoError(t, os.WriteFile(stray.config, before, 0o600))
	c.start(stray)
	c.ready()
	d.end(c)
}

func TestLeadershipMovesWhereItIsAsked(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	for range 2 {
		for _, n := range c.nodes {
			r := c.command("lead", fmt.Sprint(n.id), "--timeout", "40s")
			require.Equal(t, 0, r.code, "%v", r)
			eventually(t, "it leads", func() bool { s, ok := n.status(c); return ok && s.Leader == n.id })
			d.goesOn(20)
		}
	}
	require.Equal(t, 3, c.command("lead", "9").code)
	require.Equal(t, 2, c.command("lead", "x").code)
	down := c.others(c.leader())[0]
	c.kill(down)
	eventually(t, "refused", func() bool {
		r := c.command("lead", fmt.Sprint(down.id), "--timeout", "2s")
		return r.code == 4 && strings.Contains(r.stderr, "cannot take over leadership now")
	})
	d.goesOn(20)
	c.start(down)
	c.ready()
	d.end(c)
}

// A node that waits for the others to found the cluster says so, and is not ready.
func TestAClusterIsFoundedByAllOfItsVoters(t *testing.T) {
	c := newCluster(t, settings{})
	c.start(c.node(1))
	c.start(c.node(2))
	c.warned(c.node(1), "is empty, and it has not met node 3")
	res, err := http.Get("http://" + c.node(1).api + "/readyz")
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Empty(t, c.seen(c.node(2)).GetCluster())
	c.start(c.node(3))
	c.ready()
}

// A node that has stopped for good, because its state is another than the majority's, is not ready,
// answers nothing, and stays so until its store is replaced.
func TestANodeThatStoppedForGoodStaysSo(t *testing.T) {
	c := startCluster(t, settings{})
	c.byLog()
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	victim := c.others(c.leader())[0]
	for _, n := range c.nodes {
		c.logged(n, fmt.Sprintf("node %d has the store ", victim.id))
	}
	c.stopped(victim)
	store, err := wal.Open(filepath.Join(victim.dir, "data", "store"),
		wal.Options{Node: zab.NodeID(victim.id), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, store.WriteNote(wal.DistrustNote, "its state differs"))
	require.NoError(t, store.Close())
	for range 2 {
		c.start(victim)
		eventually(t, "it is not ready", func() bool {
			res, err := http.Get("http://" + victim.api + "/readyz")
			if err != nil {
				return false
			}
			text, _ := io.ReadAll(res.Body)
			require.NoError(t, res.Body.Close())
			return res.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text),
				"its state differs")
		})
		caller, err := api.Dial([]string{victim.api}, api.ClientOptions{Patience: 2 * time.Second})
		require.NoError(t, err)
		_, err = caller.Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: txn.NewID(time.Now()).String()})
		require.ErrorContains(t, err, "its state differs")
		_, err = caller.Commit(t.Context(), c.bare(txn.NewID(time.Now())))
		require.ErrorContains(t, err, "its state differs")
		require.NoError(t, caller.Close())
		require.Zero(t, c.seen(victim).GetLeader())
		d.goesOn(20)
		c.stopped(victim)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(victim.dir, "data")))
	r := c.command("member", "replace", fmt.Sprint(victim.id), "--reason", "its state differed", "--yes")
	require.Equal(t, 0, r.code, "%v", r)
	c.start(victim)
	c.ready()
	d.end(c)
}

// rewrite replaces something in a node's configuration, which must be there.
func (n *node) rewrite(t testing.TB, old, new string) {
	t.Helper()
	b, err := os.ReadFile(n.config)
	require.NoError(t, err)
	require.Contains(t, string(b), old)
	require.NoError(t, os.WriteFile(n.config, []byte(strings.Replace(string(b), old, new, 1)), 0o600))
}

// stopped ends a node in order.
func (c *cluster) stopped(n *node) {
	c.Helper()
	require.NoError(c, n.process.End(syscall.SIGTERM, patience))
}

// warned waits until a node's status warns of something, in all of these words.
func (c *cluster) warned(n *node, words ...string) {
	c.Helper()
	eventually(c, fmt.Sprintf("node %d warns: %q", n.id, words), func() bool {
		for _, w := range c.seen(n).GetWarnings() {
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(w, word)
			}
			if !missing {
				return true
			}
		}
		return false
	})
}

// logged waits until the log of a node says something.
func (c *cluster) logged(n *node, text string) {
	c.Helper()
	eventually(c, fmt.Sprintf("the log of node %d says %q", n.id, text), func() bool {
		b, err := os.ReadFile(n.log)
		require.NoError(c, err)
		return strings.Contains(string(b), text)
	})
}

// keptOut makes sure that a node takes part in nothing, and says why in its log.
func (c *cluster) keptOut(n *node, words ...string) {
	c.Helper()
	for _, word := range words {
		c.logged(n, word)
	}
	require.Zero(c, c.seen(n).GetLeader(), "node %d knows no leader", n.id)
}

func TestBlankVoterIsKeptOutUntilAnOperatorReplacesIt(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	victim := c.others(c.leader())[0]
	for _, n := range c.others(victim) {
		c.logged(n, fmt.Sprintf("node %d has the store ", victim.id))
	}
	for range 2 { // so that it has counted some starts, which the blank disk has not
		c.stopped(victim)
		c.start(victim)
		c.ready()
	}
	next := fmt.Sprintf("concord member replace %d", victim.id)
	c.kill(victim)
	require.NoError(t, os.RemoveAll(filepath.Join(victim.dir, "data")))
	c.start(victim)
	c.warned(c.leader(), "a different store from the one that the cluster knows", next)
	c.keptOut(victim, "a different store from the one that the cluster knows", next)
	d.goesOn(50)
	c.kill(victim)
	r := c.command("member", "replace", fmt.Sprint(victim.id), "--reason", "the disk burnt", "--yes")
	require.Equal(t, 0, r.code, "%v", r)
	c.start(victim)
	c.ready()
	// Its voice is needed now, and it has everything.
	other := c.others(victim)[0]
	c.kill(other)
	d.goesOn(50)
	c.start(other)
	c.ready()
	d.end(c)
}

func TestDirectoryThatWasSetBackIsKeptOut(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	victim := c.others(c.leader())[0]
	data, backup := filepath.Join(victim.dir, "data"), filepath.Join(victim.dir, "backup")
	c.stopped(victim)
	require.NoError(t, os.CopyFS(backup, os.DirFS(data)))
	c.start(victim)
	c.ready()
	d.goesOn(50)
	// A new leader notes at once what the stores in step with it hold, any leader once a
	// minute: "last week" is long enough ago.
	old := c.leader()
	epoch := c.seen(old).GetEpoch()
	c.stopped(old)
	c.another(old, epoch, c.others(old))
	d.goesOn(50)
	c.start(old)
	c.ready()
	for _, n := range c.nodes {
		c.logged(n, fmt.Sprintf("node %d holds the log up to %d.", victim.id, c.seen(n).GetEpoch()))
	}
	c.stopped(victim)
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.Rename(backup, data))
	c.start(victim)
	next := fmt.Sprintf("concord member replace %d", victim.id)
	c.warned(c.others(victim)[0], fmt.Sprintf("the store of node %d was set back", victim.id), next)
	c.keptOut(victim, "was set back", next)
	d.goesOn(50)
	c.kill(victim)
	r := c.command("member", "replace", fmt.Sprint(victim.id), "--reason", "restored from a backup by mistake", "--yes")
	require.Equal(t, 0, r.code, "%v", r)
	require.NoError(t, os.RemoveAll(data))
	c.start(victim)
	c.ready()
	d.end(c)
}

func TestSecondProcessWithTheSameIDIsKeptOut(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	twin := *c.node(2)
	twin.dir = t.TempDir()
	twin.config, twin.log = filepath.Join(twin.dir, "concord.yaml"), filepath.Join(twin.dir, "concord.log")
	b, err := os.ReadFile(c.node(2).config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(twin.config, b, 0o600))
	twin.rewrite(t, "data_dir: "+filepath.Join(c.node(2).dir, "data"), "data_dir: "+filepath.Join(twin.dir, "data"))
	twin.api = fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	twin.rewrite(t, fmt.Sprintf("api: {listen: %s}\npeer: {listen: %s}", c.node(2).api, c.node(2).peer),
		fmt.Sprintf("api: {listen: %s}\npeer: {listen: 127.0.0.1:%d}", twin.api, testdb.FreePort(t)))
	for _, n := range c.nodes {
		c.logged(n, "node 2 has the store ")
	}
	c.start(&twin)
	defer func() { require.NoError(t, twin.process.End(syscall.SIGTERM, patience)) }()
	c.warned(c.node(1), "node 2 has a different store from the one that the cluster "+
		"knows", "concord member replace 2")
	c.keptOut(&twin, "a different store from the one that the cluster knows")
	d.goesOn(50)
	c.ready() // the right one has not noticed anything
	d.end(c)
}

// Strangers at the peer port: who sends garbage, who promises gigabytes, who sends half of a
// hello and waits, and a crowd of who say nothing. The node goes on, with the memory it had.
func TestStrangersAtThePeerPortDisturbNobody(t *testing.T) {
	c := startCluster(t, settings{})
	d := c.startDecisions(t, c.addrs(), 4, 20*time.Second)
	d.goesOn(50)
	target := c.leader()
	epoch, memory, fds := c.seen(target).GetEpoch(), c.resident(target), c.fds(target)
	refused := c.metric(target, "concord_peer_connections_refused_total")
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "\x7f\xff\xff\xff garbage of two gigabytes",
		strings.Repeat("\x00", 64)} {
		conn, err := net.Dial("tcp", target.peer)
		require.NoError(t, err)
		_, err = conn.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is closed")
		require.NoError(t, conn.Close())
	}
	eventually(t, "they are counted", func() bool {
		return c.metric(target,
			"concord_peer_connections_refused_total") >= refused+3
	})
	var crowd sync.WaitGroup
	for range 4 {
		crowd.Go(func() {
			for i := range 500 {
				conn, err := net.Dial("tcp", target.peer)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if i%2 == 0 {
					_, _ = conn.Write([]byte("\x00\x00\x00\x80\x00\x00\x00\x00\x01concord peer\n")) // and then nothing
				}
			}
		})
	}
	crowd.Wait()
	d.goesOn(50)
	require.LessOrEqual(t, c.seen(target).GetEpoch(), epoch+1)
	require.Less(t, c.resident(target), memory+128<<20)
	eventually(t, "they are gone", func() bool { return c.fds(target) <= fds+12 })
	b, err := os.ReadFile(target.log)
	require.NoError(t, err)
	lines := strings.Count(string(b), "connection to the peer port refused")
	require.NotZero(t, lines)
	require.Less(t, lines, 20, "a flood does not fill the log")
	c.ready()
	d.end(c)
}
