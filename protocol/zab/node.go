// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"errors"
	"fmt"

	"github.com/concordtx/concord/internal/mutant"
)

var (
	// ErrNotLeader answers a proposal to a node that is not an established leader.
	ErrNotLeader = errors.New("not the established leader: ask the leader that Status names")
	// ErrBusy answers a proposal beyond Config.MaxUncommittedBytes: try again later.
	ErrBusy = errors.New("too many proposals in flight: try again later")
)

// Node is the ZAB core of one cluster member: plain state, one event at a time.
// It is not safe for concurrent use; one goroutine owns it.
//
// What always holds between two Steps:
//
//  1. durable <= hard, and each message that promises something promises what is durable;
//  2. Current <= Accepted;
//  3. applied <= delivered <= min(commit, stable), and commit and stable <= tail;
//  4. at most one of lead and follow is there, as role says;
//  5. base <= applied, and of the log only what stands after base is ever read.
type Node struct {
	cfg     Config
	storage Storage
	members membership
	set     Set // in force; ordered by ID; peers are known by their place in here
	me      int // own place; -1: no member, which is taken for an observer
	quorum  int

	started bool
	now     uint64 // ticks since the start

	role        Role
	phase       Phase
	established bool
	elect       election
	lead        *leader
	follow      *follower
	sessions    uint32 // opened since the start

	hard    HardState // as handed to the log writer
	durable HardState
	base    Zxid
	history history
	stable  Zxid
	writes  fifo[pendingWrite]
	issued  uint64 // ID of the last write
	written uint64 // ID of the last durable write
	// diskMoved is the tick at which a write last became durable, or began when none was
	// under way.
	diskMoved uint64
	// installing is the snapshot of a write that is not durable yet. Until then the old log
	// and state are what this node has; nothing is appended meanwhile.
	installing *Snapshot

	commit    Zxid
	delivered Zxid
	applied   Zxid
	reads     reads

	// seenAccepted is the highest promise that a voter ever told about: the next epoch
	// of this node is above it, so that nobody is locked out by what he promised.
	seenAccepted Epoch
	abdicated    uint64 // tick of the last abdication, 0 for never

	effects  []Effect
	reported RoleChanged
	// paused is where a delivery was cut short, because there was more than deliverBytes: the
	// rest follows when this is applied.
	paused Zxid
}

// pendingWrite remembers what will be durable when a write is.
type pendingWrite struct {
	id      uint64
	tail    Zxid
	hard    HardState
	install bool
}

const (
	// cacheBytes of stable entries are kept in memory, by entrySize; it is about twice that. A peer that is
	// further behind is sent what the storage has.
	cacheBytes   = 2 << 20
	deliverBytes = 32 << 10 // of entries delivered at a time, or one entry
	// storedBatch is about how much of the log is read from the storage for one message, and
	// storedWindow how much of that may be under way to a peer.
	storedBatch  = 256 << 10
	storedWindow = 1 << 20
	// Epochs are below maxEpoch and counters at most maxCounter, so that the number after
	// one never wraps, here or at a reader of the log.
	maxEpoch   = Epoch(1<<32 - 2)
	maxCounter = uint64(1<<64 - 2)
	// maxEpochGap is how far a peer's epoch may be ahead of this node's promise. An epoch is
	// used up by a change of leader, so a node that was away for years is closer than that;
	// what is beyond comes from a broken peer, and to promise it would leave no epoch for
	// those who are sound.
	maxEpochGap = 1 << 20
)

// plausible reports whether a peer can have come to an epoch in an honest way.
func (n *Node) plausible(e Epoch) bool {
	return e < maxEpoch && uint64(e) <= uint64(n.hard.Accepted)+maxEpochGap
}

// New returns a core that starts looking for a leader with its first Step. What
// storage holds must be consistent; a log that ends in an epoch above Current is
// legal: it is what a crash in the middle of synchronization leaves behind.
func New(c Config, s Storage) (*Node, error) {
	c = c.withDefaults()
	n := &Node{cfg: c, storage: s}
	members, err := ordered(c.Members)
	if err != nil {
		return nil, fmt.Errorf("members: %w", err)
	}
	n.members.known = Set{At: c.MembersAt, Members: members}
	n.set = n.members.known
	if n.countMembers(); n.me < 0 && c.MembersAt.IsZero() {
		return nil, fmt.Errorf("members: own id %d is not among them", n.cfg.ID)
	}
	hard, base, last, applied := s.Initial()
	switch {
	case hard.Accepted < hard.Current:
		return nil, fmt.Errorf("stored state: current epoch %d is above accepted epoch %d", hard.Current, hard.Accepted)
	case last.Less(base):
		return nil, fmt.Errorf("stored state: log ends at %s, before its base %s", last, base)
	case last.Less(applied) || applied.Less(base):
		return nil, fmt.Errorf("stored state: applied %s is not between base %s and last %s", applied, base, last)
	}
	if mutant.ApplyTwice {
		applied = base
	}
	n.hard, n.durable = hard, hard
	n.base, n.history.after, n.stable = base, last, last
	n.commit, n.delivered, n.applied = applied, applied, applied
	n.reported.Phase = Broadcast + 1 // no phase, so that the first report differs
	n.elect.ballots = make([]heardBallot, len(n.set.Members))
	n.elect.lost = make([]bool, len(n.set.Members))
	if n.cfg.Change != nil {
		for at := applied; at.Less(last); {
			entries := n.readStorage(at, last, deliverBytes)
			n.appended(entries)
			at = entries[len(entries)-1].Zxid
		}
	}
	n.effects = n.effects[:0]
	return n, nil
}

func (c Config) withDefaults() Config {
	set := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&c.HeartbeatTicks, 1)
	set(&c.SyncTicks, 20)
	set(&c.InitTicks, 100)
	set(&c.FinalizeTicks, 4)
	set(&c.MaxUncommittedBytes, 64<<20)
	set(&c.MaxBatchBytes, 1<<20)
	set(&c.WindowBytes, 8<<20)
	c.MaxBatchBytes = min(c.MaxBatchBytes, maxBatchBytes)
	return c
}

// Step handles one event. The effects are in order and valid until the next Step.
// Entries in them stay valid for ever. Data of a Proposed and entries of a Received
// message belong to the core from here on.
func (n *Node) Step(ev Event) []Effect {
	n.effects = n.effects[:0]
	if _, ok := ev.(Learned); !n.started && !ok { // who is told before it starts begins with that
		n.started = true
		n.enterLooking("started")
	}
	switch ev := ev.(type) {
	case Tick:
		n.tick()
	case Received:
		n.receive(ev.Message)
	case Proposed:
		n.propose(ev)
	case ReadAsked:
		n.readAsked(ev.ID)
	case Persisted:
		n.persisted(ev.Write)
	case Applied:
		n.appliedUpto(ev.Upto)
	case PeerLost:
		n.peerLost(ev.Peer)
	case Resigned:
		n.resign(ev)
	case Transfer:
		n.transfer(ev.To)
	case Learned:
		n.learned(ev.Set)
	case Compact:
		n.compact(ev)
	case SnapshotMoved:
		n.snapshotMoved(ev)
	case SnapshotStaged:
		n.snapshotStaged(ev)
	case SnapshotFailed:
		n.snapshotFailed(ev)
	}
	n.deliver()
	n.evict()
	n.check()
	return n.effects
}

func (n *Node) tick() {
	n.now++
	n.endReign()
	switch {
	case n.lead != nil:
		n.leaderTick()
	case n.follow != nil:
		n.followerTick()
	default:
		n.lookingTick()
	}
	n.expireReads()
}

// receive is the gate for everything that comes from outside: it is validated and
// answered, never asserted.
func (n *Node) receive(m Message) {
	from := n.place(m.From)
	if from < 0 || from == n.me || m.To != n.cfg.ID || m.Body == nil {
		return
	}
	n.elect.lost[from] = false
	if b, ok := m.Body.(Ballot); ok {
		n.onBallot(from, b)
		return
	}
	if m.Session == 0 {
		return
	}
	if p, entries := m.Body.(Propose); mutant.AppendFromAnyEpoch && entries && n.follow != nil {
		n.onPropose(p)
		return
	}
	if spokenByLeader(m.Body) {
		if n.ledBy(m) {
			n.fromLeader(m)
		} else if m.Epoch < n.durable.Accepted {
			n.reject(m, StaleEpoch)
		}
		return
	}
	if r, ok := m.Body.(Reject); ok {
		n.onReject(from, m, r)
		return
	}
	if n.lead != nil {
		n.fromFollower(from, m)
		return
	}
	if _, ok := m.Body.(FollowerInfo); ok {
		n.sendBallot(from) // the asker sees from it whether waiting makes sense
		return
	}
	n.reject(m, NotLeading)
}

// ledBy reports whether a message belongs to the session with the own leader.
func (n *Node) ledBy(m Message) bool {
	return n.follow != nil && n.follow.leader == m.From && n.follow.session == m.Session
}

// onReject hears a refusal, as leader or as follower of a session.
func (n *Node) onReject(from int, m Message, r Reject) {
	switch {
	case r.Reason == StaleEpoch && n.lead != nil && n.lead.peers[from].session == m.Session:
		n.rejectedByFollower(from, r)
	case r.Reason != StaleEpoch && n.ledBy(m):
		n.rejectedByLeader(r)
	}
}

func (n *Node) peerLost(id NodeID) {
	i := n.place(id)
	if i < 0 || i == n.me {
		return
	}
	n.elect.lost[i] = true
	n.elect.ballots[i] = heardBallot{}
	switch {
	case n.lead != nil:
		n.dropSession(i, "connection lost")
		n.lead.peers[i].newest = 0 // with a new disk its sessions are numbered anew
	case n.follow != nil:
		if n.follow.leader == id {
			n.enterLooking("connection to the leader lost")
		}
	default:
		n.candidateLost(id)
	}
}

// place returns where id stands among the members, or -1.
func (n *Node) place(id NodeID) int {
	for i := range n.set.Members {
		if n.set.Members[i].ID == id {
			return i
		}
	}
	return -1
}

// observer reports whether this node is in no quorum.
func (n *Node) observer() bool { return n.me < 0 || n.set.Members[n.me].Observer }

// tail is where the log ends when all writes are durable.
func (n *Node) tail() Zxid {
	if n.installing != nil {
		return n.installing.Zxid
	}
	return n.history.tail()
}

func (n *Node) emit(e Effect) { n.effects = append(n.effects, e) }

func (n *Node) note(format string, args ...any) {
	n.emit(Note{Text: fmt.Sprintf(format, args...)})
}

func (n *Node) send(to int, epoch Epoch, session uint64, b Body) {
	n.sendTo(n.set.Members[to].ID, epoch, session, b)
}

func (n *Node) sendTo(id NodeID, epoch Epoch, session uint64, b Body) {
	n.emit(Send{Message{From: n.cfg.ID, To: id, Epoch: epoch, Session: session, Body: b}})
}

// reject answers m. It tells only what is durable.
func (n *Node) reject(m Message, why Reason) {
	n.sendTo(m.From, n.durable.Accepted, m.Session, Reject{Reason: why, Accepted: n.durable.Accepted})
}

// report tells the driver about role, phase, leader, epoch and establishment when
// one of them changed.
func (n *Node) report(reason string) {
	r := RoleChanged{Role: n.role, Phase: n.phase, Leader: n.leaderID(), Epoch: n.epoch(), Established: n.established}
	if r == n.reported {
		return
	}
	n.reported = r
	r.Reason = reason
	n.emit(r)
}

func (n *Node) leaderID() NodeID {
	switch {
	case n.lead != nil:
		return n.cfg.ID
	case n.follow != nil:
		return n.follow.leader
	}
	return 0
}

func (n *Node) epoch() Epoch {
	switch {
	case n.lead != nil && n.lead.epoch != 0:
		return n.lead.epoch
	case n.follow != nil && n.follow.epoch != 0:
		return n.follow.epoch
	}
	return n.hard.Current
}

// write hands one batch to the log writer. What it contains is in history and
// n.hard already.
func (n *Node) write(w Write) uint64 {
	n.issued++
	w.ID = n.issued
	if n.writes.len() == 0 {
		n.diskMoved = n.now
	}
	n.writes.push(pendingWrite{id: w.ID, tail: n.tail(), hard: n.hard, install: w.Install != nil})
	n.emit(w)
	return w.ID
}

func (n *Node) writeHard() uint64 {
	hard := n.hard
	return n.write(Write{Hard: &hard})
}

// truncate removes the log after z. No write is under way: AckEpoch waited for all,
// and none follows it before Sync.
func (n *Node) truncate(z Zxid) {
	if z.Less(n.commit) || n.stable != n.tail() {
		panicf("truncate to %s, but commit %s stable %s tail %s", z, n.commit, n.stable, n.tail())
	}
	n.history.truncate(z)
	n.stable = z
	n.write(Write{TruncateAfter: &z})
	n.cutChanges(z)
}

// persisted moves what is durable, and releases what was waiting for it.
func (n *Node) persisted(id uint64) {
	if id > n.issued {
		panicf("write %d is durable, but %d was the last", id, n.issued)
	}
	if id <= n.written {
		return
	}
	n.written, n.diskMoved = id, n.now
	for n.writes.len() > 0 && n.writes.front().id <= id {
		w := n.writes.pop()
		if w.install {
			n.restored()
		}
		n.stable, n.durable = w.tail, w.hard
	}
	switch {
	case n.lead != nil:
		n.leaderPersisted()
	case n.follow != nil:
		n.followerPersisted()
	}
}

func (n *Node) appliedUpto(z Zxid) {
	if n.delivered.Less(z) {
		panicf("applied %s, but only %s was delivered", z, n.delivered)
	}
	n.applied = maxZxid(n.applied, z)
	n.serveReads()
}

// deliver hands over what is committed and durable here, while this node is part of
// an established reign (rule R5). However much there is, it comes in pieces, and who applies it
// sets the pace. A change that is among it may let a leader commit more.
func (n *Node) deliver() {
	for before := n.delivered; ; before = n.delivered {
		n.deliverCommitted()
		if n.delivered == before {
			return
		}
		n.deliverChanges()
	}
}

func (n *Node) deliverCommitted() {
	if !n.established {
		return
	}
	upto := minZxid(n.commit, n.stable)
	if !n.delivered.Less(upto) || n.applied.Less(n.paused) {
		return
	}
	for left := deliverBytes; left > 0 && n.delivered.Less(upto); {
		entries := n.entries(n.delivered, upto, left)
		n.deliverEntries(entries)
		left -= sizeOf(entries)
	}
	if n.delivered.Less(upto) {
		n.paused = n.delivered
	}
}

func (n *Node) deliverEntries(entries []Entry) {
	if len(entries) == 0 || entries[0].Prev != n.delivered {
		panicf("no entry after %s to deliver, log is %s..%s", n.delivered, n.base, n.tail())
	}
	n.delivered = entries[len(entries)-1].Zxid
	n.emit(Deliver{Entries: entries})
}

// floor returns the greatest zxid <= z in the log or the base. The storage may still
// have more than the base says: the write that cuts it is on its way.
func (n *Node) floor(z Zxid) (Zxid, bool) {
	if z.Less(n.base) {
		return Zxid{}, false
	}
	if z.Less(n.history.after) {
		return n.storage.Floor(z)
	}
	return n.history.floor(z), true
}

// contains reports whether z is in the log, or is its base.
func (n *Node) contains(z Zxid) bool {
	f, ok := n.floor(z)
	return ok && f == z
}

// entries reads (after, upto] from memory or storage, about maxBytes at a time.
func (n *Node) entries(after, upto Zxid, maxBytes int) []Entry {
	if after.Less(n.history.after) {
		return n.readStorage(after, minZxid(upto, n.history.after), maxBytes)
	}
	return n.history.slice(after, upto, maxBytes)
}

// readStorage reads durable entries. A log that cannot be read back is as fatal as
// one that cannot be written.
func (n *Node) readStorage(after, upto Zxid, maxBytes int) []Entry {
	entries, err := n.storage.Entries(after, upto, maxBytes)
	if err != nil {
		panicf("read log (%s, %s]: %v", after, upto, err)
	}
	return entries
}

// evict bounds the memory of the history. A leader keeps what is not committed, to
// know its size.
func (n *Node) evict() {
	if n.history.bytes <= cacheBytes {
		return
	}
	upto := n.stable
	if n.lead != nil {
		upto = minZxid(upto, n.commit)
	}
	n.history.evict(upto, cacheBytes)
}

// check asserts what always holds. It costs a few comparisons.
func (n *Node) check() {
	tail := n.tail()
	switch {
	case n.hard.Accepted < n.hard.Current || n.durable.Accepted < n.durable.Current:
		panicf("current epoch above accepted: %+v, durable %+v", n.hard, n.durable)
	case n.hard.Accepted < n.durable.Accepted || n.hard.Current < n.durable.Current:
		panicf("promises went back: %+v, durable %+v", n.hard, n.durable)
	case tail.Less(n.stable) || tail.Less(n.commit) || n.stable.Less(n.history.after):
		panicf("stable %s or commit %s is not in %s..%s", n.stable, n.commit, n.history.after, tail)
	case n.applied.Less(n.base):
		panicf("applied %s is before the base %s", n.applied, n.base)
	case n.delivered.Less(n.applied) || n.commit.Less(n.delivered) || n.stable.Less(n.delivered):
		panicf("applied %s, delivered %s, commit %s, stable %s", n.applied, n.delivered, n.commit, n.stable)
	}
}

// panicf stops at a bug of ours; going on could lose what was promised.
func panicf(format string, args ...any) {
	panic("zab: " + fmt.Sprintf(format, args...))
}
