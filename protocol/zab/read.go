// SPDX-License-Identifier: Apache-2.0

package zab

import "github.com/concordtx/concord/internal/mutant"

// maxReads bounds the reads under way at a node; beyond it they fail at once.
const maxReads = 1 << 14

// here is where a read comes from that was asked of this node itself.
const here = -1

// reads are linearizable reads under way. A read takes the leader's commit watermark
// as its index, is confirmed by a quorum that answers a ping sent after it arrived (so no
// other leader can have committed anything), and is served when the index is applied.
type reads struct {
	asked fifo[read] // at a leader waiting for pongs, at a follower for the leader
	ready fifo[read] // confirmed, waiting for the state machine
	nonce uint64
}

type read struct {
	id      uint64
	from    int    // place of the asking peer, or here
	session uint64 // of the asking peer
	nonce   uint64
	index   Zxid
	round   uint64 // the first ping round that confirms it
	since   uint64 // tick
}

func (n *Node) readAsked(id uint64) {
	if !n.established || n.reads.asked.len()+n.reads.ready.len() >= maxReads {
		n.emit(ReadFailed{ID: id})
		return
	}
	if n.lead != nil {
		n.queueRead(read{id: id, from: here})
		return
	}
	n.reads.nonce++
	n.reads.asked.push(read{id: id, from: here, nonce: n.reads.nonce, since: n.now})
	n.toLeader(ReadReq{Nonce: n.reads.nonce})
}

func (n *Node) onReadReq(from int, r ReadReq) {
	p := &n.lead.peers[from]
	if n.established && p.step == stepSynced && n.reads.asked.len() < maxReads {
		n.queueRead(read{from: from, session: p.session, nonce: r.Nonce})
	}
}

// queueRead lets a read wait for the next ping round. One round serves all reads that
// came before it was sent; the next is sent when the last is confirmed.
func (n *Node) queueRead(r read) {
	l := n.lead
	r.index, r.round, r.since = n.commit, l.pingSeq+1, n.now
	if mutant.ReadOnOldRound {
		r.round = l.pingSeq
	}
	if mutant.ReadUnconfirmed {
		r.round = 0
	}
	n.reads.asked.push(r)
	if l.confirmed == l.pingSeq {
		n.ping()
	}
}

// ping starts a round. It goes to everybody in a session, as the heartbeat does.
func (n *Node) ping() {
	l := n.lead
	l.pingSeq++
	var body Body = Ping{Seq: l.pingSeq, Commit: n.commit}
	for i := range l.peers {
		if l.peers[i].step >= stepInvited {
			n.send(i, l.epoch, l.peers[i].session, body)
		}
	}
	n.confirmReads()
}

func (n *Node) onPong(from int, b Pong) {
	p := &n.lead.peers[from]
	if p.step != stepSynced || n.set.Members[from].Observer || b.Seq > n.lead.pingSeq || b.Seq <= p.pong {
		return
	}
	p.pong = b.Seq
	n.confirmReads()
}

func (n *Node) confirmReads() {
	l := n.lead
	if !n.established || n.observer() {
		return
	}
	var t tally[uint64]
	t.add(l.pingSeq, lessSeq)
	for i := range l.peers {
		if !n.set.Members[i].Observer {
			t.add(l.peers[i].pong, lessSeq)
		}
	}
	l.confirmed = max(l.confirmed, t.reached(n.quorum))
	asked := &n.reads.asked
	for asked.len() > 0 && asked.front().round <= l.confirmed {
		r := asked.pop()
		if r.from == here {
			n.reads.ready.push(r)
			continue
		}
		if p := &l.peers[r.from]; p.session == r.session {
			n.send(r.from, l.epoch, r.session, ReadResp{Nonce: r.nonce, Index: r.index})
		}
	}
	n.serveReads()
	if asked.len() > 0 && l.confirmed == l.pingSeq {
		n.ping()
	}
}

// onReadResp hears the index of a forwarded read. Answers come in order, so an older
// question without one was lost.
func (n *Node) onReadResp(b ReadResp) {
	asked := &n.reads.asked
	for asked.len() > 0 && asked.front().nonce < b.Nonce {
		n.emit(ReadFailed{ID: asked.pop().id})
	}
	if asked.len() == 0 || asked.front().nonce != b.Nonce {
		return
	}
	r := asked.pop()
	r.index = b.Index
	n.learnCommit(b.Index)
	n.reads.ready.push(r)
	n.serveReads()
}

// serveReads answers the reads whose index is applied. Indexes grow along the queue.
func (n *Node) serveReads() {
	ready := &n.reads.ready
	for ready.len() > 0 && !n.applied.Less(ready.front().index) {
		r := ready.pop()
		n.emit(ReadReady{ID: r.id, Index: r.index})
	}
}

// expireReads fails forwarded reads that got no answer in SyncTicks.
func (n *Node) expireReads() {
	asked := &n.reads.asked
	for asked.len() > 0 && n.now-asked.front().since > uint64(n.cfg.SyncTicks) {
		n.failRead(asked.pop())
	}
}

// moveReads lets reads follow their askers to other places. Who is no member any more gets no
// answer, and fails the read itself.
func (n *Node) moveReads(places []int) {
	var asked fifo[read]
	for _, r := range n.reads.asked.all() {
		if r.from != here {
			r.from = places[r.from]
			if r.from < 0 {
				continue
			}
		}
		asked.push(r)
	}
	n.reads.asked = asked
}

// failReads fails all: nobody is left to confirm them.
func (n *Node) failReads() {
	for n.reads.asked.len() > 0 {
		n.failRead(n.reads.asked.pop())
	}
	for n.reads.ready.len() > 0 {
		n.failRead(n.reads.ready.pop())
	}
}

func (n *Node) failRead(r read) {
	if r.from == here {
		n.emit(ReadFailed{ID: r.id})
	}
}
