// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"sync"

	"github.com/concordtx/concord/protocol/zab"
)

// fullBytes is how much may wait for the disk before a Writer says that it is full.
const fullBytes = 32 << 20

// Writer is the goroutine that owns Persist. Whatever gathers while the disk syncs
// goes down together with the next sync (group commit), so no timer and no batch size
// has to be tuned: a slow disk makes large batches.
//
// The bound of its queue: Enqueue never waits and never refuses, because the writes
// of a core cannot be dropped. Instead Full tells the owner of the core to take no
// more proposals and no more messages of peers until it is false again; then what
// waits is at most 32 MiB and what one event of the core adds to it.
type Writer struct {
	store *Store
	done  func(lastID uint64)

	mu     sync.Mutex
	queue  []zab.Write
	queued int // bytes of it
	bytes  int // what waits or is being written
	closed bool
	wake   chan struct{} // capacity 1: a token that says "look again"; when full, one is there already

	ended chan struct{}
}

// NewWriter starts the goroutine. It calls done after each sync with the ID of the
// last write that is now durable, as all before it are. done may wait for its
// receiver, which holds up later syncs, but must return once Close was called.
//
// When Persist fails the process ends, in the way that Options.Exit says.
func NewWriter(s *Store, done func(lastID uint64)) *Writer {
	w := &Writer{store: s, done: done, wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go w.run()
	return w
}

// Enqueue hands over a write, which the caller does not change any more. It never
// waits. It panics after Close.
func (w *Writer) Enqueue(x zab.Write) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		panic("wal: Enqueue after Close")
	}
	w.queue = append(w.queue, x)
	w.queued += weight(x)
	w.bytes += weight(x)
	w.mu.Unlock()
	w.notify()
}

// Full reports whether so much waits for the disk that the caller must not add more
// than what it is about to add.
func (w *Writer) Full() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes >= fullBytes
}

// Close writes what was enqueued and waits for the goroutine to end. It takes as long
// as the disk takes for the last sync. A second call only waits.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.notify()
	<-w.ended
}

func (w *Writer) notify() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Writer) run() {
	defer close(w.ended)
	var spare []zab.Write
	for range w.wake {
		for {
			batch, size, closed := w.take(spare)
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			if err := w.store.Persist(batch); err != nil {
				w.store.fatal(err)
			}
			last := batch[len(batch)-1].ID
			clear(batch) // the entries may go
			spare = batch[:0]
			w.release(size)
			w.done(last)
		}
	}
}

// take returns all that waits and leaves spare to gather what comes.
func (w *Writer) take(spare []zab.Write) (batch []zab.Write, size int, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return nil, 0, w.closed // spare stays with the caller: it must never be in two places
	}
	batch, w.queue = w.queue, spare
	size, w.queued = w.queued, 0
	return batch, size, w.closed
}

func (w *Writer) release(size int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes -= size
}

// weight is about the memory that a write holds, in bytes.
func weight(x zab.Write) int {
	n := 64
	for _, e := range x.Entries {
		n += 64 + len(e.Data)
	}
	return n
}
