// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// A node whose log ends before the leader's begins fetches a snapshot of the leader's
// applied state. It dials a connection of its own for it, so that neither heartbeats nor
// entries wait behind it, and says for which session; the leader answers with parts and
// an end, each a frame with its checksum. The node stages them beside its own state, and
// sends empty parts while it verifies them.
const (
	// snapshotPart is about how many bytes of state share a frame. A slow line must carry one
	// within peerTimeout, heartbeats and entries besides.
	snapshotPart = 32 << 10
	// movedInterval is how often both ends tell their log that bytes move.
	movedInterval = 200 * time.Millisecond
)

// restore makes the table anew after a snapshot took the place of the stored state.
func (c *Core) restore(z zab.Zxid) error {
	if c.config.Reload == nil {
		return fmt.Errorf("restore from a snapshot of %v: there is no store to read it from", z)
	}
	table, err := c.config.Reload()
	if err != nil {
		return fmt.Errorf("restore from a snapshot of %v: %w", z, err)
	}
	c.table = table
	if at := c.zxid(); at != z {
		return fmt.Errorf("restore from a snapshot of %v: the store holds %v", z, at)
	}
	c.digests.reset()
	c.digests.add(z, table.Meta().Digest)
	c.onMembersDelivered()
	c.noticeLevel(table.Level())
	c.note("the state is that of a snapshot of %v now, with %d open transactions", z, table.OpenCount())
	return nil
}

// onPeer hands an event to the replicated log. A staged snapshot that the log does not
// want is given back.
func (c *Core) onPeer(e zab.Event) error {
	writes := len(c.fx.Write)
	if err := c.stepLog(e); err != nil {
		return err
	}
	if e, ok := e.(zab.SnapshotStaged); ok {
		for _, w := range c.fx.Write[writes:] {
			if w.Install != nil {
				return nil
			}
		}
		c.fx.Discard = e.Snapshot.Ref
	}
	return nil
}

// compact offers the log to be cut when it is too long. Half of what it may have stays
// for followers that were away for a short time. Those in a session are waited for until
// the log has four times what it may have.
func (l *loop) compact() {
	c := l.config
	if entries, bytes := l.store.LogSize(); entries > c.MaxLogEntries || bytes > c.MaxLogBytes {
		l.events = append(l.events, Peer{zab.Compact{
			Upto: l.store.CutPoint(c.MaxLogEntries/2, c.MaxLogBytes/2),
			Must: l.store.CutPoint(4*c.MaxLogEntries, 4*c.MaxLogBytes),
		}})
	}
}

// LogState is how long the log of this node is.
type LogState struct {
	Base           zab.Zxid // the log was cut here
	Entries, Bytes uint64   // bytes: about
}

func (l *loop) logState() LogState {
	s := LogState{Base: l.core.zab.Status().Base}
	s.Entries, s.Bytes = l.store.LogSize()
	return s
}

// snapshotSender gives snapshots to peers that may have one.
type snapshotSender struct {
	store *wal.Store
	log   *slog.Logger
	post  func(context.Context, Event)
	fatal func(error)

	mu      sync.Mutex
	allowed map[zab.NodeID]uint64 // the session of a peer that may fetch one, once
}

func (s *snapshotSender) allow(e zab.SendSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.allowed == nil {
		s.allowed = map[zab.NodeID]uint64{}
	}
	s.allowed[e.To] = e.Session
}

// take reports whether the peer may have a snapshot in this session.
func (s *snapshotSender) take(to zab.NodeID, session uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if session == 0 || s.allowed[to] != session {
		return false
	}
	delete(s.allowed, to)
	return true
}

// serve answers a peer that asks for a snapshot. It holds one part in memory.
func (s *snapshotSender) serve(ctx context.Context, conn net.Conn, to zab.NodeID, session uint64) {
	if !s.take(to, session) {
		_ = conn.SetWriteDeadline(time.Now().Add(peerTimeout))
		_ = writeFrame(conn, frameRefused, []byte("this session gets no snapshot here, or has had it"))
		return
	}
	x, err := s.store.Snapshot()
	if err != nil {
		s.fatal(err) // who cannot read his own state can neither lead nor vouch for it
		return
	}
	start, size := time.Now(), 0
	err = s.stream(ctx, conn, to, session, x, &size)
	if cerr := x.Close(); cerr != nil {
		s.fatal(cerr)
		return
	}
	if err != nil {
		s.log.Info("snapshot broken off", "peer", uint64(to), "zxid", x.Zxid.String(), "bytes", size, "err", err)
		return
	}
	// The peer reads back what it has, and says now and then that it lives.
	moved, r := moveReporter{post: s.post, peer: to, session: session}, bufio.NewReader(conn)
	for err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(peerTimeout))
		_, _, err = readFrame(r)
		moved.report(ctx)
	}
	s.log.Info("snapshot sent", "peer", uint64(to), "zxid", x.Zxid.String(), "bytes", size, "took", time.Since(start).String())
}

func (s *snapshotSender) stream(ctx context.Context, conn net.Conn, to zab.NodeID, session uint64, x *wal.Snapshot, size *int) error {
	moved := moveReporter{post: s.post, peer: to, session: session}
	for {
		part, err := x.Next(snapshotPart)
		if err != nil {
			s.fatal(err)
			return err
		}
		kind := frameSnapshotPart
		if len(part) == 0 {
			kind, part = frameSnapshotEnd, snapshotEnd{zxid: x.Zxid, digest: x.Digest, sum: x.Sum()}.append(nil)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(peerTimeout))
		if err := writeFrame(conn, kind, part); err != nil {
			return err
		}
		if kind == frameSnapshotEnd {
			return nil
		}
		*size += len(part)
		moved.report(ctx)
	}
}

// moveReporter tells the log now and then that bytes of a snapshot move.
type moveReporter struct {
	post    func(context.Context, Event)
	peer    zab.NodeID
	session uint64
	last    time.Time
}

func (m *moveReporter) report(ctx context.Context) (reported bool) {
	now := time.Now()
	if now.Sub(m.last) < movedInterval {
		return false
	}
	m.last = now
	m.post(ctx, Peer{zab.SnapshotMoved{Peer: m.peer, Session: m.session}})
	return true
}

// snapshotEnd is the last frame of a snapshot: what it is, and a hash of all of it.
type snapshotEnd struct {
	zxid   zab.Zxid
	digest txn.Digest
	sum    [sha256.Size]byte
}

func (e snapshotEnd) append(b []byte) []byte {
	b = appendZxid(b, e.zxid)
	b = append(b, e.digest[:]...)
	return append(b, e.sum[:]...)
}

func decodeSnapshotEnd(b []byte) (e snapshotEnd, err error) {
	if len(b) != 12+len(e.digest)+len(e.sum) {
		return e, fmt.Errorf("end of a snapshot: %w", errBadFrame)
	}
	e.zxid = zxidAt(b)
	copy(e.sum[:], b[12+copy(e.digest[:], b[12:]):])
	return e, nil
}

// snapshotFetcher is the goroutine that fetches and stages snapshots, one at a time.
// What the loop asks for takes the place of what it asked for before.
type snapshotFetcher struct {
	store *wal.Store
	log   *slog.Logger
	dial  func(ctx context.Context, from zab.NodeID) (net.Conn, error)
	hang  func(net.Conn) // up
	post  func(context.Context, Event)
	fatal func(error)

	mu      sync.Mutex
	wanted  zab.FetchSnapshot
	discard uint64        // Ref of a stage that nobody wants
	stop    func()        // ends what goes on
	wake    chan struct{} // capacity 1: "look again"; when full, one is there already

	stage *wal.Stage // the last one
}

func (f *snapshotFetcher) fetch(e zab.FetchSnapshot) {
	f.mu.Lock()
	f.wanted = e
	if f.stop != nil {
		f.stop()
	}
	f.mu.Unlock()
	f.poke()
}

// forget gives up a stage.
func (f *snapshotFetcher) forget(ref uint64) {
	f.mu.Lock()
	f.discard = ref
	f.mu.Unlock()
	f.poke()
}

func (f *snapshotFetcher) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *snapshotFetcher) run(ctx context.Context) error {
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return nil
		}
		f.mu.Lock()
		want, discard := f.wanted, f.discard
		f.wanted, f.discard = zab.FetchSnapshot{}, 0
		fetching, stop := context.WithCancel(ctx)
		f.stop = stop
		f.mu.Unlock()
		if f.stage != nil && f.stage.Ref() == discard {
			f.drop()
		}
		if want.Session != 0 {
			f.answer(ctx, want, f.carry(fetching, want))
		}
		stop()
	}
}

// answer tells the log what became of a snapshot that it asked for.
func (f *snapshotFetcher) answer(ctx context.Context, want zab.FetchSnapshot, err error) {
	if err == nil {
		return
	}
	f.drop()
	f.log.Info("no snapshot", "peer", uint64(want.From), "err", err)
	f.post(ctx, Peer{zab.SnapshotFailed{Session: want.Session, Why: err.Error()}})
}

func (f *snapshotFetcher) drop() {
	if f.stage == nil {
		return
	}
	if err := f.stage.Discard(); err != nil {
		f.fatal(err)
	}
	f.stage = nil
}

// carry fetches and stages one snapshot and says so.
func (f *snapshotFetcher) carry(ctx context.Context, want zab.FetchSnapshot) error {
	if f.store.Space().Low {
		return errors.New("the disk of this node is nearly full, and a snapshot needs as much as the state: free or add space")
	}
	conn, err := f.dial(ctx, want.From)
	if err != nil {
		return err
	}
	defer f.hang(conn)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetWriteDeadline(time.Now().Add(peerTimeout))
	if err := writeFrame(conn, frameSnapshotAsk, binary.BigEndian.AppendUint64(nil, want.Session)); err != nil {
		return err
	}
	if f.stage, err = f.store.Stage(checkPair); err != nil {
		f.fatal(err)
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	moved := moveReporter{post: f.post, peer: want.From, session: want.Session}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(peerTimeout))
		kind, body, err := readFrame(r)
		if err != nil {
			return err
		}
		switch kind {
		case frameSnapshotPart:
			if err := f.staged(f.stage.Add(body)); err != nil {
				return err
			}
			moved.report(ctx)
		case frameSnapshotEnd:
			return f.finish(ctx, conn, want, body, &moved)
		case frameRefused:
			return fmt.Errorf("refused: %.500s", body)
		default:
			return fmt.Errorf("kind %d instead of a snapshot: %w", kind, errBadFrame)
		}
	}
}

// finish verifies what was staged. Meanwhile it tells the sender that it lives.
func (f *snapshotFetcher) finish(ctx context.Context, conn net.Conn, want zab.FetchSnapshot, body []byte, moved *moveReporter) error {
	end, err := decodeSnapshotEnd(body)
	if err != nil {
		return err
	}
	alive := func() {
		if moved.report(ctx) {
			_ = conn.SetWriteDeadline(time.Now().Add(peerTimeout))
			_ = writeFrame(conn, frameSnapshotPart, nil) // whether it still waits is its business
		}
	}
	if err := f.staged(f.stage.Finish(end.zxid, end.digest, end.sum, alive)); err != nil {
		return err
	}
	f.post(ctx, Peer{zab.SnapshotStaged{Session: want.Session, Snapshot: zab.Snapshot{Zxid: end.zxid, Ref: f.stage.Ref()}}})
	return nil
}

// staged ends the process when the store itself has failed.
func (f *snapshotFetcher) staged(err error) error {
	if err != nil && !errors.Is(err, wal.ErrBadSnapshot) {
		f.fatal(err)
	}
	return err
}
