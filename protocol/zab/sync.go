// SPDX-License-Identifier: Apache-2.0

package zab

import "github.com/concordtx/concord/internal/mutant"

// beginSync decides how to make the log of a peer a prefix of the own one, and
// starts the stream. From here on the peer gets every entry, in order.
//
// With z the peer's last entry, S the base and p the greatest zxid <= z of the own log:
//
//	z is before S        SNAP     of s >= S, which the peer fetches; then stream (s, last]
//	p is before applied  alarm    what was applied there is not in the own log
//	p == z               DIFF     stream (z, last]
//	p < z                TRUNC p  stream (p, last]
//
// An observer that was a voter may have more than is committed: what of it is in the own log
// stays, and the stream goes on when that much is committed.
//
// p is in the peer's log too: an epoch that has entries was established, so every
// later leader holds its initial history, and two logs that share an entry agree up to it.
// A snapshot holds everything that two logs share, and more: S is behind all of the peer's log.
func (n *Node) beginSync(to int) {
	l, p := n.lead, &n.lead.peers[to]
	id, z, applied := n.set.Members[to].ID, p.history.Last, p.history.Applied
	floor, ok := n.floor(z)
	if !ok {
		n.note("sync node %d: SNAP: z %s applied there %s base %s applied %s last %s epoch %d", id, z, applied, n.base,
			n.applied, n.tail(), l.epoch)
		n.offerSnapshot(to)
		return
	}
	if floor.Less(applied) {
		n.note("ALARM sync node %d: histories diverged: z %s p %s applied %s base %s last %s commit %s epoch %d",
			id, z, floor, applied, n.base, n.tail(), n.commit, l.epoch)
		n.refuseSync(to, Diverged)
		return
	}
	if mutant.TruncateCommitted {
		floor = maxZxid(n.base, applied)
	}
	mode, name := Diff, "DIFF"
	if floor != z {
		mode, name = Trunc, "TRUNC"
	}
	n.note("sync node %d: %s: z %s p %s base %s last %s epoch %d", id, name, z, floor, n.base, n.tail(), l.epoch)
	n.send(to, l.epoch, p.session, Sync{Mode: mode, From: z, TruncTo: floor, Commit: n.commit})
	n.beginStream(to, floor)
}

// beginStream sends a peer everything after z, which is where its log ends.
func (n *Node) beginStream(to int, z Zxid) {
	p := &n.lead.peers[to]
	p.step, p.start, p.sent, p.end = stepStreaming, z, z, n.tail()
	if n.set.Members[to].Observer {
		p.end = n.commit
	}
	n.pump(to)
}

func (n *Node) refuseSync(to int, why Reason) {
	p := &n.lead.peers[to]
	n.send(to, n.lead.epoch, p.session, Reject{Reason: why, Accepted: n.durable.Accepted})
	p.forget()
}

// pump sends a peer what it still lacks, as far as the window allows: entries up to
// the end of the stream, then NewLeader (UpToDate for an observer), then whatever came
// after. Entries that are sent together share messages.
func (n *Node) pump(to int) {
	p := &n.lead.peers[to]
	observer := n.set.Members[to].Observer
	for p.inFlight < n.window(p) {
		limit := p.end
		if p.announced {
			limit = n.tail()
			if observer {
				limit = n.commit
			}
		}
		if p.sent.Less(limit) {
			n.stream(to, limit)
			continue
		}
		if p.announced {
			return
		}
		p.announced = true
		n.announceEnd(to)
	}
}

// window is how much may be under way to a peer. What has to be read from the storage first
// comes in smaller portions: acknowledgements set the pace, and no Step reads more.
func (n *Node) window(p *peer) int {
	if p.sent.Less(n.history.after) {
		return min(n.cfg.WindowBytes, storedWindow)
	}
	return n.cfg.WindowBytes
}

func (n *Node) announceEnd(to int) {
	p := &n.lead.peers[to]
	if n.set.Members[to].Observer {
		p.step = stepSynced // in no quorum, so nobody waits for its disk
		n.send(to, n.lead.epoch, p.session, UpToDate{Commit: n.commit})
		return
	}
	n.send(to, n.lead.epoch, p.session, NewLeader{End: p.end})
}

// stream sends one message of entries after p.sent.
func (n *Node) stream(to int, limit Zxid) {
	p := &n.lead.peers[to]
	size := n.cfg.MaxBatchBytes
	if p.sent.Less(n.history.after) {
		size = min(size, storedBatch)
	}
	entries := n.entries(p.sent, limit, size)
	if len(entries) == 0 || entries[0].Prev != p.sent {
		panicf("no entry after %s for node %d, log is %s..%s", p.sent, n.set.Members[to].ID, n.base, n.tail())
	}
	var body Body = Propose{Entries: entries, Commit: n.commit}
	if n.set.Members[to].Observer {
		body = Inform{Entries: entries}
	}
	n.dispatch(to, body, entries[len(entries)-1].Zxid, sizeOf(entries))
}

// dispatch sends entries and remembers that they are under way.
func (n *Node) dispatch(to int, body Body, last Zxid, bytes int) {
	p := &n.lead.peers[to]
	p.sent = last
	p.inFlight += bytes
	p.flight.push(flight{upto: last, bytes: bytes, since: n.now})
	n.send(to, n.lead.epoch, p.session, body)
}

// landed takes what a peer acknowledged out of its window.
func (p *peer) landed(upto Zxid) {
	for p.flight.len() > 0 && !upto.Less(p.flight.front().upto) {
		p.inFlight -= p.flight.pop().bytes
	}
}

// onAckNewLeader counts a voter that has the initial history and the epoch durable.
func (n *Node) onAckNewLeader(from int, a AckNewLeader) {
	p := &n.lead.peers[from]
	if p.step != stepStreaming || !p.announced || n.set.Members[from].Observer {
		return
	}
	if a.End != p.end {
		n.dropSession(from, "acknowledged another end of the stream")
		return
	}
	p.step, p.syncedAt = stepSynced, max(n.now, 1)
	p.acked = maxZxid(p.acked, a.End)
	p.match = p.acked
	p.landed(p.acked)
	for i := range p.flight.all() {
		p.flight.all()[i].since = n.now // what came after the stream waited behind it
	}
	n.lead.progress = n.now
	if n.established {
		n.send(from, n.lead.epoch, p.session, UpToDate{Commit: n.commit})
		n.advanceCommit()
		n.pump(from)
		return
	}
	n.establish()
}

// establish ends phase 2 once a quorum, counting this node when its own write is
// durable, has the initial history: all of it is committed.
func (n *Node) establish() {
	l := n.lead
	if n.established || n.written < l.ownWrite {
		return
	}
	synced := 1
	for i := range l.peers {
		if l.peers[i].step == stepSynced && !n.set.Members[i].Observer {
			synced++
		}
	}
	if synced < n.quorum {
		return
	}
	if l.initial.Less(n.commit) {
		panicf("established epoch %d with history up to %s, but %s was committed before", l.epoch, l.initial, n.commit)
	}
	n.established, n.phase, n.commit = true, Broadcast, l.initial
	n.elect.abstainWait = 0
	n.report("a quorum is synchronized")
	for i := range l.peers {
		p := &l.peers[i]
		switch {
		case p.step == stepSynced:
			n.send(i, l.epoch, p.session, UpToDate{Commit: n.commit})
		case p.step == stepPromised:
			n.beginSync(i)
		case p.step == stepGreeted:
			n.invite(i)
		}
	}
	n.sendBallotsToStrangers()
}
