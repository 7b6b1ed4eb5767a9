// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// secured is a connection whose other end proves which node it is.
type secured struct{ *tls.Conn }

// Close ends the connection at once. That of tls waits until it could say so to the other end, which
// may read nothing, and connections are closed while others wait for a lock. Frames say where they
// end, so nobody takes a cut for an end.
func (s secured) Close() error { return s.NetConn().Close() }

// accepted makes of a connection that somebody opened one that proves who that is, when it is read.
func (p *Transport) accepted(conn net.Conn) net.Conn {
	if p.config.Keys == nil {
		return conn
	}
	return secured{tls.Server(conn, p.config.Keys.PeerServer())}
}

// dialled is the same for one that this node opened, to another one.
func (p *Transport) dialled(conn net.Conn, to zab.NodeID) net.Conn {
	if p.config.Keys == nil {
		return conn
	}
	return secured{tls.Client(conn, p.config.Keys.PeerClient(uint64(to)))}
}

// prove makes the other end prove who it is, within the deadline of the connection, and returns
// which node that is; 0 if nobody has to prove anything.
func (p *Transport) prove(conn net.Conn) (zab.NodeID, error) {
	s, ok := conn.(secured)
	if !ok {
		return 0, nil
	}
	if err := s.Handshake(); err != nil {
		return 0, fmt.Errorf("TLS: %w", err)
	}
	state := s.ConnectionState()
	who, err := p.config.Keys.Peer(&state)
	if err != nil {
		return 0, err
	}
	return zab.NodeID(who.NodeID()), nil
}

// doubtInterval is how often the certificates of open connections are looked at again.
const doubtInterval = 5 * time.Second

// doubt closes the connections of nodes whose certificate has ended or was revoked meanwhile.
func (p *Transport) doubt(ctx context.Context) error {
	for p.config.Keys != nil && ctx.Err() == nil {
		pause(ctx, doubtInterval)
		p.conns.closeIf(func(c net.Conn) bool {
			s, ok := c.(secured)
			if !ok {
				return false
			}
			state := s.ConnectionState() // waits for nobody: only a handshake holds its lock
			if !state.HandshakeComplete {
				return false
			}
			_, err := p.config.Keys.Peer(&state)
			if err != nil {
				p.log.Warn("connection to a peer closed: its certificate is no longer accepted", "remote",
					c.RemoteAddr().String(), "err", err)
			}
			return err != nil
		})
	}
	return nil
}
