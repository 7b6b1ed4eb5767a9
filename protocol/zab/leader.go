// SPDX-License-Identifier: Apache-2.0

package zab

import "github.com/concordtx/concord/internal/mutant"

// leader is the state of a node that leads, from its election on. It ends with the
// reign; nothing of it survives into another.
type leader struct {
	epoch      Epoch  // 0 until a quorum told what it has promised
	epochWrite uint64 // the write of Accepted = epoch; announced when durable
	announced  bool
	closed     bool   // discovery is over: a quorum promised, initial is fixed
	ownWrite   uint64 // the write of Current = epoch; this node counts as synced when durable
	refused    bool   // some voter promised the same epoch to another leader
	initial    Zxid   // end of the initial history
	peers      []peer // by place; the own one is unused
	progress   uint64 // tick of the last step forward before establishment

	// transfer is who leadership is being handed to, 0 for nobody, and when that is given up.
	transfer      NodeID
	transferUntil uint64

	uncommitted int    // bytes of (commit, tail]
	pingSeq     uint64 // the last ping round sent
	pingAt      uint64 // tick of the next heartbeat
	confirmed   uint64 // the last ping round that a quorum answered
}

// peerStep says how far the session with a peer is.
type peerStep uint8

const (
	stepNone      peerStep = iota // no session
	stepGreeted                   // FollowerInfo received
	stepInvited                   // LeaderInfo sent
	stepPromised                  // AckEpoch received; waits for discovery or establishment
	stepSnapshot                  // Sync with Snap sent; waits until the peer has installed one
	stepStreaming                 // Sync sent
	stepSynced                    // AckNewLeader received; of an observer: UpToDate sent
)

// peer is what a leader knows of another member. Everything but the promises belongs
// to one session and is forgotten with it.
type peer struct {
	known    bool   // greeted in this reign
	accepted Epoch  // as it said last
	promised bool   // counted promise of the epoch
	refused  bool   // promised the same epoch to another leader
	syncedAt uint64 // tick of the last message while synced, 0 for never
	newest   uint64 // session: an older one never comes back

	session uint64 // 0: none
	step    peerStep
	heard   uint64   // tick
	history AckEpoch // what it said of its history
	pong    uint64   // the last ping round answered while synced

	start     Zxid   // where the stream began; while a snapshot is under way the least that it holds
	moved     uint64 // tick at which bytes of the snapshot were last seen to move
	sent      Zxid   // last entry sent
	end       Zxid   // end of the stream before NewLeader
	announced bool   // NewLeader (of an observer: UpToDate) sent
	acked     Zxid   // durable there
	match     Zxid   // acked, and counts towards commit
	flight    fifo[flight]
	inFlight  int // bytes
}

// flight is a message with entries that was sent and not acknowledged.
type flight struct {
	upto  Zxid
	bytes int
	since uint64 // tick
}

func (n *Node) becomeLeader(reason string) {
	n.role, n.phase = Leading, Discovery
	n.lead = &leader{peers: make([]peer, len(n.set.Members)), progress: n.now}
	n.report(reason)
	n.sendBallotsToStrangers()
	n.decideEpoch()
}

// sendBallotsToStrangers tells who is not in a session that there is a leader.
func (n *Node) sendBallotsToStrangers() {
	for i := range n.set.Members {
		if i != n.me && n.lead.peers[i].session == 0 {
			n.sendBallot(i)
		}
	}
}

// failLeading gives up leading without ever having been established.
func (n *Node) failLeading(reason string) {
	n.abstain()
	n.enterLooking(reason)
}

// abdicate makes room for an election, because a voter promised a higher epoch and can
// join only a leader above it. Once in a while is enough: the next epoch of this
// node is above all promises it heard of.
func (n *Node) abdicate(seen Epoch) bool {
	n.seenAccepted = max(n.seenAccepted, seen)
	if n.abdicated != 0 && n.now-n.abdicated < uint64(2*n.cfg.InitTicks) {
		return false
	}
	n.abdicated = max(n.now, 1)
	n.note("abdicating from epoch %d: a voter promised epoch %d", n.lead.epoch, seen)
	n.enterLooking("abdicated")
	return true
}

// fromFollower handles what comes from a peer that takes this node for its leader.
func (n *Node) fromFollower(from int, m Message) {
	if info, ok := m.Body.(FollowerInfo); ok {
		n.onFollowerInfo(from, m.Session, info)
		return
	}
	p := &n.lead.peers[from]
	if p.session != m.Session || m.Session == 0 || m.Epoch != n.lead.epoch {
		n.reject(m, UnknownSession)
		return
	}
	p.heard = n.now
	if p.step == stepSynced {
		p.syncedAt = max(n.now, 1)
	}
	switch b := m.Body.(type) {
	case AckEpoch:
		n.onAckEpoch(from, b)
	case AckNewLeader:
		n.onAckNewLeader(from, b)
	case Ack:
		n.onAck(from, b.Upto)
	case Pong:
		n.onPong(from, b)
	case ReadReq:
		n.onReadReq(from, b)
	}
}

// onFollowerInfo opens a session; a later one of the same peer replaces the earlier.
func (n *Node) onFollowerInfo(from int, session uint64, info FollowerInfo) {
	l, p := n.lead, &n.lead.peers[from]
	if session < p.newest || session == 0 {
		return
	}
	if !n.plausible(info.Accepted) {
		n.note("ALARM: ignoring node %d: it claims to have promised epoch %d, and this node is at %d: replace its "+
			"store", n.set.Members[from].ID, info.Accepted, n.hard.Accepted)
		return
	}
	if l.epoch != 0 && info.Accepted > l.epoch {
		if !n.abdicate(info.Accepted) { // an observer was a voter when it promised that
			n.send(from, l.epoch, session, Reject{Reason: EpochTooLow, Accepted: n.durable.Accepted})
		}
		return
	}
	if session > p.newest {
		p.forget()
		p.newest, p.session, p.step = session, session, stepGreeted
	} else if p.session == 0 {
		n.send(from, l.epoch, session, Reject{Reason: UnknownSession, Accepted: n.durable.Accepted})
		return
	}
	p.heard, p.known, p.accepted = n.now, true, info.Accepted
	n.decideEpoch()
	switch {
	case n.lead != l: // it gave up
	case !n.mayInvite(from):
		n.sendBallot(from) // a sign of life meanwhile
	case p.step <= stepInvited:
		n.invite(from)
	}
}

// forget drops the session, and keeps what the peer promised for good.
func (p *peer) forget() {
	*p = peer{
		known: p.known, accepted: p.accepted, promised: p.promised, refused: p.refused,
		syncedAt: p.syncedAt, newest: p.newest,
	}
}

// decideEpoch picks the new epoch once a quorum of voters told what they promised.
// It is announced only when it is durable here (rule R1).
func (n *Node) decideEpoch() {
	l := n.lead
	if l.epoch != 0 {
		return
	}
	highest, infos := max(n.hard.Accepted, n.seenAccepted), 1
	for i := range l.peers {
		if !l.peers[i].known {
			continue
		}
		highest = max(highest, l.peers[i].accepted) // an observer may have been a voter
		if !n.set.Members[i].Observer {
			infos++
		}
	}
	if infos < n.quorum {
		return
	}
	if highest >= maxEpoch-1 {
		n.note("ALARM: a voter promised epoch %d, and there is none after it", highest)
		n.failLeading("the epochs are used up")
		return
	}
	l.epoch = highest + 1
	n.hard.Accepted, n.hard.AcceptedFrom = l.epoch, n.cfg.ID
	l.epochWrite = n.writeHard()
	l.progress = n.now
	n.report("proposes an epoch")
}

// mayInvite reports whether a peer may hear of the epoch. An observer hears of it when
// the leader is established: a promise to one who never is would lock it out from
// whoever leads instead, for whom nobody abdicates.
func (n *Node) mayInvite(i int) bool {
	return n.lead.announced && (n.established || !n.set.Members[i].Observer)
}

func (n *Node) invite(to int) {
	p := &n.lead.peers[to]
	p.step = stepInvited
	n.send(to, n.lead.epoch, p.session, LeaderInfo{})
}

// leaderPersisted goes on with what waited for the leader's own writes.
func (n *Node) leaderPersisted() {
	l := n.lead
	if l.epoch != 0 && !l.announced && n.written >= l.epochWrite {
		l.announced = true
		for i := range l.peers {
			if l.peers[i].step == stepGreeted && n.mayInvite(i) {
				n.invite(i)
			}
		}
		n.closeDiscovery()
	}
	if n.lead != nil && l.closed {
		n.establish()
		n.advanceCommit()
	}
}

// onAckEpoch counts a promise while discovery is open, and synchronizes the peer
// when it is over.
func (n *Node) onAckEpoch(from int, a AckEpoch) {
	l, p := n.lead, &n.lead.peers[from]
	if p.step != stepInvited {
		return
	}
	p.step, p.history = stepPromised, a
	if n.set.Members[from].Observer {
		if n.established {
			n.beginSync(from)
		}
		return
	}
	if l.closed {
		n.beginSync(from)
		return
	}
	if !a.Counted {
		p.refused, l.refused = true, true
		n.note("node %d promised epoch %d to another leader", n.set.Members[from].ID, l.epoch)
		n.supporterLeft()
		return
	}
	ahead := a.Current > n.hard.Current || a.Current == n.hard.Current && n.tail().Less(a.Last)
	if ahead && !mutant.ShorterLogLeads {
		n.note("node %d is ahead: current %d last %s, here %d %s", n.set.Members[from].ID, a.Current, a.Last,
			n.hard.Current, n.tail())
		n.failLeading("a follower is ahead") // stays away, or who is ahead but abstains elects it again at once
		return
	}
	p.promised = true
	n.closeDiscovery()
}

// closeDiscovery ends phase 1 once a quorum, this node included, has promised: the own
// log is the initial history of the epoch.
func (n *Node) closeDiscovery() {
	l := n.lead
	if l.closed || !l.announced {
		return
	}
	promises := 1
	for i := range l.peers {
		if l.peers[i].promised {
			promises++
		}
	}
	if promises < n.quorum {
		return
	}
	l.closed, l.initial, l.progress = true, n.tail(), n.now
	n.hard.Current = l.epoch
	l.ownWrite = n.writeHard()
	n.phase = Synchronization
	n.report("a quorum promised the epoch")
	for i := range l.peers {
		if l.peers[i].step == stepPromised && !n.set.Members[i].Observer {
			n.beginSync(i)
		}
	}
}

// supporterLeft gives up at once when the voters that are left cannot close
// discovery any more, instead of waiting for InitTicks.
func (n *Node) supporterLeft() {
	possible := 1
	for i, m := range n.set.Members {
		if i != n.me && !m.Observer && n.mayPromise(i) {
			possible++
		}
	}
	if possible < n.quorum {
		n.failLeading("too few supporters are left")
	}
}

// mayPromise reports whether a voter has promised the epoch, or still can. Once a peer
// refused, only those at hand count: a higher epoch is quicker than waiting.
func (n *Node) mayPromise(i int) bool {
	p, b := &n.lead.peers[i], &n.elect.ballots[i]
	switch {
	case p.promised:
		return true
	case p.refused, n.lead.refused && p.session == 0:
		return false
	}
	return !b.known || b.State != Looking || b.Round <= n.elect.round
}

// rejectedByFollower hears that a peer left the session, or promised more.
func (n *Node) rejectedByFollower(from int, r Reject) {
	if n.lead.epoch != 0 && r.Accepted > n.lead.epoch && n.plausible(r.Accepted) && n.abdicate(r.Accepted) {
		return
	}
	n.dropSession(from, "the peer left")
}

// dropSession forgets the session with a peer. What it promised still counts, what
// it acknowledged does not.
func (n *Node) dropSession(i int, reason string) {
	p := &n.lead.peers[i]
	if p.session == 0 {
		return
	}
	session := p.session
	n.note("session %x of node %d dropped: %s; it had acknowledged %s", session, n.set.Members[i].ID, reason, p.acked)
	p.forget()
	n.send(i, n.lead.epoch, session, Reject{Reason: UnknownSession, Accepted: n.durable.Accepted})
}

func (n *Node) leaderTick() {
	l := n.lead
	if n.now >= l.pingAt && l.announced {
		l.pingAt = n.now + uint64(n.cfg.HeartbeatTicks)
		n.ping()
	}
	for i := range l.peers {
		n.checkPeer(i)
	}
	switch {
	case !n.established && n.now-l.progress > uint64(n.cfg.InitTicks):
		n.failLeading("no quorum could be synchronized in time")
	case n.established && n.heardVoters() < n.quorum:
		n.enterLooking("lost the quorum of synchronized voters")
	default:
		n.yieldToHealthyDisks()
	}
}

// checkPeer gives up a session that is silent, or whose disk is: a peer that
// answers pings and acknowledges nothing is not synchronized.
func (n *Node) checkPeer(i int) {
	p := &n.lead.peers[i]
	if p.session == 0 {
		return
	}
	limit := uint64(n.cfg.SyncTicks)
	if p.step <= stepInvited {
		limit = uint64(n.cfg.InitTicks) // its disk may still be busy with an older reign
	}
	if n.now-p.heard > limit {
		n.dropSession(i, "silent")
		return
	}
	if p.step == stepSnapshot && n.now-p.moved > uint64(n.cfg.InitTicks) {
		n.dropSession(i, "the snapshot makes no progress")
		return
	}
	if p.step == stepStreaming || n.set.Members[i].Observer {
		limit = uint64(n.cfg.InitTicks)
	}
	if p.flight.len() > 0 && n.now-p.flight.front().since > limit {
		n.dropSession(i, "acknowledges nothing")
	}
}

// heardVoters counts the voters that were synchronized within SyncTicks, including
// this node. One that has become a voter counts from the time before.
func (n *Node) heardVoters() int {
	heard := 1
	for i := range n.lead.peers {
		p := &n.lead.peers[i]
		if !n.set.Members[i].Observer && p.syncedAt != 0 && n.now-p.syncedAt <= uint64(n.cfg.SyncTicks) {
			heard++
		}
	}
	return heard
}
