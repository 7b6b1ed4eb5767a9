// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// outbound is what the loop hands to a sender.
type outbound struct {
	message zab.Message
	// report comes with the standing of the node.
	report   *Report
	standing *Standing
}

// link is the way to one peer.
type link struct {
	peer  zab.NodeID
	addr  atomic.Pointer[string] // by the list
	queue chan outbound
	stop  context.CancelFunc // set when it is started
	// up says that a connection is established. overflow asks the sender to drop it.
	up       atomic.Bool
	overflow atomic.Bool
	speaks   atomic.Uint32 // the version of the conversation, once there was a handshake
	heard    atomic.Int64  // when the peer last said something, or the connection came about
	refused  atomic.Int64  // when it was last logged why we and the peer do not talk
}

// began is where the monotonic clock of a link starts.
var began = time.Now()

func (l *link) hear() { l.heard.Store(int64(time.Since(began))) }

// silent is for how long nothing has come from the peer.
func (l *link) silent() time.Duration { return time.Since(began) - time.Duration(l.heard.Load()) }

// link returns the way to a peer, or nil if it is no member.
func (p *Transport) link(id zab.NodeID) *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links[id]
}

// address of a peer: what the configuration of this node says, or what the log does of those
// that it does not name.
func (p *Transport) address(l *link) string {
	if own, ok := p.configured[l.peer]; ok {
		return own
	}
	return *l.addr.Load()
}

// Send queues a message for its receiver. It never blocks; without a connection the message is
// dropped: the core repeats what matters.
func (p *Transport) Send(m zab.Message) { p.enqueue(m.To, outbound{message: m}) }

// Tell queues what this node says of itself, in the same way.
func (p *Transport) Tell(to zab.NodeID, r *Report, s *Standing) {
	p.enqueue(to, outbound{report: r, standing: s})
}

func (p *Transport) enqueue(to zab.NodeID, o outbound) {
	l := p.link(to)
	if l == nil || !l.up.Load() {
		return
	}
	select {
	case l.queue <- o:
	default:
		l.overflow.Store(true)
	}
}

// Reachable reports whether we have a connection to the peer.
func (p *Transport) Reachable(id zab.NodeID) bool {
	l := p.link(id)
	return l != nil && l.up.Load()
}

// dialAndSend keeps a connection to one peer and writes to it what is queued.
func (p *Transport) dialAndSend(ctx context.Context, l *link) {
	wait := redialMin
	for ctx.Err() == nil {
		conn, met, err := p.dial(ctx, l.peer, p.address(l))
		if err != nil {
			p.log.Debug("peer not reached", "peer", l.peer, "err", err)
			pause(ctx, wait)
			wait = min(2*wait, redialMax)
			continue
		}
		wait = redialMin
		l.speaks.Store(uint32(met.version))
		l.overflow.Store(false)
		l.hear()
		for len(l.queue) > 0 { // left over from an earlier connection: late bytes of an old session
			<-l.queue
		}
		l.up.Store(true)
		p.say(ctx, Inbound{From: l.peer, Met: &met.Met})
		err = p.sendOn(ctx, conn, l)
		l.up.Store(false)
		p.conns.close(conn)
		if ctx.Err() != nil {
			return
		}
		p.log.Info("connection to peer lost", "peer", l.peer, "err", err)
		p.notifyLost(ctx, l.peer)
	}
}

// sendOn writes what is queued until the connection breaks. Everything that waits is
// written at once.
func (p *Transport) sendOn(ctx context.Context, conn net.Conn, l *link) error {
	broken := make(chan error, 1)
	go func() { // the peer says nothing more on this connection: a read ends when it breaks
		var b [1]byte
		_ = conn.SetReadDeadline(time.Time{})
		_, err := conn.Read(b[:])
		if err == nil {
			err = errBadFrame
		}
		broken <- err
	}()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broken:
			return err
		case o := <-l.queue:
			version := uint16(l.speaks.Load())
			buf = appendOutbound(buf[:0], o, version)
			for len(buf) < 256<<10 && len(l.queue) > 0 {
				buf = appendOutbound(buf, <-l.queue, version)
			}
		}
		if l.overflow.Load() {
			return fmt.Errorf("more than %d messages wait for the peer", queueLength)
		}
		if s := l.silent(); s > timeout { // looked at often: reports are queued twice a second
			return fmt.Errorf("the peer has not been heard from for %v", s.Round(time.Millisecond))
		}
		_ = conn.SetWriteDeadline(time.Now().Add(timeout))
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if cap(buf) > 4<<20 {
			buf = nil
		}
	}
}

// appendOutbound writes something in the words of a version.
func appendOutbound(b []byte, o outbound, version uint16) []byte {
	if o.report != nil {
		b, start := beginFrame(b, frameReport)
		told := *o.report // which is for all peers
		if version < figuresVersion {
			told.Clock, told.Figures = time.Time{}, nil
		}
		b = endFrame(told.append(b), start)
		if version < listVersion {
			return b
		}
		b, start = beginFrame(b, frameStanding)
		return endFrame(o.standing.append(b), start)
	}
	b, start := beginFrame(b, frameZAB)
	return endFrame(zab.AppendMessage(b, o.message), start)
}
