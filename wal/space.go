// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// DefaultReserve is the free space below which a node takes no new work.
	DefaultReserve = 64 << 20

	ballastFile   = "BALLAST"
	spaceInterval = 500 * time.Millisecond
	// openRoom is what opening a store needs besides room for what is in its
	// write-ahead log.
	openRoom = 4 << 20
	// fullPause is how long the making of a table waits after the disk was full. Pebble
	// repeats a failed flush at once, for ever.
	fullPause = 250 * time.Millisecond
	// fullMemory is how long a disk that was full counts as such, if it does not say more.
	fullMemory = 10 * time.Second
)

// Space is the room on the file system of a store.
type Space struct {
	Free  uint64 // bytes, without the ballast
	Total uint64 // bytes; 0 if the file system does not say
	// Low: Free is, or was a moment ago, below the reserve. New work should be refused, so
	// that what is left serves what was begun.
	Low bool
}

// String is for people.
func (s Space) String() string {
	return fmt.Sprintf("%s of %s free", bytesText(s.Free), bytesText(s.Total))
}

func bytesText(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// guard watches the free space of a store's file system. There are three lines of
// defence:
//
//  1. Below the reserve, Space().Low tells the owner of the store to refuse new work.
//     It ends by itself at a quarter more than the reserve.
//  2. When a write finds the disk full all the same, because somebody else filled
//     it, the ballast goes: a file of half the reserve that is there for this. The
//     write is tried once more. It comes back when there is twice the reserve.
//  3. A write of the log that fails then ends the process, as any failed write does, and
//     one that hangs ends it after the stall limit (watchdog). Open refuses a disk
//     that is too full to replay the log on, until there is space.
type guard struct {
	files   vfs.FS
	dir     string
	reserve uint64
	log     *slog.Logger

	space  atomic.Pointer[Space]
	fullAt atomic.Int64 // when the disk was last found full, unix nanoseconds

	mu      sync.Mutex // one measurement or release at a time
	ballast bool       // there is one

	stop, ended chan struct{}
}

func newGuard(files vfs.FS, dir string, reserve uint64, log *slog.Logger) *guard {
	if reserve == 0 {
		reserve = DefaultReserve
	}
	g := &guard{files: files, dir: dir, reserve: reserve, log: log, stop: make(chan struct{}),
		ended: make(chan struct{})}
	g.space.Store(&Space{})
	_, err := files.Stat(g.path())
	g.ballast = err == nil
	return g
}

func (g *guard) path() string { return g.files.PathJoin(g.dir, ballastFile) }

// measure asks the file system and acts on the answer.
func (g *guard) measure() {
	usage, err := g.files.GetDiskUsage(g.dir)
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.space.Load()
	if err != nil { // in memory, or none that counts: all that is known is when it was full
		if was.Low && time.Since(time.Unix(0, g.fullAt.Load())) > fullMemory {
			g.space.Store(&Space{})
		}
		return
	}
	now := Space{Free: usage.AvailBytes, Total: usage.TotalBytes}
	now.Low = now.Free < g.reserve || was.Low && now.Free < g.reserve+g.reserve/4
	g.space.Store(&now)
	switch {
	case now.Low && !was.Low:
		g.log.Error("the disk is nearly full: new transactions are refused until there is more space; free or add "+
			"space", "dir", g.dir,
			"free", bytesText(now.Free), "reserve", bytesText(g.reserve))
	case was.Low && !now.Low:
		g.log.Info("the disk has space again: new transactions are "+
			"accepted", "dir", g.dir, "free", bytesText(now.Free))
	}
	if !g.ballast && now.Free >= 2*g.reserve {
		g.putBallast()
	}
}

// putBallast takes half the reserve away, to give it back when the disk is full. A file
// system that cannot set blocks aside does without.
func (g *guard) putBallast() {
	g.ballast = true // one try is enough
	f, err := g.files.Create(g.path(), vfs.WriteCategoryUnspecified)
	if err == nil {
		err = f.Preallocate(0, int64(g.reserve/2))
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		g.log.Warn("no space could be set aside for a full disk", "file", g.path(), "err", err)
	}
}

// onFull gives the ballast back. The engine's writes wait for it.
func (g *guard) onFull() {
	g.fullAt.Store(time.Now().UnixNano())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.space.Store(&Space{Free: 0, Total: g.space.Load().Total, Low: true})
	if !g.ballast {
		return
	}
	g.ballast = false
	err := g.files.Remove(g.path())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	g.log.Error("the disk is full: the space that was set aside is released, and lasts for what has begun; free or "+
		"add space", "dir", g.dir,
		"given", bytesText(g.reserve/2), "err", err)
}

// pause slows down who makes tables on a full disk.
func (g *guard) pause() {
	if since := time.Since(time.Unix(0, g.fullAt.Load())); since >= 0 && since < time.Second {
		time.Sleep(fullPause)
	}
}

// admit refuses to open a store on a disk that is too full to replay its log on: the
// engine would wait for space without a word.
func (g *guard) admit() error {
	needs, err := g.openNeeds()
	if err != nil {
		return readError(g.dir, "list the store", err)
	}
	for {
		usage, err := g.files.GetDiskUsage(g.dir)
		if err != nil || usage.AvailBytes >= needs {
			return nil
		}
		if !g.ballast {
			return fmt.Errorf("store %s: %w: %s free, %s are needed to open it; free or add space, then start again",
				g.dir, ErrDiskFull, bytesText(usage.AvailBytes), bytesText(needs))
		}
		g.onFull()
	}
}

// openNeeds is how much the engine may write before it can remove anything: a table of
// what the write-ahead log holds.
func (g *guard) openNeeds() (uint64, error) {
	needs := uint64(openRoom)
	db := g.files.PathJoin(g.dir, dbDir)
	names, err := g.files.List(db)
	if errors.Is(err, fs.ErrNotExist) {
		return needs, nil
	}
	for _, name := range names {
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		info, err := g.files.Stat(g.files.PathJoin(db, name))
		if err != nil {
			return 0, err
		}
		needs += uint64(info.Size())
	}
	return needs, err
}

func (g *guard) run() {
	defer close(g.ended)
	ticker := time.NewTicker(spaceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-ticker.C:
			g.measure()
		}
	}
}

// close ends the watch. It does not wait for ever: a file system that is gone may not
// even tell how full it is.
func (g *guard) close() {
	close(g.stop)
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	select {
	case <-g.ended:
	case <-patience.C:
	}
}

// Space returns the room on the store's file system as it was half a second ago at most.
func (s *Store) Space() Space { return *s.guard.space.Load() }
