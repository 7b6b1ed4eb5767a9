// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// A node whose disk was lost has forgotten what it promised and acknowledged: with its
// voice a leader could be elected that lacks decisions. So the log holds which store
// each node has. The leader notes the first store that speaks for a node; from then on
// a node with another store is refused by all others, until an operator says that
// the disk was replaced. That word is a log entry, so a quorum without the blank node
// has taken it. An observer has promised nothing and is in no quorum: with a blank
// disk it is as good as new, so nobody asks which store it has.

// MembersSeen says who speaks now, this node included.
type MembersSeen struct{ Speakers []Speaker }

// Speaker is a node in a conversation: the store that speaks for it, and the newest feature
// level that its program knows.
type Speaker struct {
	Node  zab.NodeID
	Store txn.StoreID
	Level txn.FeatureLevel
	// Peer and API are where it says that it is, if it does.
	Peer, API string
}

// ReplaceAsked is an operator's word that a node has lost its disk for good.
type ReplaceAsked struct {
	Request  uint64
	Node     zab.NodeID
	Who, Why string
}

func (MembersSeen) isEvent()  {}
func (ReplaceAsked) isEvent() {}

// onMembersSeen notes stores that the log does not know yet.
func (c *Core) onMembersSeen(e MembersSeen) {
	if !c.leading || c.table.Cluster() == 0 {
		return
	}
	for _, s := range e.Speakers {
		node := uint64(s.Node)
		if _, known := c.table.Store(node); !known && !c.noting[node] && c.votes(s.Node) {
			c.noting[node] = true
			c.batch = append(c.batch, txn.MemberRecord{Node: node, Store: s.Store})
		}
	}
	c.noteHolds()
	c.raiseLevel(e.Speakers)
	c.speakers = e.Speakers
	c.watchLearners()
	c.watchAddresses()
}

// holdsInterval is how often it is noted what a store holds. One that was set back by less
// than that may not be noticed.
const holdsInterval = time.Minute

// noteHolds notes how much of the log the stores hold: at once when a store is in step
// with this leader, and then now and then, as long as there is something new. What is
// delivered and on a disk is never taken back there, so a store that ends before it has
// been set back to an older state.
func (c *Core) noteHolds() {
	s := c.zab.Status()
	held := map[uint64]zab.Zxid{uint64(s.ID): s.Stable}
	for _, p := range s.Peers {
		if p.Synced {
			held[uint64(p.ID)] = p.Match
		}
	}
	for _, m := range c.table.Meta().Stores {
		upto, ok := held[m.Node]
		if c.zxid().Less(upto) {
			upto = c.zxid()
		}
		known := toZxid(m.Holds)
		last, noted := c.heldAt[m.Node]
		if !ok || !known.Less(upto) || noted && (!known.Less(c.busy) || c.now.Sub(last) < holdsInterval) {
			continue
		}
		c.heldAt[m.Node] = c.now
		c.batch = append(c.batch, txn.HoldsRecord{Node: m.Node, Store: m.Store, Upto: toPosition(upto)})
	}
}

// compareStores sees what a fold has changed about the stores of the nodes.
func (c *Core) compareStores(before, after []txn.MemberStore) {
	if slices.Equal(before, after) {
		return
	}
	for _, m := range after {
		var old txn.MemberStore
		if i := slices.IndexFunc(before, func(b txn.MemberStore) bool { return b.Node == m.Node }); i >= 0 {
			old = before[i]
		}
		switch {
		case old.Store != m.Store:
			c.note("node %d has the store %x from now on", m.Node, m.Store)
		case old.Holds.Epoch != m.Holds.Epoch: // once in a reign is enough for the eye
			c.note("node %d holds the log up to %v", m.Node, m.Holds)
		}
	}
}

func (c *Core) onReplaceAsked(e ReplaceAsked) {
	if !c.ready(e.Request) {
		return
	}
	switch {
	case !c.isMember(e.Node):
		c.reply(Reply{Request: e.Request, Err: noMember(e.Node)})
	case e.Node == c.config.Node:
		c.reply(Reply{Request: e.Request, Err: refusedf("node %d leads, its disk is not lost: name the node that lost it", e.Node)})
	default:
		delete(c.noting, uint64(e.Node))
		c.batch = append(c.batch, txn.MemberRecord{Node: uint64(e.Node), Who: e.Who, Why: e.Why})
		c.waiters.acks = append(c.waiters.acks, e.Request)
		c.alarm("%s replaces the disk of node %d: %s", e.Who, e.Node, e.Why)
	}
}

// Replace is an operator's word that a node lost its disk for good: the next store that
// speaks for it is admitted, and synchronized from nothing.
func (n *Node) Replace(ctx context.Context, node zab.NodeID, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) Event { return ReplaceAsked{Request: request, Node: node, Who: who, Why: why} })
	return err
}

// watchMembers tells the core who speaks.
func (l *loop) watchMembers() {
	speakers := append(l.peers.conns.speakers(), Speaker{Node: l.config.Node, Store: l.store.ID(), Level: l.config.FeatureLevel, Peer: l.self.Peer, API: l.self.API})
	for i := range speakers {
		if s, ok := l.standings[speakers[i].Node]; ok {
			speakers[i].Peer, speakers[i].API = s.Peer, s.API
		}
	}
	slices.SortFunc(speakers, func(a, b Speaker) int { return cmp.Compare(a.Node, b.Node) })
	l.events = append(l.events, MembersSeen{Speakers: speakers})
}

// tellStores tells the handshakes what the log knows of the stores.
func (l *loop) tellStores() {
	if !slices.Equal(*l.peers.known.Load(), l.core.table.Meta().Stores) {
		known := l.core.table.Meta().Stores
		l.peers.known.Store(&known)
	}
}

// foreignStore says why a node must not speak from this store; empty if it may.
func (p *peers) foreignStore(h hello) string {
	known := p.known.Load()
	if known == nil || observes(p.list.Load().Members, h.From) {
		return ""
	}
	for _, m := range *known {
		switch holds := toZxid(m.Holds); {
		case m.Node != uint64(h.From):
		case m.Store != h.Store:
			return fmt.Sprintf("node %d has another store than the cluster knows: its disk was lost, or directories were swapped. "+
				"Give it its own directory back; if that is lost for good, run \"concord member replace %d\"", h.From, h.From)
		case h.Tail.Less(holds):
			return fmt.Sprintf("the store of node %d was set back: its log ends at %v, and it had all up to %v. It has forgotten what it promised since. "+
				"Stop it, run \"concord member replace %d\", and start it on an empty directory", h.From, h.Tail, holds, h.From)
		}
	}
	return ""
}

func (c *Core) isMember(id zab.NodeID) bool { _, ok := c.list.Find(id); return ok }

func (c *Core) votes(id zab.NodeID) bool { m, ok := c.list.Find(id); return ok && !m.Observer }

// observes reports whether a node is an observer.
func observes(members []Member, id zab.NodeID) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.ID == id && m.Observer })
}

// speakers returns who speaks on accepted connections.
func (s *connSet) speakers() []Speaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	latest := map[zab.NodeID]claim{}
	for _, c := range s.conns {
		if c.Node != 0 && latest[c.Node].order < c.order {
			latest[c.Node] = c
		}
	}
	out := make([]Speaker, 0, len(latest)+1)
	for _, c := range latest {
		out = append(out, c.Speaker)
	}
	return out
}
