// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/protocol/zab"
)

// receive waits for a value, or for the channel to be closed, with a deadline.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		require.FailNow(t, "nothing came")
		panic("not reached")
	}
}

func TestTheWriterReportsOnlyWhatIsDurable(t *testing.T) {
	const writes = 200
	mem := crashfs.New()
	s := openMem(t, mem)
	type report struct {
		id   uint64
		disk *crashfs.FS
	}
	var reports []report // owned by the writer until Close returns
	w := NewWriter(s, func(id uint64) { reports = append(reports, report{id, mem.CrashClone(vfs.CrashCloneCfg{})}) })
	for i, e := range run(zab.Zxid{}, 1, writes) {
		w.Enqueue(zab.Write{ID: uint64(i + 1), Entries: []zab.Entry{e}})
	}
	w.Close()
	w.Close()
	require.NotEmpty(t, reports)
	require.EqualValues(t, writes, reports[len(reports)-1].id, "Close drains")
	before := uint64(0)
	for _, r := range reports {
		require.Greater(t, r.id, before)
		before = r.id
		_, _, last, _ := openMem(t, r.disk).Initial()
		require.Equal(t, z(1, r.id), last)
	}
	require.Panics(t, func() { w.Enqueue(zab.Write{}) })
}

func TestWritesThatGatherShareOneSync(t *testing.T) {
	var syncs atomic.Int64
	s := openMem(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData {
			syncs.Add(1)
		}
		return nil
	})))
	first, release := make(chan uint64), make(chan struct{})
	var ids []uint64
	w := NewWriter(s, func(id uint64) {
		if ids = append(ids, id); id == 1 {
			first <- id
			<-release
		}
	})
	es := run(zab.Zxid{}, 1, 101)
	w.Enqueue(zab.Write{ID: 1, Entries: es[:1]})
	receive(t, first)
	before := syncs.Load()
	for i, e := range es[1:] { // they gather while the writer is busy
		w.Enqueue(zab.Write{ID: uint64(i + 2), Entries: []zab.Entry{e}})
	}
	close(release)
	w.Close()
	require.Equal(t, []uint64{1, 101}, ids)
	require.EqualValues(t, 1, syncs.Load()-before)
	_, _, last, _ := s.Initial()
	require.Equal(t, z(1, 101), last)
}

func TestTheWriterSaysWhenItIsFull(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	first, release := make(chan struct{}), make(chan struct{})
	w := NewWriter(s, func(id uint64) {
		if id == 1 {
			close(first)
			<-release
		}
	})
	megabyte := make([]byte, 1<<20)
	es := run(zab.Zxid{}, 1, 40)
	w.Enqueue(zab.Write{ID: 1, Entries: es[:1]})
	receive(t, first)
	fullAt := 0
	for i, e := range es[1:] {
		e.Data = megabyte
		w.Enqueue(zab.Write{ID: uint64(i + 2), Entries: []zab.Entry{e}})
		if w.Full() && fullAt == 0 {
			fullAt = i + 1
		}
	}
	require.Equal(t, 32, fullAt)
	close(release)
	w.Close()
	require.False(t, w.Full())
	_, _, last, _ := s.Initial()
	require.Equal(t, z(1, 40), last, "what was enqueued beyond is written all the same")
}

// What is enqueued while the disk syncs must not land in the batch that is under way,
// whose memory is used again.
func TestWritesThatArriveDuringASyncAreNotLost(t *testing.T) {
	var armed atomic.Bool
	reached, release := make(chan struct{}), make(chan struct{})
	s := openMem(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData) && armed.CompareAndSwap(true, false) {
			close(reached)
			<-release
		}
		return nil
	})))
	done := make(chan uint64, 10)
	w := NewWriter(s, func(id uint64) { done <- id })
	es := run(zab.Zxid{}, 1, 5)
	for id := uint64(1); id <= 3; id++ { // idle in between, so that buffers go round
		w.Enqueue(zab.Write{ID: id, Entries: es[id-1 : id]})
		require.Equal(t, id, receive(t, done))
	}
	armed.Store(true)
	w.Enqueue(zab.Write{ID: 4, Entries: es[3:4]})
	receive(t, reached)
	w.Enqueue(zab.Write{ID: 5, Entries: es[4:5]})
	close(release)
	require.EqualValues(t, 4, receive(t, done))
	require.EqualValues(t, 5, receive(t, done))
	w.Close()
	_, _, last, _ := s.Initial()
	require.Equal(t, z(1, 5), last)
}
