// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/wal"
)

func TestPeerThatAsksForASnapshotThatItMayNotHaveIsRefused(t *testing.T) {
	s := &snapshotSender{log: slog.New(slog.DiscardHandler)}
	s.allow(zab.SendSnapshot{To: 2, Session: 7})
	require.False(t, s.take(2, 6), "another session")
	require.False(t, s.take(3, 7), "another node")
	require.False(t, s.take(2, 0))
	require.True(t, s.take(2, 7))
	require.False(t, s.take(2, 7), "once is enough")

	near, far := net.Pipe()
	defer near.Close()
	go func() { s.serve(t.Context(), far, 2, 7); far.Close() }()
	got, err := io.ReadAll(near)
	require.NoError(t, err)
	require.Equal(t, byte(frameRefused), got[frameHeader])
	require.True(t, bytes.Contains(got, []byte("no snapshot")))
}

// A sender that is not ours, or bytes that rot on the way, never become a state.
func TestDamagedSnapshotIsRefusedWithAReason(t *testing.T) {
	store, err := wal.Open("/data", wal.Options{FS: vfs.NewMem(), Node: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	check := func(key, _ []byte) error {
		if string(key) != "m" {
			return errors.New("damaged pair")
		}
		return nil
	}
	end := snapshotEnd{zxid: zab.Zxid{Epoch: 1, Counter: 9}}.append(nil)
	frame := func(k frameKind, body []byte) []byte {
		b, start := beginFrame(nil, k)
		return endFrame(append(b, body...), start)
	}
	broken := frame(frameSnapshotPart, []byte("\x01k\x01v"))
	broken[len(broken)-1] ^= 1
	tests := []struct {
		name, want string
		bytes      []byte
	}{
		{"nothing", "EOF", nil},
		{"no pairs", "no pairs", frame(frameSnapshotPart, []byte{200})},
		{"no state", "damaged pair", frame(frameSnapshotPart, []byte("\x01k\x01v"))},
		{"a flipped bit", "checksum", broken},
		{"another hash", "its hash is", append(frame(frameSnapshotPart, []byte("\x01m\x01v")),
			frame(frameSnapshotEnd, end)...)},
		{"half an end", "end of a snapshot", frame(frameSnapshotEnd, end[:20])},
		{"something else", "instead of a snapshot", frame(frameReport, nil)},
		{"a refusal", "not for you", frame(frameRefused, []byte("not for you"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			posted := make(chan zab.Event, 10)
			f := &snapshotFetcher{store: store, check: check, log: slog.New(slog.DiscardHandler),
				wake:  make(chan struct{}, 1),
				dial:  func(context.Context, zab.NodeID) (net.Conn, error) { return near, nil },
				hang:  func(conn net.Conn) { _ = conn.Close() },
				post:  func(_ context.Context, e zab.Event) { posted <- e },
				fatal: func(err error) { panic(err) }}
			go func() {
				_, _ = io.CopyN(io.Discard, far, frameHeader+9)
				_, _ = far.Write(tt.bytes)
				_ = far.Close()
			}()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.run(ctx) }()
			f.fetch(zab.FetchSnapshot{From: 2, Session: 5})
			var failed zab.SnapshotFailed
			for failed.Session == 0 {
				select {
				case e := <-posted:
					failed, _ = e.(zab.SnapshotFailed)
				case <-time.After(10 * time.Second):
					require.FailNow(t, "no answer")
				}
			}
			require.EqualValues(t, 5, failed.Session)
			require.True(t, strings.Contains(failed.Why, tt.want), failed.Why)
			cancel()
			require.NoError(t, <-done)
			applied, _ := store.Applied()
			require.Zero(t, applied)
		})
	}
}
