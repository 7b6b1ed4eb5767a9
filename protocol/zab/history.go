// SPDX-License-Identifier: Apache-2.0

package zab

import "sort"

// history is the tail of the log in memory: every entry after `after`, which is
// itself in the durable log, the base, or the empty history. It is in chunks, so that nothing that
// is done about it takes longer because it is long.
//
//  1. The first entry's Prev == after, and each later entry names the one before it;
//  2. whatever is not durable yet is in here;
//  3. a slot of an array that was ever handed out is never written again, because log
//     writer, senders and state machine read handed-out slices at their own pace;
//  4. no chunk is empty.
type history struct {
	after  Zxid
	chunks []chunk
	bytes  int
}

// chunk is a run of entries.
type chunk struct {
	entries []Entry
	bytes   int
}

// chunkEntries entries are in a chunk, or more that were appended together.
const chunkEntries = 512

func (c *chunk) first() Zxid { return c.entries[0].Zxid }
func (c *chunk) last() Zxid  { return c.entries[len(c.entries)-1].Zxid }

// behind returns how many entries of the chunk are not after z.
func (c *chunk) behind(z Zxid) int {
	return sort.Search(len(c.entries), func(i int) bool { return z.Less(c.entries[i].Zxid) })
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
	if len(h.chunks) == 0 {
		return h.after
	}
	return h.chunks[len(h.chunks)-1].last()
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
	if len(entries) == 0 {
		return nil
	}
	prev := h.tail()
	for i := range entries {
		e := &entries[i]
		if e.Prev != prev || !follows(prev, e.Zxid) {
			panicf("append %s after %s to a history that ends at %s", e.Zxid, e.Prev, prev)
		}
		prev = e.Zxid
	}
	last := len(h.chunks) - 1
	if last < 0 || len(h.chunks[last].entries)+len(entries) > chunkEntries {
		h.chunks = append(h.chunks, chunk{})
		last++
	}
	c, size := &h.chunks[last], sizeOf(entries)
	c.entries = append(c.entries, entries...)
	c.bytes += size
	h.bytes += size
	n := len(c.entries)
	return c.entries[n-len(entries) : n : n]
}

// chunk returns the place of the chunk with the first entry after z, or how many there are.
func (h *history) chunk(z Zxid) int {
	return sort.Search(len(h.chunks), func(i int) bool { return z.Less(h.chunks[i].last()) })
}

// floor returns the greatest zxid <= z in memory; z must not be before `after`.
func (h *history) floor(z Zxid) Zxid {
	i := h.chunk(z)
	if i < len(h.chunks) {
		if n := h.chunks[i].behind(z); n > 0 {
			return h.chunks[i].entries[n-1].Zxid
		}
	}
	if i == 0 {
		return h.after
	}
	return h.chunks[i-1].last()
}

// slice returns entries of (after, upto] from the first one on: no more than one chunk has, cut
// after the first entry with which the sizes exceed maxBytes.
func (h *history) slice(after, upto Zxid, maxBytes int) []Entry {
	i := h.chunk(after)
	if i == len(h.chunks) {
		return nil
	}
	c := &h.chunks[i]
	from, to := c.behind(after), c.behind(upto)
	size := 0
	for k := from; k < to; k++ {
		if size += entrySize(&c.entries[k]); size > maxBytes {
			to = k + 1
		}
	}
	if from >= to {
		return nil
	}
	return c.entries[from:to:to]
}

// size returns what the entries of (after, upto] count for.
func (h *history) size(after, upto Zxid) (bytes int) {
	for i := h.chunk(after); i < len(h.chunks) && !upto.Less(h.chunks[i].first()); i++ {
		c := &h.chunks[i]
		if after.Less(c.first()) && !upto.Less(c.last()) {
			bytes += c.bytes
		} else if from, to := c.behind(after), c.behind(upto); from < to {
			bytes += sizeOf(c.entries[from:to])
		}
	}
	return bytes
}

// truncate removes all entries after z.
func (h *history) truncate(z Zxid) {
	for n := len(h.chunks); n > 0 && z.Less(h.chunks[n-1].last()); n-- {
		c := &h.chunks[n-1]
		if i := c.behind(z); i > 0 {
			size := sizeOf(c.entries[i:])
			c.entries = c.entries[:i:i] // the next append takes a new array
			c.bytes -= size
			h.bytes -= size
			return
		}
		h.bytes -= c.bytes
		h.chunks[n-1] = chunk{}
		h.chunks = h.chunks[:n-1]
	}
	if z.Less(h.after) {
		h.after = z
	}
}

// evict forgets the oldest entries up to `upto` until maxBytes are left.
func (h *history) evict(upto Zxid, maxBytes int) {
	for h.bytes > maxBytes && len(h.chunks) > 0 {
		c := &h.chunks[0]
		n := len(c.entries)
		if h.bytes-c.bytes < maxBytes || upto.Less(c.last()) {
			n = 0
			for size := 0; h.bytes-size > maxBytes && n < len(c.entries) && !upto.Less(c.entries[n].Zxid); n++ {
				size += entrySize(&c.entries[n])
			}
		}
		if n == 0 {
			return
		}
		h.dropFirst(n)
	}
}

// forget lets go of the entries up to z.
func (h *history) forget(z Zxid) {
	for len(h.chunks) > 0 && !z.Less(h.chunks[0].first()) {
		h.dropFirst(h.chunks[0].behind(z))
	}
}

// dropFirst lets go of the first n entries of the first chunk.
func (h *history) dropFirst(n int) {
	c := &h.chunks[0]
	h.after = c.entries[n-1].Zxid
	if n == len(c.entries) {
		h.bytes -= c.bytes
		*c = chunk{} // the array may go
		h.chunks = h.chunks[1:]
		return
	}
	size := sizeOf(c.entries[:n])
	c.entries = c.entries[n:]
	c.bytes -= size
	h.bytes -= size
}

// clone returns a history that shares nothing that is ever written.
func (h *history) clone() history {
	c := *h
	c.chunks = append([]chunk(nil), h.chunks...)
	for i := range c.chunks {
		n := len(c.chunks[i].entries)
		c.chunks[i].entries = c.chunks[i].entries[:n:n]
	}
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
