// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

const (
	// stuckAfter is for how long a node that leads may fail to accept connections, out of descriptors say.
	stuckAfter = 2 * time.Second
	// asideTimeout bounds how long it takes to make another one lead.
	asideTimeout = 10 * time.Second
)

// wary notices that connections cannot be accepted. Whoever calls Accept does so again, as net/http does.
type wary struct {
	net.Listener
	stuck func() // called each stuckAfter
	since time.Time
}

// Accept implements net.Listener. It is called by one goroutine.
func (l *wary) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	switch {
	case err == nil || errors.Is(err, net.ErrClosed):
		l.since = time.Time{}
	case l.since.IsZero():
		l.since = time.Now()
	case time.Since(l.since) >= stuckAfter:
		l.since = time.Now()
		go l.stuck() // which is bounded by asideTimeout
	}
	return c, err
}

// stepAside makes another voter lead, if this node does and there is one: a leader that nobody reaches stops all
// commits.
func stepAside(ctx context.Context, n Node, log *slog.Logger) {
	s := n.Status()
	if s.Leader != s.Node {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, asideTimeout)
	defer cancel()
	for _, m := range s.Nodes {
		if m.ID == s.Node || m.Observer || m.Learner || m.State != "following" {
			continue
		}
		log.Error("connections cannot be accepted: another node is to lead", "node", m.ID)
		err := n.Lead(ctx, m.ID, "the node that led", "it could not accept connections")
		if err == nil {
			return
		}
		log.Warn("another node could not be made to lead", "node", m.ID, "err", err)
	}
}
