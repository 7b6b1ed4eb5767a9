// SPDX-License-Identifier: Apache-2.0

package zab

import "github.com/concordtx/concord/internal/mutant"

// follower is the state of one session with a leader, of a follower or an observer.
// A new session starts from nothing.
type follower struct {
	leader  NodeID
	session uint64
	epoch   Epoch // 0 until LeaderInfo
	parked  bool  // refused for a reason that time must heal
	leading bool  // the leader's ballot said in this session that it leads

	promiseWrite uint64 // AckEpoch is sent when this write is durable; 0: sent, or not due
	counted      bool
	promised     bool // AckEpoch was sent
	fetching     bool // Sync with Snap was received, and no snapshot is staged yet
	least        Zxid // that the snapshot must hold
	installWrite uint64
	synced       bool // Sync was carried out: the log is a prefix of the leader's from here on
	ended        bool // NewLeader was received
	confirmWrite uint64
	end          Zxid
	confirmed    bool // AckNewLeader was sent
	acked        Zxid
	commit       Zxid // the leader's watermark

	heard    uint64 // tick of the last word of the leader
	progress uint64 // tick of the last step forward before UpToDate
	helloAt  uint64 // tick at which FollowerInfo is sent again
	resets   int    // sessions that failed in a row, without an election between
}

const (
	helloTicks = 4
	maxResets  = 5
)

func (n *Node) becomeFollower(id NodeID, reason string) {
	n.role = n.followingRole()
	n.openSession(id, 0)
	n.report(reason)
}

func (n *Node) followingRole() Role {
	if n.observer() {
		return Observing
	}
	return Following
}

// openSession greets the leader under a new number; whatever belonged to an older
// session is void, on both sides.
func (n *Node) openSession(id NodeID, resets int) {
	n.phase, n.established = Discovery, false
	n.sessions++
	n.follow = &follower{
		leader:   id,
		session:  uint64(n.cfg.Boot)<<32 | uint64(n.sessions),
		heard:    n.now,
		progress: n.now,
		resets:   resets,
	}
	n.greet()
}

func (n *Node) greet() {
	n.follow.helloAt = n.now + helloTicks
	n.sendTo(n.follow.leader, 0, n.follow.session, FollowerInfo{Accepted: n.hard.Accepted})
}

// resetSession starts over with the same leader, without an election: what was received
// does not fit together.
func (n *Node) resetSession(format string, args ...any) {
	f := n.follow
	n.note("session %x: "+format, append([]any{f.session}, args...)...)
	if f.resets >= maxResets {
		n.park("sessions with the leader keep failing") // at once they would fail at once
		return
	}
	n.failReads()
	n.openSession(f.leader, f.resets+1)
	n.report("session reset")
}

func (n *Node) toLeader(b Body) {
	n.sendTo(n.follow.leader, n.follow.epoch, n.follow.session, b)
}

// fromLeader handles what comes from the leader within the current session.
func (n *Node) fromLeader(m Message) {
	f := n.follow
	if _, ok := m.Body.(LeaderInfo); ok {
		n.onLeaderInfo(m)
		return
	}
	if f.epoch == 0 || m.Epoch != f.epoch {
		return
	}
	f.heard = n.now
	switch b := m.Body.(type) {
	case Sync:
		n.onSync(b)
	case Propose:
		n.onPropose(b)
	case Inform:
		if len(b.Entries) > 0 {
			n.onPropose(Propose{Entries: b.Entries, Commit: b.Entries[len(b.Entries)-1].Zxid})
		}
	case NewLeader:
		n.onNewLeader(b)
	case UpToDate:
		n.onUpToDate(b)
	case Commit:
		n.learnCommit(b.Upto)
	case Ping:
		n.onPing(b)
	case ReadResp:
		if n.established {
			n.onReadResp(b)
		}
	case HandOver:
		n.onHandOver(b)
	}
}

// onLeaderInfo promises the epoch: durable first, and only after all writes of older
// reigns are, so that what AckEpoch says of the history is all there ever was.
func (n *Node) onLeaderInfo(m Message) {
	f := n.follow
	f.heard = n.now
	if f.epoch != 0 || m.Epoch == 0 {
		return
	}
	if !n.plausible(m.Epoch) {
		n.note("ALARM: node %d wants to lead in epoch %d, and this node is at %d: its store is damaged, or it is of "+
			"another cluster", m.From, m.Epoch, n.hard.Accepted)
		n.park("the leader's epoch is beyond belief")
		return
	}
	if m.Epoch < n.hard.Accepted {
		n.reject(m, StaleEpoch)
		n.enterLooking("the leader's epoch is older than a promise")
		return
	}
	f.epoch, f.progress = m.Epoch, n.now
	if m.Epoch > n.hard.Accepted {
		n.hard.Accepted, n.hard.AcceptedFrom = m.Epoch, m.From
		n.writeHard()
	}
	f.counted = n.hard.AcceptedFrom == m.From
	f.promiseWrite = n.issued
	n.phase = Synchronization
	n.report("the leader proposed an epoch")
	n.followerPersisted()
}

// followerPersisted says what may be said now that more is durable.
func (n *Node) followerPersisted() {
	f := n.follow
	if f.epoch == 0 {
		return
	}
	if !f.promised {
		if n.written < f.promiseWrite {
			return
		}
		f.promised = true
		n.toLeader(AckEpoch{Current: n.durable.Current, Last: n.stable, Applied: n.delivered, Counted: f.counted})
		return
	}
	if f.installWrite != 0 && !f.synced && n.written >= f.installWrite {
		f.synced, f.progress = true, n.now
	}
	if f.ended && !f.confirmed && n.written >= f.confirmWrite {
		f.confirmed = true
		f.acked = maxZxid(f.acked, f.end)
		n.toLeader(AckNewLeader{End: f.end})
	}
	if f.synced && f.acked.Less(n.stable) {
		f.acked = n.stable
		n.toLeader(Ack{Upto: n.stable})
	}
}

// onSync cuts the own log back to where the leader's begins to differ.
func (n *Node) onSync(b Sync) {
	f := n.follow
	if !f.promised || f.synced || f.fetching || f.installWrite != 0 {
		return
	}
	if b.Mode == Snap {
		n.onSnap(b)
		return
	}
	z := b.TruncTo
	switch {
	case b.From != n.tail() || b.Mode != Diff && b.Mode != Trunc || (b.Mode == Diff) != (z == b.From) || b.From.Less(z):
		n.resetSession("cannot synchronize: mode %d from %s to %s, log ends at %s", b.Mode, b.From, z, n.tail())
		return
	case !n.contains(z):
		n.resetSession("cannot synchronize: %s is not in the log, which ends at %s", z, n.tail())
		return
	case z.Less(n.commit):
		n.note("ALARM: node %d wants to truncate to %s, but %s was committed", f.leader, z, n.commit)
		n.park("histories diverged")
		return
	}
	if b.Mode == Trunc {
		n.note("truncating %s..%s after %s", z, n.tail(), z)
		n.truncate(z)
	}
	if mutant.EpochBeforeHistory && !n.observer() {
		n.hard.Current = f.epoch
		n.writeHard()
	}
	f.synced, f.acked, f.progress = true, z, n.now
	n.learnCommit(b.Commit)
}

// onPropose appends what follows the own tail without a gap. What is in the log
// already is skipped; anything else voids the session (rule R7).
func (n *Node) onPropose(b Propose) {
	f := n.follow
	if !f.synced {
		return
	}
	entries := b.Entries
	for len(entries) > 0 && !n.tail().Less(entries[0].Zxid) {
		if n.base.Less(entries[0].Zxid) && !n.contains(entries[0].Zxid) {
			n.resetSession("entry %s contradicts the log, which ends at %s", entries[0].Zxid, n.tail())
			return
		}
		entries = entries[1:]
	}
	prev := n.tail()
	for i := range entries {
		e := &entries[i]
		if e.Prev != prev || !follows(prev, e.Zxid) || e.Zxid.Epoch > f.epoch {
			n.resetSession("entry %s after %s does not follow %s", e.Zxid, e.Prev, prev)
			return
		}
		if _, _, err := n.change(e); err != nil {
			n.resetSession("entry %s makes no set of members: %v", e.Zxid, err)
			return
		}
		prev = e.Zxid
	}
	if len(entries) > 0 {
		f.progress = n.now
		entries = n.history.append(entries...)
		n.write(Write{Entries: entries})
		n.appended(entries)
		if mutant.AckBeforeDurable {
			n.toLeader(Ack{Upto: n.tail()})
		}
	}
	n.learnCommit(b.Commit)
}

// onNewLeader takes over the epoch: history first, epoch second, ack third (rule R2).
// The log writer's order makes one of the first two, Persisted the third.
func (n *Node) onNewLeader(b NewLeader) {
	f := n.follow
	if !f.synced || f.ended {
		return
	}
	if b.End != n.tail() || n.hard.Accepted != f.epoch {
		n.resetSession("the stream ends at %s, the log at %s", b.End, n.tail())
		return
	}
	f.ended, f.end, f.progress = true, b.End, n.now
	n.hard.Current = f.epoch
	f.confirmWrite = n.writeHard()
	if mutant.AckNewLeaderEarly {
		f.confirmed = true
		n.toLeader(AckNewLeader(b))
	}
}

// onUpToDate starts delivering.
func (n *Node) onUpToDate(b UpToDate) {
	f := n.follow
	if n.established || !f.synced || f.ended && !f.confirmed {
		return
	}
	n.established, n.phase, f.resets = true, Broadcast, 0
	n.elect.abstainWait = 0
	n.learnCommit(b.Commit)
	n.report("up to date")
}

// learnCommit remembers the leader's watermark, which may be ahead of the own log.
// What of the log is committed by it counts only when the leader is established.
func (n *Node) learnCommit(z Zxid) {
	f := n.follow
	f.commit = maxZxid(f.commit, z)
	if n.established && n.commit.Less(f.commit) {
		upto, _ := n.floor(minZxid(f.commit, n.tail()))
		n.commit = maxZxid(n.commit, upto)
	}
}

func (n *Node) onPing(b Ping) {
	if !n.follow.promised {
		return
	}
	n.learnCommit(b.Commit)
	n.toLeader(Pong{Seq: b.Seq, Stable: n.stable})
}

// rejectedByLeader hears that the leader gave up the session or refuses this node.
func (n *Node) rejectedByLeader(r Reject) {
	switch r.Reason {
	case UnknownSession:
		n.resetSession("the leader knows it no more")
	case NotLeading:
		n.enterLooking("the leader leads no more")
	case Diverged:
		n.note("ALARM: node %d says that the histories diverged", n.follow.leader)
		n.park("histories diverged")
	default:
		n.park("refused by the leader")
	}
}

// park waits out SyncTicks in silence and then looks again, where trying at once
// would only be refused at once.
func (n *Node) park(reason string) {
	n.failReads()
	leader := n.follow.leader
	n.established, n.phase = false, Discovery
	n.follow = &follower{leader: leader, parked: true, heard: n.now, progress: n.now}
	n.report(reason)
}

func (n *Node) followerTick() {
	f := n.follow
	switch {
	case n.now-f.heard > uint64(n.cfg.SyncTicks):
		n.enterLooking("the leader is silent")
	case !n.established && n.now-f.progress > uint64(n.cfg.InitTicks):
		n.enterLooking("synchronization makes no progress")
	case f.epoch == 0 && !f.parked && n.now >= f.helloAt:
		n.greet()
	}
}
