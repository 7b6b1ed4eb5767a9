// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/concordtx/concord/protocol/zab"
)

// host is what runs on a node: a bare zab core, or something larger that owns one and
// has the same events and effects underneath.
type host interface {
	Step(zab.Event) []zab.Effect
	Status() zab.Status
}

// cluster is a set of nodes on one scheduler and network, with the checker that
// watches them.
type cluster struct {
	*scheduler
	swarm             Swarm
	planted           Planted
	members           []zab.Member
	nodes             []*node
	net               *network
	check             *Checker
	trace             trace
	steps             int
	claims            map[zab.Epoch]zab.NodeID // who proposed an epoch last
	healed, wasFaulty bool
	stepsHealed       int // when the faults ended
	healedAt          instant
	dying             bool                              // the node of this step dies before it has carried out everything
	change            func([]byte) ([]zab.Member, bool) // tells the changes of the members
	tell              func(from, to *node)              // lets a node hear of another who the members are
	founded           func() bool                       // whether a minority may be away for good
	propose           func(*node, []byte)               // asks a node to append something; nil: nobody does
	newHost           func(zab.Config, zab.Storage) (host, error)
	// answered hears what a core says about proposals and reads.
	answered func(*node, zab.Effect)
	// appliedEntry hears each entry that a state machine has folded in.
	appliedEntry func(*node, zab.Entry)
}

// node is one member: a core that may be up, paused or dead, and the disk that outlives
// it.
type node struct {
	*ghost
	index    int
	host     host
	up       bool
	boot     uint32
	bootTail zab.Zxid // where the log ended at the start
	tick     instant
	syncing  bool
	toApply  []zab.Entry
	applying bool
	paused   bool
	failing  bool // the next write to its disk fails
	missed   int  // ticks
	dead     bool // it stays down for the rest of the run
	reportAt instant
	inbox    []zab.Event

	streamed uint64                // the session to which entries were sent last
	mayFetch map[zab.NodeID]uint64 // sessions that may fetch a snapshot here
	fetching zab.FetchSnapshot     // what the core waits for
}

func newCluster(seed uint64, o Options) *cluster {
	c := &cluster{scheduler: newScheduler(seed), planted: o.Planted, claims: map[zab.Epoch]zab.NodeID{}}
	c.trace.on = o.trace
	c.trace.hash = foldStart
	c.swarm = drawSwarm(c.scheduler)
	if o.edition != 1 {
		c.swarm.drawCompaction(seed)
		c.swarm.drawLast(seed)
	}
	if o.edition == 0 {
		c.swarm.drawMembers(seed)
	}
	if o.Swarm != nil {
		o.Swarm(&c.swarm)
	}
	c.newHost = func(config zab.Config, s zab.Storage) (host, error) { return zab.New(config, s) }
	c.change, c.tell = changeOf, c.tells
	c.founded = func() bool { return true }
	c.answered = func(*node, zab.Effect) {}
	c.appliedEntry = func(*node, zab.Entry) {}
	if o.inhabit != nil {
		o.inhabit(c)
	}
	var disks []*disk
	for i := range c.swarm.Voters + c.swarm.Observers {
		c.members = append(c.members, zab.Member{ID: zab.NodeID(i + 1), Observer: i >= c.swarm.Voters})
		disks = append(disks, newDisk(o.Planted))
	}
	c.check = newChecker(c.members, disks)
	c.check.muted = o.Mute
	c.check.change = c.change
	c.net = newNetwork(c.scheduler, c.swarm, len(c.members))
	c.net.arrive, c.net.lost = c.arrive, c.lost
	c.net.up = func(i int) bool { return c.nodes[i].up }
	c.net.late = func(again bool) {
		c.check.counters.hit(LateBytesArrived)
		if again {
			c.check.counters.hit(DuplicateArrived)
		}
	}
	for i := range c.members {
		n := &node{ghost: c.check.ghosts[i], index: i}
		c.nodes = append(c.nodes, n)
		c.boot(n)
	}
	if every := c.swarm.Gossip; every > 0 {
		c.after(1, func() { c.gossip(every) })
	}
	return c
}

// boot starts the node's core from its disk.
func (c *cluster) boot(n *node) {
	n.boot++
	n.up, n.syncing, n.applying, n.paused, n.failing, n.missed = true, false, false, false, false, 0
	n.toApply, n.inbox, n.bootTail = nil, nil, tail(n.disk.log)
	n.mayFetch, n.fetching = map[zab.NodeID]uint64{}, zab.FetchSnapshot{}
	c.check.crashed(n.ghost)
	c.check.restarted(n.ghost)
	c.trace.add("%s n%d boot %d: %+v, log to %s, applied %s", c.now, n.id, n.boot, n.disk.hard, tail(n.disk.log), n.disk.appliedZxid())
	w := c.swarm
	set := c.setOf(n.disk.log[:min(n.disk.applied, len(n.disk.log))])
	n.force = set
	h, err := c.newHost(zab.Config{
		ID: n.id, Members: set.Members, MembersAt: set.At, Change: c.change, Boot: n.boot,
		HeartbeatTicks: w.Heartbeat, SyncTicks: w.Sync, InitTicks: w.Init, FinalizeTicks: w.Finalize,
		MaxUncommittedBytes: w.MaxUncommitted, MaxBatchBytes: w.MaxBatch, WindowBytes: w.WindowSize,
	}, n.disk)
	if err != nil {
		c.check.fail("panic", "node %d does not start: %v", n.id, err)
		n.up = false
		return
	}
	n.host = h
	n.tick = instant(float64(50*millisecond) * (1 + c.swarm.TickSkew*(2*c.rng.Float64()-1)))
	c.keepTicking(n, n.boot)
}

func (c *cluster) keepTicking(n *node, boot uint32) {
	c.after(n.tick, func() {
		if n.boot != boot || !n.up {
			return
		}
		if n.paused {
			n.missed++
		} else {
			c.step(n, zab.Tick{})
		}
		c.keepTicking(n, boot)
	})
}

// event gives a node something to handle now, or when its pause is over.
func (c *cluster) event(n *node, ev zab.Event) {
	switch {
	case !n.up:
	case n.paused:
		n.inbox = append(n.inbox, ev)
	default:
		c.step(n, ev)
	}
}

// step runs the core on one event and carries out what it asks for.
func (c *cluster) step(n *node, ev zab.Event) {
	c.steps++
	c.hashEvent(n, ev)
	if c.trace.on {
		c.trace.add("%s n%d <- %s", c.now, n.id, show(ev))
	}
	effects, ok := c.run(n, ev)
	if !ok {
		return
	}
	c.unwanted(ev, effects)
	status := n.host.Status()
	if _, bare := n.host.(*zab.Node); bare { // a larger host does not tell all of this
		c.notice(n, ev, effects, status)
		c.check.waits(n.ghost, ev, effects, status, c.swarm.Init)
	}
	carried := len(effects)
	if c.chance(c.swarm.MidCrash) {
		carried = c.upTo(len(effects))
	}
	c.dying = carried < len(effects)
	for _, e := range effects[:carried] {
		if w, ok := e.(zab.Write); ok {
			c.check.handed(n.ghost, w)
			n.disk.enqueue(w)
		}
	}
	c.roles(n, effects[:carried])
	n.force = status.Set
	if !c.dying {
		c.check.observed(n.ghost, status)
	} else if status.Role == zab.Leading && status.Established && holds(n.disk.view, status.Commit) {
		c.check.commit(n.ghost, status.Epoch, status.Commit)
	}
	for _, e := range effects[:carried] {
		c.carryOut(n, e)
	}
	if c.dying {
		c.check.counters.hit(CrashBetweenEffects)
		c.crash(n)
		c.restartLater(n)
	}
	if c.steps%64 == 0 && !c.healed || c.steps%4096 == 0 {
		c.check.compare()
	}
}

// roles shows the checker who leads before it looks at what the leader says.
func (c *cluster) roles(n *node, effects []zab.Effect) {
	for _, e := range effects {
		if r, ok := e.(zab.RoleChanged); ok {
			c.check.roleChanged(n.ghost, r)
		}
	}
}

// run is one Step. A core that panics has found its own bug.
func (c *cluster) run(n *node, ev zab.Event) (effects []zab.Effect, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			c.check.fail("panic", "node %d on %s: %v\n%s", n.id, show(ev), r, debug.Stack())
			n.up = false
		}
	}()
	return n.host.Step(ev), true
}

func (c *cluster) carryOut(n *node, e zab.Effect) {
	if c.trace.on {
		c.trace.add("%s n%d    -> %s", c.now, n.id, show(e))
	}
	switch e := e.(type) {
	case zab.Send:
		c.check.sent(n.ghost, e.Message)
		data := zab.AppendMessage(nil, e.Message)
		c.trace.hash = foldBytes(c.trace.hash, data)
		c.net.send(n.index, int(e.Message.To)-1, data)
	case zab.Write:
		c.startSync(n)
		if c.planted == AckBeforeFsync {
			c.persisted(n, e.ID)
		}
	case zab.Deliver:
		c.check.delivers(n.ghost, e.Entries)
		n.toApply = append(n.toApply, e.Entries...)
		c.startApply(n)
	case zab.Dropped:
		c.check.counters.hit(ProposalsDropped)
		c.answered(n, e)
	case zab.TransferEnded:
		c.check.counters.hit(TransferFailed)
	case zab.Accepted, zab.Refused, zab.ReadReady, zab.ReadFailed:
		c.answered(n, e)
	case zab.SendSnapshot:
		n.mayFetch[e.To] = e.Session
	case zab.FetchSnapshot:
		n.fetching = e
		c.fetch(n)
	case zab.Restored:
		n.toApply = nil
		c.check.restoredFrom(n.ghost, e.Snapshot)
	case larger:
		e.carryOut(n)
	case zab.Note:
		c.check.noted(n.ghost, e)
	case zab.RoleChanged:
	default:
		c.check.fail("panic", "node %d asks for an unknown effect %T", n.id, e)
	}
}

// startSync begins to make some prefix of the write queue durable.
func (c *cluster) startSync(n *node) {
	if n.syncing || len(n.disk.queue) == 0 {
		return
	}
	n.syncing = true
	boot, count, applied := n.boot, 1+c.upTo(len(n.disk.queue)-1), n.disk.applied
	last := n.disk.queue[count-1].ID
	c.after(c.fsync(n), func() {
		if n.boot != boot || !n.up {
			return
		}
		n.syncing = false
		if n.failing {
			c.writeFails(n, count)
			return
		}
		n.disk.sync(count)
		n.disk.appliedSynced = max(n.disk.appliedSynced, applied)
		c.check.durable(n.ghost)
		if c.planted != AckBeforeFsync {
			c.persisted(n, last)
		}
		c.startSync(n)
	})
}

// fsync draws how long a sync takes.
func (c *cluster) fsync(n *node) instant {
	d := c.about(c.swarm.Fsync)
	if n.index == 0 && c.swarm.SlowDisk > 0 {
		d = min(instant(float64(d)*c.swarm.SlowDisk), 5*second)
	}
	return d
}

// writeFails ends a node at one of the writes that were to be synced: those before it are
// durable, and the process does not ask that disk again. Another one will.
func (c *cluster) writeFails(n *node, count int) {
	c.check.counters.hit(WriteFailed)
	c.crashKeeping(n, c.upTo(count-1))
	c.restartLater(n)
}

// persisted reports a write to the core, in order, some time after it was done.
func (c *cluster) persisted(n *node, id uint64) {
	boot := n.boot
	n.reportAt = max(n.reportAt+1, c.now+c.about(c.swarm.Lag))
	c.after(n.reportAt-c.now, func() {
		if n.boot == boot {
			c.event(n, zab.Persisted{Write: id})
		}
	})
}

// startApply folds delivered entries into the state, a few at a time.
func (c *cluster) startApply(n *node) {
	if n.applying || len(n.toApply) == 0 {
		return
	}
	n.applying = true
	boot, count := n.boot, 1+c.upTo(len(n.toApply)-1)
	c.after(c.about(c.swarm.ApplyTime), func() {
		if n.boot != boot || !n.up {
			return
		}
		n.applying = false
		if count = min(count, len(n.toApply)); count == 0 {
			return // a snapshot took the place of what was to be applied
		}
		entries := n.toApply[:count]
		n.toApply = n.toApply[count:]
		for _, e := range entries {
			c.apply(n, e)
			if c.planted == DeliverTwice && c.chance(0.05) {
				c.apply(n, e)
			}
		}
		c.event(n, zab.Applied{Upto: entries[count-1].Zxid})
		c.startApply(n)
	})
}

// larger is an effect of a host that is more than a bare core.
type larger interface {
	zab.Effect
	carryOut(*node)
}

func (c *cluster) apply(n *node, e zab.Entry) {
	if !n.disk.base().Less(e.Zxid) {
		return // the snapshot that was installed a moment ago holds it
	}
	c.check.applied(n.ghost, e)
	n.disk.apply(e)
	c.appliedEntry(n, e)
}

func (c *cluster) arrive(to int, data []byte) {
	m, err := zab.DecodeMessage(data)
	if err != nil {
		c.check.fail("panic", "a message does not decode: %v", err)
		return
	}
	if b, ok := m.Body.(zab.Ballot); ok && c.chance(c.swarm.Forged) {
		m.Body = c.forge(b)
	}
	c.event(c.nodes[to], zab.Received{Message: m})
}

// forge makes a ballot lie about whom its sender supports and why: elections are hints,
// so anybody may be elected and nothing bad may follow.
func (c *cluster) forge(b zab.Ballot) zab.Ballot {
	c.check.counters.hit(ForgedBallotArrived)
	b.Vote = zab.Vote{
		Leader: c.members[c.rng.IntN(len(c.members))].ID,
		Epoch:  zab.Epoch(c.rng.IntN(20)),
		Last:   zab.Zxid{Epoch: zab.Epoch(c.rng.IntN(20)), Counter: uint64(c.rng.IntN(50))},
	}
	if c.chance(0.2) {
		b.State = zab.Role(c.rng.IntN(4))
	}
	return b
}

func (c *cluster) lost(node, peer int) {
	c.event(c.nodes[node], zab.PeerLost{Peer: c.members[peer].ID})
}

// crash ends a node. Its disk keeps some prefix of what was not synced.
func (c *cluster) crash(n *node) {
	if n.up {
		c.crashKeeping(n, c.upTo(len(n.disk.queue)))
	}
}

// crashKeeping ends a node whose disk has finished so many of the writes in its queue. A
// write is one atomic batch, so one that was torn is as one that never began.
func (c *cluster) crashKeeping(n *node, keep int) {
	c.noticeCrash(n, keep)
	applied := n.disk.appliedSynced + c.upTo(n.disk.applied-n.disk.appliedSynced)
	before := len(n.disk.view)
	wasSyncing, epoch := n.syncsWithLeader(), n.role.Epoch
	if applied < n.disk.applied {
		c.check.counters.hit(StateWentBackInCrash)
	}
	n.up = false
	n.boot++ // whatever is under way for this incarnation is void
	n.disk.crash(keep, applied)
	c.trace.add("%s n%d crashes, keeps %d queued writes: %+v, log to %s", c.now, n.id, keep, n.disk.hard, tail(n.disk.log))
	if len(n.disk.log) < before {
		c.check.counters.hit(EntriesLostInCrash)
	}
	if wasSyncing && n.disk.hard.Current < epoch && tail(n.disk.log).Epoch > n.disk.hard.Current {
		c.check.counters.hit(CrashBetweenEntriesAndCurrent)
	}
	c.check.crashed(n.ghost)
	c.net.isolate(n.index)
	if !slices.ContainsFunc(c.nodes, func(n *node) bool { return n.up }) {
		c.check.counters.hit(AllDownAtOnce)
	}
}

// blackout takes the power from all nodes at once.
func (c *cluster) blackout() {
	for _, n := range c.nodes {
		c.crash(n)
		c.restartLater(n)
	}
}

func (n *node) syncsWithLeader() bool {
	return n.role.Role == zab.Following && n.role.Phase == zab.Synchronization
}

func (c *cluster) restartLater(n *node) {
	c.after(c.about(500*millisecond), func() {
		if !n.up && !n.dead {
			c.boot(n)
		}
	})
}

// pause stops a node for a while. What arrives meanwhile waits, and comes at once.
func (c *cluster) pause(n *node, d instant) {
	if !n.up || n.paused {
		return
	}
	n.paused = true
	boot := n.boot
	c.after(d, func() {
		if n.boot == boot {
			c.resume(n)
		}
	})
}

func (c *cluster) resume(n *node) {
	if !n.up || !n.paused {
		return
	}
	n.paused = false
	c.noticeWaking(n)
	inbox, missed, boot := n.inbox, n.missed, n.boot
	n.inbox, n.missed = nil, 0
	if c.chance(0.5) {
		missed = min(missed, 1) // some clocks drop what they missed
	}
	ticksFirst := c.chance(0.5)
	for range missed {
		if ticksFirst {
			inbox = append([]zab.Event{zab.Tick{}}, inbox...)
		} else {
			inbox = append(inbox, zab.Tick{})
		}
	}
	for _, ev := range inbox {
		if n.boot == boot {
			c.event(n, ev)
		}
	}
}

func (c *cluster) hashEvent(n *node, ev zab.Event) {
	h := foldNumber(foldNumber(c.trace.hash, uint64(c.now)), uint64(n.id))
	switch ev := ev.(type) {
	case zab.Tick:
		h = foldNumber(h, 1)
	case zab.Received:
		h = foldNumber(foldNumber(h, 2), uint64(ev.Message.From))
	case zab.Persisted:
		h = foldNumber(foldNumber(h, 3), ev.Write)
	case zab.Applied:
		h = foldNumber(foldNumber(h, 4), ev.Upto.Counter)
	default:
		h = foldNumber(h, 5)
	}
	c.trace.hash = h
}

// show prints an event or an effect on one line.
func show(v any) string {
	switch v := v.(type) {
	case zab.Tick:
		return "Tick"
	case zab.Received:
		return fmt.Sprintf("Received from %d epoch %d session %x %T%s", v.Message.From, v.Message.Epoch, v.Message.Session, v.Message.Body, showBody(v.Message.Body))
	case zab.Send:
		return fmt.Sprintf("Send to %d epoch %d session %x %T%s", v.Message.To, v.Message.Epoch, v.Message.Session, v.Message.Body, showBody(v.Message.Body))
	case zab.Write:
		s := fmt.Sprintf("Write %d", v.ID)
		if v.TruncateAfter != nil {
			s += " truncate after " + v.TruncateAfter.String()
		}
		if v.Cut != nil {
			s += " cut at " + v.Cut.String()
		}
		if v.Install != nil {
			s += " install " + v.Install.Zxid.String()
		}
		s += showEntries(v.Entries)
		if v.Hard != nil {
			s += fmt.Sprintf(" %+v", *v.Hard)
		}
		return s
	case zab.Deliver:
		return "Deliver" + showEntries(v.Entries)
	case zab.SnapshotStaged:
		return fmt.Sprintf("SnapshotStaged %s session %x", v.Snapshot.Zxid, v.Session)
	default:
		return fmt.Sprintf("%T%+v", v, v)
	}
}

func showBody(b zab.Body) string {
	switch b := b.(type) {
	case zab.Propose:
		return showEntries(b.Entries) + " commit " + b.Commit.String()
	case zab.Inform:
		return showEntries(b.Entries)
	default:
		return fmt.Sprintf("%+v", b)
	}
}

func showEntries(entries []zab.Entry) string {
	if len(entries) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s, %s]", entries[0].Prev, entries[len(entries)-1].Zxid)
}
