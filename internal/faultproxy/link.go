// SPDX-License-Identifier: Apache-2.0

package faultproxy

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// Direction is a way through a Link.
type Direction uint8

const (
	Forward  Direction = iota // from who dialed to who listens
	Backward                  // the answers
)

// Fault is what happens to the bytes of one direction. The zero Fault is a good network.
type Fault struct {
	// Drop makes bytes vanish, and the ends of connections as well: nobody hears of it.
	Drop bool
	// Hold makes bytes wait until it is over: they arrive late.
	Hold bool
	// Delay is how long each byte is on its way.
	Delay time.Duration
	// Rate is how many bytes pass in a second, of all connections together; 0: any number.
	Rate int
}

// Link passes connections to its address on to a target.
type Link struct {
	target   string
	listener net.Listener
	running  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	faults  [2]Fault
	clear   [2]time.Time  // until then the bytes that have passed fill the Rate
	changed chan struct{} // closed when something above or in a conn has changed
	conns   []*conn
	knife   *Knife // for the connections to come; nil: none
}

// New opens a link to a target at an address of its own.
func New(target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a link to %s: %w", target, err)
	}
	l := &Link{target: target, listener: listener, changed: make(chan struct{})}
	l.running.Go(l.accept)
	return l, nil
}

// Addr is where the link listens.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Close resets all connections and returns when nothing of the link runs any more.
func (l *Link) Close() {
	l.change(func() { l.closed = true })
	_ = l.listener.Close()
	l.Cut()
	l.running.Wait()
}

// Set changes what happens to the bytes of a direction from now on.
func (l *Link) Set(d Direction, f Fault) { l.change(func() { l.faults[d] = f }) }

// Heal makes the network good again.
func (l *Link) Heal() {
	l.change(func() {
		l.faults = [2]Fault{}
		for _, c := range l.conns {
			c.frozen = false
		}
	})
}

// Freeze holds the bytes of the connections that are there now, until Heal; those that
// come are not touched.
func (l *Link) Freeze() {
	l.change(func() {
		for _, c := range l.conns {
			c.frozen = true
		}
	})
}

// Cut resets all connections.
func (l *Link) Cut() {
	for _, c := range l.open() {
		c.reset()
	}
}

// HalfClose ends one direction of all connections; the other stays.
func (l *Link) HalfClose(d Direction) {
	for _, c := range l.open() {
		c.inject(d, nil)
	}
}

// Inject puts bytes of our own among those of all connections.
func (l *Link) Inject(d Direction, b []byte) {
	for _, c := range l.open() {
		c.inject(d, b)
	}
}

// Conns is how many connections are open.
func (l *Link) Conns() int { return len(l.open()) }

func (l *Link) open() []*conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.conns)
}

// change changes something that pumps wait for.
func (l *Link) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Link) accept() {
	for {
		in, err := l.listener.Accept()
		if err != nil {
			return
		}
		c := newConn(in.(*net.TCPConn))
		l.mu.Lock()
		closed := l.closed
		if l.knife != nil {
			c.blades = [2]*blade{l.knife.blade(Forward), l.knife.blade(Backward)}
		}
		if !closed {
			l.conns = append(l.conns, c)
		}
		l.mu.Unlock()
		if closed {
			c.reset()
			return
		}
		l.running.Go(func() {
			c.run(l)
			l.change(func() { l.conns = slices.DeleteFunc(l.conns, func(o *conn) bool { return o == c }) })
		})
	}
}

// fault is what is to happen to a byte of c now, and a channel that says when that
// may have changed.
func (l *Link) fault(c *conn, d Direction) (Fault, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.faults[d]
	f.Hold = f.Hold || c.frozen
	return f, l.changed
}

// take makes n bytes pass the bottleneck, and returns when they have passed.
func (l *Link) take(d Direction, n, rate int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	from := l.clear[d]
	if now := time.Now(); from.Before(now) {
		from = now
	}
	l.clear[d] = from.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return l.clear[d]
}
