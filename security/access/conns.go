// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/concordtx/concord/txn"
)

const (
	// spareDescriptors are not for connections, unless that left fewer than minConns.
	spareDescriptors = 256
	minConns         = 64
	// doubtInterval is how often the certificates of open connections are looked at again.
	doubtInterval = 5 * time.Second
)

// conns are the open connections of a listener.
type conns struct {
	log      *slog.Logger
	limits   Limits
	most     int // of limits, or fewer
	turned   sampled
	mu       sync.Mutex
	open     map[net.Conn]*tracked // as accepted
	order    uint64
	subjects map[string]int
}

// tracked is one of them.
type tracked struct {
	conns *conns
	raw   net.Conn // as accepted
	order uint64
	// useful says that a caller on it was let in; where nobody asks who calls, that a request was answered.
	// An answer alone would make it useful for strangers to ask for pages that are open to everybody.
	useful  atomic.Bool
	tls     atomic.Pointer[tls.Conn]
	subject string // counted in conns.subjects; owned by conns.mu
}

type connKey struct{}

func newConns(limits Limits, log *slog.Logger) *conns {
	most := limits.Connections
	if n := descriptors(); n > 0 {
		most = max(minConns, min(most, n-spareDescriptors))
	}
	return &conns{log: log, limits: limits, most: most, open: map[net.Conn]*tracked{}, subjects: map[string]int{}}
}

// limit counts what is accepted.
func (c *conns) limit(l net.Listener) net.Listener { return &limited{Listener: l, conns: c} }

type limited struct {
	net.Listener
	conns *conns
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.conns.turned.warn(l.conns.log, "a connection could not be accepted", err) // e.g. out of descriptors
			}
			return nil, err
		}
		if l.conns.add(conn) {
			return conn, nil
		}
	}
}

func (c *conns) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.most {
		var oldest *tracked
		for _, t := range c.open {
			if !t.useful.Load() && (oldest == nil || t.order < oldest.order) {
				oldest = t
			}
		}
		c.turned.warn(c.log, "too many connections: one was closed", fmt.Errorf("%d are open", len(c.open)))
		if oldest == nil {
			_ = conn.Close()
			return false
		}
		c.forget(oldest)
		_ = oldest.raw.Close()
	}
	c.order++
	c.open[conn] = &tracked{conns: c, raw: conn, order: c.order}
	return true
}

// forget is called with mu held.
func (c *conns) forget(t *tracked) {
	delete(c.open, t.raw)
	if t.subject != "" {
		if c.subjects[t.subject]--; c.subjects[t.subject] == 0 {
			delete(c.subjects, t.subject)
		}
		t.subject = ""
	}
}

func raw(conn net.Conn) net.Conn {
	if t, ok := conn.(*tls.Conn); ok {
		return t.NetConn()
	}
	return conn
}

// context is http.Server's ConnContext.
func (c *conns) context(ctx context.Context, conn net.Conn) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.open[raw(conn)]
	if t == nil { // closed meanwhile
		return ctx
	}
	if secured, ok := conn.(*tls.Conn); ok {
		t.tls.Store(secured)
	}
	return context.WithValue(ctx, connKey{}, t)
}

// state is http.Server's ConnState.
func (c *conns) state(conn net.Conn, s http.ConnState) {
	if s != http.StateClosed && s != http.StateHijacked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.open[raw(conn)]; t != nil {
		c.forget(t)
	}
}

// belongs says whose connection a request came on. One connection may carry the calls of several, as that
// of a node does; it counts for the first.
func belongs(ctx context.Context, subject string) error {
	t, ok := ctx.Value(connKey{}).(*tracked)
	if !ok || t.useful.Load() {
		return nil
	}
	c := t.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[t.raw] != t || t.subject != "" {
		return nil
	}
	if c.subjects[subject] >= c.limits.PerSubject {
		return txn.Busyf("%d connections of %q are open at this node: share them, or ask another node",
			c.limits.PerSubject, subject)
	}
	c.subjects[subject]++
	t.subject = subject
	t.useful.Store(true)
	return nil
}

// accepted reports whether an earlier request of a connection was let in.
func accepted(ctx context.Context) bool {
	t, ok := ctx.Value(connKey{}).(*tracked)
	return ok && t.useful.Load()
}

// doubt closes connections whose certificate has ended or was revoked, until ctx ends.
func (c *conns) doubt(ctx context.Context, g *Guard) {
	if !g.Secure() {
		return
	}
	ticker := time.NewTicker(doubtInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.mu.Lock()
		all := make([]*tracked, 0, len(c.open))
		for _, t := range c.open {
			all = append(all, t)
		}
		c.mu.Unlock()
		for _, t := range all {
			secured := t.tls.Load()
			if secured == nil || !t.useful.Load() { // who has shown nothing yet has his own deadlines
				continue
			}
			state := secured.ConnectionState()
			if _, err := g.config.Keys.Peer(&state); err != nil {
				c.log.Warn("connection closed: the certificate is not accepted any more", "remote",
					t.raw.RemoteAddr().String(), "err", err)
				_ = t.raw.Close()
			}
		}
	}
}
