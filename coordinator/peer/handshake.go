// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// Met says that this node and another agree to talk, and what that one belongs to.
type Met struct {
	Node    zab.NodeID
	Cluster txn.ClusterID // 0: it knows of none yet
	// List is what it knows of the members, if that is later than what this node knows.
	List replica.List
}

// meeting is what came of a handshake.
type meeting struct {
	Met
	version uint16
}

func (p *Transport) dial(ctx context.Context, id zab.NodeID, addr string) (net.Conn, meeting, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, meeting{}, err
	}
	conn = p.dialled(conn, id)
	if !p.conns.add(conn) {
		return nil, meeting{}, net.ErrClosed
	}
	met, err := p.introduce(conn, id)
	if err != nil {
		p.conns.close(conn)
		return nil, meeting{}, err
	}
	return conn, met, nil
}

// introduce is the dialer's half of the handshake.
func (p *Transport) introduce(conn net.Conn, to zab.NodeID) (met meeting, err error) {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := p.prove(conn); err != nil {
		if errors.Is(err, security.ErrUntrusted) {
			p.refuse(to, err.Error())
		}
		return met, err
	}
	self, list := p.hello(), p.config.List.Load()
	self.To, self.Dial, self.ListAt = to, self.Dial|uint64(p.dials.Add(1)), list.At
	if err := writeFrame(conn, frameHello, self.append(nil)); err != nil {
		return met, err
	}
	r := bufio.NewReader(conn)
	kind, body, err := readFrameUpTo(r, maxList)
	if err != nil {
		return met, err
	}
	switch kind {
	case frameRefused:
		p.refuse(to, string(body))
		return met, fmt.Errorf("refused: %.500s", body)
	case frameRemoved:
		return met, p.onRemoved(to, body)
	}
	answer, err := decodeHello(body)
	if kind != frameHello || err != nil {
		return met, errBadFrame
	}
	answer.To = self.From
	why := answer.check(self)
	if why == "" {
		why = p.foreignStore(answer)
	}
	if why != "" {
		p.refuse(to, why)
		return met, errors.New(why)
	}
	if answer.From != to {
		return met, fmt.Errorf("node %d answers at the address of node %d: correct the addresses in \"members\"",
			answer.From, to)
	}
	met.Node, met.Cluster, met.version = to, answer.Cluster, min(answer.Newest, protocolVersion)
	switch {
	case answer.ListAt.Less(self.ListAt) && answer.Newest >= listVersion:
		err = writeFrame(conn, frameMembers, appendList(nil, *list))
	case self.ListAt.Less(answer.ListAt) && answer.Cluster == 0:
		return met, errBadFrame
	case self.ListAt.Less(answer.ListAt):
		met.List, err = p.readList(r, answer.ListAt)
	}
	if err == nil {
		p.refusals.Delete(to)
	}
	return met, err
}

// readList reads the list of who knows a later one.
func (p *Transport) readList(r *bufio.Reader, at zab.Zxid) (replica.List, error) {
	kind, body, err := readFrameUpTo(r, maxList)
	if err != nil {
		return replica.List{}, err
	}
	l, err := decodeList(body)
	if kind != frameMembers || err != nil || l.At != at {
		return replica.List{}, errBadFrame
	}
	return l, nil
}

// ErrRemoved says that a node is no member of its cluster any more.
var ErrRemoved = errors.New("this node was removed from its cluster")

// onRemoved hears that this node is no member any more. It believes that of who belongs to its
// cluster, from the store that is known, and knows a later list.
func (p *Transport) onRemoved(from zab.NodeID, body []byte) error {
	if len(body) < helloSize {
		return errBadFrame
	}
	h, err := decodeHello(body[:helloSize])
	if err != nil {
		return errBadFrame
	}
	l, err := decodeList(body[helloSize:])
	if err != nil {
		return err
	}
	self := p.hello()
	h.To = self.From
	_, member := l.Find(self.From)
	if why := h.check(self) + p.foreignStore(h); why != "" || h.From != from || self.Cluster == 0 ||
		h.Cluster != self.Cluster || member || !p.config.List.Load().At.Less(l.At) {
		return fmt.Errorf("node %d says that this node was removed, but is not believed: %s", from, why)
	}
	gone := fmt.Errorf("%w: node %d reports that the members of cluster %v have been %s since %v. Move the "+
		"directory of this node away; to take the node back, run \"concord member add %d\" and start it with an "+
		"empty one", ErrRemoved, from, h.Cluster,
		txn.ListText(replica.FromMembers(l.Members)), l.At, self.From)
	select {
	case p.removed <- gone:
	default: // it was told already
	}
	return gone
}

// refuse remembers and logs why a member and we do not talk: once per reason, and one
// reason per refusalInterval.
func (p *Transport) refuse(peer zab.NodeID, why string) {
	l := p.link(peer)
	if l == nil { // anybody can say any number
		return
	}
	old, _ := p.refusals.Load(peer)
	now, last := int64(time.Since(began)), l.refused.Load()
	if old == why || last != 0 && now-last < int64(refusalInterval) || !l.refused.CompareAndSwap(last, now) {
		return
	}
	p.refusals.Store(peer, why)
	p.log.Error("peer refused", "peer", peer, "why", why)
}

// welcome is the accepting half of the handshake.
func (p *Transport) welcome(conn net.Conn, r *bufio.Reader) (h Hello, met meeting, err error) {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	proved, err := p.prove(conn)
	if err != nil {
		return h, met, err
	}
	kind, body, err := readFrameUpTo(r, maxHandshake)
	if err != nil {
		return h, met, err
	}
	if h, err = decodeHello(body); kind != frameHello || err != nil {
		return h, met, errBadFrame
	}
	if proved != 0 && h.From != proved { // nobody is told more: it is no mistake
		return h, met, fmt.Errorf("node %d says that it is node %d", proved, h.From)
	}
	self, list := p.hello(), p.config.List.Load()
	self.ListAt = list.At
	why := h.check(self)
	_, member := list.Find(h.From)
	told := why == "" && self.ListAt.Less(h.ListAt) && h.Cluster != 0 // who knows the later list says who is a member
	if why == "" && !told && !member {
		if h.Cluster != 0 && h.ListAt.Less(self.ListAt) && h.Newest >= listVersion {
			self.To = h.From
			_ = writeFrame(conn, frameRemoved, appendList(self.append(nil), *list))
			return h, met, fmt.Errorf("node %d was removed", h.From)
		}
		why = fmt.Sprintf("node %d is not a member of the cluster of node %d: run \"concord member add %d\" with "+
			"its addresses, or correct \"members\"", h.From, self.From, h.From)
	}
	if why == "" {
		why = p.foreignStore(h)
	}
	if why == "" && !p.conns.claim(conn, replica.Speaker{Node: h.From, Store: h.Store, Level: h.Level}) {
		why = fmt.Sprintf("two nodes have the id %d: give each node its own id in \"node\" and \"members\"", h.From)
	}
	if why != "" {
		p.refuse(h.From, why)
		_ = writeFrame(conn, frameRefused, []byte(why))
		return h, met, errors.New(why)
	}
	self.To = h.From
	if err := writeFrame(conn, frameHello, self.append(nil)); err != nil {
		return h, met, err
	}
	met.Node, met.Cluster, met.version = h.From, h.Cluster, min(h.Newest, protocolVersion)
	switch {
	case told:
		if met.List, err = p.readList(r, h.ListAt); err == nil {
			if _, member = met.List.Find(h.From); !member {
				err = fmt.Errorf("node %d reports members that it is not among", h.From)
			}
		}
	case h.ListAt.Less(self.ListAt) && h.Newest >= listVersion:
		err = writeFrame(conn, frameMembers, appendList(nil, *list))
	}
	if err == nil {
		p.refusals.Delete(h.From)
	}
	return h, met, err
}
