// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
)

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
	require.NoError(c, n.process.end(syscall.SIGTERM, patience))
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
	c.warned(c.leader(), "another store than the cluster knows", next)
	c.keptOut(victim, "another store than the cluster knows", next)
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
	defer func() { require.NoError(t, twin.process.end(syscall.SIGTERM, patience)) }()
	c.warned(c.node(1), "node 2 has another store than the cluster knows", "concord member replace 2")
	c.keptOut(&twin, "another store than the cluster knows")
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
	for _, text := range []string{"GET / HTTP/1.1\r\n\r\n", "\x7f\xff\xff\xff garbage of two gigabytes", strings.Repeat("\x00", 64)} {
		conn, err := net.Dial("tcp", target.peer)
		require.NoError(t, err)
		_, err = conn.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.Copy(io.Discard, conn)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "it is closed")
		require.NoError(t, conn.Close())
	}
	eventually(t, "they are counted", func() bool { return c.metric(target, "concord_peer_connections_refused_total") >= refused+3 })
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
