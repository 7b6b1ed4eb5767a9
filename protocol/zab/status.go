// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// Status returns what the core knows of itself. Peers is filled at a leader only.
func (n *Node) Status() Status {
	s := Status{
		ID: n.cfg.ID, Role: n.role, Phase: n.phase, Established: n.established,
		Leader: n.leaderID(), Epoch: n.epoch(), Hard: n.durable,
		Set: n.set, Base: n.base, Tail: n.tail(), Stable: n.stable, Commit: n.commit, Applied: n.applied,
	}
	if n.lead == nil {
		return s
	}
	s.Transfer = n.lead.transfer
	for i, m := range n.set.Members {
		p := &n.lead.peers[i]
		if p.session != 0 {
			s.Peers = append(s.Peers, PeerStatus{
				ID: m.ID, Observer: m.Observer, Synced: p.step == stepSynced,
				Match: p.acked, SilentFor: int(n.now - p.heard),
			})
		}
	}
	return s
}

// Clone returns a core in the same state that shares nothing with n that is ever written.
// It reads its log from s. The effects of n's last Step are not part of it.
func (n *Node) Clone(s Storage) *Node {
	c := *n
	c.storage = s
	c.effects = nil
	c.history = n.history.clone()
	c.writes = n.writes.clone()
	c.reads.asked, c.reads.ready = n.reads.asked.clone(), n.reads.ready.clone()
	c.elect.ballots = append([]heardBallot(nil), n.elect.ballots...)
	c.elect.lost = append([]bool(nil), n.elect.lost...)
	c.members = n.members.clone()
	if n.follow != nil {
		f := *n.follow
		c.follow = &f
	}
	if n.lead != nil {
		l := *n.lead
		l.peers = append([]peer(nil), n.lead.peers...)
		for i := range l.peers {
			l.peers[i].flight = n.lead.peers[i].flight.clone()
		}
		c.lead = &l
	}
	return &c
}

// Fingerprint is equal for cores in equal states, which go on in the same way as long as
// their storages hold the same. Moments in time count relative to now.
func (n *Node) Fingerprint() uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d boot %d reported %+v\n", n.cfg.ID, n.cfg.Boot, n.reported)
	fmt.Fprintf(h, "%s %s %t started %t %+v %+v base %s commit %s delivered %s applied %s stable %s issued %d "+
		"written %d\n",
		n.role, n.phase, n.established, n.started, n.hard, n.durable,
		n.base, n.commit, n.delivered, n.applied, n.stable, n.issued, n.written)
	fmt.Fprintf(h, "sessions %d seen %d abdicated %d writes %v\n", n.sessions, n.seenAccepted, n.since(n.abdicated),
		n.writes.all())
	if n.writes.len() > 0 {
		fmt.Fprintf(h, "disk %d\n", n.now-n.diskMoved)
	}
	if n.applied.Less(n.paused) {
		fmt.Fprintf(h, "paused %s\n", n.paused)
	}
	if n.installing != nil {
		fmt.Fprintf(h, "installing %+v\n", *n.installing)
	}
	fmt.Fprintf(h, "members %v %v %v\n", n.set, n.members.known, n.members.changes)
	fmt.Fprintf(h, "log %s", n.history.after)
	for _, c := range n.history.chunks {
		for _, e := range c.entries {
			fmt.Fprintf(h, " %s<%s:%x", e.Zxid, e.Prev, e.Data)
		}
	}
	el := &n.elect
	fmt.Fprintf(h, "\nround %d vote %v ballots %v lost %v seq %d finalize %d abstain %d/%d standing %d\n",
		el.round, el.vote, el.ballots, el.lost, el.seq, n.since(el.finalizeAt), n.since(el.abstainUntil),
		el.abstainWait, el.standing)
	if n.role == Looking && n.started {
		fmt.Fprintf(h, "resend %d/%d voted %d\n", n.now-el.resendAt, el.resendWait, n.now-el.votedAt)
	}
	fmt.Fprintf(h, "reads %d asked %d nonce %d\n", n.reads.asked.len(), n.reads.ready.len(), n.reads.nonce)
	for _, r := range append(append([]read(nil), n.reads.asked.all()...), n.reads.ready.all()...) {
		fmt.Fprintf(h, "read %d from %d/%x nonce %d index %s round %d since %d\n", r.id, r.from, r.session, r.nonce,
			r.index, r.round, n.now-r.since)
	}
	if n.follow != nil {
		f := *n.follow
		f.heard, f.progress, f.helloAt = n.now-f.heard, n.now-f.progress, n.until(f.helloAt)
		fmt.Fprintf(h, "follow %+v\n", f)
	}
	if n.lead != nil {
		n.fingerprintLeader(h)
	}
	return h.Sum64()
}

func (n *Node) fingerprintLeader(h interface{ Write([]byte) (int, error) }) {
	l := *n.lead
	fmt.Fprintf(h, "lead %d %d %t %t %d %t %s progress %d uncommitted %d ping %d/%d confirmed %d\n",
		l.epoch, l.epochWrite, l.announced, l.closed, l.ownWrite, l.refused, l.initial,
		n.now-l.progress, l.uncommitted, l.pingSeq, n.until(l.pingAt), l.confirmed)
	fmt.Fprintf(h, "transfer %d/%d\n", l.transfer, n.until(l.transferUntil))
	for i := range l.peers {
		p := &l.peers[i]
		fmt.Fprintf(h, "peer %t %d %t %t %d newest %x session %x step %d %+v pong %d sent %s end %s %t acked %s "+
			"match %s start %s",
			p.known, p.accepted, p.promised, p.refused, n.since(p.syncedAt), p.newest, p.session, p.step,
			p.history, p.pong, p.sent, p.end, p.announced, p.acked, p.match, p.start)
		if p.session != 0 {
			fmt.Fprintf(h, " heard %d", n.now-p.heard)
		}
		if p.step == stepSnapshot {
			fmt.Fprintf(h, " moved %d", n.now-p.moved)
		}
		for _, f := range p.flight.all() {
			fmt.Fprintf(h, " %s/%d/%d", f.upto, f.bytes, n.now-f.since)
		}
		fmt.Fprintln(h)
	}
}

// since makes a tick relative to now where 0 means never.
func (n *Node) since(tick uint64) uint64 {
	if tick == 0 {
		return 0
	}
	return n.now - tick + 1<<32
}

// until counts to a tick at which something is due; what is overdue is due.
func (n *Node) until(tick uint64) uint64 {
	if n.now >= tick {
		return 0
	}
	return tick - n.now
}

// String prints the state in one line, for traces.
func (n *Node) String() string {
	s := n.Status()
	var b strings.Builder
	fmt.Fprintf(&b, "n%d %s", s.ID, s.Role)
	switch {
	case s.Role == Looking:
	case s.Established:
		fmt.Fprintf(&b, " n%d epoch %d established", s.Leader, s.Epoch)
	default:
		fmt.Fprintf(&b, " n%d epoch %d in %s", s.Leader, s.Epoch, s.Phase)
	}
	fmt.Fprintf(&b, ", promised %d current %d, tail %s stable %s commit %s applied %s",
		s.Hard.Accepted, s.Hard.Current, s.Tail, s.Stable, s.Commit, s.Applied)
	return b.String()
}

// String names the role.
func (r Role) String() string {
	switch r {
	case Looking:
		return "looking"
	case Following:
		return "following"
	case Leading:
		return "leading"
	case Observing:
		return "observing"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// String names the phase.
func (p Phase) String() string {
	switch p {
	case Election:
		return "election"
	case Discovery:
		return "discovery"
	case Synchronization:
		return "synchronization"
	case Broadcast:
		return "broadcast"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// String names the reason.
func (r Reason) String() string {
	switch r {
	case NotLeading:
		return "not leading"
	case StaleEpoch:
		return "stale epoch"
	case UnknownSession:
		return "unknown session"
	case Diverged:
		return "diverged"
	case EpochTooLow:
		return "epoch too low"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// String names the mode.
func (m SyncMode) String() string {
	switch m {
	case Diff:
		return "DIFF"
	case Trunc:
		return "TRUNC"
	case Snap:
		return "SNAP"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}
