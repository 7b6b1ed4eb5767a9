// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/time/rate"
)

// Sizes for a small server: at most 64 MiB of memtables and 64 MiB of cache. A
// memtable of 16 MiB takes about three seconds to fill at 20,000 small writes a
// second, and three more may wait for their flush before writers are held up.
const (
	memTableSize  = 16 << 20
	memTableCount = 4
	cacheSize     = 64 << 20
)

// engineOptions configures Pebble. A nil fs means the real file system, watched for
// slow operations.
func engineOptions(fs vfs.FS, log *engineLog) *pebble.Options {
	listener := &pebble.EventListener{
		BackgroundError: func(err error) { log.Errorf("background work of the store failed: %v", err) },
		// Pebble's own reaction would be to end the process. The reader gets the same
		// error and can say what it was reading.
		DataCorruption: func(i pebble.DataCorruptionInfo) { log.Errorf("damaged file %s: %v", i.Path, i.Details) },
		DiskSlow:       func(i pebble.DiskSlowInfo) { log.warn("the disk is slow", "detail", i.String()) },
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			log.warn("the store holds up writes because the disk does not keep pace", "reason", i.Reason)
		},
	}
	listener.EnsureDefaults(log)
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   cacheSize,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: memTableCount,
		// Compaction starts early, and writers are never stopped for a tall L0: with
		// this few bytes a second it is drained within seconds, and a stopped writer
		// is a stopped node.
		L0CompactionThreshold:      2,
		L0StopWritesThreshold:      1000,
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		MaxOpenFiles:               500,
		Logger:                     log,
		EventListener:              listener,
	}
	// A commit looks up keys that are mostly absent: filters answer without a read.
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	if fs == nil {
		o.WithFSDefaults()
	}
	return o
}

// engineLog passes on what an operator must know. Pebble repeats an error for each
// try, thousands of times on a full disk, so only some are written.
type engineLog struct {
	log    *slog.Logger
	exit   func(code int)
	errors rate.Sometimes
	warns  rate.Sometimes
}

func newEngineLog(log *slog.Logger, exit func(int)) *engineLog {
	return &engineLog{
		log:    log,
		exit:   exit,
		errors: rate.Sometimes{First: 3, Interval: 10 * time.Second},
		warns:  rate.Sometimes{First: 3, Interval: 10 * time.Second},
	}
}

func (l *engineLog) warn(text string, args ...any) {
	l.warns.Do(func() { l.log.Warn(text, args...) })
}

// Infof drops Pebble's diary of flushes and compactions.
func (l *engineLog) Infof(string, ...any) {}

// Errorf logs some of the errors.
func (l *engineLog) Errorf(format string, args ...any) {
	l.errors.Do(func() { l.log.Error("store error", "error", fmt.Sprintf(format, args...)) })
}

// Fatalf ends the process: Pebble calls it when a write or sync failed.
func (l *engineLog) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf(format, args...))
}

// fatal ends the process. Nobody knows what the disk holds after a failed write, so
// nothing that depends on it may be said any more.
func (l *engineLog) fatal(err error) {
	l.log.Error("the store cannot be written, the process ends; check free space and health of the disk, then start again", "error", err)
	l.exit(1)
	panic(fmt.Sprintf("wal: exit returned after: %v", err))
}
