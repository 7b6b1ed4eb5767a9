// SPDX-License-Identifier: Apache-2.0

package peer

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

	"github.com/concordtx/concord/coordinator/replica"
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

// lonely is node 1 of three, whose peers are for a test to play. It listens at addr.
func lonely(t *testing.T) (p *Transport, addr string, log *lines) {
	log = &lines{}
	p, received, addr := transportOf(t, 3, slog.New(slog.NewTextHandler(log, nil)))
	ctx, stop := context.WithCancel(context.Background())
	var drained sync.WaitGroup
	drained.Go(func() {
		for {
			select {
			case <-received:
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { stop(); drained.Wait() })
	return p, addr, log
}

func dialRaw(t *testing.T, addr string) net.Conn {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asPeer is a hello that node 1 accepts.
func asPeer(p *Transport, from zab.NodeID) Hello {
	h := p.hello()
	h.From, h.To, h.Store, h.Dial = from, 1, txn.StoreID{byte(from)}, 1<<32|1
	return h
}

// speak opens a connection with a hello and returns what comes back.
func speak(t *testing.T, addr string, h Hello) (net.Conn, frameKind, string) {
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
	p, addr, log := lonely(t)
	oversized := binary.BigEndian.AppendUint32(nil, 1<<31)
	handshake := binary.BigEndian.AppendUint32(nil, maxHandshake+1) // a frame that only a peer may send
	damaged, start := beginFrame(nil, frameHello)
	damaged = endFrame(asPeer(p, 2).append(damaged), start)
	damaged[len(damaged)-1] ^= 1
	early, start := beginFrame(nil, frameReport)
	early = endFrame(Report{}.append(early), start)
	short, start := beginFrame(nil, frameHello)
	short = endFrame(append(short, asPeer(p, 2).append(nil)[:60]...), start)
	before := p.TurnedAway()
	count := uint64(0)
	for name, bytes := range map[string][]byte{
		"HTTP": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "zeros": make([]byte, 64),
		"oversized":           append(oversized, make([]byte, 16)...),
		"oversized handshake": append(handshake, make([]byte, 16)...),
		"damaged hello":       damaged, "report before hello": early, "short hello": short, "nothing": nil,
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
	require.Eventually(t, func() bool { return p.TurnedAway() == before+count }, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, log.String(), "connection to the peer port refused")
	require.Equal(t, 1, strings.Count(log.String(), "connection to the peer port refused"),
		"one line for all of them: %s", log)
}

func TestHelloThatDoesNotFitIsRefusedWithTheNextStep(t *testing.T) {
	p, addr, log := lonely(t)
	began := time.Now()
	for name, x := range map[string]struct {
		change func(*Hello)
		want   string
	}{
		"earlier": {func(h *Hello) { h.Newest, h.Oldest = oldestVersion-1, 1 },
			"the releases are too far apart, upgrade node"},
		"later": {func(h *Hello) { h.Newest, h.Oldest = protocolVersion+2, protocolVersion+1 },
			"the releases are too far apart, upgrade node"},
		"level":      {func(h *Hello) { h.Level = txn.LevelBase - 1 }, "the cluster is at feature level 1, and node"},
		"needs":      {func(h *Hello) { h.Needs = txn.Newest + 1 }, "run the release there that the other nodes run"},
		"own id":     {func(h *Hello) { h.From = 1 }, "two nodes have the id 1: give each node its own id"},
		"wrong node": {func(h *Hello) { h.To = 3 }, `correct the addresses in "members"`},
		"members":    {func(h *Hello) { h.Members[0]++ }, "use the same list on all nodes"},
		"stranger":   {func(h *Hello) { h.From = 9 }, "concord member add 9"},
	} {
		t.Run(name, func(t *testing.T) {
			h := asPeer(p, 2)
			x.change(&h)
			conn, kind, why := speak(t, addr, h)
			require.Equal(t, frameRefused, kind)
			require.Contains(t, why, x.want)
			closed(t, conn)
		})
	}
	for from := range zab.NodeID(200) { // any number can be said; none of it is kept
		h := asPeer(p, 100+from)
		_, kind, _ := speak(t, addr, h)
		require.Equal(t, frameRefused, kind)
	}
	for i := range 200 { // as can many reasons
		h := asPeer(p, 2)
		h.To += zab.NodeID(i + 1)
		_, kind, _ := speak(t, addr, h)
		require.Equal(t, frameRefused, kind)
	}
	require.LessOrEqual(t, strings.Count(log.String(), "peer refused"), 2+int(time.Since(began)/refusalInterval), "%s",
		log)
	require.LessOrEqual(t, len(p.Refusals()), 2)

	conn, kind, _ := speak(t, addr, asPeer(p, 2))
	require.Equal(t, frameHello, kind)
	twin := asPeer(p, 2)
	twin.Store[5]++
	_, kind, why := speak(t, addr, twin)
	require.Equal(t, frameRefused, kind)
	require.Contains(t, why, "two nodes have the id 2: give each node its own id")
	require.NoError(t, conn.Close())
}

// Thousands of connections that say nothing, or half of a hello, neither keep a peer out
// nor keep anything of this node.
func TestSilentCrowdAtThePeerPortKeepsNothing(t *testing.T) {
	p, addr, _ := lonely(t)
	half, start := beginFrame(nil, frameHello)
	half = endFrame(asPeer(p, 2).append(half), start)[:20]
	before := runtime.NumGoroutine()
	for i := range 2000 {
		conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
		require.NoError(t, err)
		defer conn.Close()
		if i%2 == 0 {
			_, _ = conn.Write(half) // it may be closed again already
		}
		if i%500 == 499 {
			c, kind, _ := speak(t, addr, asPeer(p, 2))
			require.Equal(t, frameHello, kind, "a peer is heard in the crowd")
			require.NoError(t, c.Close())
		}
	}
	require.Eventually(t, func() bool {
		p.conns.mu.Lock()
		defer p.conns.mu.Unlock()
		return len(p.conns.strangers) <= maxStrangers && len(p.conns.conns) <= maxStrangers+2*maxPerPeer &&
			runtime.NumGoroutine() <= before+maxStrangers+8
	}, 20*time.Second, 20*time.Millisecond, "%d goroutines", runtime.NumGoroutine())
	require.Eventually(t, func() bool { // those that stay have the time of a handshake
		p.conns.mu.Lock()
		defer p.conns.mu.Unlock()
		return len(p.conns.strangers) == 0
	}, 20*time.Second, 20*time.Millisecond)
}

// What a peer says on a new connection is not mixed with what it said on an earlier one,
// however late that arrives: neither do its bytes count nor does its end look like an end
// of the new one.
func TestLateBytesOfAnOldConnectionAreNotHeard(t *testing.T) {
	p, received, addr := transportOf(t, 2, slog.New(slog.DiscardHandler))
	word := func(epoch zab.Epoch) []byte {
		return appendOutbound(nil, outbound{report: &Report{Epoch: epoch}}, listVersion-1)
	}
	say := func(conn net.Conn, epoch zab.Epoch) {
		_, err := conn.Write(word(epoch))
		require.NoError(t, err)
	}
	next := func() Inbound {
		for {
			select {
			case in := <-received:
				if in.Met == nil {
					return in
				}
			case <-time.After(20 * time.Second):
				t.Fatal("nothing is heard")
			}
		}
	}
	number := func(dial uint64) Hello {
		h := p.hello()
		h.From, h.To, h.Dial = 2, 1, dial
		h.Store = txn.StoreID{2}
		return h
	}

	first, kind, _ := speak(t, addr, number(1))
	require.Equal(t, frameHello, kind)
	idle, kind, _ := speak(t, addr, number(2)) // its words are on their way
	require.Equal(t, frameHello, kind)
	say(first, 1)
	require.EqualValues(t, 1, next().Report.Epoch)

	latest, kind, _ := speak(t, addr, number(3))
	require.Equal(t, frameHello, kind)
	_, err := first.Write(word(1)[:9]) // half a frame, and the rest comes late
	require.NoError(t, err)
	say(latest, 3)
	require.True(t, next().Lost, "the end of the first comes before the first word of the latest")
	require.EqualValues(t, 3, next().Report.Epoch)
	closed(t, first)

	_, _ = idle.Write(word(2))
	closed(t, idle)
	say(latest, 4)
	require.EqualValues(t, 4, next().Report.Epoch, "nothing came between, neither a word nor a loss")
}

// transportOf is the transport of node 1 of some, and what it hears.
func transportOf(t *testing.T, nodes int, log *slog.Logger) (p *Transport, received chan Inbound, addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	members := []replica.Member{{ID: 1, Peer: l.Addr().String()}}
	for id := 2; id <= nodes; id++ {
		members = append(members, replica.Member{ID: zab.NodeID(id), Peer: "127.0.0.1:1"})
	}
	p, received = listening(t, l, members, log)
	return p, received, l.Addr().String()
}

// listening runs the transport of node 1, of a cluster.
func listening(t *testing.T, l net.Listener, members []replica.Member, log *slog.Logger) (p *Transport,
	received chan Inbound) {
	received = make(chan Inbound)
	var list atomic.Pointer[replica.List]
	list.Store(&replica.List{Members: members})
	self := Hello{From: 1, Level: txn.Newest, Needs: txn.LevelBase, Store: txn.StoreID{1}, Cluster: 7}
	p = New(Config{Self: func() Hello { return self }, List: &list, Configured: members, Listener: l, Log: log,
		Received: received})
	runUntilEnd(t, p.Run)
	return p, received
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
	members := []replica.Member{{ID: 1, Peer: l.Addr().String()}, {ID: 2, Peer: hole.Addr().String()}}
	p, received := listening(t, l, members, slog.New(slog.DiscardHandler))
	conn, err := hole.Accept()
	require.NoError(t, err)
	r := bufio.NewReader(conn)
	_, body, err := readFrame(r)
	require.NoError(t, err)
	h, err := decodeHello(body)
	require.NoError(t, err)
	h.From, h.To = 2, 1
	require.NoError(t, writeFrame(conn, frameHello, h.append(nil)))
	require.Eventually(t, func() bool { return p.Reachable(2) }, 10*time.Second, 10*time.Millisecond)
	go func() { _, _ = io.Copy(io.Discard, r) }()
	deadline := time.After(4 * timeout)
	for {
		p.Tell(2, &Report{}, &Standing{})
		select {
		case in := <-received:
			if in.Met != nil {
				continue
			}
			require.True(t, in.Lost)
			require.EqualValues(t, 2, in.From)
			return
		case <-deadline:
			t.Fatal("the black hole is not noticed")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
