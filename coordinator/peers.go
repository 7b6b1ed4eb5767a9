// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const (
	// peerTimeout bounds every dial, handshake, read and write. A node reports itself
	// every reportInterval, so a healthy connection is never silent for long.
	peerTimeout    = 5 * time.Second
	reportInterval = 500 * time.Millisecond
	redialMin      = 20 * time.Millisecond
	redialMax      = 500 * time.Millisecond
	// refusalInterval is how soon another reason not to talk to a peer is logged.
	refusalInterval = time.Second
	// peerQueue messages may wait for one peer. When it is full the connection is
	// dropped, as the core demands of a driver that loses a message. The core has at most
	// some megabytes of entries under way to a peer, so this bounds what is small.
	peerQueue = 4096
)

// peers carries messages between this node and the others: one ordered connection
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
type peers struct {
	self func() hello // fills everything but To and Dial
	// list is who the members are; configured where the configuration says that they are.
	list       *atomic.Pointer[List]
	configured map[zab.NodeID]string
	listener   net.Listener
	log        *slog.Logger

	received chan<- inbound
	// snapshots serves peers that ask for one.
	snapshots *snapshotSender

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

// inbound is what a reader hands to the loop: a message, a report, or that the
// connection is lost. One channel for all three keeps their order.
type inbound struct {
	from     zab.NodeID
	message  zab.Message
	report   *report
	standing *standing
	lost     bool
	met      *PeerMet // the first word on a connection
	// snapshot is not 0 if the peer asks for a snapshot in this session: it wants nothing
	// else on this connection.
	snapshot uint64
}

// outbound is what the loop hands to a sender.
type outbound struct {
	message zab.Message
	// report comes with the standing of the node.
	report   *report
	standing *standing
}

// link is the way to one peer.
type link struct {
	peer  zab.NodeID
	addr  atomic.Pointer[string] // by the list
	queue chan outbound
	stop  context.CancelFunc // set when it is started
	// up says that a connection is established. overflow asks the sender to drop it.
	up       atomic.Bool
	overflow atomic.Bool
	speaks   atomic.Uint32 // the version of the conversation, once there was a handshake
	heard    atomic.Int64  // when the peer last said something, or the connection came about
	refused  atomic.Int64  // when it was last logged why we and the peer do not talk
}

// began is where the monotonic clock of a link starts.
var began = time.Now()

func (l *link) hear() { l.heard.Store(int64(time.Since(began))) }

// silent is for how long nothing has come from the peer.
func (l *link) silent() time.Duration { return time.Since(began) - time.Duration(l.heard.Load()) }

func newPeers(self func() hello, list *atomic.Pointer[List], configured []Member, l net.Listener, log *slog.Logger, received chan<- inbound) *peers {
	p := &peers{self: self, list: list, configured: map[zab.NodeID]string{}, listener: l, log: log, received: received,
		links: map[zab.NodeID]*link{}, removed: make(chan error, 1)}
	for _, m := range configured {
		p.configured[m.ID] = m.Peer
	}
	p.follow()
	return p
}

// run serves until ctx ends and returns when all connections are closed.
func (p *peers) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		select {
		case <-ctx.Done():
		case err = <-p.removed:
		}
		_ = p.listener.Close()
		p.conns.closeAll()
		return err
	})
	g.Go(func() error { return p.accept(ctx, g) })
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

// follow lets the links be those to the members.
func (p *peers) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	list, self := p.list.Load(), p.self().From
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
			l = &link{peer: m.ID, queue: make(chan outbound, peerQueue)}
			p.links[m.ID] = l
		}
		l.addr.Store(&m.Peer)
		if !there && p.spawn != nil {
			p.spawn(l)
		}
	}
}

// link returns the way to a peer, or nil if it is no member.
func (p *peers) link(id zab.NodeID) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[id]
}

// address of a peer: what the configuration of this node says, or what the log does of those
// that it does not name.
func (p *peers) address(l *link) string {
	if own, ok := p.configured[l.peer]; ok {
		return own
	}
	return *l.addr.Load()
}

// send queues something for a peer and never blocks. Without a connection it is
// dropped: the core repeats what matters.
func (p *peers) send(to zab.NodeID, o outbound) {
	l := p.link(to)
	if l == nil || !l.up.Load() {
		return
	}
	select {
	case l.queue <- o:
	default:
		l.overflow.Store(true)
	}
}

// reachable reports whether we have a connection to the peer.
func (p *peers) reachable(id zab.NodeID) bool {
	l := p.link(id)
	return l != nil && l.up.Load()
}

// dialAndSend keeps a connection to one peer and writes to it what is queued.
func (p *peers) dialAndSend(ctx context.Context, l *link) {
	wait := redialMin
	for ctx.Err() == nil {
		conn, met, err := p.dial(ctx, l.peer, p.address(l))
		if err != nil {
			p.log.Debug("peer not reached", "peer", l.peer, "err", err)
			pause(ctx, wait)
			wait = min(2*wait, redialMax)
			continue
		}
		wait = redialMin
		l.speaks.Store(uint32(met.version))
		l.overflow.Store(false)
		l.hear()
		for len(l.queue) > 0 { // left over from an earlier connection: late bytes of an old session
			<-l.queue
		}
		l.up.Store(true)
		p.say(ctx, inbound{from: l.peer, met: &met.PeerMet})
		err = p.sendOn(ctx, conn, l)
		l.up.Store(false)
		p.conns.close(conn)
		if ctx.Err() != nil {
			return
		}
		p.log.Info("connection to peer lost", "peer", l.peer, "err", err)
		p.notifyLost(ctx, l.peer)
	}
}

// meeting is what came of a handshake.
type meeting struct {
	PeerMet
	version uint16
}

func (p *peers) dial(ctx context.Context, id zab.NodeID, addr string) (net.Conn, meeting, error) {
	d := net.Dialer{Timeout: peerTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, meeting{}, err
	}
	if !p.conns.add(conn) {
		return nil, meeting{}, net.ErrClosed
	}
	met, err := p.introduce(conn, id)
	if err != nil {
		p.conns.close(conn)
		return nil, meeting{}, err
	}
	return conn, met, nil
}

// introduce is the dialer's half of the handshake.
func (p *peers) introduce(conn net.Conn, to zab.NodeID) (met meeting, err error) {
	_ = conn.SetDeadline(time.Now().Add(peerTimeout))
	self, list := p.self(), p.list.Load()
	self.To, self.Dial, self.ListAt = to, self.Dial|uint64(p.dials.Add(1)), list.At
	if err := writeFrame(conn, frameHello, self.append(nil)); err != nil {
		return met, err
	}
	r := bufio.NewReader(conn)
	kind, body, err := readFrameUpTo(r, maxList)
	if err != nil {
		return met, err
	}
	switch kind {
	case frameRefused:
		p.refuse(to, string(body))
		return met, fmt.Errorf("refused: %.500s", body)
	case frameRemoved:
		return met, p.onRemoved(to, body)
	}
	answer, err := decodeHello(body)
	if kind != frameHello || err != nil {
		return met, errBadFrame
	}
	answer.To = self.From
	why := answer.check(self)
	if why == "" {
		why = p.foreignStore(answer)
	}
	if why != "" {
		p.refuse(to, why)
		return met, errors.New(why)
	}
	if answer.From != to {
		return met, fmt.Errorf("node %d answers at the address of node %d: correct the addresses in \"members\"", answer.From, to)
	}
	met.Node, met.Cluster, met.version = to, answer.Cluster, min(answer.Newest, protocolVersion)
	switch {
	case answer.ListAt.Less(self.ListAt) && answer.Newest >= listVersion:
		err = writeFrame(conn, frameMembers, appendList(nil, *list))
	case self.ListAt.Less(answer.ListAt) && answer.Cluster == 0:
		return met, errBadFrame
	case self.ListAt.Less(answer.ListAt):
		met.List, err = p.readList(r, answer.ListAt)
	}
	if err == nil {
		p.refusals.Delete(to)
	}
	return met, err
}

// readList reads the list of who knows a later one.
func (p *peers) readList(r *bufio.Reader, at zab.Zxid) (List, error) {
	kind, body, err := readFrameUpTo(r, maxList)
	if err != nil {
		return List{}, err
	}
	l, err := decodeList(body)
	if kind != frameMembers || err != nil || l.At != at {
		return List{}, errBadFrame
	}
	return l, nil
}

// ErrRemoved says that a node is no member of its cluster any more.
var ErrRemoved = errors.New("this node was removed from its cluster")

// onRemoved hears that this node is no member any more. It believes that of who belongs to its
// cluster, from the store that is known, and knows a later list.
func (p *peers) onRemoved(from zab.NodeID, body []byte) error {
	if len(body) < helloSize {
		return errBadFrame
	}
	h, err := decodeHello(body[:helloSize])
	if err != nil {
		return errBadFrame
	}
	l, err := decodeList(body[helloSize:])
	if err != nil {
		return err
	}
	self := p.self()
	h.To = self.From
	_, member := l.Find(self.From)
	if why := h.check(self) + p.foreignStore(h); why != "" || h.From != from || self.Cluster == 0 || h.Cluster != self.Cluster || member || !p.list.Load().At.Less(l.At) {
		return fmt.Errorf("node %d says that this node was removed, and is not believed: %s", from, why)
	}
	gone := fmt.Errorf("%w: node %d tells that the members of cluster %v are %s since %v. Move the directory of this node away; to take the node back, "+
		"run \"concord member add %d\" and start it on an empty one", ErrRemoved, from, h.Cluster, txn.ListText(fromMembers(l.Members)), l.At, self.From)
	select {
	case p.removed <- gone:
	default: // it was told already
	}
	return gone
}

// refuse remembers and logs why a member and we do not talk: once per reason, and one
// reason per refusalInterval.
func (p *peers) refuse(peer zab.NodeID, why string) {
	l := p.link(peer)
	if l == nil { // anybody can say any number
		return
	}
	old, _ := p.refusals.Load(peer)
	now, last := int64(time.Since(began)), l.refused.Load()
	if old == why || last != 0 && now-last < int64(refusalInterval) || !l.refused.CompareAndSwap(last, now) {
		return
	}
	p.refusals.Store(peer, why)
	p.log.Error("peer refused", "peer", peer, "why", why)
}

// sendOn writes what is queued until the connection breaks. Everything that waits is
// written at once.
func (p *peers) sendOn(ctx context.Context, conn net.Conn, l *link) error {
	broken := make(chan error, 1)
	go func() { // the peer says nothing more on this connection: a read ends when it breaks
		var b [1]byte
		_ = conn.SetReadDeadline(time.Time{})
		_, err := conn.Read(b[:])
		if err == nil {
			err = errBadFrame
		}
		broken <- err
	}()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return err
		case o := <-l.queue:
			version := uint16(l.speaks.Load())
			buf = appendOutbound(buf[:0], o, version)
			for len(buf) < 256<<10 && len(l.queue) > 0 {
				buf = appendOutbound(buf, <-l.queue, version)
			}
		}
		if l.overflow.Load() {
			return fmt.Errorf("more than %d messages wait for the peer", peerQueue)
		}
		if s := l.silent(); s > peerTimeout { // looked at often: reports are queued twice a second
			return fmt.Errorf("the peer has not been heard for %v", s.Round(time.Millisecond))
		}
		_ = conn.SetWriteDeadline(time.Now().Add(peerTimeout))
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if cap(buf) > 4<<20 {
			buf = nil
		}
	}
}

// appendOutbound writes something in the words of a version.
func appendOutbound(b []byte, o outbound, version uint16) []byte {
	if o.report != nil {
		b, start := beginFrame(b, frameReport)
		told := *o.report // which is for all peers
		if version < figuresVersion {
			told.Clock, told.Figures = time.Time{}, nil
		}
		b = endFrame(told.append(b), start)
		if version < listVersion {
			return b
		}
		b, start = beginFrame(b, frameStanding)
		return endFrame(o.standing.append(b), start)
	}
	b, start := beginFrame(b, frameZAB)
	return endFrame(zab.AppendMessage(b, o.message), start)
}

func writeFrame(conn net.Conn, k frameKind, payload []byte) error {
	b, start := beginFrame(nil, k)
	_, err := conn.Write(endFrame(append(b, payload...), start))
	return err
}

func (p *peers) accept(ctx context.Context, g *errgroup.Group) error {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.log.Warn("accepting a peer failed", "err", err) // e.g. out of file descriptors
			pause(ctx, redialMax)
			continue
		}
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
func (p *peers) receive(ctx context.Context, conn net.Conn) {
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
		p.snapshots.serve(ctx, conn, h.From, in.snapshot)
	default:
		p.listen(ctx, conn, r, h, met, in)
	}
}

// listen hands on what a peer says on a connection that has become its voice.
func (p *peers) listen(ctx context.Context, conn net.Conn, r *bufio.Reader, h hello, met meeting, in inbound) {
	v, old := p.voices.take(h, conn)
	if v == nil {
		p.log.Info("late bytes of an old connection", "peer", h.From)
		return
	}
	defer p.voices.end(v)
	if old != nil {
		p.conns.close(old.conn)
		<-old.ended // its reader waits for nothing that we hold, and goes when ctx ends
	}
	p.say(ctx, inbound{from: h.From, met: &met.PeerMet})
	var err error
	for err == nil {
		select {
		case p.received <- in:
		case <-ctx.Done():
			return
		}
		in, err = p.hear(conn, r, h.From)
		if err == nil && in.snapshot != 0 {
			err = fmt.Errorf("a question for a snapshot among messages: %w", errBadFrame)
		}
	}
	if ctx.Err() == nil {
		p.log.Info("connection from peer lost", "peer", h.From, "err", err)
		p.notifyLost(ctx, h.From)
	}
}

// hear reads one frame of a peer.
func (p *peers) hear(conn net.Conn, r *bufio.Reader, from zab.NodeID) (inbound, error) {
	_ = conn.SetReadDeadline(time.Now().Add(peerTimeout))
	in, err := readInbound(r, from)
	if l := p.link(from); err == nil && l != nil { // nil: the loop is about to hear that it is a member
		l.hear()
	}
	return in, err
}

// dialFor opens a connection to a peer for something else than messages; hangUp ends it.
func (p *peers) dialFor(ctx context.Context, id zab.NodeID) (net.Conn, error) {
	l := p.link(id)
	if l == nil {
		return nil, fmt.Errorf("node %d is not a member", id)
	}
	conn, _, err := p.dial(ctx, id, p.address(l))
	return conn, err
}

func (p *peers) hangUp(conn net.Conn) { p.conns.close(conn) }

// welcome is the accepting half of the handshake.
func (p *peers) welcome(conn net.Conn, r *bufio.Reader) (h hello, met meeting, err error) {
	_ = conn.SetDeadline(time.Now().Add(peerTimeout))
	kind, body, err := readFrameUpTo(r, maxHandshake)
	if err != nil {
		return h, met, err
	}
	if h, err = decodeHello(body); kind != frameHello || err != nil {
		return h, met, errBadFrame
	}
	self, list := p.self(), p.list.Load()
	self.ListAt = list.At
	why := h.check(self)
	_, member := list.Find(h.From)
	told := why == "" && self.ListAt.Less(h.ListAt) && h.Cluster != 0 // who knows the later list says who is a member
	if why == "" && !told && !member {
		if h.Cluster != 0 && h.ListAt.Less(self.ListAt) && h.Newest >= listVersion {
			self.To = h.From
			_ = writeFrame(conn, frameRemoved, appendList(self.append(nil), *list))
			return h, met, fmt.Errorf("node %d was removed", h.From)
		}
		why = fmt.Sprintf("node %d is not a member of the cluster of node %d: run \"concord member add %d\" with its addresses, or correct \"members\"", h.From, self.From, h.From)
	}
	if why == "" {
		why = p.foreignStore(h)
	}
	if why == "" && !p.conns.claim(conn, Speaker{Node: h.From, Store: h.Store, Level: h.Level}) {
		why = fmt.Sprintf("two nodes have the id %d: give each node its own id in \"node\" and \"members\"", h.From)
	}
	if why != "" {
		p.refuse(h.From, why)
		_ = writeFrame(conn, frameRefused, []byte(why))
		return h, met, errors.New(why)
	}
	self.To = h.From
	if err := writeFrame(conn, frameHello, self.append(nil)); err != nil {
		return h, met, err
	}
	met.Node, met.Cluster, met.version = h.From, h.Cluster, min(h.Newest, protocolVersion)
	switch {
	case told:
		if met.List, err = p.readList(r, h.ListAt); err == nil {
			if _, member = met.List.Find(h.From); !member {
				err = fmt.Errorf("node %d tells of members to whom it does not belong", h.From)
			}
		}
	case h.ListAt.Less(self.ListAt) && h.Newest >= listVersion:
		err = writeFrame(conn, frameMembers, appendList(nil, *list))
	}
	if err == nil {
		p.refusals.Delete(h.From)
	}
	return h, met, err
}

// say hands something to the loop.
func (p *peers) say(ctx context.Context, in inbound) {
	select {
	case p.received <- in:
	case <-ctx.Done():
	}
}

func readInbound(r *bufio.Reader, from zab.NodeID) (inbound, error) {
	kind, body, err := readFrame(r)
	if err != nil {
		return inbound{}, err
	}
	switch kind {
	case frameReport:
		rep, err := decodeReport(body)
		return inbound{from: from, report: &rep}, err
	case frameStanding:
		s, err := decodeStanding(body)
		return inbound{from: from, standing: &s}, err
	case frameZAB:
		m, err := zab.DecodeMessage(body)
		switch {
		case err != nil:
		case m.From != from:
			err = fmt.Errorf("a message of node %d: %w", m.From, errBadFrame)
		default:
			err = checkEntries(m.Body)
		}
		return inbound{from: from, message: m}, err
	case frameSnapshotAsk:
		if len(body) != 8 || binary.BigEndian.Uint64(body) == 0 {
			return inbound{}, fmt.Errorf("question for a snapshot: %w", errBadFrame)
		}
		return inbound{from: from, snapshot: binary.BigEndian.Uint64(body)}, nil
	}
	return inbound{}, fmt.Errorf("kind %d: %w", kind, errBadFrame)
}

// checkEntries looks at log entries before anything is done about them: what is acknowledged
// is in the log for good, and records that do not decode would stop this node then, now and
// after each restart.
func checkEntries(body zab.Body) error {
	var entries []zab.Entry
	switch b := body.(type) {
	case zab.Propose:
		entries = b.Entries
	case zab.Inform:
		entries = b.Entries
	}
	for _, e := range entries {
		if err := txn.CheckRecords(e.Data); err != nil {
			return fmt.Errorf("log entry %v: %w", e.Zxid, err)
		}
	}
	return nil
}

func (p *peers) notifyLost(ctx context.Context, id zab.NodeID) {
	p.say(ctx, inbound{from: id, lost: true})
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
