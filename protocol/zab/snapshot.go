// SPDX-License-Identifier: Apache-2.0

package zab

// compact cuts the log. Who is in a session keeps what it lacks, except for what Must
// says; without that a peer that reads slowly would make the log grow without bound.
func (n *Node) compact(ev Compact) {
	if n.follow != nil && !n.follow.synced || n.installing != nil {
		return // between AckEpoch and Sync the log does not change; the driver asks again
	}
	limit := minZxid(n.applied, n.stable)
	upto, must := minZxid(ev.Upto, limit), minZxid(ev.Must, limit)
	if n.lead != nil {
		for i := range n.lead.peers {
			if p := &n.lead.peers[i]; p.step >= stepSnapshot {
				upto = minZxid(upto, p.holds())
			}
		}
	}
	z, ok := n.floor(maxZxid(upto, must))
	if !ok || !n.base.Less(z) {
		return
	}
	n.note("cutting the log: base %s becomes %s, applied %s last %s", n.base, z, n.applied, n.tail())
	n.base = z
	n.history.forget(z)
	n.write(Write{Cut: &z})
	if n.lead == nil {
		return
	}
	for i := range n.lead.peers {
		if p := &n.lead.peers[i]; p.step >= stepStreaming && p.sent.Less(z) {
			n.dropSession(i, "the log had to be cut beyond what it was sent")
		}
	}
}

// holds is what a peer certainly has, in this session and in the next.
func (p *peer) holds() Zxid { return maxZxid(p.start, p.acked) }

// offerSnapshot lets a peer fetch the applied state. Everything after the base stays in
// the log meanwhile, so whatever the snapshot will hold, the stream can go on from it.
func (n *Node) offerSnapshot(to int) {
	p := &n.lead.peers[to]
	p.step, p.start, p.moved = stepSnapshot, n.base, n.now
	n.emit(SendSnapshot{To: n.set.Members[to].ID, Session: p.session})
	n.send(to, n.lead.epoch, p.session, Sync{Mode: Snap, From: p.history.Last, TruncTo: n.base, Commit: n.commit})
}

// onInstalled goes on with the stream after the snapshot that a peer has installed.
func (n *Node) onInstalled(from int, z Zxid) {
	p := &n.lead.peers[from]
	switch {
	case z.Less(n.base):
		n.dropSession(from, "the log had to be cut beyond its snapshot")
	case z.Less(p.start) || !n.contains(z) || n.delivered.Less(z):
		n.dropSession(from, "installed a snapshot that is not of this node")
	default:
		n.note("sync node %d: it has installed a snapshot: s %s base %s last %s epoch %d", n.set.Members[from].ID, z,
			n.base, n.tail(), n.lead.epoch)
		n.lead.progress = n.now
		p.acked = z
		n.beginStream(from, z)
	}
}

// snapshotMoved keeps both ends of a transfer patient, for as long as bytes move.
func (n *Node) snapshotMoved(ev SnapshotMoved) {
	if f := n.follow; f != nil {
		if f.fetching && f.leader == ev.Peer && f.session == ev.Session {
			f.progress = n.now
		}
		return
	}
	i := n.place(ev.Peer)
	if n.lead == nil || i < 0 || i == n.me {
		return
	}
	if p := &n.lead.peers[i]; p.step == stepSnapshot && p.session == ev.Session {
		p.moved = n.now
		if !n.set.Members[i].Observer {
			n.lead.progress = n.now
		}
	}
}

// onSnap begins to fetch a snapshot. Log and state stay as they are until it is here.
func (n *Node) onSnap(b Sync) {
	f := n.follow
	if b.From != n.tail() || !n.tail().Less(b.TruncTo) {
		n.resetSession("cannot synchronize: %s from %s to %s, log ends at %s", b.Mode, b.From, b.TruncTo, n.tail())
		return
	}
	n.note("fetching a snapshot of at least %s from node %d, log is %s..%s", b.TruncTo, f.leader, n.base, n.tail())
	f.fetching, f.least, f.progress = true, b.TruncTo, n.now
	n.learnCommit(b.Commit)
	n.emit(FetchSnapshot{From: f.leader, Session: f.session})
}

// snapshotStaged installs a snapshot, if it is what this session waits for and takes
// nothing away: it must hold all of the own log, or a crash behind it would leave a node
// whose Current says more than its log has (rule R8).
func (n *Node) snapshotStaged(ev SnapshotStaged) {
	f, s := n.follow, ev.Snapshot
	if f == nil || f.session != ev.Session || !f.fetching {
		n.note("a snapshot of %s came for a session that is over", s.Zxid)
		return
	}
	f.fetching = false
	if s.Zxid.Less(f.least) || !n.tail().Less(s.Zxid) || f.epoch < s.Zxid.Epoch {
		n.resetSession("refusing a snapshot of %s: it must hold %s, and the log ends at %s", s.Zxid, f.least, n.tail())
		return
	}
	n.note("installing a snapshot: s %s log %s..%s epoch %d", s.Zxid, n.base, n.tail(), f.epoch)
	f.progress = n.now
	n.installing = &s
	f.installWrite = n.write(Write{Install: &s})
}

func (n *Node) snapshotFailed(ev SnapshotFailed) {
	if f := n.follow; f != nil && f.session == ev.Session && f.fetching {
		n.resetSession("no snapshot: %s", ev.Why)
	}
}

// restored begins anew from a snapshot that is durable, whatever became of the session
// that it was fetched in.
func (n *Node) restored() {
	s := *n.installing
	n.installing = nil
	n.base, n.history = s.Zxid, history{after: s.Zxid}
	n.stable, n.commit, n.delivered, n.applied = s.Zxid, s.Zxid, s.Zxid, s.Zxid
	n.members.changes = nil
	if n.members.known.At.Less(s.Members.At) {
		n.members.known = s.Members
	}
	n.takeForce()
	n.emit(Restored{Snapshot: s})
}
