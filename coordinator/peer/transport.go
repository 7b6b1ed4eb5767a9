// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

const (
	// timeout bounds every dial, handshake, read and write. A node reports itself
	// twice a second, so a healthy connection is never silent for long.
	timeout   = 5 * time.Second
	redialMin = 20 * time.Millisecond
	redialMax = 500 * time.Millisecond
	// refusalInterval is how soon another reason not to talk to a peer is logged.
	refusalInterval = time.Second
	// queueLength messages may wait for one peer. When it is full the connection is
	// dropped, as the core demands of a driver that loses a message. The core has at most
	// some megabytes of entries under way to a peer, so this bounds what is small.
	queueLength = 4096
)

// Transport carries messages between this node and the others: one ordered connection
// per direction and pair. The node that sends dials; what is received on that
// connection is only the answer to its hello.
//
// What always holds:
//
//  1. One connection of a peer is its voice. When a later one takes its place, nothing that
//     still arrives on the earlier one is heard, and the loss comes before the first word
//     of the later one.
//  2. A peer that is not heard for peerTimeout is not spoken to either: a connection into a
//     black hole does not look like one.
//  3. What strangers can make this node keep is bounded: connections, bytes and log lines.
type Transport struct {
	config     Config
	configured map[zab.NodeID]string // addresses
	members    [sha256.Size]byte     // hash of the configured members
	log        *slog.Logger

	sender  *snapshotSender
	fetcher *snapshotFetcher

	mu    sync.Mutex
	links map[zab.NodeID]*link
	spawn func(*link) // while it runs

	conns  connSet
	voices voices
	// dials numbers the connections that this node opens, since its start.
	dials atomic.Uint32
	// known are the stores of the nodes as the log has them.
	known atomic.Pointer[[]txn.MemberStore]
	// refusals holds the last reason why we and a member do not talk, for the status.
	refusals sync.Map // zab.NodeID -> string
	// turnedAway are the connections to this node that did not become a peer's.
	turnedAway turnedAway
	// removed gets why this node has to end: it is no member any more.
	removed chan error
}

// Config is what a Transport must know, and to whom it speaks.
type Config struct {
	// Self says who this node is at this moment. Versions, members and the receiver are filled in
	// here, and Dial is the number of the first connection of this start.
	Self func() Hello
	// List is who the members are, and Configured where the configuration says that they are.
	List       *atomic.Pointer[replica.List]
	Configured []replica.Member
	// Listener accepts the peers; it is closed when Run ends.
	Listener net.Listener
	// Keys prove who this node is, and let only nodes of its cluster in; nil: connections are plain,
	// and whoever reaches a node may say that he is another one.
	Keys *security.Keys
	Log  *slog.Logger
	// Received takes what the peers say, in order. Who sends waits while it is full.
	Received chan<- Inbound
	// Store gives snapshots and stages them. CheckPair returns an error for a pair of the state
	// that this node could not start from.
	Store     *wal.Store
	CheckPair func(key, value []byte) error
	// Post takes what becomes of snapshots. Fatal ends the process: the store has failed.
	Post  func(context.Context, zab.Event)
	Fatal func(error)
}

// New returns a transport that is not running yet.
func New(c Config) *Transport {
	p := &Transport{config: c, configured: map[zab.NodeID]string{}, members: membersHash(c.Configured), log: c.Log,
		links: map[zab.NodeID]*link{}, removed: make(chan error, 1)}
	for _, m := range c.Configured {
		p.configured[m.ID] = m.Peer
	}
	p.sender = &snapshotSender{store: c.Store, log: c.Log, post: c.Post, fatal: c.Fatal}
	p.fetcher = &snapshotFetcher{store: c.Store, check: c.CheckPair, log: c.Log, dial: p.dialFor, hang: p.hangUp,
		post: c.Post, fatal: c.Fatal, wake: make(chan struct{}, 1)}
	p.Follow()
	return p
}

// hello is what this node says of itself, without the receiver.
func (p *Transport) hello() Hello {
	h := p.config.Self()
	h.Newest, h.Oldest, h.Members = protocolVersion, oldestVersion, p.members
	return h
}

// KnowStores says which stores the nodes have, as the log does: who speaks from another one is refused.
func (p *Transport) KnowStores(stores []txn.MemberStore) { p.known.Store(&stores) }

// Stores returns what KnowStores said last.
func (p *Transport) Stores() []txn.MemberStore {
	if known := p.known.Load(); known != nil {
		return *known
	}
	return nil
}

// Speakers returns who speaks on the connections to this node.
func (p *Transport) Speakers() []replica.Speaker { return p.conns.speakers() }

// Refusals returns why this node and members do not talk, for people.
func (p *Transport) Refusals() (texts []string) {
	p.refusals.Range(func(_, why any) bool {
		texts = append(texts, why.(string))
		return true
	})
	return texts
}

// TurnedAway counts the connections to this node that did not become a peer's.
func (p *Transport) TurnedAway() uint64 { return p.turnedAway.total.Load() }

// AllowSnapshot lets a peer fetch a snapshot in a session, once.
func (p *Transport) AllowSnapshot(e zab.SendSnapshot) { p.sender.allow(e) }

// FetchSnapshot fetches a snapshot and stages it, in place of what was asked for before.
func (p *Transport) FetchSnapshot(e zab.FetchSnapshot) { p.fetcher.fetch(e) }

// DiscardSnapshot gives up what is staged under a reference.
func (p *Transport) DiscardSnapshot(ref uint64) { p.fetcher.forget(ref) }

// Run serves until ctx ends and returns when all connections are closed.
func (p *Transport) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		select {
		case <-ctx.Done():
		case err = <-p.removed:
		}
		_ = p.config.Listener.Close()
		p.conns.closeAll()
		return err
	})
	g.Go(func() error { return p.accept(ctx, g) })
	g.Go(func() error { return p.fetcher.run(ctx) })
	g.Go(func() error { return p.doubt(ctx) })
	p.mu.Lock()
	p.spawn = func(l *link) { // there is always somebody in g until ctx ends
		linked, stop := context.WithCancel(ctx)
		l.stop = stop
		g.Go(func() error { defer stop(); p.dialAndSend(linked, l); return nil })
	}
	for _, l := range p.links {
		p.spawn(l)
	}
	p.mu.Unlock()
	return g.Wait()
}

// Follow lets the links be those to the members.
func (p *Transport) Follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, self := p.config.List.Load(), p.config.Self().From
	for id, l := range p.links {
		if _, stays := list.Find(id); stays {
			continue
		}
		delete(p.links, id)
		p.refusals.Delete(id)
		if l.stop != nil {
			l.stop()
		}
		p.conns.closeNode(id)
	}
	for _, m := range list.Members {
		if m.ID == self {
			continue
		}
		l, there := p.links[m.ID]
		if !there {
			l = &link{peer: m.ID, queue: make(chan outbound, queueLength)}
			p.links[m.ID] = l
		}
		l.addr.Store(&m.Peer)
		if !there && p.spawn != nil {
			p.spawn(l)
		}
	}
}

func writeFrame(conn net.Conn, k frameKind, payload []byte) error {
	b, start := beginFrame(nil, k)
	_, err := conn.Write(endFrame(append(b, payload...), start))
	return err
}

func (p *Transport) accept(ctx context.Context, g *errgroup.Group) error {
	for {
		conn, err := p.config.Listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.log.Warn("accepting a peer failed", "err", err) // e.g. out of file descriptors
			pause(ctx, redialMax)
			continue
		}
		conn = p.accepted(conn)
		if !p.conns.greet(conn) {
			return nil
		}
		g.Go(func() error {
			defer p.conns.close(conn)
			p.receive(ctx, conn)
			return nil
		})
	}
}

// receive is the life of one accepted connection.
func (p *Transport) receive(ctx context.Context, conn net.Conn) {
	r := bufio.NewReader(conn)
	h, met, err := p.welcome(conn, r)
	if err != nil {
		if ctx.Err() == nil {
			p.turnedAway.count(p.log, conn.RemoteAddr(), err)
		}
		return
	}
	r = bufio.NewReaderSize(r, 64<<10)
	in, err := p.hear(conn, r, h.From)
	switch {
	case err != nil:
		p.log.Debug("connection ended before its first word", "peer", h.From, "err", err)
	case in.snapshot != 0:
		p.sender.serve(ctx, conn, h.From, in.snapshot)
	default:
		p.listen(ctx, conn, r, h, met, in)
	}
}

// listen hands on what a peer says on a connection that has become its voice.
func (p *Transport) listen(ctx context.Context, conn net.Conn, r *bufio.Reader, h Hello, met meeting, in Inbound) {
	v, old := p.voices.take(h, conn, time.Now())
	if v == nil {
		p.log.Info("late bytes of an old connection", "peer", h.From)
		return
	}
	defer func() { p.voices.end(v, time.Now()) }()
	if old != nil {
		p.conns.close(old.conn)
		<-old.ended // its reader waits for nothing that we hold, and goes when ctx ends
	}
	p.say(ctx, Inbound{From: h.From, Met: &met.Met})
	var err error
	for err == nil {
		select {
		case p.config.Received <- in:
		case <-ctx.Done():
			return
		}
		in, err = p.hear(conn, r, h.From)
		if err == nil && in.snapshot != 0 {
			err = fmt.Errorf("a request for a snapshot among messages: %w", errBadFrame)
		}
	}
	if ctx.Err() == nil {
		p.log.Info("connection from peer lost", "peer", h.From, "err", err)
		p.notifyLost(ctx, h.From)
	}
}

// hear reads one frame of a peer.
func (p *Transport) hear(conn net.Conn, r *bufio.Reader, from zab.NodeID) (Inbound, error) {
	_ = conn.SetReadDeadline(time.Now().Add(timeout))
	in, err := readInbound(r, from)
	if l := p.link(from); err == nil && l != nil { // nil: the loop is about to hear that it is a member
		l.hear()
	}
	return in, err
}

// dialFor opens a connection to a peer for something else than messages; hangUp ends it.
func (p *Transport) dialFor(ctx context.Context, id zab.NodeID) (net.Conn, error) {
	l := p.link(id)
	if l == nil {
		return nil, fmt.Errorf("node %d is not a member", id)
	}
	conn, _, err := p.dial(ctx, id, p.address(l))
	return conn, err
}

func (p *Transport) hangUp(conn net.Conn) { p.conns.close(conn) }

// say hands something to the loop.
func (p *Transport) say(ctx context.Context, in Inbound) {
	select {
	case p.config.Received <- in:
	case <-ctx.Done():
	}
}

func (p *Transport) notifyLost(ctx context.Context, id zab.NodeID) {
	p.say(ctx, Inbound{From: id, Lost: true})
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
