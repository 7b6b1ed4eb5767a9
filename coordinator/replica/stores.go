// SPDX-License-Identifier: Apache-2.0

package replica

import (
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

// ReplaceAsked is an operator's word that a node has lost its disk for good.
type ReplaceAsked struct {
	Request  uint64
	Node     zab.NodeID
	Who, Why string
}

func (MembersSeen) IsEvent()  {}
func (ReplaceAsked) IsEvent() {}

// RequestNo implements Asking.
func (e ReplaceAsked) RequestNo() uint64 { return e.Request }

// onMembersSeen notes stores that the log does not know yet.
func (c *Core) onMembersSeen(e MembersSeen) {
	if !c.leading || c.State().Cluster() == 0 {
		return
	}
	for _, s := range e.Speakers {
		node := uint64(s.Node)
		if _, known := c.State().Store(node); !known && !c.noting[node] && c.list.Votes(s.Node) {
			c.noting[node] = true
			c.Propose(txn.MemberRecord{Node: node, Store: s.Store})
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
	for _, m := range c.State().Stores() {
		upto, ok := held[m.Node]
		if c.Zxid().Less(upto) {
			upto = c.Zxid()
		}
		known := m.Holds
		last, noted := c.heldAt[m.Node]
		if !ok || !known.Less(upto) || noted && (!known.Less(c.busy) || c.now.Sub(last) < holdsInterval) {
			continue
		}
		c.heldAt[m.Node] = c.now
		c.Propose(txn.HoldsRecord{Node: m.Node, Store: m.Store, Upto: upto})
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
			c.Note("node %d has the store %x... from now on", m.Node, m.Store[:2]) // all of it is for nodes only
		case old.Holds.Epoch != m.Holds.Epoch: // once in a reign is enough for the eye
			c.Note("node %d holds the log up to %v", m.Node, m.Holds)
		}
	}
}

func (c *Core) onReplaceAsked(e ReplaceAsked) {
	if !c.ready(e.Request) {
		return
	}
	switch {
	case !c.list.Has(e.Node):
		c.reply(Reply{Request: e.Request, Err: noMember(e.Node)})
	case e.Node == c.config.Node:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("node %d leads, its disk is not lost: name the node that lost it", e.Node)})
	default:
		delete(c.noting, uint64(e.Node))
		c.Propose(txn.MemberRecord{Node: uint64(e.Node), Who: e.Who, Why: e.Why})
		c.waiters = append(c.waiters, ack{request: e.Request, own: true})
		c.Alarm("%s replaces the disk of node %d: %s", e.Who, e.Node, e.Why)
	}
}
