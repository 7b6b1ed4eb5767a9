// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// memory bounds the bytes of all requests that are carried out at a time. What has a length is refused before its
// first byte is read, if there is no room; what has none, as soon as there is none.
type memory struct {
	limits Limits
	room   *semaphore.Weighted
}

func newMemory(l Limits) *memory { return &memory{limits: l, room: semaphore.NewWeighted(l.Memory)} }

func (m *memory) full() error {
	return txn.Busyf("%d MiB of requests are being carried out at this node: ask again in a moment, or another node",
		m.limits.Memory>>20)
}

// of puts the body of a call under the bound; r is the caller's own. After done nothing is held for it.
func (m *memory) of(w http.ResponseWriter, r *http.Request, stream bool) (done func(), err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return func() {}, nil
	}
	if stream {
		h := &Held{memory: m, body: r.Body, ctx: r.Context(), control: http.NewResponseController(w),
			own: semaphore.NewWeighted(m.limits.StreamMemory)}
		*r = *r.WithContext(context.WithValue(r.Context(), heldKey{}, h))
		r.Body = h
		return h.end, nil
	}
	b := &heldBody{ReadCloser: r.Body, memory: m}
	if n := r.ContentLength; n > 0 && n <= m.limits.Memory { // what is longer is refused as it comes
		if !m.room.TryAcquire(n) {
			return nil, m.full()
		}
		b.held = n
	}
	r.Body = b
	return func() { m.room.Release(b.held) }, nil
}

// heldBody makes room for what was read.
type heldBody struct {
	io.ReadCloser
	memory     *memory
	read, held int64
}

// Read implements io.Reader.
func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if more := b.read - b.held; more > 0 {
		if !b.memory.room.TryAcquire(more) {
			return 0, api.ToStatus(b.memory.full())
		}
		b.held = b.read
	}
	return n, err
}

// smallMessage is how much of a message of a stream may be there, and the rest of it not come for as long as it likes.
const smallMessage = 4 << 10

// Held is what one stream holds: its messages count from when they are read until they are answered. A stream that
// holds too much is not read until answers went out, which makes who sends wait. nil, that of a call without a Guard,
// holds nothing.
type Held struct {
	memory  *memory
	body    io.ReadCloser
	ctx     context.Context // of the call
	control *http.ResponseController
	own     *semaphore.Weighted

	mu     sync.Mutex
	fresh  int64 // read since Took
	all    int64
	timed  bool // the rest of the message has a deadline
	closed bool
}

type heldKey struct{}

// HeldBy returns what the stream of a context holds.
func HeldBy(ctx context.Context) *Held {
	h, _ := ctx.Value(heldKey{}).(*Held)
	return h
}

// Read implements io.Reader for the body of the stream.
func (h *Held) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), h.memory.limits.StreamMemory, h.memory.limits.Memory)] // more would wait for ever
	n, err := h.body.Read(p)
	if n == 0 {
		return n, err
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.memory.limits.Body)
	defer cancel()
	if h.own.Acquire(ctx, int64(n)) != nil {
		return 0, api.ToStatus(h.memory.full())
	}
	if h.memory.room.Acquire(ctx, int64(n)) != nil {
		h.own.Release(int64(n))
		return 0, api.ToStatus(h.memory.full())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		h.memory.room.Release(int64(n))
		return 0, http.ErrBodyReadAfterClose
	}
	h.fresh += int64(n)
	h.all += int64(n)
	if h.fresh > smallMessage && !h.timed {
		h.timed = true
		_ = h.control.SetReadDeadline(time.Now().Add(h.memory.limits.Body))
	}
	return n, err
}

// Close implements io.Closer for the body of the stream.
func (h *Held) Close() error { return h.body.Close() }

// Took says that a message is there, and returns what is to be given back when it is answered.
func (h *Held) Took() int64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.fresh
	h.fresh = 0
	if h.timed {
		h.timed = false
		_ = h.control.SetReadDeadline(time.Time{})
	}
	return n
}

// Give gives back what Took returned.
func (h *Held) Give(n int64) {
	if h == nil || n == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed { // and given back as a whole
		return
	}
	h.all -= n
	h.own.Release(n)
	h.memory.room.Release(n)
}

// end gives back what is held still.
func (h *Held) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.memory.room.Release(h.all)
}
