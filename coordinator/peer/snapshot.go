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

// snapshotSender gives snapshots to peers that may have one.
type snapshotSender struct {
	store *wal.Store
	log   *slog.Logger
	post  func(context.Context, zab.Event)
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
		_ = conn.SetWriteDeadline(time.Now().Add(timeout))
		_ = writeFrame(conn, frameRefused, []byte("this session gets no snapshot here, or has had it already"))
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
		s.log.Info("a snapshot was "+
			"interrupted", "peer", uint64(to), "zxid", x.Zxid.String(), "bytes", size, "err", err)
		return
	}
	// The peer reads back what it has, and says now and then that it lives.
	moved, r := moveReporter{post: s.post, peer: to, session: session}, bufio.NewReader(conn)
	for err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
		_, _, err = readFrame(r)
		moved.report(ctx)
	}
	s.log.Info("snapshot sent", "peer", uint64(to), "zxid", x.Zxid.String(), "bytes", size, "took",
		time.Since(start).String())
}

func (s *snapshotSender) stream(ctx context.Context, conn net.Conn, to zab.NodeID, session uint64, x *wal.Snapshot,
	size *int) error {
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
		_ = conn.SetWriteDeadline(time.Now().Add(timeout))
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
	post    func(context.Context, zab.Event)
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
	m.post(ctx, zab.SnapshotMoved{Peer: m.peer, Session: m.session})
	return true
}

// snapshotEnd is the last frame of a snapshot: what it is, and a hash of all of it.
type snapshotEnd struct {
	zxid   zab.Zxid
	digest txn.Digest
	sum    [sha256.Size]byte
}

func (e snapshotEnd) append(b []byte) []byte {
	b = e.zxid.Append(b)
	b = append(b, e.digest[:]...)
	return append(b, e.sum[:]...)
}

func decodeSnapshotEnd(b []byte) (e snapshotEnd, err error) {
	if len(b) != 12+len(e.digest)+len(e.sum) {
		return e, fmt.Errorf("end of a snapshot: %w", errBadFrame)
	}
	e.zxid = zab.ZxidAt(b)
	copy(e.sum[:], b[12+copy(e.digest[:], b[12:]):])
	return e, nil
}
