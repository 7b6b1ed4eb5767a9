// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord/internal/mutant"
)

// Sizes for a small server: at most 32 MiB of memtables and 16 MiB of cache. Small memtables
// stay in the caches of the processor: a decision costs less than with one of 16 MiB. With 2 MiB it
// costs as much as with 4, and a node has 8 MB less, for Go's collector doubles what there is. One
// takes a quarter of a second to fill at 20,000 small writes a second, and fifteen more may wait
// for their flush before writers are held up. Reads are few, and mostly of what is not there.
const (
	memTableSize  = 2 << 20
	memTableCount = 16
	cacheSize     = 16 << 20
)

// strictFS makes two things of the file system underneath certain.
//
// Names become durable in the order of their creation where Pebble counts on that.
// It creates a manifest, then a marker file that points to it, and then syncs the
// directory once for both. ext4 and XFS journal names in order; POSIX promises
// nothing, and a marker without its manifest is a store that does not open. Markers
// move a few times per opening, so one more sync does not matter.
//
// A write-ahead log or a directory that cannot be written ends the process at the
// very operation that failed. For most of them Pebble does the same through its
// Logger, but where it starts a new log or moves a marker it panics, on a goroutine of
// its own and while a lock is open, and the operator would see a stack.
//
// On a disk that was full a moment ago it takes its time to begin a table: the engine
// tries again at once and for ever.
type strictFS struct {
	vfs.FS
	fatal func(error)
	pause func()
}

// Create syncs the directory before a marker appears in it.
func (f strictFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasPrefix(f.PathBase(name), "marker.") {
		if err := syncDir(f.FS, f.PathDir(name)); err != nil {
			f.fatal(err)
		}
	}
	if strings.HasSuffix(name, ".sst") {
		f.pause()
	}
	file, err := f.FS.Create(name, category)
	return f.strict(name, file, err)
}

// ReuseForWrite makes an old log a new one.
func (f strictFS) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, category)
	return f.strict(to, file, err)
}

// OpenDir returns a directory whose Sync does not fail.
func (f strictFS) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return strictFile{File: file, name: name, fatal: f.fatal}, nil
}

func (f strictFS) strict(name string, file vfs.File, err error) (vfs.File, error) {
	if !strings.HasSuffix(name, ".log") {
		return file, err
	}
	if err != nil {
		f.fatal(fmt.Errorf("create %s: %w", name, err))
	}
	log := &logFile{strictFile: strictFile{File: file, name: name, fatal: f.fatal}}
	if info, err := file.Stat(); err == nil { // of an old log that is written again
		log.length = info.Size()
	}
	return log, nil
}

// Unwrap returns the file system underneath.
func (f strictFS) Unwrap() vfs.FS { return f.FS }

// strictFile is a file, or a directory, whose writing either succeeds or ends the
// process.
type strictFile struct {
	vfs.File
	name  string
	fatal func(error)
}

func (f strictFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.must("write", err)
	return n, nil
}

func (f strictFile) Sync() error {
	f.must("sync", f.File.Sync())
	return nil
}

func (f strictFile) SyncData() error {
	f.must("sync", f.File.SyncData())
	return nil
}

func (f strictFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	f.must("sync", err)
	return full, nil
}

func (f strictFile) Close() error {
	f.must("close", f.File.Close())
	return nil
}

func (f strictFile) must(op string, err error) {
	if err != nil && !mutant.GoOnAfterWriteError {
		f.fatal(fmt.Errorf("%s %s: %w", op, f.name, err))
	}
}

// lengthStep is how many bytes a write-ahead log gets longer at a time.
const lengthStep = 1 << 20

// logFile is a file of the write-ahead log. It is always a little longer than what is written,
// by zeros, which the engine reads as the end of the log: a sync then writes the data alone,
// and not the new length of the file as well, which would be as much work again.
type logFile struct {
	strictFile
	at, length int64
}

func (f *logFile) Write(p []byte) (int, error) {
	f.at += int64(len(p))
	if f.at > f.length && f.Fd() != vfs.InvalidFd {
		f.length = f.at - f.at%lengthStep + lengthStep
		_ = os.Truncate(f.name, f.length) // without it the log is as durable, and slower
	}
	return f.strictFile.Write(p)
}

// engineOptions configures Pebble. A nil fs means the real file system, watched for
// slow operations.
func engineOptions(fs vfs.FS, log *engineLog, g *guard, mark *watermark) *pebble.Options {
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
	real := fs == nil
	if real {
		fs = vfs.Default
	}
	fs = vfs.OnDiskFull(fs, g.onFull)
	if mark != nil { // a store that is being made has none
		fs = logFS{FS: fs, mark: mark}
	}
	o := &pebble.Options{
		FS:                          strictFS{FS: fs, fatal: log.fatal, pause: g.pause},
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
	o.Experimental.SpanPolicyFunc = tableOf
	if real {
		o.WithFSDefaults()
	}
	return o
}

// tableOf gives keys of different kinds tables of their own. Log entries and finished
// transactions come in the order of their keys, so a new table of them stands behind all
// older ones and moves down as it is. In one table with keys of other spaces it
// would overlap everything in between, which would be written again and again, the more
// of it the longer the history is.
func tableOf(start []byte) (policy pebble.SpanPolicy, end []byte, err error) {
	kind := 1
	if start[0] >= stateSpace {
		kind = 2 // the first byte of the caller's keys says what they are
	}
	end = append(end, start[:min(kind, len(start))]...)
	for end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	end[len(end)-1]++
	return policy, end, nil
}

// engineLog passes on what an operator must know. Pebble repeats an error for each
// try, thousands of times on a full disk, so only some are written.
type engineLog struct {
	log    *slog.Logger
	exit   func(code int)
	errors sometimes
	warns  sometimes
}

func newEngineLog(log *slog.Logger, exit func(int)) *engineLog {
	return &engineLog{log: log, exit: exit}
}

// sometimes does a thing the first times, and then once in an interval.
type sometimes struct {
	mu   sync.Mutex
	done int
	last time.Time
}

const (
	firstTimes   = 3
	sometimesGap = 10 * time.Second
)

func (s *sometimes) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done < firstTimes || time.Since(s.last) >= sometimesGap {
		s.done, s.last = s.done+1, time.Now()
		f()
	}
}

func (l *engineLog) warn(text string, args ...any) {
	l.warns.do(func() { l.log.Warn(text, args...) })
}

// Infof drops Pebble's diary of flushes and compactions.
func (l *engineLog) Infof(string, ...any) {}

// Errorf logs some of the errors.
func (l *engineLog) Errorf(format string, args ...any) {
	l.errors.do(func() { l.log.Error("store error", "err", fmt.Sprintf(format, args...)) })
}

// Fatalf ends the process: Pebble calls it when a write or sync failed.
func (l *engineLog) Fatalf(format string, args ...any) {
	l.fatal(fmt.Errorf(format, args...))
}

// fatal ends the process. Nobody knows what the disk holds after a failed write, so
// nothing that depends on it may be said any more.
func (l *engineLog) fatal(err error) {
	l.log.Error("the store cannot be written, so the process exits: check the disk's free space and its health, "+
		"then start again", "err", err)
	l.exit(1)
	panic(fmt.Sprintf("wal: exit returned after: %v", err))
}
