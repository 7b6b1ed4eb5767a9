// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/wal"
)

// snapshotFetcher is the goroutine that fetches and stages snapshots, one at a time.
// What the loop asks for takes the place of what it asked for before.
type snapshotFetcher struct {
	store *wal.Store
	check func(key, value []byte) error
	log   *slog.Logger
	dial  func(ctx context.Context, from zab.NodeID) (net.Conn, error)
	hang  func(net.Conn) // up
	post  func(context.Context, zab.Event)
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
	f.post(ctx, zab.SnapshotFailed{Session: want.Session, Why: err.Error()})
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
		return errors.New("the disk of this node is nearly full, and a snapshot needs as much space as the state: " +
			"free or add space")
	}
	conn, err := f.dial(ctx, want.From)
	if err != nil {
		return err
	}
	defer f.hang(conn)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetWriteDeadline(time.Now().Add(timeout))
	if err := writeFrame(conn, frameSnapshotAsk, binary.BigEndian.AppendUint64(nil, want.Session)); err != nil {
		return err
	}
	if f.stage, err = f.store.Stage(f.check); err != nil {
		f.fatal(err)
	}
	r := bufio.NewReaderSize(conn, 64<<10)
	moved := moveReporter{post: f.post, peer: want.From, session: want.Session}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(timeout))
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
func (f *snapshotFetcher) finish(ctx context.Context, conn net.Conn, want zab.FetchSnapshot, body []byte,
	moved *moveReporter) error {
	end, err := decodeSnapshotEnd(body)
	if err != nil {
		return err
	}
	alive := func() {
		if moved.report(ctx) {
			_ = conn.SetWriteDeadline(time.Now().Add(timeout))
			_ = writeFrame(conn, frameSnapshotPart, nil) // whether it still waits is its business
		}
	}
	if err := f.staged(f.stage.Finish(end.zxid, end.digest, end.sum, alive)); err != nil {
		return err
	}
	f.post(ctx, zab.SnapshotStaged{Session: want.Session, Snapshot: zab.Snapshot{Zxid: end.zxid, Ref: f.stage.Ref()}})
	return nil
}

// staged ends the process when the store itself has failed.
func (f *snapshotFetcher) staged(err error) error {
	if err != nil && !errors.Is(err, wal.ErrBadSnapshot) {
		f.fatal(err)
	}
	return err
}
