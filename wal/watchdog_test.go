// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// stallingDisk is a disk whose writes to some file hang while stall is set.
func stallingDisk(suffix string) (fs vfs.FS, stall func(), heal func()) {
	var gate atomic.Pointer[chan struct{}]
	fs = errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if c := gate.Load(); c != nil && strings.HasSuffix(op.Path, suffix) &&
			op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			<-*c
		}
		return nil
	}))
	stall = func() { c := make(chan struct{}); gate.Store(&c) }
	heal = func() { close(*gate.Swap(nil)) }
	return fs, stall, heal
}

func TestADiskThatHangsEndsTheProcessWithTheReason(t *testing.T) {
	for suffix, says := range map[string]string{".log": "write the log", markFile: "write the watermark"} {
		t.Run(says, func(t *testing.T) { hangs(t, suffix, says) })
	}
}

func hangs(t *testing.T, suffix, says string) {
	fs, stall, _ := stallingDisk(suffix)
	var said bytes.Buffer
	exited := make(chan int, 1)
	s, err := Open(testDir, Options{FS: fs, Node: 1, StallLimit: time.Second,
		Logger: slog.New(slog.NewTextHandler(&said, nil)), Exit: func(code int) {
			exited <- code
			select {} // a process that ended does nothing more
		}})
	require.NoError(t, err)
	persist(t, s, zab.Write{Entries: run(zab.Zxid{}, 1, 1)})
	stall()
	go func() { _ = s.Persist([]zab.Write{{Entries: run(z(1, 1), 1, 1)}}) }()
	select {
	case code := <-exited:
		require.Equal(t, 1, code)
	case <-time.After(30 * time.Second):
		require.FailNow(t, "it hangs")
	}
	require.Contains(t, said.String(), says+": no end after")
	require.Contains(t, said.String(), "the disk hangs or is full")
}

func TestASlowSyncIsToldWhileItGoesOnAndAfterwards(t *testing.T) {
	fs, stall, heal := stallingDisk(".log")
	s := openMem(t, fs)
	require.Zero(t, s.Latency())
	stall()
	done := make(chan error, 1)
	go func() { done <- s.Persist([]zab.Write{{Entries: run(zab.Zxid{}, 1, 1)}}) }()
	require.Eventually(t, func() bool { return s.Latency().Slowest > 50*time.Millisecond }, 10*time.Second,
		time.Millisecond)
	require.Zero(t, s.Latency().Last, "it is not over")
	heal()
	require.NoError(t, <-done)
	require.GreaterOrEqual(t, s.Latency().Last, 50*time.Millisecond)
	slowest := s.Latency().Slowest
	persist(t, s, zab.Write{Entries: run(z(1, 1), 1, 1)})
	require.Equal(t, slowest, s.Latency().Slowest, "remembered for a while")
}

// A process that was suspended finds all of its time used up at once. Only ticks count.
func TestAnOperationStallsOnlyAfterTicksOfTheSameOperation(t *testing.T) {
	o := operation{limit: 3}
	require.False(t, o.stalls())
	o.begin()
	o.begun.Store(1) // an hour ago, and longer
	for range 3 {
		require.False(t, o.stalls())
	}
	o.end()
	o.begin()
	for range 3 {
		require.False(t, o.stalls(), "another operation begins from zero")
	}
	require.True(t, o.stalls())
}
