// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"github.com/concordtx/concord/protocol/zab"
)

// sent is L4 and L5: what a message claims is durable, is. It also remembers the
// acknowledgements, with which S10 compares what leaders count.
func (c *Checker) sent(g *Ghost, m zab.Message) {
	hard, log := g.Disk.Hard, g.Disk.Log
	switch b := m.Body.(type) {
	case zab.LeaderInfo:
		if hard.Accepted != m.Epoch || hard.AcceptedFrom != g.ID {
			c.Fail("L5", "node %d announces epoch %d, but has only %+v on disk", g.ID, m.Epoch, hard)
		}
	case zab.AckEpoch:
		c.notStale(g, m)
		if hard.Accepted != m.Epoch || b.Current != hard.Current || b.Last != Tail(log) {
			c.Fail("L5", "node %d says %+v for epoch %d, but has %+v and a log to %s on disk", g.ID, b, m.Epoch, hard,
				Tail(log))
		}
		if b.Counted && hard.AcceptedFrom != m.To {
			c.Fail("L5", "node %d lets node %d count its promise of epoch %d, which it made to node %d", g.ID, m.To,
				m.Epoch, hard.AcceptedFrom)
		}
	case zab.AckNewLeader:
		c.notStale(g, m)
		if !g.Observer && hard.Current < m.Epoch || !holds(log, b.End) {
			c.Fail("L5", "node %d acknowledges NewLeader of epoch %d to %s, but has %+v and a log to %s on disk", g.ID,
				m.Epoch, b.End, hard, Tail(log))
		}
		g.ackedNew[m.Epoch] = b.End
		g.acked[m.Epoch] = Latest(g.acked[m.Epoch], b.End)
	case zab.Ack:
		c.notStale(g, m)
		if !holds(log, b.Upto) {
			c.Fail("L5", "node %d acknowledges %s, but has a log to %s on disk", g.ID, b.Upto, Tail(log))
		}
		g.acked[m.Epoch] = Latest(g.acked[m.Epoch], b.Upto)
	case zab.Pong:
		c.notStale(g, m)
		if !g.Disk.Has(b.Stable) {
			c.Fail("L5", "node %d says that %s is durable, but has a log to %s on disk", g.ID, b.Stable, Tail(log))
		}
	case zab.Commit:
		c.claimsCommit(g, m, b.Upto)
	case zab.UpToDate:
		c.claimsCommit(g, m, b.Commit)
	case zab.Ping:
		c.claimsCommit(g, m, b.Commit)
	case zab.Propose:
		c.claimsCommit(g, m, b.Commit)
	case zab.Sync:
		c.claimsCommit(g, m, b.Commit)
	case zab.Inform:
		if n := len(b.Entries); n > 0 {
			c.claimsCommit(g, m, b.Entries[n-1].Zxid)
		}
	}
}

func Latest(a, b zab.Zxid) zab.Zxid {
	if a.Less(b) {
		return b
	}
	return a
}

func (c *Checker) notStale(g *Ghost, m zab.Message) {
	if m.Epoch < g.Disk.Hard.Accepted {
		c.Fail("L4", "node %d sends %T for epoch %d after it promised %d", g.ID, m.Body, m.Epoch, g.Disk.Hard.Accepted)
	}
}

func (c *Checker) claimsCommit(g *Ghost, m zab.Message, upto zab.Zxid) {
	if c.lastCommitted().Less(upto) {
		c.Fail("L5", "node %d says in %T that %s is committed, but the cluster has committed only up to %s", g.ID,
			m.Body, upto, c.lastCommitted())
	}
}

// ReadAsked returns what readReady needs to know: how much was committed at the
// invocation of a read.
func (c *Checker) ReadAsked() int { return len(c.Committed) }

// ReadReady is S15: a read sees everything that was committed before it was asked,
// nothing that is not committed, and nothing that its node has not applied.
func (c *Checker) ReadReady(g *Ghost, asked int, index zab.Zxid) {
	if asked > 0 && index.Less(c.Committed[asked-1]) {
		c.Fail("S15", "node %d serves a read at %s that was asked when %s was committed", g.ID, index,
			c.Committed[asked-1])
	}
	if c.lastCommitted().Less(index) {
		c.Fail("S15", "node %d serves a read at %s, which is not committed", g.ID, index)
	}
	if g.LastApply.Less(index) {
		c.Fail("S15", "node %d serves a read at %s with state %s", g.ID, index, g.LastApply)
	}
	c.Counters.Hit(ReadServed)
	switch g.Role.Role {
	case zab.Following:
		c.Counters.Hit(ReadServedByFollower)
	case zab.Observing:
		c.Counters.Hit(ReadServedByObserver)
	}
}

// SessionSees is S15 for one client, wherever it asks: what an answer shows is not older
// than what the client had seen before it asked.
func (c *Checker) SessionSees(g *Ghost, client int, seen, now zab.Zxid) {
	if now.Less(seen) {
		c.Fail("S15", "node %d shows client %d the state of %s, which saw %s before", g.ID, client, now, seen)
	}
}

// ReadFailed only counts: refusing is always allowed.
func (c *Checker) ReadFailed(g *Ghost) {
	for _, e := range c.Epochs {
		if g.Role.Role == zab.Leading && e > g.Role.Epoch {
			c.Counters.Hit(ReadRefusedByStaleLeader)
			return
		}
	}
}
