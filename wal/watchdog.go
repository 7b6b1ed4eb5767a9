// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"
	"sync/atomic"
	"time"
)

const (
	// DefaultStallLimit is how long one write of the store may take.
	DefaultStallLimit = 20 * time.Second

	watchInterval = 250 * time.Millisecond
	// openStalls is how many stall limits opening or closing the store may take.
	openStalls = 6
	// slowMemory is how long the slowest sync is remembered.
	slowMemory = time.Minute
)

// Latency is how long the disk takes for the syncs of the log.
type Latency struct {
	Last time.Duration
	// Slowest of about the last minute, the one under way included.
	Slowest time.Duration
}

// operation is one kind of work of the store, done by one goroutine at a time.
type operation struct {
	name  string
	count atomic.Uint64 // of begins and ends: odd while it goes on
	begun atomic.Int64  // unix nanoseconds
	limit int           // ticks that it may take

	seen  uint64 // by the watchdog
	ticks int
}

func (o *operation) begin() {
	o.begun.Store(time.Now().UnixNano())
	o.count.Add(1)
}

func (o *operation) end() time.Duration {
	o.count.Add(1)
	return time.Since(time.Unix(0, o.begun.Load()))
}

// watchdog ends the process when the store does not come back from a write: a disk
// that hangs, or an engine that waits for space. To its clients and to the other nodes a
// node that waits for ever is worse than one that is gone.
//
// It counts its own ticks and not the clock, so a process that was suspended
// meanwhile is not taken for one whose disk hangs.
type watchdog struct {
	open, persist, apply, mark operation
	fatal                      func(error)

	last    atomic.Int64 // duration of the last sync
	slowest atomic.Pointer[slowSync]

	stop, ended chan struct{}
}

type slowSync struct {
	took time.Duration
	at   time.Time
}

func startWatchdog(limit time.Duration, fatal func(error)) *watchdog {
	if limit <= 0 {
		limit = DefaultStallLimit
	}
	ticks := int(limit/watchInterval) + 1
	w := &watchdog{fatal: fatal, stop: make(chan struct{}), ended: make(chan struct{})}
	w.open.name, w.open.limit = "open or close the store", openStalls*ticks
	w.persist.name, w.persist.limit = "write the log", ticks
	w.apply.name, w.apply.limit = "write the state", ticks
	w.mark.name, w.mark.limit = "write the watermark", ticks
	go w.run()
	return w
}

func (w *watchdog) run() {
	defer close(w.ended)
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-ticker.C:
			for _, o := range []*operation{&w.open, &w.persist, &w.apply, &w.mark} {
				if o.stalls() {
					w.fatal(fmt.Errorf("%s: no end after %v: the disk hangs or is full", o.name,
						time.Duration(o.limit)*watchInterval))
				}
			}
		}
	}
}

// stalls counts a tick, and reports whether the operation has had too many.
func (o *operation) stalls() bool {
	count := o.count.Load()
	if count%2 == 0 || count != o.seen {
		o.seen, o.ticks = count, 0
		return false
	}
	o.ticks++
	return o.ticks >= o.limit
}

// synced notes how long a sync took.
func (w *watchdog) synced(took time.Duration) {
	w.last.Store(int64(took))
	if s := w.slowest.Load(); s == nil || s.took < took || time.Since(s.at) > slowMemory {
		w.slowest.Store(&slowSync{took: took, at: time.Now()})
	}
}

// close ends the watch. What goes on then is on its own.
func (w *watchdog) close() {
	close(w.stop)
	<-w.ended
}

// Latency returns how long the syncs of the log take.
func (s *Store) Latency() Latency {
	w := s.watchdog
	l := Latency{Last: time.Duration(w.last.Load())}
	if slow := w.slowest.Load(); slow != nil && time.Since(slow.at) <= slowMemory {
		l.Slowest = slow.took
	}
	if w.persist.count.Load()%2 == 1 {
		l.Slowest = max(l.Slowest, time.Since(time.Unix(0, w.persist.begun.Load())))
	}
	return l
}
