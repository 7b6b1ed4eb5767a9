// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/concordtx/concord/protocol/zab"
)

// Host is what runs on a node: a bare zab core, or something larger that owns one and
// has the same events and effects underneath.
type Host interface {
	Step(zab.Event) []zab.Effect
	Status() zab.Status
}

// Cluster is a set of nodes on one scheduler and network, with the checker that
// watches them.
type Cluster struct {
	*scheduler
	Swarm             Swarm
	planted           Planted
	Members           []zab.Member
	Nodes             []*Node
	Net               *network
	Check             *Checker
	Trace             trace
	Steps             int
	claims            map[zab.Epoch]zab.NodeID // who proposed an epoch last
	Healed, WasFaulty bool
	stepsHealed       int // when the faults ended
	healedAt          Instant
	// the node of this step dies before it has carried out everything
	Dying   bool
	Change  func([]byte) ([]zab.Member, bool) // tells the changes of the members
	Tell    func(from, to *Node)              // lets a node hear of another who the members are
	Founded func() bool                       // whether a minority may be away for good
	Propose func(*Node, []byte)               // asks a node to append something; nil: nobody does
	NewHost func(zab.Config, zab.Storage) (Host, error)
	// Answered hears what a core says about proposals and reads.
	Answered func(*Node, zab.Effect)
	// AppliedEntry hears each entry that a state machine has folded in.
	AppliedEntry func(*Node, zab.Entry)
}

// Node is one member: a core that may be up, paused or dead, and the disk that outlives
// it.
type Node struct {
	*Ghost
	Index    int
	Host     Host
	Up       bool
	Boot     uint32
	bootTail zab.Zxid // where the log ended at the start
	tick     Instant
	syncing  bool
	toApply  []zab.Entry
	Applying bool
	Paused   bool
	Failing  bool // the next write to its disk fails
	missed   int  // ticks
	Dead     bool // it stays down for the rest of the run
	reportAt Instant
	inbox    []zab.Event

	streamed uint64                // the session to which entries were sent last
	mayFetch map[zab.NodeID]uint64 // sessions that may fetch a snapshot here
	fetching zab.FetchSnapshot     // what the core waits for
}

func NewCluster(seed uint64, o Options) *Cluster {
	c := &Cluster{scheduler: newScheduler(seed), planted: o.Planted, claims: map[zab.Epoch]zab.NodeID{}}
	c.Trace.on = o.Trace
	c.Trace.Hash = foldStart
	c.Swarm = drawSwarm(c.scheduler)
	if o.Edition != 1 {
		c.Swarm.drawCompaction(seed)
		c.Swarm.drawLast(seed)
	}
	if o.Edition == 0 {
		c.Swarm.drawMembers(seed)
	}
	if o.Swarm != nil {
		o.Swarm(&c.Swarm)
	}
	c.NewHost = func(config zab.Config, s zab.Storage) (Host, error) { return zab.New(config, s) }
	c.Change, c.Tell = changeOf, c.tells
	c.Founded = func() bool { return true }
	c.Answered = func(*Node, zab.Effect) {}
	c.AppliedEntry = func(*Node, zab.Entry) {}
	if o.Inhabit != nil {
		o.Inhabit(c)
	}
	var disks []*Disk
	for i := range c.Swarm.Voters + c.Swarm.Observers {
		c.Members = append(c.Members, zab.Member{ID: zab.NodeID(i + 1), Observer: i >= c.Swarm.Voters})
		disks = append(disks, newDisk(o.Planted))
	}
	c.Check = newChecker(c.Members, disks)
	c.Check.muted = o.Mute
	c.Check.change = c.Change
	c.Net = newNetwork(c.scheduler, c.Swarm, len(c.Members))
	c.Net.arrive, c.Net.lost = c.arrive, c.lost
	c.Net.up = func(i int) bool { return c.Nodes[i].Up }
	c.Net.late = func(again bool) {
		c.Check.Counters.Hit(LateBytesArrived)
		if again {
			c.Check.Counters.Hit(DuplicateArrived)
		}
	}
	for i := range c.Members {
		n := &Node{Ghost: c.Check.ghosts[i], Index: i}
		c.Nodes = append(c.Nodes, n)
		c.boot(n)
	}
	if every := c.Swarm.Gossip; every > 0 {
		c.After(1, func() { c.gossip(every) })
	}
	return c
}

// boot starts the node's core from its disk.
func (c *Cluster) boot(n *Node) {
	n.Boot++
	n.Up, n.syncing, n.Applying, n.Paused, n.Failing, n.missed = true, false, false, false, false, 0
	n.toApply, n.inbox, n.bootTail = nil, nil, Tail(n.Disk.Log)
	n.mayFetch, n.fetching = map[zab.NodeID]uint64{}, zab.FetchSnapshot{}
	c.Check.crashed(n.Ghost)
	c.Check.restarted(n.Ghost)
	c.Trace.add("%s n%d boot %d: %+v, log to %s, applied %s", c.Now, n.ID, n.Boot, n.Disk.Hard, Tail(n.Disk.Log),
		n.Disk.AppliedZxid())
	w := c.Swarm
	set := c.setOf(n.Disk.Log[:min(n.Disk.Applied, len(n.Disk.Log))])
	n.force = set
	h, err := c.NewHost(zab.Config{
		ID: n.ID, Members: set.Members, MembersAt: set.At, Change: c.Change, Boot: n.Boot,
		HeartbeatTicks: w.Heartbeat, SyncTicks: w.Sync, InitTicks: w.Init, FinalizeTicks: w.Finalize,
		MaxUncommittedBytes: w.MaxUncommitted, MaxBatchBytes: w.MaxBatch, WindowBytes: w.WindowSize,
	}, n.Disk)
	if err != nil {
		c.Check.Fail("panic", "node %d does not start: %v", n.ID, err)
		n.Up = false
		return
	}
	n.Host = h
	n.tick = Instant(float64(50*Millisecond) * (1 + c.Swarm.TickSkew*(2*c.RNG.Float64()-1)))
	c.keepTicking(n, n.Boot)
}

func (c *Cluster) keepTicking(n *Node, boot uint32) {
	c.After(n.tick, func() {
		if n.Boot != boot || !n.Up {
			return
		}
		if n.Paused {
			n.missed++
		} else {
			c.step(n, zab.Tick{})
		}
		c.keepTicking(n, boot)
	})
}

// Event gives a node something to handle now, or when its pause is over.
func (c *Cluster) Event(n *Node, ev zab.Event) {
	switch {
	case !n.Up:
	case n.Paused:
		n.inbox = append(n.inbox, ev)
	default:
		c.step(n, ev)
	}
}

// step runs the core on one event and carries out what it asks for.
func (c *Cluster) step(n *Node, ev zab.Event) {
	c.Steps++
	c.hashEvent(n, ev)
	if c.Trace.on {
		c.Trace.add("%s n%d <- %s", c.Now, n.ID, show(ev))
	}
	effects, ok := c.run(n, ev)
	if !ok {
		return
	}
	c.unwanted(ev, effects)
	status := n.Host.Status()
	if _, bare := n.Host.(*zab.Node); bare { // a larger host does not tell all of this
		c.notice(n, ev, effects, status)
		c.Check.waits(n.Ghost, ev, effects, status, c.Swarm.Init)
	} else if status.Role == zab.Leading && status.Established && holds(n.Disk.View, status.Commit) {
		// A larger host may take over and propose in one step, in this order.
		c.Check.commit(n.Ghost, status.Epoch, status.Commit)
	}
	carried := len(effects)
	if c.Chance(c.Swarm.MidCrash) {
		carried = c.upTo(len(effects))
	}
	c.Dying = carried < len(effects)
	for _, e := range effects[:carried] {
		if w, ok := e.(zab.Write); ok {
			c.Check.handed(n.Ghost, w)
			n.Disk.enqueue(w)
		}
	}
	c.roles(n, effects[:carried])
	n.force = status.Set
	if !c.Dying {
		c.Check.observed(n.Ghost, status)
	} else if status.Role == zab.Leading && status.Established && holds(n.Disk.View, status.Commit) {
		c.Check.commit(n.Ghost, status.Epoch, status.Commit)
	}
	for _, e := range effects[:carried] {
		c.carryOut(n, e)
	}
	if c.Dying {
		c.Check.Counters.Hit(CrashBetweenEffects)
		c.Crash(n)
		c.restartLater(n)
	}
	if c.Steps%64 == 0 && !c.Healed || c.Steps%4096 == 0 {
		c.Check.Compare()
	}
}

// roles shows the checker who leads before it looks at what the leader says.
func (c *Cluster) roles(n *Node, effects []zab.Effect) {
	for _, e := range effects {
		if r, ok := e.(zab.RoleChanged); ok {
			c.Check.roleChanged(n.Ghost, r)
		}
	}
}

// run is one Step. A core that panics has found its own bug.
func (c *Cluster) run(n *Node, ev zab.Event) (effects []zab.Effect, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			c.Check.Fail("panic", "node %d on %s: %v\n%s", n.ID, show(ev), r, debug.Stack())
			n.Up = false
		}
	}()
	return n.Host.Step(ev), true
}

func (c *Cluster) carryOut(n *Node, e zab.Effect) {
	if c.Trace.on {
		c.Trace.add("%s n%d    -> %s", c.Now, n.ID, show(e))
	}
	switch e := e.(type) {
	case zab.Send:
		c.Check.sent(n.Ghost, e.Message)
		data := zab.AppendMessage(nil, e.Message)
		c.Trace.Hash = foldBytes(c.Trace.Hash, data)
		c.Net.send(n.Index, int(e.Message.To)-1, data)
	case zab.Write:
		c.startSync(n)
		if c.planted == AckBeforeFsync {
			c.persisted(n, e.ID)
		}
	case zab.Deliver:
		c.Check.delivers(n.Ghost, e.Entries)
		n.toApply = append(n.toApply, e.Entries...)
		c.startApply(n)
	case zab.Dropped:
		c.Check.Counters.Hit(ProposalsDropped)
		c.Answered(n, e)
	case zab.TransferEnded:
		c.Check.Counters.Hit(TransferFailed)
	case zab.Accepted, zab.Refused, zab.ReadReady, zab.ReadFailed:
		c.Answered(n, e)
	case zab.SendSnapshot:
		n.mayFetch[e.To] = e.Session
	case zab.FetchSnapshot:
		n.fetching = e
		c.fetch(n)
	case zab.Restored:
		n.toApply = nil
		c.Check.restoredFrom(n.Ghost, e.Snapshot)
	case larger:
		e.CarryOut(n)
	case zab.Note:
		c.Check.noted(n.Ghost, e)
	case zab.RoleChanged:
	default:
		c.Check.Fail("panic", "node %d asks for an unknown effect %T", n.ID, e)
	}
}

// startSync begins to make some prefix of the write queue durable.
func (c *Cluster) startSync(n *Node) {
	if n.syncing || len(n.Disk.queue) == 0 {
		return
	}
	n.syncing = true
	boot, count, applied := n.Boot, 1+c.upTo(len(n.Disk.queue)-1), n.Disk.Applied
	last := n.Disk.queue[count-1].ID
	c.After(c.fsync(n), func() {
		if n.Boot != boot || !n.Up {
			return
		}
		n.syncing = false
		if n.Failing {
			c.writeFails(n, count)
			return
		}
		n.Disk.sync(count)
		n.Disk.appliedSynced = max(n.Disk.appliedSynced, applied)
		c.Check.durable(n.Ghost)
		if c.planted != AckBeforeFsync {
			c.persisted(n, last)
		}
		c.startSync(n)
	})
}

// fsync draws how long a sync takes.
func (c *Cluster) fsync(n *Node) Instant {
	d := c.About(c.Swarm.Fsync)
	if n.Index == 0 && c.Swarm.SlowDisk > 0 {
		d = min(Instant(float64(d)*c.Swarm.SlowDisk), 5*Second)
	}
	return d
}

// writeFails ends a node at one of the writes that were to be synced: those before it are
// durable, and the process does not ask that disk again. Another one will.
func (c *Cluster) writeFails(n *Node, count int) {
	c.Check.Counters.Hit(WriteFailed)
	c.crashKeeping(n, c.upTo(count-1))
	c.restartLater(n)
}

// persisted reports a write to the core, in order, some time after it was done.
func (c *Cluster) persisted(n *Node, id uint64) {
	boot := n.Boot
	n.reportAt = max(n.reportAt+1, c.Now+c.About(c.Swarm.Lag))
	c.After(n.reportAt-c.Now, func() {
		if n.Boot == boot {
			c.Event(n, zab.Persisted{Write: id})
		}
	})
}

// startApply folds delivered entries into the state, a few at a time.
func (c *Cluster) startApply(n *Node) {
	if n.Applying || len(n.toApply) == 0 {
		return
	}
	n.Applying = true
	boot, count := n.Boot, 1+c.upTo(len(n.toApply)-1)
	c.After(c.About(c.Swarm.ApplyTime), func() {
		if n.Boot != boot || !n.Up {
			return
		}
		n.Applying = false
		if count = min(count, len(n.toApply)); count == 0 {
			return // a snapshot took the place of what was to be applied
		}
		entries := n.toApply[:count]
		n.toApply = n.toApply[count:]
		for _, e := range entries {
			c.apply(n, e)
			if c.planted == DeliverTwice && c.Chance(0.05) {
				c.apply(n, e)
			}
		}
		c.Event(n, zab.Applied{Upto: entries[count-1].Zxid})
		c.startApply(n)
	})
}

// larger is an effect of a host that is more than a bare core.
type larger interface {
	zab.Effect
	CarryOut(*Node)
}

func (c *Cluster) apply(n *Node, e zab.Entry) {
	if !n.Disk.base().Less(e.Zxid) {
		return // the snapshot that was installed a moment ago holds it
	}
	c.Check.applied(n.Ghost, e)
	n.Disk.apply(e)
	c.AppliedEntry(n, e)
}

func (c *Cluster) arrive(to int, data []byte) {
	m, err := zab.DecodeMessage(data)
	if err != nil {
		c.Check.Fail("panic", "a message does not decode: %v", err)
		return
	}
	if b, ok := m.Body.(zab.Ballot); ok && c.Chance(c.Swarm.Forged) {
		m.Body = c.forge(b)
	}
	c.Event(c.Nodes[to], zab.Received{Message: m})
}

// forge makes a ballot lie about whom its sender supports and why: elections are hints,
// so anybody may be elected and nothing bad may follow.
func (c *Cluster) forge(b zab.Ballot) zab.Ballot {
	c.Check.Counters.Hit(ForgedBallotArrived)
	b.Vote = zab.Vote{
		Leader: c.Members[c.RNG.IntN(len(c.Members))].ID,
		Epoch:  zab.Epoch(c.RNG.IntN(20)),
		Last:   zab.Zxid{Epoch: zab.Epoch(c.RNG.IntN(20)), Counter: uint64(c.RNG.IntN(50))},
	}
	if c.Chance(0.2) {
		b.State = zab.Role(c.RNG.IntN(4))
	}
	return b
}

func (c *Cluster) lost(node, peer int) {
	c.Event(c.Nodes[node], zab.PeerLost{Peer: c.Members[peer].ID})
}

// Crash ends a node. Its disk keeps some prefix of what was not synced.
func (c *Cluster) Crash(n *Node) {
	if n.Up {
		c.crashKeeping(n, c.upTo(len(n.Disk.queue)))
	}
}

// crashKeeping ends a node whose disk has finished so many of the writes in its queue. A
// write is one atomic batch, so one that was torn is as one that never began.
func (c *Cluster) crashKeeping(n *Node, keep int) {
	c.noticeCrash(n, keep)
	applied := n.Disk.appliedSynced + c.upTo(n.Disk.Applied-n.Disk.appliedSynced)
	before := len(n.Disk.View)
	wasSyncing, epoch := n.syncsWithLeader(), n.Role.Epoch
	if applied < n.Disk.Applied {
		c.Check.Counters.Hit(StateWentBackInCrash)
	}
	n.Up = false
	n.Boot++ // whatever is under way for this incarnation is void
	n.Disk.crash(keep, applied)
	c.Trace.add("%s n%d crashes, keeps %d queued writes: %+v, log to %s", c.Now, n.ID, keep, n.Disk.Hard,
		Tail(n.Disk.Log))
	if len(n.Disk.Log) < before {
		c.Check.Counters.Hit(EntriesLostInCrash)
	}
	if wasSyncing && n.Disk.Hard.Current < epoch && Tail(n.Disk.Log).Epoch > n.Disk.Hard.Current {
		c.Check.Counters.Hit(CrashBetweenEntriesAndCurrent)
	}
	c.Check.crashed(n.Ghost)
	c.Net.isolate(n.Index)
	if !slices.ContainsFunc(c.Nodes, func(n *Node) bool { return n.Up }) {
		c.Check.Counters.Hit(AllDownAtOnce)
	}
}

// blackout takes the power from all nodes at once.
func (c *Cluster) blackout() {
	for _, n := range c.Nodes {
		c.Crash(n)
		c.restartLater(n)
	}
}

func (n *Node) syncsWithLeader() bool {
	return n.Role.Role == zab.Following && n.Role.Phase == zab.Synchronization
}

func (c *Cluster) restartLater(n *Node) {
	c.After(c.About(500*Millisecond), func() {
		if !n.Up && !n.Dead {
			c.boot(n)
		}
	})
}

// pause stops a node for a while. What arrives meanwhile waits, and comes at once.
func (c *Cluster) pause(n *Node, d Instant) {
	if !n.Up || n.Paused {
		return
	}
	n.Paused = true
	boot := n.Boot
	c.After(d, func() {
		if n.Boot == boot {
			c.resume(n)
		}
	})
}

func (c *Cluster) resume(n *Node) {
	if !n.Up || !n.Paused {
		return
	}
	n.Paused = false
	c.noticeWaking(n)
	inbox, missed, boot := n.inbox, n.missed, n.Boot
	n.inbox, n.missed = nil, 0
	if c.Chance(0.5) {
		missed = min(missed, 1) // some clocks drop what they missed
	}
	ticksFirst := c.Chance(0.5)
	for range missed {
		if ticksFirst {
			inbox = append([]zab.Event{zab.Tick{}}, inbox...)
		} else {
			inbox = append(inbox, zab.Tick{})
		}
	}
	for _, ev := range inbox {
		if n.Boot == boot {
			c.Event(n, ev)
		}
	}
}

func (c *Cluster) hashEvent(n *Node, ev zab.Event) {
	h := foldNumber(foldNumber(c.Trace.Hash, uint64(c.Now)), uint64(n.ID))
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
	c.Trace.Hash = h
}

// show prints an event or an effect on one line.
func show(v any) string {
	switch v := v.(type) {
	case zab.Tick:
		return "Tick"
	case zab.Received:
		return fmt.Sprintf("Received from %d epoch %d session %x %T%s", v.Message.From, v.Message.Epoch,
			v.Message.Session, v.Message.Body, showBody(v.Message.Body))
	case zab.Send:
		return fmt.Sprintf("Send to %d epoch %d session %x %T%s", v.Message.To, v.Message.Epoch, v.Message.Session,
			v.Message.Body, showBody(v.Message.Body))
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
