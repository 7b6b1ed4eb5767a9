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
	ghosts []*Ghost // by node index
	change func([]byte) ([]zab.Member, bool)
	sets   []committedSet // of members, in order

	Proposals map[zab.Zxid]proposal
	reigns    map[zab.Epoch]*reign
	Epochs    []zab.Epoch // the keys of reigns, in order of their discovery phase's end

	// Committed is G, the one global sequence, in the order in which leaders committed
	// it; committedBy the epoch of the leader that did; folds the state after each.
	Committed   []zab.Zxid
	committedBy []zab.Epoch
	folds       []uint64

	muted     []string // ids of checks that are off, to see what else catches a bug
	Violation *Violation
	Counters  Counters
}

// proposal is what is known of a zxid since it was first written anywhere.
type proposal struct {
	Leader zab.NodeID
	Entry  zab.Entry
}

// reign is an epoch whose leader finished discovery.
type reign struct {
	leader      zab.NodeID
	history     []zab.Entry // the leader's log then
	established bool
	proposed    bool
	before      int // entries in G when it first proposed
}

// Ghost is what the checker knows of a node, across all its crashes.
type Ghost struct {
	ID       zab.NodeID
	Observer bool // and never was a voter
	Disk     *Disk
	force    zab.Set // as of its last step
	Role     zab.RoleChanged
	status   zab.Status
	promised zab.HardState // the greatest that was ever durable
	acked    map[zab.Epoch]zab.Zxid
	ackedNew map[zab.Epoch]zab.Zxid // by AckNewLeader
	// delivered and applied count entries; the first is volatile, the second as the
	// disk has it. last* are the zxids that they stand for.
	delivered   int
	lastDeliver zab.Zxid
	LastApply   zab.Zxid

	truncatedOnce bool
	waited        int    // ticks without a step forward before it is established
	session       uint64 // that it opened last
}

func newChecker(members []zab.Member, disks []*Disk) *Checker {
	c := &Checker{
		Proposals: map[zab.Zxid]proposal{},
		reigns:    map[zab.Epoch]*reign{},
		folds:     []uint64{foldStart},
	}
	c.change, c.sets = changeOf, []committedSet{{Set: zab.Set{Members: members}}}
	for i, m := range members {
		c.ghosts = append(c.ghosts, &Ghost{
			ID: m.ID, Observer: m.Observer, Disk: disks[i], force: zab.Set{Members: members},
			acked: map[zab.Epoch]zab.Zxid{}, ackedNew: map[zab.Epoch]zab.Zxid{},
		})
	}
	return c
}

// Fail records the first violation.
func (c *Checker) Fail(id, format string, args ...any) {
	if c.Violation == nil && !slices.Contains(c.muted, id) {
		c.Violation = &Violation{ID: id, Detail: fmt.Sprintf(format, args...)}
	}
}

// handed looks at a write when the core hands it over, before the disk has it.
func (c *Checker) handed(g *Ghost, w zab.Write) {
	log := g.Disk.View
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
	last := Tail(log)
	for i, e := range w.Entries {
		if e.Prev != last || !mayFollow(last, e.Zxid) {
			c.Fail("L2", "node %d appends %s (after %s) to a log that ends at %s", g.ID, e.Zxid, e.Prev, last)
		}
		last = e.Zxid
		c.known(g, e)
		position := len(log) + i
		if g.Observer && (position >= len(c.Committed) || c.Committed[position] != e.Zxid) {
			c.Fail("S14", "observer %d appends %s, which is not entry %d of the committed sequence", g.ID, e.Zxid,
				position)
		}
		if g.Role.Role == zab.Following && e.Zxid.Epoch < g.Role.Epoch && position > 0 {
			c.Counters.Hit(DiffResumed)
		}
		c.followsLeader(g, position, e)
	}
}

// followsLeader is S3 for one session: what a follower appends is what its leader has there.
func (c *Checker) followsLeader(g *Ghost, position int, e zab.Entry) {
	r := c.reigns[g.Role.Epoch]
	if g.Role.Role != zab.Following || r == nil || e.Zxid.Epoch == g.Role.Epoch {
		return
	}
	if position >= len(r.history) || r.history[position].Zxid != e.Zxid {
		c.Fail("S3", "node %d follows the leader of epoch %d and appends %s as entry %d, which that leader does "+
			"not have", g.ID, g.Role.Epoch, e.Zxid, position)
	}
}

// mayFollow reports whether z may be the successor of prev in a log.
func mayFollow(prev, z zab.Zxid) bool {
	if z.Epoch == prev.Epoch {
		return z.Epoch > 0 && z.Counter == prev.Counter+1
	}
	return z.Epoch > prev.Epoch && z.Counter == 1
}

func (c *Checker) truncated(g *Ghost, log []zab.Entry, to zab.Zxid) {
	keep := After(log, to)
	if keep < g.Disk.Applied || keep < g.delivered {
		c.Fail("S9", "node %d truncates to %s, but has applied %d and delivered %d entries of which %d stay", g.ID, to,
			g.Disk.Applied, g.delivered, keep)
	}
	if keep < len(log) && keep < len(c.Committed) && log[keep].Zxid == c.Committed[keep] {
		c.Fail("S9", "node %d truncates to %s and loses the committed %s", g.ID, to, c.Committed[keep])
	}
	if g.Observer && keep < len(log) {
		c.Fail("S14", "observer %d truncates to %s", g.ID, to)
	}
	if keep < len(log) {
		c.Counters.Hit(TruncHappened)
		g.truncatedOnce = true
		if !to.IsZero() && log[keep].Zxid.Epoch != to.Epoch {
			c.Counters.Hit(TruncAcrossEpochs)
		}
	}
}

// cut is S9 for compaction: what goes from the log is in the state that is on disk.
func (c *Checker) cut(g *Ghost, z zab.Zxid) {
	n := After(g.Disk.View, z)
	if !holds(g.Disk.View, z) || n > g.Disk.Applied || n > len(c.Committed) || c.Committed[n-1] != z {
		c.Fail("S9", "node %d cuts its log at %s with %d applied entries; %d are committed", g.ID, z, g.Disk.Applied,
			len(c.Committed))
	}
	c.Counters.Hit(LogWasCut)
}

// installs is S9 for snapshots: one holds only what is committed, and all that the log
// had of it, and more (rule R8).
func (c *Checker) installs(g *Ghost, s zab.Snapshot) {
	log, now := g.Disk.staged.log, g.Disk.View
	if g.Disk.staged.ref != s.Ref || Tail(log) != s.Zxid {
		c.Fail("S9", "node %d installs a snapshot of %s, but one of %s is staged", g.ID, s.Zxid, Tail(log))
	}
	if !c.prefixOfCommitted(log) {
		c.Fail("S9", "node %d installs a snapshot of %s, which is no prefix of the committed sequence", g.ID, s.Zxid)
	}
	if !Tail(now).Less(s.Zxid) {
		c.Fail("S9", "node %d installs a snapshot of %s over a log to %s", g.ID, s.Zxid, Tail(now))
	}
	have := 0
	for have < len(now) && have < len(c.Committed) && now[have].Zxid == c.Committed[have] {
		have++
	}
	if have > len(log) {
		c.Fail("S9", "node %d had %d committed entries, and installs a snapshot of %d", g.ID, have, len(log))
	}
	c.Counters.Hit(SnapshotInstalled)
	if g.truncatedOnce {
		c.Counters.Hit(SnapshotAfterTrunc)
	}
}

// restoredFrom begins anew where a snapshot ends.
func (c *Checker) restoredFrom(g *Ghost, s zab.Snapshot) {
	if g.Disk.base() != s.Zxid || g.Disk.AppliedZxid() != s.Zxid {
		c.Fail("L6", "node %d begins anew from %s, but its disk has base %s and applied %s", g.ID, s.Zxid,
			g.Disk.base(), g.Disk.AppliedZxid())
	}
	g.delivered, g.lastDeliver, g.LastApply = g.Disk.Applied, s.Zxid, s.Zxid
}

// noted is S9 as the nodes see it: none finds that histories diverged.
func (c *Checker) noted(g *Ghost, n zab.Note) {
	if strings.HasPrefix(n.Text, "ALARM") {
		c.Fail("S9", "node %d: %s", g.ID, n.Text)
	}
}

// known compares an entry with the first of that zxid that was ever seen.
func (c *Checker) known(g *Ghost, e zab.Entry) {
	p, ok := c.Proposals[e.Zxid]
	if !ok {
		c.proposed(g, e)
		return
	}
	if p.Entry.Prev != e.Prev {
		c.Fail("S3", "node %d has %s after %s, but it was proposed after %s", g.ID, e.Zxid, e.Prev, p.Entry.Prev)
	}
	if string(p.Entry.Data) != string(e.Data) {
		c.Fail("S2", "node %d has %s with data %q, but it was proposed with %q", g.ID, e.Zxid, e.Data, p.Entry.Data)
	}
	if g.Role.Role == zab.Leading && g.Role.Epoch == e.Zxid.Epoch && p.Leader != g.ID {
		c.Fail("S2", "node %d proposes %s, which node %d proposed", g.ID, e.Zxid, p.Leader)
	}
}

func (c *Checker) proposed(g *Ghost, e zab.Entry) {
	r := c.reigns[e.Zxid.Epoch]
	if r == nil || r.leader != g.ID || g.Role.Role != zab.Leading {
		c.Fail("S2", "node %d writes %s, which the leader of that epoch never proposed", g.ID, e.Zxid)
		return
	}
	c.Proposals[e.Zxid] = proposal{Leader: g.ID, Entry: e}
	if !r.proposed {
		r.proposed, r.before = true, len(c.Committed)
	}
}

// durable looks at a node's disk after it changed.
func (c *Checker) durable(g *Ghost) {
	h, p := g.Disk.Hard, g.promised
	if h.Current > h.Accepted {
		c.Fail("L1", "node %d has Current %d above Accepted %d", g.ID, h.Current, h.Accepted)
	}
	if h.Current < p.Current || h.Accepted < p.Accepted {
		c.Fail("L1", "node %d has promises %+v, but had %+v", g.ID, h, p)
	}
	if h.Accepted == p.Accepted && p.AcceptedFrom != 0 && h.AcceptedFrom != p.AcceptedFrom {
		c.Fail("L1", "node %d promised epoch %d to node %d and now to node %d", g.ID, h.Accepted, p.AcceptedFrom,
			h.AcceptedFrom)
	}
	g.promised = zab.HardState{Accepted: max(h.Accepted, p.Accepted), AcceptedFrom: h.AcceptedFrom,
		Current: max(h.Current, p.Current)}
	if g.Observer && !c.prefixOfCommitted(g.Disk.Log) {
		c.Fail("S14", "the log of observer %d ends at %s and is no prefix of the committed sequence", g.ID,
			Tail(g.Disk.Log))
	}
	c.evidence(g)
	c.quorumDurability()
}

func (c *Checker) prefixOfCommitted(log []zab.Entry) bool {
	return len(log) <= len(c.Committed) && (len(log) == 0 || Tail(log) == c.Committed[len(log)-1])
}

// contains reports whether a log holds the first n entries of the committed sequence.
func (c *Checker) contains(log []zab.Entry, n int) bool {
	return n == 0 || len(log) >= n && log[n-1].Zxid == c.Committed[n-1]
}

// evidence is S7: Current = k says that everything of the epochs before is in the log.
func (c *Checker) evidence(g *Ghost) {
	if g.Observer {
		return
	}
	n := c.committedBefore(g.Disk.Hard.Current)
	if !c.contains(g.Disk.Log, n) {
		c.Fail("S7", "node %d has Current %d and a log to %s without %s, committed in epoch %d", g.ID,
			g.Disk.Hard.Current, Tail(g.Disk.Log), c.Committed[n-1], c.committedBy[n-1])
	}
}

// among reports whether z is one of the first n entries of the committed sequence.
func (c *Checker) among(n int, z zab.Zxid) bool {
	_, found := slices.BinarySearchFunc(c.Committed[:min(n, len(c.Committed))], z, compareZxid)
	return found
}

// committedBefore counts the entries that leaders of epochs before e committed.
func (c *Checker) committedBefore(e zab.Epoch) int {
	n := len(c.Committed)
	for n > 0 && c.committedBy[n-1] >= e {
		n--
	}
	return n
}

// quorumDurability is S8. It is asked after every change of a disk and of G.
func (c *Checker) quorumDurability() {
	ok, have := c.QuorumHolds(c.InForce(len(c.Committed)),
		func(g *Ghost) bool { return c.contains(g.Disk.Log, len(c.Committed)) })
	if !ok {
		c.Fail("S8", "%d entries are committed, but only %d voters have all of them on disk", len(c.Committed), have)
	}
}

// crashed looks at a node's disk after a crash.
func (c *Checker) crashed(g *Ghost) {
	g.Role = zab.RoleChanged{}
	g.status = zab.Status{}
	g.delivered, g.lastDeliver = g.Disk.Applied, g.Disk.AppliedZxid()
	g.LastApply = g.lastDeliver
	g.waited = 0
	c.durable(g)
}

// restarted is L6: the state that survived is the fold of exactly the entries that it
// says it holds.
func (c *Checker) restarted(g *Ghost) {
	h := foldStart
	for _, e := range g.Disk.Log[:min(g.Disk.Applied, len(g.Disk.Log))] {
		h = fold(h, e)
	}
	if last := g.Disk.folds[len(g.Disk.folds)-1]; last != h || g.Disk.Applied > len(g.Disk.Log) {
		c.Fail("L6", "node %d restarts with %d applied entries and state %x, but replaying its log gives %x", g.ID,
			g.Disk.Applied, last, h)
	}
}

// roleChanged follows elections: S1 and S6.
func (c *Checker) roleChanged(g *Ghost, r zab.RoleChanged) {
	before := g.Role
	g.Role = r
	if before.Role == zab.Leading && before.Established && r.Role != zab.Leading {
		c.Counters.Hit(LeaderSteppedDown)
	}
	if r.Role == zab.Observing && r.Established {
		c.Counters.Hit(ObserverSynced)
	}
	if r.Role != zab.Leading || r.Phase < zab.Synchronization {
		return
	}
	if g.Observer {
		c.Fail("S14", "observer %d leads epoch %d", g.ID, r.Epoch)
	}
	old := c.reigns[r.Epoch]
	if old == nil {
		c.reigns[r.Epoch] = &reign{leader: g.ID, history: slices.Clone(g.Disk.View)}
		c.Epochs = append(c.Epochs, r.Epoch)
		// A slow leader may get the last promise for its epoch after a later epoch has
		// committed more; so only what earlier epochs committed must be there.
		if n := c.committedBefore(r.Epoch); !c.contains(g.Disk.View, n) {
			c.Fail("S6", "node %d leads epoch %d with a log to %s without all of the %d entries that earlier epochs "+
				"committed (to %s)", g.ID, r.Epoch, Tail(g.Disk.View), n, c.Committed[n-1])
		}
	} else if old.leader != g.ID {
		c.Fail("S1", "nodes %d and %d lead epoch %d", old.leader, g.ID, r.Epoch)
	}
	if r.Established {
		c.established(g, r.Epoch)
	}
}

// established is S10 for NewLeader: a quorum of voters said so, and it was true.
func (c *Checker) established(g *Ghost, e zab.Epoch) {
	r := c.reigns[e]
	if r.established {
		return
	}
	r.established = true
	ok, have := c.QuorumHolds([]committedSet{{Set: g.force}}, func(o *Ghost) bool {
		if o == g {
			return o.Disk.Hard.Current >= e && holds(o.Disk.Log, Tail(r.history))
		}
		_, acked := o.ackedNew[e]
		return acked && o.Disk.Hard.Current >= e
	})
	if !ok {
		c.Fail("S10", "node %d is established in epoch %d with %d acknowledgements of %d voters", g.ID, e, have,
			voters(g.force.Members))
	}
	for _, o := range c.ghosts {
		if o.Disk.Hard.Accepted > e {
			c.Counters.Hit(AcceptedAheadOfLeader)
		}
		if o != g && o.Role.Role == zab.Leading && o.Role.Established {
			c.Counters.Hit(TwoLeadersAtOnce)
		}
	}
}

func (c *Checker) lastCommitted() zab.Zxid {
	if len(c.Committed) == 0 {
		return zab.Zxid{}
	}
	return c.Committed[len(c.Committed)-1]
}

// observed compares what a core says of itself with what is so.
func (c *Checker) observed(g *Ghost, s zab.Status) {
	g.status = s
	if s.Stable.Less(s.Applied) || s.Commit.Less(s.Applied) || s.Tail.Less(s.Stable) || s.Applied.Less(s.Base) {
		c.Fail("L3", "node %d: base %s, applied %s, commit %s, stable %s, tail %s", g.ID, s.Base, s.Applied, s.Commit,
			s.Stable, s.Tail)
	}
	if s.Tail != Tail(g.Disk.View) {
		c.Fail("L3", "node %d says its log ends at %s, but it wrote up to %s", g.ID, s.Tail, Tail(g.Disk.View))
	}
	if !g.Disk.Has(s.Stable) {
		c.Fail("L3", "node %d says that %s is durable, which its disk does not have", g.ID, s.Stable)
	}
	if s.Role == zab.Leading && s.Established {
		c.counted(g, s)
		c.commit(g, s.Epoch, s.Commit)
	}
	if c.lastCommitted().Less(s.Commit) {
		c.Fail("S5", "node %d has commit %s, but the cluster has committed only up to %s", g.ID, s.Commit,
			c.lastCommitted())
	}
}

// counted is S10 for entries: a leader counts only what the peer has said in this epoch.
func (c *Checker) counted(g *Ghost, s zab.Status) {
	for _, p := range s.Peers {
		if o := c.ghost(p.ID); p.Synced && o != nil && !p.Observer && o.acked[s.Epoch].Less(p.Match) {
			c.Fail("S10", "leader %d counts node %d up to %s, but it acknowledged only %s in epoch %d", g.ID, p.ID,
				p.Match, o.acked[s.Epoch], s.Epoch)
		} else if p.Synced && o != nil && !p.Observer && o.Disk.Hard.Accepted == s.Epoch && !o.Disk.Has(p.Match) {
			c.Fail("S10", "leader %d counts node %d up to %s, but its disk has a log to %s", g.ID, p.ID, p.Match,
				Tail(o.Disk.Log))
		}
	}
}

func (c *Checker) ghost(id zab.NodeID) *Ghost {
	for _, g := range c.ghosts {
		if g.ID == id {
			return g
		}
	}
	return nil
}

// commit extends the global sequence when a leader advances: S5, S6, S8, S12, S13.
func (c *Checker) commit(g *Ghost, e zab.Epoch, upto zab.Zxid) {
	if !c.lastCommitted().Less(upto) {
		return
	}
	log := g.Disk.View
	if !c.contains(log, len(c.Committed)) {
		c.Fail("S5", "leader %d of epoch %d commits %s on a log without the committed %s", g.ID, e, upto,
			c.lastCommitted())
		return
	}
	if !holds(log, upto) {
		c.Fail("S5", "leader %d of epoch %d commits %s, which is not in its log", g.ID, e, upto)
		return
	}
	for _, entry := range log[len(c.Committed):After(log, upto)] {
		c.extend(e, entry)
	}
	if !holds(g.Disk.Log, upto) {
		c.Counters.Hit(CommitBeforeOwnFsync)
	}
	if len(c.Epochs) > 2 && e >= c.Epochs[2] {
		c.Counters.Hit(CommitAfterTwoElections)
	}
	for _, o := range c.ghosts {
		c.evidence(o)
	}
	c.quorumDurability()
}

func (c *Checker) extend(by zab.Epoch, entry zab.Entry) {
	position := len(c.Committed)
	for _, e := range c.Epochs {
		r := c.reigns[e]
		if e > by && (len(r.history) <= position || r.history[position].Zxid != entry.Zxid) {
			c.Fail("S6", "epoch %d commits %s, but the leader of epoch %d began without it", by, entry.Zxid, e)
		}
		if e > entry.Zxid.Epoch && r.proposed && position >= r.before {
			c.Fail("S13", "%s is committed as entry %d, after epoch %d made its first proposal on %d entries",
				entry.Zxid, position, e, r.before)
		}
	}
	c.Committed = append(c.Committed, entry.Zxid)
	c.committedBy = append(c.committedBy, by)
	c.folds = append(c.folds, fold(c.folds[position], entry))
	c.noteChange(entry)
}

// delivers looks at entries that a core hands to its state machine.
func (c *Checker) delivers(g *Ghost, entries []zab.Entry) {
	for _, e := range entries {
		c.applies(g, g.delivered, g.lastDeliver, e)
		if g.delivered >= len(g.Disk.Log) || g.Disk.Log[g.delivered].Zxid != e.Zxid {
			c.Fail("L3", "node %d delivers %s, which is not on its disk", g.ID, e.Zxid)
		}
		g.delivered++
		g.lastDeliver = e.Zxid
	}
}

// applied looks at an entry that a state machine folds in, before it does.
func (c *Checker) applied(g *Ghost, e zab.Entry) {
	c.applies(g, g.Disk.Applied, g.LastApply, e)
	g.LastApply = e.Zxid
}

func (c *Checker) applies(g *Ghost, position int, last zab.Zxid, e zab.Entry) {
	p, ok := c.Proposals[e.Zxid]
	if !ok || string(p.Entry.Data) != string(e.Data) {
		c.Fail("S4", "node %d applies %s with data %q, which nobody proposed", g.ID, e.Zxid, e.Data)
	}
	if e.Zxid == last || c.among(position, e.Zxid) {
		c.Fail("S4", "node %d applies %s again, with state %s", g.ID, e.Zxid, last)
	}
	if e.Zxid.Epoch < last.Epoch {
		c.Fail("S12", "node %d applies %s after %s", g.ID, e.Zxid, last)
	}
	if !mayFollow(last, e.Zxid) {
		c.Fail("S11", "node %d applies %s right after %s", g.ID, e.Zxid, last)
	}
	if position >= len(c.Committed) || c.Committed[position] != e.Zxid {
		c.Fail("S5", "node %d applies %s as entry %d; the committed sequence ends at %s with %d entries", g.ID, e.Zxid,
			position, c.lastCommitted(), len(c.Committed))
	}
}

// Compare is the expensive part, asked from time to time and at the end: whole logs
// with each other (S3), with themselves (L2), with what was proposed (S2), and states
// with the committed sequence (S5).
func (c *Checker) Compare() {
	for i, g := range c.ghosts {
		last := zab.Zxid{}
		for _, e := range g.Disk.Log {
			if e.Prev != last || !mayFollow(last, e.Zxid) {
				c.Fail("L2", "the disk of node %d has %s (after %s) right after %s", g.ID, e.Zxid, e.Prev, last)
			}
			if p, ok := c.Proposals[e.Zxid]; !ok || string(p.Entry.Data) != string(e.Data) {
				c.Fail("S2", "the disk of node %d has %s with data %q, which nobody proposed", g.ID, e.Zxid, e.Data)
			}
			last = e.Zxid
		}
		for _, o := range c.ghosts[:i] {
			c.match(g, o)
		}
		for n, h := range g.Disk.folds {
			if n < len(c.folds) && c.folds[n] != h || n >= len(c.folds) {
				c.Fail("S5", "the state of node %d after %d entries is not that of the committed sequence", g.ID, n)
				break
			}
		}
	}
}

// match is S3 for two logs: up to the last zxid that both have, they are equal.
func (c *Checker) match(a, b *Ghost) {
	for i := len(a.Disk.Log) - 1; i >= 0; i-- {
		common := a.Disk.Log[i].Zxid
		at := After(b.Disk.Log, common) - 1
		if at < 0 || b.Disk.Log[at].Zxid != common {
			continue
		}
		if at != i || !slices.EqualFunc(a.Disk.Log[:i+1], b.Disk.Log[:i+1], sameEntry) {
			c.Fail("S3", "nodes %d and %d both have %s (as entries %d and %d), but differ before it", a.ID, b.ID,
				common, i, at)
		}
		return
	}
}

func sameEntry(x, y zab.Entry) bool {
	return x.Zxid == y.Zxid && x.Prev == y.Prev && string(x.Data) == string(y.Data)
}
