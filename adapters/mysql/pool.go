// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// pool hands out the sessions of a resource, and keeps those without a branch for the next
// one, the last one in first.
type pool struct {
	most  int           // kept
	slots chan struct{} // a token for every session that may be handed out

	mu     sync.Mutex
	links  []*link
	closed bool
}

const (
	// openPatience limits the wait for a session when the caller's context does not.
	openPatience = 30 * time.Second
	// crowdedPause is how long the pool waits before it asks a server again that has no room.
	crowdedPause = 50 * time.Millisecond
)

// ErrPoolBusy says that a branch could not be opened because all sessions of its resource
// were in use for as long as the caller could wait.
var ErrPoolBusy = errors.New("no session is free")

func newPool(o Options) *pool {
	p := &pool{most: o.MaxIdle, slots: make(chan struct{}, o.MaxOpen)}
	for range o.MaxOpen {
		p.slots <- struct{}{}
	}
	return p
}

// take returns a session that was kept, or a new one. It waits while too many are in use,
// here or at the server. give must be called once for every session that was taken.
func (p *pool) take(ctx context.Context, r *Resource) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	select {
	case <-p.slots:
	default:
		select {
		case <-p.slots:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: all %d sessions of %s are in use: raise MaxOpen, or do not begin a "+
				"transaction within another; %w",
				ErrPoolBusy, cap(p.slots), r.name, ctx.Err())
		}
	}
	for {
		if l := p.kept(time.Now()); l != nil {
			if l.ready() {
				return l, nil
			}
			l.close()
			continue
		}
		l, err := connect(ctx, r)
		if err == nil {
			return l, nil
		}
		if !isCode(err, codeTooManyConnections) {
			p.slots <- struct{}{}
			return nil, err
		}
		select { // others give theirs back
		case <-time.After(crowdedPause):
		case <-ctx.Done():
			p.slots <- struct{}{}
			return nil, fmt.Errorf("%w: the server of %s accepts no more connections: raise max_connections there, "+
				"or lower MaxOpen; %w", ErrPoolBusy, r.name, err)
		}
	}
}

// give takes a session back whose branch has ended. One that is not to be used again is
// closed.
func (p *pool) give(l *link) {
	if l.dirty || !l.raw.IsValid() || !l.renew() || !p.keep(l, time.Now()) {
		l.close()
	}
	p.slots <- struct{}{}
}

// kept returns a session that the server should still know, or nil. Whether it is ready is to be looked at.
func (p *pool) kept(now time.Time) *link {
	var stale []*link
	defer func() {
		for _, l := range stale {
			l.close()
		}
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.links); n > 0 && p.links[n-1].stale(now) {
		stale, p.links = p.links, nil // the last one is the youngest
	}
	if len(p.links) == 0 {
		return nil
	}
	l := p.links[len(p.links)-1]
	p.links = p.links[:len(p.links)-1]
	return l
}

// keep reports whether the session was taken in.
func (p *pool) keep(l *link, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.links) >= p.most {
		return false
	}
	l.idleSince = now
	p.links = append(p.links, l)
	return true
}

// close returns the sessions that are kept; no more are taken in.
func (p *pool) close() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	links := p.links
	p.links, p.closed = nil, true
	return links
}
