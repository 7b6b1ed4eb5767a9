// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	chunkSize   = 16 << 10
	queueLength = 256
	socketBytes = 64 << 10 // what the system keeps is part of the network, too
)

// conn is one connection through a Link. The way to the target is opened for the first
// bytes that get there, as in a network that loses the dialer's SYN; with a knife, at once.
type conn struct {
	in     *net.TCPConn
	queues [2]chan chunk
	gone   chan struct{} // closed by reset
	frozen bool          // under the mutex of the link
	blades [2]*blade     // each used by its pump; nil: none

	mu   sync.Mutex
	over bool
	out  *net.TCPConn
}

// chunk is some bytes on their way, or with none the end of a direction.
type chunk struct {
	bytes []byte
	sent  time.Time
	err   error // that ended the direction, nil for an orderly end
}

func newConn(in *net.TCPConn) *conn {
	small(in)
	return &conn{in: in, gone: make(chan struct{}),
		queues: [2]chan chunk{make(chan chunk, queueLength), make(chan chunk, queueLength)}}
}

func small(c *net.TCPConn) {
	_ = c.SetReadBuffer(socketBytes)
	_ = c.SetWriteBuffer(socketBytes)
}

// run passes on bytes until both directions have ended.
func (c *conn) run(l *Link) {
	var pumps sync.WaitGroup
	pumps.Go(func() { c.collect(Forward, c.in) })
	pumps.Go(func() { c.pump(l, Forward, &pumps) })
	pumps.Go(func() { c.pump(l, Backward, &pumps) })
	pumps.Wait()
	c.reset()
}

// reset ends both directions at once.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return
	}
	c.over = true
	close(c.gone)
	for _, s := range []*net.TCPConn{c.in, c.out} {
		if s != nil {
			_ = s.SetLinger(0)
			_ = s.Close()
		}
	}
}

// connect opens the way to the target, once.
func (c *conn) connect(l *Link, pumps *sync.WaitGroup) (*net.TCPConn, error) {
	if c.out != nil { // only the forward pump gets here
		return c.out, nil
	}
	s, err := net.DialTimeout("tcp", l.target, 10*time.Second)
	if err != nil {
		return nil, err
	}
	out := s.(*net.TCPConn)
	small(out)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return nil, errors.Join(net.ErrClosed, out.Close())
	}
	c.out = out
	pumps.Go(func() { c.collect(Backward, out) })
	return out, nil
}

// collect reads what one side sends.
func (c *conn) collect(d Direction, from *net.TCPConn) {
	for {
		b := make([]byte, chunkSize)
		n, err := from.Read(b)
		if n > 0 && !c.put(d, chunk{bytes: b[:n], sent: time.Now()}) {
			return
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			c.put(d, chunk{sent: time.Now(), err: err})
			return
		}
	}
}

func (c *conn) put(d Direction, x chunk) bool {
	select {
	case c.queues[d] <- x:
		return true
	case <-c.gone:
		return false
	}
}

// inject puts bytes, or with none an end, where a collector would.
func (c *conn) inject(d Direction, b []byte) { c.put(d, chunk{bytes: b, sent: time.Now()}) }

// pump delivers what was collected in one direction, as the faults allow.
func (c *conn) pump(l *Link, d Direction, pumps *sync.WaitGroup) {
	lost := false
	if d == Forward && c.blades[d] != nil { // servers that speak first are cut, too
		if _, err := c.connect(l, pumps); err != nil {
			c.reset()
			return
		}
	}
	for {
		var x chunk
		select {
		case x = <-c.queues[d]:
		case <-c.gone:
			return
		}
		if !c.travel(l, d, x, &lost) {
			return
		}
		if len(x.bytes) == 0 && (lost || x.err != nil) { // nothing that vanished may be skipped
			c.reset()
			return
		}
		if len(x.bytes) > 0 && lost {
			if f, _ := l.fault(c, d); f.Drop {
				continue
			}
			c.reset()
			return
		}
		cut := false
		if b := c.blades[d]; b != nil && len(x.bytes) > 0 {
			n := 0
			if n, cut = b.pass(x.bytes); n == 0 { // delivered with none it would be the end
				c.reset()
				return
			}
			x.bytes = x.bytes[:n]
		}
		if !c.deliver(l, d, x, pumps) || cut {
			c.reset()
			return
		}
		if len(x.bytes) == 0 {
			return
		}
	}
}

// travel waits until a chunk arrives, or has vanished. An end that vanishes is heard of when
// the fault is over. It returns false when the connection is gone.
func (c *conn) travel(l *Link, d Direction, x chunk, lost *bool) bool {
	for {
		f, changed := l.fault(c, d)
		wait := f.Delay - time.Since(x.sent)
		switch {
		case f.Drop && len(x.bytes) > 0:
			*lost = true
			return true
		case f.Drop || f.Hold:
			wait = time.Hour
		case wait <= 0:
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-c.gone:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// deliver writes a chunk, or the end of the direction, to the other side.
func (c *conn) deliver(l *Link, d Direction, x chunk, pumps *sync.WaitGroup) bool {
	to := c.in
	if d == Forward {
		out, err := c.connect(l, pumps)
		if err != nil {
			return false
		}
		to = out
	}
	if len(x.bytes) == 0 {
		return to.CloseWrite() == nil
	}
	for b := x.bytes; len(b) > 0; {
		n := len(b)
		if f, _ := l.fault(c, d); f.Rate > 0 {
			n = min(n, max(1, f.Rate/20))
			if !c.sleepUntil(l.take(d, n, f.Rate)) {
				return false
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

func (c *conn) sleepUntil(t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.gone:
		return false
	}
}
