// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"fmt"

	"github.com/concordtx/concord/internal/mutant"
)

// propose appends one entry. It is sent while it is written: the own disk counts
// like any other of the quorum.
func (n *Node) propose(ev Proposed) {
	if n.lead == nil || !n.established || n.observer() {
		n.emit(Refused{ID: ev.ID, Err: ErrNotLeader})
		return
	}
	l := n.lead
	if l.transfer != 0 {
		n.emit(Refused{ID: ev.ID, Err: ErrBusy})
		return
	}
	size := len(ev.Data) + entryOverhead
	if l.uncommitted > 0 && l.uncommitted+size > n.cfg.MaxUncommittedBytes {
		n.emit(Refused{ID: ev.ID, Err: ErrBusy})
		return
	}
	prev := n.tail()
	z := Zxid{Epoch: l.epoch, Counter: 1}
	if prev.Epoch == l.epoch {
		if prev.Counter >= maxCounter {
			n.enterLooking("the counter of the epoch is used up")
			n.emit(Refused{ID: ev.ID, Err: ErrNotLeader})
			return
		}
		z.Counter = prev.Counter + 1
	}
	e := Entry{Zxid: z, Prev: prev, Data: ev.Data}
	if s, ok, err := n.change(&e); err != nil {
		n.emit(Refused{ID: ev.ID, Err: fmt.Errorf("%w: %w", ErrMembers, err)})
		return
	} else if ok {
		if err := n.mayChange(s); err != nil {
			n.emit(Refused{ID: ev.ID, Err: err})
			return
		}
	}
	entries := n.history.append(e)
	n.appended(entries)
	l.uncommitted += size
	n.emit(Accepted{ID: ev.ID, Zxid: z})
	n.write(Write{Entries: entries})
	n.broadcast(entries, size)
}

// broadcast sends a fresh entry to every voter that has all before it. The others get
// it when their window opens.
func (n *Node) broadcast(entries []Entry, size int) {
	var body Body = Propose{Entries: entries, Commit: n.commit}
	for i := range n.lead.peers {
		p := &n.lead.peers[i]
		if p.announced && p.sent == entries[0].Prev && p.inFlight < n.cfg.WindowBytes && !n.set.Members[i].Observer {
			n.dispatch(i, body, entries[0].Zxid, size)
		}
	}
}

// onAck notes what is durable at a peer. Before AckNewLeader it only opens the
// window; it counts towards commit from then on.
func (n *Node) onAck(from int, upto Zxid) {
	p := &n.lead.peers[from]
	if p.step == stepSnapshot {
		n.onInstalled(from, upto)
		return
	}
	if p.step < stepStreaming {
		return
	}
	if p.sent.Less(upto) || n.base.Less(upto) && !n.contains(upto) {
		n.dropSession(from, "acknowledged what it was not sent")
		return
	}
	if !p.acked.Less(upto) {
		return
	}
	p.acked = upto
	p.landed(upto)
	if !n.established {
		n.lead.progress = n.now
	}
	if p.step == stepSynced {
		p.match = upto
		if !n.set.Members[from].Observer {
			n.advanceCommit()
		}
	}
	n.pump(from)
}

// advanceCommit moves the watermark to what a quorum has durable. Followers hear of it
// with the next entries, or at once when nothing else is under way.
func (n *Node) advanceCommit() {
	if !n.established || n.observer() {
		return
	}
	z := n.durableAtQuorum()
	if mutant.CommitOnOwnDisk {
		z = n.stable
	}
	if !n.commit.Less(z) {
		return
	}
	n.lead.uncommitted -= n.history.size(n.commit, z)
	n.commit = z
	n.spreadCommit()
}

func (n *Node) spreadCommit() {
	var body Body
	for i := range n.lead.peers {
		p := &n.lead.peers[i]
		switch {
		case p.step != stepSynced:
		case n.set.Members[i].Observer:
			n.pump(i)
		case n.commit == n.tail():
			if body == nil {
				body = Commit{Upto: n.commit}
			}
			n.send(i, n.lead.epoch, p.session, body)
		}
	}
}
