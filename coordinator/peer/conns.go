// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	// maxStrangers connections may be in the handshake. One more takes the place of the
	// oldest: who says his hello at once is heard however many say nothing.
	maxStrangers = 64
	// maxPerPeer connections of one peer may be open: its voice, a snapshot, and what has
	// not noticed its end yet. One more takes the place of the oldest.
	maxPerPeer = 8
)

// connSet holds the open connections, so that an end of the node closes them all.
type connSet struct {
	mu        sync.Mutex
	closed    bool
	conns     map[net.Conn]claim
	strangers []net.Conn // accepted, and not claimed yet; oldest first
	claims    uint64
}

// claim is who speaks on an accepted connection; zero for one that this node opened.
type claim struct {
	replica.Speaker
	order uint64
}

func (s *connSet) add(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	if s.conns == nil {
		s.conns = map[net.Conn]claim{}
	}
	s.conns[c] = claim{}
	return true
}

// greet adds a connection that somebody opened who has not said yet who he is.
func (s *connSet) greet(c net.Conn) bool {
	if !s.add(c) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strangers = append(s.strangers, c)
	if len(s.strangers) > maxStrangers {
		_ = s.strangers[0].Close() // its reader sees that, and forgets it
		s.strangers = slices.Delete(s.strangers, 0, 1)
	}
	return true
}

// claim says who speaks on c. It is false if the same node speaks from another store on
// another connection: two processes with one id.
func (s *connSet) claim(c net.Conn, who replica.Speaker) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest net.Conn
	held := 0
	for other, h := range s.conns {
		if other == c || h.Node != who.Node {
			continue
		}
		if h.Store != who.Store {
			return false
		}
		if held++; oldest == nil || h.order < s.conns[oldest].order {
			oldest = other
		}
	}
	if held >= maxPerPeer {
		_ = oldest.Close()
	}
	s.claims++
	s.conns[c] = claim{Speaker: who, order: s.claims}
	s.known(c)
	return true
}

// known removes c from the strangers.
func (s *connSet) known(c net.Conn) {
	s.strangers = slices.DeleteFunc(s.strangers, func(o net.Conn) bool { return o == c })
}

func (s *connSet) close(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.known(c)
	s.mu.Unlock()
	_ = c.Close()
}

// closeIf closes the connections of which that is so.
func (s *connSet) closeIf(is func(net.Conn) bool) {
	s.mu.Lock()
	var all []net.Conn
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		if is(c) {
			_ = c.Close() // its reader sees that, and forgets it
		}
	}
}

// closeNode closes what a node speaks on.
func (s *connSet) closeNode(id zab.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, who := range s.conns {
		if who.Node == id {
			_ = c.Close() // its reader sees that, and forgets it
		}
	}
}

func (s *connSet) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		_ = c.Close()
	}
}

// voices are the connections on which the peers speak, the latest of each.
type voices struct {
	mu     sync.Mutex
	latest map[zab.NodeID]*voice
}

type voice struct {
	conn  net.Conn
	store txn.StoreID
	dial  uint64        // hello.Dial
	ended chan struct{} // closed when nothing is heard on it any more
	over  time.Time     // when that was; zero: it is still heard
}

// voiceMemory is for how long a voice that fell silent keeps connections with a lower number from
// being heard. Who dialled before it, and was answered after it, has given up by then: both ends
// give a handshake no more than timeout. So a number that is too high mutes nobody for good.
const voiceMemory = 3 * timeout

// take makes conn the voice of the peer that opened it, and returns the one whose place
// it takes, which must fall silent first. It returns nil if conn is not the peer's latest.
func (v *voices) take(h Hello, conn net.Conn, now time.Time) (taken, old *voice) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old = v.latest[h.From]
	if old != nil && old.store == h.Store && h.Dial <= old.dial &&
		(old.over.IsZero() || now.Sub(old.over) < voiceMemory) {
		return nil, nil
	}
	if v.latest == nil {
		v.latest = map[zab.NodeID]*voice{}
	}
	taken = &voice{conn: conn, store: h.Store, dial: h.Dial, ended: make(chan struct{})}
	v.latest[h.From] = taken
	return taken, old
}

// end says that nothing is heard on a voice any more. It stays the latest: bytes of an
// earlier connection may still be on their way.
func (v *voices) end(x *voice, now time.Time) {
	v.mu.Lock()
	x.over = now
	v.mu.Unlock()
	close(x.ended)
}

// turnedAway counts the connections that were refused, and logs some of them: a flood
// must not fill the disk with lines.
type turnedAway struct {
	total  atomic.Uint64
	mu     sync.Mutex
	logged time.Time
	quiet  int // since then
}

const turnedAwayInterval = 10 * time.Second

func (t *turnedAway) count(log *slog.Logger, who net.Addr, why error) {
	t.total.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.logged) >= turnedAwayInterval {
		log.Warn("connection to the peer port refused", "remote", who.String(), "why", why, "others_since_last_line",
			t.quiet)
		t.logged, t.quiet = now, 0
		return
	}
	t.quiet++
}

// speakers returns who speaks on accepted connections.
func (s *connSet) speakers() []replica.Speaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest := map[zab.NodeID]claim{}
	for _, c := range s.conns {
		if c.Node != 0 && latest[c.Node].order < c.order {
			latest[c.Node] = c
		}
	}
	out := make([]replica.Speaker, 0, len(latest)+1)
	for _, c := range latest {
		out = append(out, c.Speaker)
	}
	return out
}
