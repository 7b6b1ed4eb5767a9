// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/concordtx/concord/protocol/zab"

// compact offers the log of a node to be cut somewhere in what is applied on its disk.
func (c *Cluster) compact(n *Node) {
	held := min(n.Disk.Applied, len(n.Disk.Log)) // a planted bug may apply what the disk lost
	if !n.Up || held == 0 {
		return
	}
	ev := zab.Compact{Upto: n.Disk.Log[c.upTo(held-1)].Zxid}
	if c.Chance(c.Swarm.Must) {
		ev.Must = ev.Upto
	}
	c.Event(n, ev)
}

// transfer is a snapshot on its way from one node to another.
type transfer struct {
	want         zab.FetchSnapshot
	from, to     *Node
	boots        [2]uint32
	staged       staged
	zxid         zab.Zxid
	parts, moved int
}

// fetch brings a node the snapshot that its core asks for, part by part. The state is
// that of the moment when the transfer begins, whatever happens meanwhile.
func (c *Cluster) fetch(n *Node) {
	t := &transfer{want: n.fetching, from: c.Nodes[n.fetching.From-1], to: n}
	t.boots[1] = n.Boot
	c.After(c.About(4*c.Swarm.Latency)+1, func() {
		if !n.Up || n.Boot != t.boots[1] || n.fetching != t.want {
			return
		}
		from := t.from
		if !from.Up || from.Paused || from.mayFetch[n.ID] != t.want.Session || !c.connected(t) {
			c.brokeOff(t)
			return
		}
		delete(from.mayFetch, n.ID)
		t.boots[0] = from.Boot
		t.zxid = from.Disk.AppliedZxid()
		t.staged.log = append([]zab.Entry(nil), from.Disk.Log[:from.Disk.Applied]...)
		t.staged.folds = append([]uint64(nil), from.Disk.folds...)
		t.parts = 1 + c.upTo(6)
		if c.Chance(0.3) {
			t.parts *= 20 // long enough for a reign to end meanwhile
		}
		c.move(t)
	})
}

// move carries one part.
func (c *Cluster) move(t *transfer) {
	c.After(c.About(2*c.Swarm.Latency)+1, func() {
		n := t.to
		switch {
		case !n.Up || n.Boot != t.boots[1] || n.fetching != t.want:
			return // nobody waits for it
		case !t.from.Up || t.from.Boot != t.boots[0]:
			c.Check.Counters.Hit(SnapshotSenderLeft)
			c.brokeOff(t)
			return
		case c.Chance(c.Swarm.BreakOff) || !c.connected(t):
			c.brokeOff(t)
			return
		}
		c.Event(t.from, zab.SnapshotMoved{Peer: n.ID, Session: t.want.Session})
		c.Event(n, zab.SnapshotMoved{Peer: t.from.ID, Session: t.want.Session})
		if t.moved++; t.moved < t.parts {
			c.move(t)
			return
		}
		c.arrived(t)
	})
}

// arrived stages a complete snapshot and tells the core.
func (c *Cluster) arrived(t *transfer) {
	n := t.to
	if !n.Up || n.Boot != t.boots[1] || n.fetching != t.want {
		return
	}
	n.fetching = zab.FetchSnapshot{}
	t.staged.ref = n.Disk.staged.ref + 1
	n.Disk.staged = t.staged
	c.Event(n, zab.SnapshotStaged{Session: t.want.Session,
		Snapshot: zab.Snapshot{Zxid: t.zxid, Ref: t.staged.ref, Members: c.setOf(t.staged.log)}})
}

// unwanted counts a snapshot that is not installed: its session is over.
func (c *Cluster) unwanted(ev zab.Event, effects []zab.Effect) {
	if _, ok := ev.(zab.SnapshotStaged); !ok {
		return
	}
	for _, e := range effects {
		if w, ok := e.(zab.Write); ok && w.Install != nil {
			return
		}
	}
	c.Check.Counters.Hit(SnapshotCameTooLate)
}

func (c *Cluster) brokeOff(t *transfer) {
	c.Check.Counters.Hit(SnapshotBrokeOff)
	t.to.fetching = zab.FetchSnapshot{}
	c.Event(t.to, zab.SnapshotFailed{Session: t.want.Session, Why: "the connection broke"})
}

// connected reports whether the two can exchange anything.
func (c *Cluster) connected(t *transfer) bool {
	return c.Net.Links[t.from.Index][t.to.Index].Cuts == 0 && c.Net.Links[t.to.Index][t.from.Index].Cuts == 0
}
