// SPDX-License-Identifier: Apache-2.0

package sim

import "github.com/concordtx/concord/protocol/zab"

// compact offers the log of a node to be cut somewhere in what is applied on its disk.
func (c *cluster) compact(n *node) {
	held := min(n.disk.applied, len(n.disk.log)) // a planted bug may apply what the disk lost
	if !n.up || held == 0 {
		return
	}
	ev := zab.Compact{Upto: n.disk.log[c.upTo(held-1)].Zxid}
	if c.chance(c.swarm.Must) {
		ev.Must = ev.Upto
	}
	c.event(n, ev)
}

// transfer is a snapshot on its way from one node to another.
type transfer struct {
	want         zab.FetchSnapshot
	from, to     *node
	boots        [2]uint32
	staged       staged
	zxid         zab.Zxid
	parts, moved int
}

// fetch brings a node the snapshot that its core asks for, part by part. The state is
// that of the moment when the transfer begins, whatever happens meanwhile.
func (c *cluster) fetch(n *node) {
	t := &transfer{want: n.fetching, from: c.nodes[n.fetching.From-1], to: n}
	t.boots[1] = n.boot
	c.after(c.about(4*c.swarm.Latency)+1, func() {
		if !n.up || n.boot != t.boots[1] || n.fetching != t.want {
			return
		}
		from := t.from
		if !from.up || from.paused || from.mayFetch[n.id] != t.want.Session || !c.connected(t) {
			c.brokeOff(t)
			return
		}
		delete(from.mayFetch, n.id)
		t.boots[0] = from.boot
		t.zxid = from.disk.appliedZxid()
		t.staged.log = append([]zab.Entry(nil), from.disk.log[:from.disk.applied]...)
		t.staged.folds = append([]uint64(nil), from.disk.folds...)
		t.parts = 1 + c.upTo(6)
		if c.chance(0.3) {
			t.parts *= 20 // long enough for a reign to end meanwhile
		}
		c.move(t)
	})
}

// move carries one part.
func (c *cluster) move(t *transfer) {
	c.after(c.about(2*c.swarm.Latency)+1, func() {
		n := t.to
		switch {
		case !n.up || n.boot != t.boots[1] || n.fetching != t.want:
			return // nobody waits for it
		case !t.from.up || t.from.boot != t.boots[0]:
			c.check.counters.hit(SnapshotSenderLeft)
			c.brokeOff(t)
			return
		case c.chance(c.swarm.BreakOff) || !c.connected(t):
			c.brokeOff(t)
			return
		}
		c.event(t.from, zab.SnapshotMoved{Peer: n.id, Session: t.want.Session})
		c.event(n, zab.SnapshotMoved{Peer: t.from.id, Session: t.want.Session})
		if t.moved++; t.moved < t.parts {
			c.move(t)
			return
		}
		c.arrived(t)
	})
}

// arrived stages a complete snapshot and tells the core.
func (c *cluster) arrived(t *transfer) {
	n := t.to
	if !n.up || n.boot != t.boots[1] || n.fetching != t.want {
		return
	}
	n.fetching = zab.FetchSnapshot{}
	t.staged.ref = n.disk.staged.ref + 1
	n.disk.staged = t.staged
	c.event(n, zab.SnapshotStaged{Session: t.want.Session, Snapshot: zab.Snapshot{Zxid: t.zxid, Ref: t.staged.ref, Members: c.setOf(t.staged.log)}})
}

// unwanted counts a snapshot that is not installed: its session is over.
func (c *cluster) unwanted(ev zab.Event, effects []zab.Effect) {
	if _, ok := ev.(zab.SnapshotStaged); !ok {
		return
	}
	for _, e := range effects {
		if w, ok := e.(zab.Write); ok && w.Install != nil {
			return
		}
	}
	c.check.counters.hit(SnapshotCameTooLate)
}

func (c *cluster) brokeOff(t *transfer) {
	c.check.counters.hit(SnapshotBrokeOff)
	t.to.fetching = zab.FetchSnapshot{}
	c.event(t.to, zab.SnapshotFailed{Session: t.want.Session, Why: "the connection broke"})
}

// connected reports whether the two can exchange anything.
func (c *cluster) connected(t *transfer) bool {
	return c.net.links[t.from.index][t.to.index].cuts == 0 && c.net.links[t.to.index][t.from.index].cuts == 0
}
