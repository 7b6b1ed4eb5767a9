// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lonely is one node of three, whose peers are for a test to play. It listens at addr.
func lonely(t *testing.T) (n *runningNode, addr string, log *lines) {
	log = &lines{}
	c := &testCluster{t: t, dir: t.TempDir(), open: nobody, nodes: map[zab.NodeID]*runningNode{}}
	for id := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		c.members = append(c.members, Member{ID: zab.NodeID(id + 1), Peer: l.Addr().String()})
		require.NoError(t, l.Close())
	}
	c.tune = func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) }
	c.start(1)
	t.Cleanup(func() { c.kill(1) })
	return c.nodes[1], c.members[0].Peer, log
}

func dialRaw(t *testing.T, addr string) net.Conn {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asPeer is a hello that node 1 accepts.
func asPeer(n *runningNode, from zab.NodeID) hello {
	h := n.hello()
	h.From, h.To, h.Store, h.Dial = from, 1, txn.StoreID{byte(from)}, 1<<32|1
	return h
}

// speak opens a connection with a hello and returns what comes back.
func speak(t *testing.T, addr string, h hello) (net.Conn, frameKind, string) {
	conn := dialRaw(t, addr)
	require.NoError(t, writeFrame(conn, frameHello, h.append(nil)))
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	kind, body, err := readFrame(bufio.NewReader(conn))
	require.NoError(t, err)
	return conn, kind, string(body)
}

// closed waits until the other side has ended a connection.
func closed(t *testing.T, conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.Copy(io.Discard, conn)
	var late net.Error
	require.False(t, errors.As(err, &late) && late.Timeout(), "still open")
}

func TestStrangersAreRefusedAndCounted(t *testing.T) {
	n, addr, log := lonely(t)
	oversized := binary.BigEndian.AppendUint32(nil, 1<<31)
	handshake := binary.BigEndian.AppendUint32(nil, maxHandshake+1) // a frame that only a peer may send
	damaged, start := beginFrame(nil, frameHello)
	damaged = endFrame(asPeer(n, 2).append(damaged), start)
	damaged[len(damaged)-1] ^= 1
	early, start := beginFrame(nil, frameReport)
	early = endFrame(report{}.append(early), start)
	short, start := beginFrame(nil, frameHello)
	short = endFrame(append(short, asPeer(n, 2).append(nil)[:60]...), start)
	before := n.peers.turnedAway.total.Load()
	count := uint64(0)
	for name, bytes := range map[string][]byte{
		"HTTP": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "zeros": make([]byte, 64),
		"oversized": append(oversized, make([]byte, 16)...), "oversized handshake": append(handshake, make([]byte, 16)...),
		"damaged hello": damaged, "report before hello": early, "short hello": short, "nothing": nil,
	} {
		conn := dialRaw(t, addr)
		_, err := conn.Write(bytes)
		require.NoError(t, err, name)
		if bytes == nil {
			require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		}
		closed(t, conn)
		count++
	}
	require.Eventually(t, func() bool { return n.peers.turnedAway.total.Load() == before+count }, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, log.String(), "connection to the peer port refused")
	require.Equal(t, 1, strings.Count(log.String(), "connection to the peer port refused"), "one line for all of them: %s", log)
	require.Eventually(t, func() bool { return n.Status().TurnedAway == before+count }, 10*time.Second, 10*time.Millisecond)
}

func TestHelloThatDoesNotFitIsRefusedWithTheNextStep(t *testing.T) {
	n, addr, log := lonely(t)
	began := time.Now()
	for name, x := range map[string]struct {
		change func(*hello)
		want   string
	}{
		"earlier":    {func(h *hello) { h.Newest, h.Oldest = oldestVersion-1, 1 }, "the releases are too far apart, upgrade node"},
		"later":      {func(h *hello) { h.Newest, h.Oldest = protocolVersion+2, protocolVersion+1 }, "the releases are too far apart, upgrade node"},
		"level":      {func(h *hello) { h.Level = txn.LevelBase - 1 }, "the cluster is at feature level 1, and node"},
		"needs":      {func(h *hello) { h.Needs = txn.Newest + 1 }, "run the release there that the other nodes run"},
		"own id":     {func(h *hello) { h.From = 1 }, "two nodes have the id 1: give each node its own id"},
		"wrong node": {func(h *hello) { h.To = 3 }, `correct the addresses in "members"`},
		"members":    {func(h *hello) { h.Members[0]++ }, "use the same list on all nodes"},
		"stranger":   {func(h *hello) { h.From = 9 }, "concord member add 9"},
	} {
		t.Run(name, func(t *testing.T) {
			h := asPeer(n, 2)
			x.change(&h)
			conn, kind, why := speak(t, addr, h)
			require.Equal(t, frameRefused, kind)
			require.Contains(t, why, x.want)
			closed(t, conn)
		})
	}
	for from := range zab.NodeID(200) { // any number can be said; none of it is kept
		h := asPeer(n, 100+from)
		_, kind, _ := speak(t, addr, h)
		require.Equal(t, frameRefused, kind)
	}
	for i := range 200 { // as can many reasons
		h := asPeer(n, 2)
		h.To += zab.NodeID(i + 1)
		_, kind, _ := speak(t, addr, h)
		require.Equal(t, frameRefused, kind)
	}
	require.LessOrEqual(t, strings.Count(log.String(), "peer refused"), 2+int(time.Since(began)/refusalInterval), "%s", log)
	kept := 0
	n.peers.refusals.Range(func(any, any) bool { kept++; return true })
	require.LessOrEqual(t, kept, 2)

	conn, kind, _ := speak(t, addr, asPeer(n, 2))
	require.Equal(t, frameHello, kind)
	twin := asPeer(n, 2)
	twin.Store[5]++
	_, kind, why := speak(t, addr, twin)
	require.Equal(t, frameRefused, kind)
	require.Contains(t, why, "two nodes have the id 2: give each node its own id")
	require.NoError(t, conn.Close())
}

// Thousands of connections that say nothing, or half of a hello, neither keep a peer out
// nor keep anything of this node.
func TestSilentCrowdAtThePeerPortKeepsNothing(t *testing.T) {
	n, addr, _ := lonely(t)
	half, start := beginFrame(nil, frameHello)
	half = endFrame(asPeer(n, 2).append(half), start)[:20]
	before := runtime.NumGoroutine()
	for i := range 2000 {
		conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
		require.NoError(t, err)
		defer conn.Close()
		if i%2 == 0 {
			_, _ = conn.Write(half) // it may be closed again already
		}
		if i%500 == 499 {
			c, kind, _ := speak(t, addr, asPeer(n, 2))
			require.Equal(t, frameHello, kind, "a peer is heard in the crowd")
			require.NoError(t, c.Close())
		}
	}
	require.Eventually(t, func() bool {
		n.peers.conns.mu.Lock()
		defer n.peers.conns.mu.Unlock()
		return len(n.peers.conns.strangers) <= maxStrangers && len(n.peers.conns.conns) <= maxStrangers+2*maxPerPeer &&
			runtime.NumGoroutine() <= before+maxStrangers+8
	}, 20*time.Second, 20*time.Millisecond, "%d goroutines", runtime.NumGoroutine())
	require.Eventually(t, func() bool { // those that stay have the time of a handshake
		n.peers.conns.mu.Lock()
		defer n.peers.conns.mu.Unlock()
		return len(n.peers.conns.strangers) == 0
	}, 20*time.Second, 20*time.Millisecond)
}

// What a peer says on a new connection is not mixed with what it said on an earlier one,
// however late that arrives: neither do its bytes count nor does its end look like an end
// of the new one.
func TestLateBytesOfAnOldConnectionAreNotHeard(t *testing.T) {
	p, received, addr := receiverOf(t)
	word := func(epoch zab.Epoch) []byte {
		return appendOutbound(nil, outbound{report: &report{Epoch: epoch}}, listVersion-1)
	}
	say := func(conn net.Conn, epoch zab.Epoch) {
		_, err := conn.Write(word(epoch))
		require.NoError(t, err)
	}
	next := func() inbound {
		for {
			select {
			case in := <-received:
				if in.met == nil {
					return in
				}
			case <-time.After(20 * time.Second):
				t.Fatal("nothing is heard")
			}
		}
	}
	number := func(dial uint64) hello {
		h := p.self()
		h.From, h.To, h.Dial = 2, 1, dial
		h.Store = txn.StoreID{2}
		return h
	}

	first, kind, _ := speak(t, addr, number(1))
	require.Equal(t, frameHello, kind)
	idle, kind, _ := speak(t, addr, number(2)) // its words are on their way
	require.Equal(t, frameHello, kind)
	say(first, 1)
	require.EqualValues(t, 1, next().report.Epoch)

	latest, kind, _ := speak(t, addr, number(3))
	require.Equal(t, frameHello, kind)
	_, err := first.Write(word(1)[:9]) // half a frame, and the rest comes late
	require.NoError(t, err)
	say(latest, 3)
	require.True(t, next().lost, "the end of the first comes before the first word of the latest")
	require.EqualValues(t, 3, next().report.Epoch)
	closed(t, first)

	_, _ = idle.Write(word(2))
	closed(t, idle)
	say(latest, 4)
	require.EqualValues(t, 4, next().report.Epoch, "nothing came between, neither a word nor a loss")
}

// receiverOf is the receiving half of node 1 alone.
func receiverOf(t *testing.T) (p *peers, received chan inbound, addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	received = make(chan inbound)
	members := []Member{{ID: 1, Peer: l.Addr().String()}, {ID: 2, Peer: "127.0.0.1:1"}}
	self := func() hello {
		return hello{Newest: protocolVersion, Oldest: oldestVersion, From: 1, Members: membersHash(members)}
	}
	var list atomic.Pointer[List]
	list.Store(&List{Members: members})
	p = newPeers(self, &list, members, l, slog.New(slog.DiscardHandler), received)
	runUntilEnd(t, p.run)
	return p, received, l.Addr().String()
}

func runUntilEnd(t *testing.T, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

// A peer that reads all, answers the hello and is never heard is one behind a black hole: the
// connection to it is given up.
func TestPeerThatIsNeverHeardIsNotSpokenTo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hole.Close() })
	members := []Member{{ID: 1, Peer: l.Addr().String()}, {ID: 2, Peer: hole.Addr().String()}}
	self := hello{Newest: protocolVersion, Oldest: oldestVersion, From: 1, Members: membersHash(members)}
	received := make(chan inbound)
	var list atomic.Pointer[List]
	list.Store(&List{Members: members})
	p := newPeers(func() hello { return self }, &list, members, l, slog.New(slog.DiscardHandler), received)
	runUntilEnd(t, p.run)
	conn, err := hole.Accept()
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	_, body, err := readFrame(r)
	require.NoError(t, err)
	h, err := decodeHello(body)
	require.NoError(t, err)
	h.From, h.To = 2, 1
	require.NoError(t, writeFrame(conn, frameHello, h.append(nil)))
	require.Eventually(t, func() bool { return p.reachable(2) }, 10*time.Second, 10*time.Millisecond)
	go func() { _, _ = io.Copy(io.Discard, r) }()
	deadline := time.After(4 * peerTimeout)
	for {
		p.send(2, outbound{report: &report{}, standing: &standing{}})
		select {
		case in := <-received:
			if in.met != nil {
				continue
			}
			require.True(t, in.lost)
			require.EqualValues(t, 2, in.from)
			return
		case <-deadline:
			t.Fatal("the black hole is not noticed")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
