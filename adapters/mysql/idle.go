// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"sync"
	"time"
)

// idle keeps sessions without a branch for the next one, the last one in first. At
// most "most" are kept; what does not fit is closed by whoever brings it.
type idle struct {
	most    int
	longest time.Duration // the server ends them some time after that

	mu     sync.Mutex
	links  []*link
	closed bool
}

// take returns a session that the server should still know, or nil.
func (i *idle) take(now time.Time) *link {
	var stale []*link
	defer func() {
		for _, l := range stale {
			l.close()
		}
	}()
	i.mu.Lock()
	defer i.mu.Unlock()
	if n := len(i.links); n > 0 && now.Sub(i.links[n-1].idleSince) > i.longest {
		stale, i.links = i.links, nil // the last one is the youngest
	}
	for len(i.links) > 0 {
		l := i.links[len(i.links)-1]
		i.links = i.links[:len(i.links)-1]
		if l.raw.IsValid() && l.raw.ResetSession(context.Background()) == nil { // it looks at the socket and does not wait
			return l
		}
		stale = append(stale, l)
	}
	return nil
}

// keep reports whether the session was taken in.
func (i *idle) keep(l *link, now time.Time) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || len(i.links) >= i.most {
		return false
	}
	l.idleSince = now
	i.links = append(i.links, l)
	return true
}

// close returns the sessions that are kept; no more are taken in.
func (i *idle) close() []*link {
	i.mu.Lock()
	defer i.mu.Unlock()
	links := i.links
	i.links, i.closed = nil, true
	return links
}
