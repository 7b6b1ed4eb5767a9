// SPDX-License-Identifier: Apache-2.0

package zab

import "sort"

// history is the tail of the log in memory: every entry after `after`, which is
// itself in the durable log, the base, or the empty history.
//
//  1. entries[0].Prev == after, and each later entry names the one before it;
//  2. whatever is not durable yet is in here;
//  3. a slot of the array that was ever handed out is never written again, because log
//     writer, senders and state machine read handed-out slices at their own pace.
type history struct {
	after   Zxid
	entries []Entry
	bytes   int
}

// entrySize is what an entry counts for in windows and bounds, in bytes.
func entrySize(e *Entry) int { return len(e.Data) + entryOverhead }

const entryOverhead = 32

func sizeOf(entries []Entry) int {
	size := 0
	for i := range entries {
		size += entrySize(&entries[i])
	}
	return size
}

func (h *history) tail() Zxid {
	if len(h.entries) == 0 {
		return h.after
	}
	return h.entries[len(h.entries)-1].Zxid
}

// follows reports whether z may stand right after prev.
func follows(prev, z Zxid) bool {
	if z.Epoch == prev.Epoch {
		return z.Epoch != 0 && prev.Counter < maxCounter && prev.Counter+1 == z.Counter
	}
	return z.Epoch > prev.Epoch && z.Counter == 1
}

// append adds entries and returns them as they stand in the history.
func (h *history) append(entries ...Entry) []Entry {
	for i := range entries {
		e := &entries[i]
		if e.Prev != h.tail() || !follows(e.Prev, e.Zxid) {
			panicf("append %s after %s to a history that ends at %s", e.Zxid, e.Prev, h.tail())
		}
		h.entries = append(h.entries, *e)
		h.bytes += entrySize(e)
	}
	n := len(h.entries)
	return h.entries[n-len(entries) : n : n]
}

// index returns the position of the first entry after z.
func (h *history) index(z Zxid) int {
	n := len(h.entries)
	if n == 0 || z.Less(h.entries[0].Zxid) {
		return 0
	}
	if !z.Less(h.entries[n-1].Zxid) {
		return n
	}
	return sort.Search(n, func(i int) bool { return z.Less(h.entries[i].Zxid) })
}

// floor returns the greatest zxid <= z in memory; z must not be before `after`.
func (h *history) floor(z Zxid) Zxid {
	if i := h.index(z); i > 0 {
		return h.entries[i-1].Zxid
	}
	return h.after
}

// slice returns (after, upto], cut after the first entry with which the sizes
// exceed maxBytes.
func (h *history) slice(after, upto Zxid, maxBytes int) []Entry {
	from, to := h.index(after), h.index(upto)
	size := 0
	for i := from; i < to; i++ {
		if size += entrySize(&h.entries[i]); size > maxBytes {
			to = i + 1
		}
	}
	if from >= to {
		return nil
	}
	return h.entries[from:to:to]
}

// truncate removes all entries after z.
func (h *history) truncate(z Zxid) {
	if z.Less(h.after) {
		h.after, h.entries, h.bytes = z, nil, 0
		return
	}
	i := h.index(z)
	h.bytes -= sizeOf(h.entries[i:])
	h.entries = h.entries[:i:i] // the next append takes a new array
}

// evict forgets the oldest entries up to `upto` until maxBytes are left.
func (h *history) evict(upto Zxid, maxBytes int) {
	i := 0
	for h.bytes > maxBytes && i < len(h.entries) && !upto.Less(h.entries[i].Zxid) {
		h.bytes -= entrySize(&h.entries[i])
		h.after = h.entries[i].Zxid
		i++
	}
	h.entries = h.entries[i:]
}

// forget lets go of the entries up to z.
func (h *history) forget(z Zxid) {
	if i := h.index(z); i > 0 {
		h.bytes -= sizeOf(h.entries[:i])
		h.after, h.entries = h.entries[i-1].Zxid, h.entries[i:]
	}
}

// clone returns a history that shares nothing that is ever written.
func (h *history) clone() history {
	c := *h
	c.entries = h.entries[:len(h.entries):len(h.entries)]
	return c
}

// fifo is a queue without garbage on the way.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) len() int  { return len(q.items) - q.head }
func (q *fifo[T]) push(v T)  { q.items = append(q.items, v) }
func (q *fifo[T]) front() *T { return &q.items[q.head] }
func (q *fifo[T]) all() []T  { return q.items[q.head:] }
func (q *fifo[T]) reset()    { q.items, q.head = q.items[:0], 0 }

func (q *fifo[T]) pop() T {
	v := q.items[q.head]
	q.head++
	switch {
	case q.head == len(q.items):
		q.reset()
	case q.head >= 1024 && q.head > len(q.items)/2:
		n := copy(q.items, q.items[q.head:])
		q.items, q.head = q.items[:n], 0
	}
	return v
}

func (q *fifo[T]) clone() fifo[T] {
	return fifo[T]{items: append([]T(nil), q.all()...)}
}
