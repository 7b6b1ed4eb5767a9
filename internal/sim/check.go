// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol/zab"
)

// Checker watches a cluster from outside, knows everything that ever happened, and
// says when something happened that must not. Its checks never ask a core what is
// durable: they look at the disks.
type Checker struct {
	ghosts []*ghost // by node index
	change func([]byte) ([]zab.Member, bool)
	sets   []committedSet // of members, in order

	proposals map[zab.Zxid]proposal
	reigns    map[zab.Epoch]*reign
	epochs    []zab.Epoch // the keys of reigns, in order of their discovery phase's end

	// committed is G, the one global sequence, in the order in which leaders committed
	// it; committedBy the epoch of the leader that did; folds the state after each.
	committed   []zab.Zxid
	committedBy []zab.Epoch
	folds       []uint64

	muted     []string // ids of checks that are off, to see what else catches a bug
	violation *Violation
	counters  Counters
}

// proposal is what is known of a zxid since it was first written anywhere.
type proposal struct {
	leader zab.NodeID
	entry  zab.Entry
}

// reign is an epoch whose leader finished discovery.
type reign struct {
	leader      zab.NodeID
	history     []zab.Entry // the leader's log then
	established bool
	proposed    bool
	before      int // entries in G when it first proposed
}

// ghost is what the checker knows of a node, across all its crashes.
type ghost struct {
	id       zab.NodeID
	observer bool // and never was a voter
	disk     *disk
	force    zab.Set // as of its last step
	role     zab.RoleChanged
	status   zab.Status
	promised zab.HardState // the greatest that was ever durable
	acked    map[zab.Epoch]zab.Zxid
	ackedNew map[zab.Epoch]zab.Zxid // by AckNewLeader
	// delivered and applied count entries; the first is volatile, the second as the
	// disk has it. last* are the zxids that they stand for.
	delivered   int
	lastDeliver zab.Zxid
	lastApply   zab.Zxid

	truncatedOnce bool
	waited        int    // ticks without a step forward before it is established
	session       uint64 // that it opened last
}

func newChecker(members []zab.Member, disks []*disk) *Checker {
	c := &Checker{
		proposals: map[zab.Zxid]proposal{},
		reigns:    map[zab.Epoch]*reign{},
		folds:     []uint64{foldStart},
	}
	c.change, c.sets = changeOf, []committedSet{{Set: zab.Set{Members: members}}}
	for i, m := range members {
		c.ghosts = append(c.ghosts, &ghost{
			id: m.ID, observer: m.Observer, disk: disks[i], force: zab.Set{Members: members},
			acked: map[zab.Epoch]zab.Zxid{}, ackedNew: map[zab.Epoch]zab.Zxid{},
		})
	}
	return c
}

// fail records the first violation.
func (c *Checker) fail(id, format string, args ...any) {
	if c.violation == nil && !slices.Contains(c.muted, id) {
		c.violation = &Violation{ID: id, Detail: fmt.Sprintf(format, args...)}
	}
}

// handed looks at a write when the core hands it over, before the disk has it.
func (c *Checker) handed(g *ghost, w zab.Write) {
	log := g.disk.view
	if w.Cut != nil {
		c.cut(g, *w.Cut)
	}
	if w.Install != nil {
		c.installs(g, *w.Install)
		return
	}
	if w.TruncateAfter != nil {
		c.truncated(g, log, *w.TruncateAfter)
		log = change(log, zab.Write{TruncateAfter: w.TruncateAfter})
	}
	last := tail(log)
	for i, e := range w.Entries {
		if e.Prev != last || !mayFollow(last, e.Zxid) {
			c.fail("L2", "node %d appends %s (after %s) to a log that ends at %s", g.id, e.Zxid, e.Prev, last)
		}
		last = e.Zxid
		c.known(g, e)
		position := len(log) + i
		if g.observer && (position >= len(c.committed) || c.committed[position] != e.Zxid) {
			c.fail("S14", "observer %d appends %s, which is not entry %d of the committed sequence", g.id, e.Zxid, position)
		}
		if g.role.Role == zab.Following && e.Zxid.Epoch < g.role.Epoch && position > 0 {
			c.counters.hit(DiffResumed)
		}
		c.followsLeader(g, position, e)
	}
}

// followsLeader is S3 for one session: what a follower appends is what its leader has there.
func (c *Checker) followsLeader(g *ghost, position int, e zab.Entry) {
	r := c.reigns[g.role.Epoch]
	if g.role.Role != zab.Following || r == nil || e.Zxid.Epoch == g.role.Epoch {
		return
	}
	if position >= len(r.history) || r.history[position].Zxid != e.Zxid {
		c.fail("S3", "node %d follows the leader of epoch %d and appends %s as entry %d, which that leader does not have", g.id, g.role.Epoch, e.Zxid, position)
	}
}

// mayFollow reports whether z may be the successor of prev in a log.
func mayFollow(prev, z zab.Zxid) bool {
	if z.Epoch == prev.Epoch {
		return z.Epoch > 0 && z.Counter == prev.Counter+1
	}
	return z.Epoch > prev.Epoch && z.Counter == 1
}

func (c *Checker) truncated(g *ghost, log []zab.Entry, to zab.Zxid) {
	keep := after(log, to)
	if keep < g.disk.applied || keep < g.delivered {
		c.fail("S9", "node %d truncates to %s, but has applied %d and delivered %d entries of which %d stay", g.id, to, g.disk.applied, g.delivered, keep)
	}
	if keep < len(log) && keep < len(c.committed) && log[keep].Zxid == c.committed[keep] {
		c.fail("S9", "node %d truncates to %s and loses the committed %s", g.id, to, c.committed[keep])
	}
	if g.observer && keep < len(log) {
		c.fail("S14", "observer %d truncates to %s", g.id, to)
	}
	if keep < len(log) {
		c.counters.hit(TruncHappened)
		g.truncatedOnce = true
		if !to.IsZero() && log[keep].Zxid.Epoch != to.Epoch {
			c.counters.hit(TruncAcrossEpochs)
		}
	}
}

// cut is S9 for compaction: what goes from the log is in the state that is on disk.
func (c *Checker) cut(g *ghost, z zab.Zxid) {
	n := after(g.disk.view, z)
	if !holds(g.disk.view, z) || n > g.disk.applied || n > len(c.committed) || c.committed[n-1] != z {
		c.fail("S9", "node %d cuts its log at %s with %d applied entries; %d are committed", g.id, z, g.disk.applied, len(c.committed))
	}
	c.counters.hit(LogWasCut)
}

// installs is S9 for snapshots: one holds only what is committed, and all that the log
// had of it, and more (rule R8).
func (c *Checker) installs(g *ghost, s zab.Snapshot) {
	log, now := g.disk.staged.log, g.disk.view
	if g.disk.staged.ref != s.Ref || tail(log) != s.Zxid {
		c.fail("S9", "node %d installs a snapshot of %s, but one of %s is staged", g.id, s.Zxid, tail(log))
	}
	if !c.prefixOfCommitted(log) {
		c.fail("S9", "node %d installs a snapshot of %s, which is no prefix of the committed sequence", g.id, s.Zxid)
	}
	if !tail(now).Less(s.Zxid) {
		c.fail("S9", "node %d installs a snapshot of %s over a log to %s", g.id, s.Zxid, tail(now))
	}
	have := 0
	for have < len(now) && have < len(c.committed) && now[have].Zxid == c.committed[have] {
		have++
	}
	if have > len(log) {
		c.fail("S9", "node %d had %d committed entries, and installs a snapshot of %d", g.id, have, len(log))
	}
	c.counters.hit(SnapshotInstalled)
	if g.truncatedOnce {
		c.counters.hit(SnapshotAfterTrunc)
	}
}

// restoredFrom begins anew where a snapshot ends.
func (c *Checker) restoredFrom(g *ghost, s zab.Snapshot) {
	if g.disk.base() != s.Zxid || g.disk.appliedZxid() != s.Zxid {
		c.fail("L6", "node %d begins anew from %s, but its disk has base %s and applied %s", g.id, s.Zxid, g.disk.base(), g.disk.appliedZxid())
	}
	g.delivered, g.lastDeliver, g.lastApply = g.disk.applied, s.Zxid, s.Zxid
}

// noted is S9 as the nodes see it: none finds that histories diverged.
func (c *Checker) noted(g *ghost, n zab.Note) {
	if strings.HasPrefix(n.Text, "ALARM") {
		c.fail("S9", "node %d: %s", g.id, n.Text)
	}
}

// known compares an entry with the first of that zxid that was ever seen.
func (c *Checker) known(g *ghost, e zab.Entry) {
	p, ok := c.proposals[e.Zxid]
	if !ok {
		c.proposed(g, e)
		return
	}
	if p.entry.Prev != e.Prev {
		c.fail("S3", "node %d has %s after %s, but it was proposed after %s", g.id, e.Zxid, e.Prev, p.entry.Prev)
	}
	if string(p.entry.Data) != string(e.Data) {
		c.fail("S2", "node %d has %s with data %q, but it was proposed with %q", g.id, e.Zxid, e.Data, p.entry.Data)
	}
	if g.role.Role == zab.Leading && g.role.Epoch == e.Zxid.Epoch && p.leader != g.id {
		c.fail("S2", "node %d proposes %s, which node %d proposed", g.id, e.Zxid, p.leader)
	}
}

func (c *Checker) proposed(g *ghost, e zab.Entry) {
	r := c.reigns[e.Zxid.Epoch]
	if r == nil || r.leader != g.id || g.role.Role != zab.Leading {
		c.fail("S2", "node %d writes %s, which the leader of that epoch never proposed", g.id, e.Zxid)
		return
	}
	c.proposals[e.Zxid] = proposal{leader: g.id, entry: e}
	if !r.proposed {
		r.proposed, r.before = true, len(c.committed)
	}
}

// durable looks at a node's disk after it changed.
func (c *Checker) durable(g *ghost) {
	h, p := g.disk.hard, g.promised
	if h.Current > h.Accepted {
		c.fail("L1", "node %d has Current %d above Accepted %d", g.id, h.Current, h.Accepted)
	}
	if h.Current < p.Current || h.Accepted < p.Accepted {
		c.fail("L1", "node %d has promises %+v, but had %+v", g.id, h, p)
	}
	if h.Accepted == p.Accepted && p.AcceptedFrom != 0 && h.AcceptedFrom != p.AcceptedFrom {
		c.fail("L1", "node %d promised epoch %d to node %d and now to node %d", g.id, h.Accepted, p.AcceptedFrom, h.AcceptedFrom)
	}
	g.promised = zab.HardState{Accepted: max(h.Accepted, p.Accepted), AcceptedFrom: h.AcceptedFrom, Current: max(h.Current, p.Current)}
	if g.observer && !c.prefixOfCommitted(g.disk.log) {
		c.fail("S14", "the log of observer %d ends at %s and is no prefix of the committed sequence", g.id, tail(g.disk.log))
	}
	c.evidence(g)
	c.quorumDurability()
}

func (c *Checker) prefixOfCommitted(log []zab.Entry) bool {
	return len(log) <= len(c.committed) && (len(log) == 0 || tail(log) == c.committed[len(log)-1])
}

// contains reports whether a log holds the first n entries of the committed sequence.
func (c *Checker) contains(log []zab.Entry, n int) bool {
	return n == 0 || len(log) >= n && log[n-1].Zxid == c.committed[n-1]
}

// evidence is S7: Current = k says that everything of the epochs before is in the log.
func (c *Checker) evidence(g *ghost) {
	if g.observer {
		return
	}
	n := c.committedBefore(g.disk.hard.Current)
	if !c.contains(g.disk.log, n) {
		c.fail("S7", "node %d has Current %d and a log to %s without %s, committed in epoch %d", g.id, g.disk.hard.Current, tail(g.disk.log), c.committed[n-1], c.committedBy[n-1])
	}
}

// among reports whether z is one of the first n entries of the committed sequence.
func (c *Checker) among(n int, z zab.Zxid) bool {
	_, found := slices.BinarySearchFunc(c.committed[:min(n, len(c.committed))], z, compareZxid)
	return found
}

// committedBefore counts the entries that leaders of epochs before e committed.
func (c *Checker) committedBefore(e zab.Epoch) int {
	n := len(c.committed)
	for n > 0 && c.committedBy[n-1] >= e {
		n--
	}
	return n
}

// quorumDurability is S8. It is asked after every change of a disk and of G.
func (c *Checker) quorumDurability() {
	ok, have := c.quorumHolds(c.inForce(len(c.committed)), func(g *ghost) bool { return c.contains(g.disk.log, len(c.committed)) })
	if !ok {
		c.fail("S8", "%d entries are committed, but only %d voters have all of them on disk", len(c.committed), have)
	}
}

// crashed looks at a node's disk after a crash.
func (c *Checker) crashed(g *ghost) {
	g.role = zab.RoleChanged{}
	g.status = zab.Status{}
	g.delivered, g.lastDeliver = g.disk.applied, g.disk.appliedZxid()
	g.lastApply = g.lastDeliver
	g.waited = 0
	c.durable(g)
}

// restarted is L6: the state that survived is the fold of exactly the entries that it
// says it holds.
func (c *Checker) restarted(g *ghost) {
	h := foldStart
	for _, e := range g.disk.log[:min(g.disk.applied, len(g.disk.log))] {
		h = fold(h, e)
	}
	if last := g.disk.folds[len(g.disk.folds)-1]; last != h || g.disk.applied > len(g.disk.log) {
		c.fail("L6", "node %d restarts with %d applied entries and state %x, but replaying its log gives %x", g.id, g.disk.applied, last, h)
	}
}

// roleChanged follows elections: S1 and S6.
func (c *Checker) roleChanged(g *ghost, r zab.RoleChanged) {
	before := g.role
	g.role = r
	if before.Role == zab.Leading && before.Established && r.Role != zab.Leading {
		c.counters.hit(LeaderSteppedDown)
	}
	if r.Role == zab.Observing && r.Established {
		c.counters.hit(ObserverSynced)
	}
	if r.Role != zab.Leading || r.Phase < zab.Synchronization {
		return
	}
	if g.observer {
		c.fail("S14", "observer %d leads epoch %d", g.id, r.Epoch)
	}
	old := c.reigns[r.Epoch]
	if old == nil {
		c.reigns[r.Epoch] = &reign{leader: g.id, history: slices.Clone(g.disk.view)}
		c.epochs = append(c.epochs, r.Epoch)
		// A slow leader may get the last promise for its epoch after a later epoch has
		// committed more; so only what earlier epochs committed must be there.
		if n := c.committedBefore(r.Epoch); !c.contains(g.disk.view, n) {
			c.fail("S6", "node %d leads epoch %d with a log to %s without all of the %d entries that earlier epochs committed (to %s)", g.id, r.Epoch, tail(g.disk.view), n, c.committed[n-1])
		}
	} else if old.leader != g.id {
		c.fail("S1", "nodes %d and %d lead epoch %d", old.leader, g.id, r.Epoch)
	}
	if r.Established {
		c.established(g, r.Epoch)
	}
}

// established is S10 for NewLeader: a quorum of voters said so, and it was true.
func (c *Checker) established(g *ghost, e zab.Epoch) {
	r := c.reigns[e]
	if r.established {
		return
	}
	r.established = true
	ok, have := c.quorumHolds([]committedSet{{Set: g.force}}, func(o *ghost) bool {
		if o == g {
			return o.disk.hard.Current >= e && holds(o.disk.log, tail(r.history))
		}
		_, acked := o.ackedNew[e]
		return acked && o.disk.hard.Current >= e
	})
	if !ok {
		c.fail("S10", "node %d is established in epoch %d with %d acknowledgements of %d voters", g.id, e, have, voters(g.force.Members))
	}
	for _, o := range c.ghosts {
		if o.disk.hard.Accepted > e {
			c.counters.hit(AcceptedAheadOfLeader)
		}
		if o != g && o.role.Role == zab.Leading && o.role.Established {
			c.counters.hit(TwoLeadersAtOnce)
		}
	}
}

func (c *Checker) lastCommitted() zab.Zxid {
	if len(c.committed) == 0 {
		return zab.Zxid{}
	}
	return c.committed[len(c.committed)-1]
}

// observed compares what a core says of itself with what is so.
func (c *Checker) observed(g *ghost, s zab.Status) {
	g.status = s
	if s.Stable.Less(s.Applied) || s.Commit.Less(s.Applied) || s.Tail.Less(s.Stable) || s.Applied.Less(s.Base) {
		c.fail("L3", "node %d: base %s, applied %s, commit %s, stable %s, tail %s", g.id, s.Base, s.Applied, s.Commit, s.Stable, s.Tail)
	}
	if s.Tail != tail(g.disk.view) {
		c.fail("L3", "node %d says its log ends at %s, but it wrote up to %s", g.id, s.Tail, tail(g.disk.view))
	}
	if !g.disk.has(s.Stable) {
		c.fail("L3", "node %d says that %s is durable, which its disk does not have", g.id, s.Stable)
	}
	if s.Role == zab.Leading && s.Established {
		c.counted(g, s)
		c.commit(g, s.Epoch, s.Commit)
	}
	if c.lastCommitted().Less(s.Commit) {
		c.fail("S5", "node %d has commit %s, but the cluster has committed only up to %s", g.id, s.Commit, c.lastCommitted())
	}
}

// counted is S10 for entries: a leader counts only what the peer has said in this epoch.
func (c *Checker) counted(g *ghost, s zab.Status) {
	for _, p := range s.Peers {
		if o := c.ghost(p.ID); p.Synced && o != nil && !p.Observer && o.acked[s.Epoch].Less(p.Match) {
			c.fail("S10", "leader %d counts node %d up to %s, but it acknowledged only %s in epoch %d", g.id, p.ID, p.Match, o.acked[s.Epoch], s.Epoch)
		} else if p.Synced && o != nil && !p.Observer && o.disk.hard.Accepted == s.Epoch && !o.disk.has(p.Match) {
			c.fail("S10", "leader %d counts node %d up to %s, but its disk has a log to %s", g.id, p.ID, p.Match, tail(o.disk.log))
		}
	}
}

func (c *Checker) ghost(id zab.NodeID) *ghost {
	for _, g := range c.ghosts {
		if g.id == id {
			return g
		}
	}
	return nil
}

// commit extends the global sequence when a leader advances: S5, S6, S8, S12, S13.
func (c *Checker) commit(g *ghost, e zab.Epoch, upto zab.Zxid) {
	if !c.lastCommitted().Less(upto) {
		return
	}
	log := g.disk.view
	if !c.contains(log, len(c.committed)) {
		c.fail("S5", "leader %d of epoch %d commits %s on a log without the committed %s", g.id, e, upto, c.lastCommitted())
		return
	}
	if !holds(log, upto) {
		c.fail("S5", "leader %d of epoch %d commits %s, which is not in its log", g.id, e, upto)
		return
	}
	for _, entry := range log[len(c.committed):after(log, upto)] {
		c.extend(e, entry)
	}
	if !holds(g.disk.log, upto) {
		c.counters.hit(CommitBeforeOwnFsync)
	}
	if len(c.epochs) > 2 && e >= c.epochs[2] {
		c.counters.hit(CommitAfterTwoElections)
	}
	for _, o := range c.ghosts {
		c.evidence(o)
	}
	c.quorumDurability()
}

func (c *Checker) extend(by zab.Epoch, entry zab.Entry) {
	position := len(c.committed)
	for _, e := range c.epochs {
		r := c.reigns[e]
		if e > by && (len(r.history) <= position || r.history[position].Zxid != entry.Zxid) {
			c.fail("S6", "epoch %d commits %s, but the leader of epoch %d began without it", by, entry.Zxid, e)
		}
		if e > entry.Zxid.Epoch && r.proposed && position >= r.before {
			c.fail("S13", "%s is committed as entry %d, after epoch %d made its first proposal on %d entries", entry.Zxid, position, e, r.before)
		}
	}
	c.committed = append(c.committed, entry.Zxid)
	c.committedBy = append(c.committedBy, by)
	c.folds = append(c.folds, fold(c.folds[position], entry))
	c.noteChange(entry)
}

// delivers looks at entries that a core hands to its state machine.
func (c *Checker) delivers(g *ghost, entries []zab.Entry) {
	for _, e := range entries {
		c.applies(g, g.delivered, g.lastDeliver, e)
		if g.delivered >= len(g.disk.log) || g.disk.log[g.delivered].Zxid != e.Zxid {
			c.fail("L3", "node %d delivers %s, which is not on its disk", g.id, e.Zxid)
		}
		g.delivered++
		g.lastDeliver = e.Zxid
	}
}

// applied looks at an entry that a state machine folds in, before it does.
func (c *Checker) applied(g *ghost, e zab.Entry) {
	c.applies(g, g.disk.applied, g.lastApply, e)
	g.lastApply = e.Zxid
}

func (c *Checker) applies(g *ghost, position int, last zab.Zxid, e zab.Entry) {
	p, ok := c.proposals[e.Zxid]
	if !ok || string(p.entry.Data) != string(e.Data) {
		c.fail("S4", "node %d applies %s with data %q, which nobody proposed", g.id, e.Zxid, e.Data)
	}
	if e.Zxid == last || c.among(position, e.Zxid) {
		c.fail("S4", "node %d applies %s again, with state %s", g.id, e.Zxid, last)
	}
	if e.Zxid.Epoch < last.Epoch {
		c.fail("S12", "node %d applies %s after %s", g.id, e.Zxid, last)
	}
	if !mayFollow(last, e.Zxid) {
		c.fail("S11", "node %d applies %s right after %s", g.id, e.Zxid, last)
	}
	if position >= len(c.committed) || c.committed[position] != e.Zxid {
		c.fail("S5", "node %d applies %s as entry %d; the committed sequence ends at %s with %d entries", g.id, e.Zxid, position, c.lastCommitted(), len(c.committed))
	}
}

// sent is L4 and L5: what a message claims is durable, is. It also remembers the
// acknowledgements, with which S10 compares what leaders count.
func (c *Checker) sent(g *ghost, m zab.Message) {
	hard, log := g.disk.hard, g.disk.log
	switch b := m.Body.(type) {
	case zab.LeaderInfo:
		if hard.Accepted != m.Epoch || hard.AcceptedFrom != g.id {
			c.fail("L5", "node %d announces epoch %d, but has only %+v on disk", g.id, m.Epoch, hard)
		}
	case zab.AckEpoch:
		c.notStale(g, m)
		if hard.Accepted != m.Epoch || b.Current != hard.Current || b.Last != tail(log) {
			c.fail("L5", "node %d says %+v for epoch %d, but has %+v and a log to %s on disk", g.id, b, m.Epoch, hard, tail(log))
		}
		if b.Counted && hard.AcceptedFrom != m.To {
			c.fail("L5", "node %d lets node %d count its promise of epoch %d, which it made to node %d", g.id, m.To, m.Epoch, hard.AcceptedFrom)
		}
	case zab.AckNewLeader:
		c.notStale(g, m)
		if !g.observer && hard.Current < m.Epoch || !holds(log, b.End) {
			c.fail("L5", "node %d acknowledges NewLeader of epoch %d to %s, but has %+v and a log to %s on disk", g.id, m.Epoch, b.End, hard, tail(log))
		}
		g.ackedNew[m.Epoch] = b.End
		g.acked[m.Epoch] = latest(g.acked[m.Epoch], b.End)
	case zab.Ack:
		c.notStale(g, m)
		if !holds(log, b.Upto) {
			c.fail("L5", "node %d acknowledges %s, but has a log to %s on disk", g.id, b.Upto, tail(log))
		}
		g.acked[m.Epoch] = latest(g.acked[m.Epoch], b.Upto)
	case zab.Pong:
		c.notStale(g, m)
		if !g.disk.has(b.Stable) {
			c.fail("L5", "node %d says that %s is durable, but has a log to %s on disk", g.id, b.Stable, tail(log))
		}
	case zab.Commit:
		c.claimsCommit(g, m, b.Upto)
	case zab.UpToDate:
		c.claimsCommit(g, m, b.Commit)
	case zab.Ping:
		c.claimsCommit(g, m, b.Commit)
	case zab.Propose:
		c.claimsCommit(g, m, b.Commit)
	case zab.Sync:
		c.claimsCommit(g, m, b.Commit)
	case zab.Inform:
		if n := len(b.Entries); n > 0 {
			c.claimsCommit(g, m, b.Entries[n-1].Zxid)
		}
	}
}

func latest(a, b zab.Zxid) zab.Zxid {
	if a.Less(b) {
		return b
	}
	return a
}

func (c *Checker) notStale(g *ghost, m zab.Message) {
	if m.Epoch < g.disk.hard.Accepted {
		c.fail("L4", "node %d sends %T for epoch %d after it promised %d", g.id, m.Body, m.Epoch, g.disk.hard.Accepted)
	}
}

func (c *Checker) claimsCommit(g *ghost, m zab.Message, upto zab.Zxid) {
	if c.lastCommitted().Less(upto) {
		c.fail("L5", "node %d says in %T that %s is committed, but the cluster has committed only up to %s", g.id, m.Body, upto, c.lastCommitted())
	}
}

// readAsked returns what readReady needs to know: how much was committed at the
// invocation of a read.
func (c *Checker) readAsked() int { return len(c.committed) }

// readReady is S15: a read sees everything that was committed before it was asked,
// nothing that is not committed, and nothing that its node has not applied.
func (c *Checker) readReady(g *ghost, asked int, index zab.Zxid) {
	if asked > 0 && index.Less(c.committed[asked-1]) {
		c.fail("S15", "node %d serves a read at %s that was asked when %s was committed", g.id, index, c.committed[asked-1])
	}
	if c.lastCommitted().Less(index) {
		c.fail("S15", "node %d serves a read at %s, which is not committed", g.id, index)
	}
	if g.lastApply.Less(index) {
		c.fail("S15", "node %d serves a read at %s with state %s", g.id, index, g.lastApply)
	}
	c.counters.hit(ReadServed)
	switch g.role.Role {
	case zab.Following:
		c.counters.hit(ReadServedByFollower)
	case zab.Observing:
		c.counters.hit(ReadServedByObserver)
	}
}

// sessionSees is S15 for one client, wherever it asks: what an answer shows is not older
// than what the client had seen before it asked.
func (c *Checker) sessionSees(g *ghost, client int, seen, now zab.Zxid) {
	if now.Less(seen) {
		c.fail("S15", "node %d shows client %d the state of %s, which saw %s before", g.id, client, now, seen)
	}
}

// readFailed only counts: refusing is always allowed.
func (c *Checker) readFailed(g *ghost) {
	for _, e := range c.epochs {
		if g.role.Role == zab.Leading && e > g.role.Epoch {
			c.counters.hit(ReadRefusedByStaleLeader)
			return
		}
	}
}

// compare is the expensive part, asked from time to time and at the end: whole logs
// with each other (S3), with themselves (L2), with what was proposed (S2), and states
// with the committed sequence (S5).
func (c *Checker) compare() {
	for i, g := range c.ghosts {
		last := zab.Zxid{}
		for _, e := range g.disk.log {
			if e.Prev != last || !mayFollow(last, e.Zxid) {
				c.fail("L2", "the disk of node %d has %s (after %s) right after %s", g.id, e.Zxid, e.Prev, last)
			}
			if p, ok := c.proposals[e.Zxid]; !ok || string(p.entry.Data) != string(e.Data) {
				c.fail("S2", "the disk of node %d has %s with data %q, which nobody proposed", g.id, e.Zxid, e.Data)
			}
			last = e.Zxid
		}
		for _, o := range c.ghosts[:i] {
			c.match(g, o)
		}
		for n, h := range g.disk.folds {
			if n < len(c.folds) && c.folds[n] != h || n >= len(c.folds) {
				c.fail("S5", "the state of node %d after %d entries is not that of the committed sequence", g.id, n)
				break
			}
		}
	}
}

// match is S3 for two logs: up to the last zxid that both have, they are equal.
func (c *Checker) match(a, b *ghost) {
	for i := len(a.disk.log) - 1; i >= 0; i-- {
		common := a.disk.log[i].Zxid
		at := after(b.disk.log, common) - 1
		if at < 0 || b.disk.log[at].Zxid != common {
			continue
		}
		if at != i || !slices.EqualFunc(a.disk.log[:i+1], b.disk.log[:i+1], sameEntry) {
			c.fail("S3", "nodes %d and %d both have %s (as entries %d and %d), but differ before it", a.id, b.id, common, i, at)
		}
		return
	}
}

func sameEntry(x, y zab.Entry) bool {
	return x.Zxid == y.Zxid && x.Prev == y.Prev && string(x.Data) == string(y.Data)
}
