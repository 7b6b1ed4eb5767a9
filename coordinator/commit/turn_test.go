// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"encoding/binary"
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// turnSteps is how many a turn may take before what is left waits, by default.
const turnSteps = 1024

// mostSteps is what no turn may exceed, whatever there is: events up to TurnSteps and one that
// delivers a whole entry of commits, and a piece of each kind of what is left over.
const mostSteps = turnSteps + 5*replica.MaxEntryRecords + turnSteps

const (
	tickLength = 50 * time.Millisecond
	mostEvents = 512 // in one turn, as the loop of a node has it
)

// turnLog is a log in memory.
type turnLog struct {
	hard    zab.HardState
	base    zab.Zxid
	entries []zab.Entry
	applied zab.Zxid
}

func (l *turnLog) tail() zab.Zxid {
	if len(l.entries) == 0 {
		return l.base
	}
	return l.entries[len(l.entries)-1].Zxid
}

func (l *turnLog) after(z zab.Zxid) int {
	return sort.Search(len(l.entries), func(i int) bool { return z.Less(l.entries[i].Zxid) })
}

func (l *turnLog) Initial() (zab.HardState, zab.Zxid, zab.Zxid, zab.Zxid) {
	return l.hard, l.base, l.tail(), l.applied
}

func (l *turnLog) Floor(z zab.Zxid) (zab.Zxid, bool) {
	if i := l.after(z); i > 0 {
		return l.entries[i-1].Zxid, true
	}
	return l.base, !z.Less(l.base)
}

func (l *turnLog) Entries(after, upto zab.Zxid, most int) (out []zab.Entry, _ error) {
	size := 0
	for _, e := range l.entries[l.after(after):l.after(upto)] {
		if size += len(e.Data); size > most && len(out) > 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

func (l *turnLog) write(w zab.Write) {
	if w.TruncateAfter != nil {
		l.entries = l.entries[:l.after(*w.TruncateAfter)]
	}
	l.entries = append(l.entries, w.Entries...)
	if w.Cut != nil {
		l.entries, l.base = l.entries[l.after(*w.Cut):], *w.Cut
	}
	if w.Install != nil {
		l.entries, l.base, l.applied = nil, w.Install.Zxid, w.Install.Zxid
	}
	if w.Hard != nil {
		l.hard = *w.Hard
	}
}

// turnArchive has in place of a store the last of the transactions.
type turnArchive struct {
	newest     txn.ID // that is finished
	young, old map[txn.ID]txn.Txn
	purged     txn.ID
}

func (a *turnArchive) Keep(c txn.Changes) {
	for _, x := range c.Finished {
		if a.newest.Compare(x.ID) < 0 {
			a.newest = x.ID
		}
		if len(a.young) >= 100_000 || a.young == nil {
			a.young, a.old = map[txn.ID]txn.Txn{}, a.young
		}
		a.young[x.ID] = x
	}
	if !c.PurgeBefore.IsZero() {
		a.purged = c.PurgeBefore
	}
}

func (a *turnArchive) Finished(id txn.ID) (txn.Txn, bool) {
	if id.Compare(a.newest) > 0 {
		return txn.Txn{}, false
	}
	x, ok := a.young[id]
	if !ok {
		x, ok = a.old[id]
	}
	return x, ok
}

func (a *turnArchive) KeyUse(string) (txn.KeyUse, bool) { return txn.KeyUse{}, false }

// turnNode is a core and what a driver does for it, without waiting for anything.
type turnNode struct {
	t       *testing.T
	core    *replica.Core
	machine *Machine
	log     *turnLog
	archive *turnArchive
	others  map[zab.NodeID]*turnNode
	down    bool
	inbox   []replica.Event
	now     time.Time
	next    uint64 // request
	ids     uint64

	most    int // steps of one turn
	turns   int
	replies map[uint64]Reply // of what was asked and is waited for
	busy    int              // requests that were answered "busy"
	tasks   []Task
	restore func() (*txn.Table, error)
}

func newTurnNodes(t *testing.T, n int, steps int) map[zab.NodeID]*turnNode {
	nodes := map[zab.NodeID]*turnNode{}
	var members []replica.Member
	for i := range n {
		members = append(members, replica.Member{ID: zab.NodeID(i + 1)})
	}
	for _, m := range members {
		x := &turnNode{t: t, log: &turnLog{}, archive: &turnArchive{}, others: nodes,
			now: time.UnixMilli(1_700_000_000_000), replies: map[uint64]Reply{}}
		var err error
		x.machine = New(Config{Resources: []string{"orders", "billing"},
			Reload: func() (*txn.Table, error) { return x.restore() }},
			txn.NewTable(txn.Meta{}, nil, x.archive))
		x.core, err = replica.New(replica.Config{Node: m.ID, Members: members, Boot: 1, NewCluster: 7,
			TurnSteps: steps}, x.log, x.machine)
		require.NoError(t, err)
		for _, other := range members {
			if other.ID != m.ID {
				x.inbox = append(x.inbox, replica.PeerMet{Node: other.ID})
			}
		}
		nodes[m.ID] = x
	}
	return nodes
}

// turn handles events, and at once the turns after it that events or left-over work ask for.
func (n *turnNode) turn(events ...replica.Event) {
	for first := true; first || len(n.inbox) > 0 || n.core.More(); first = false {
		if n.down {
			n.inbox = nil
			return
		}
		take := min(len(n.inbox), mostEvents-n.core.Left())
		events = append(events, n.inbox[:take]...)
		n.inbox = append([]replica.Event(nil), n.inbox[take:]...)
		fx, err := n.core.Step(events...)
		events = nil
		require.NoError(n.t, err)
		n.turns++
		n.most = max(n.most, n.core.Steps())
		n.carryOut(fx, n.machine.Take())
	}
}

func (n *turnNode) carryOut(fx *replica.Effects, out *Effects) {
	for _, w := range fx.Write {
		n.log.write(w)
		n.inbox = append(n.inbox, replica.Peer{Event: zab.Persisted{Write: w.ID}})
	}
	for _, m := range fx.Send {
		if to := n.others[m.To]; !to.down && !n.down {
			to.inbox = append(to.inbox, replica.Peer{Event: zab.Received{Message: m}})
		}
	}
	replies := out.Reply
	for _, r := range fx.Reply {
		replies = append(replies, Reply{Request: r.Request, Err: r.Err, Zxid: r.Zxid})
	}
	for _, r := range replies {
		if r.Err == error(replica.ErrBusy) {
			n.busy++
		}
		if _, waited := n.replies[r.Request]; waited {
			n.replies[r.Request] = r
		}
	}
	n.tasks = append(n.tasks, out.Finish...)
	if e := fx.FetchSnapshot; e.Session != 0 {
		from := n.others[e.From]
		z, meta, open := from.core.Zxid(), from.machine.table.Meta(), from.machine.table.Open()
		n.restore = func() (*txn.Table, error) { return txn.NewTable(meta, open, n.archive), nil }
		n.inbox = append(n.inbox, replica.Peer{Event: zab.SnapshotStaged{Session: e.Session,
			Snapshot: zab.Snapshot{Zxid: z, Ref: 1}}})
	}
	n.log.applied = n.core.Zxid()
}

// tick lets time pass at all nodes, with everything arriving.
func tick(nodes map[zab.NodeID]*turnNode, d time.Duration) {
	for range d / tickLength {
		for i := range len(nodes) {
			n := nodes[zab.NodeID(i+1)]
			n.now = n.now.Add(tickLength)
			n.turn(replica.Tick{Now: n.now})
		}
		arrive(nodes)
	}
}

func arrive(nodes map[zab.NodeID]*turnNode) {
	for busy := true; busy; {
		busy = false
		for i := range len(nodes) {
			if n := nodes[zab.NodeID(i+1)]; len(n.inbox) > 0 && !n.down {
				n.turn()
				busy = true
			}
		}
	}
}

func leaderOf(t *testing.T, nodes map[zab.NodeID]*turnNode) *turnNode {
	t.Helper()
	for range 200 {
		tick(nodes, tickLength)
		for i := range len(nodes) {
			if n := nodes[zab.NodeID(i+1)]; !n.down && n.core.Leading() && n.machine.table.Cluster() != 0 {
				return n
			}
		}
	}
	t.Fatal("nobody leads")
	return nil
}

func (n *turnNode) ask(wait bool, event func(request uint64) replica.Event) uint64 {
	n.next++
	if wait {
		n.replies[n.next] = Reply{}
	}
	n.inbox = append(n.inbox, event(n.next))
	return n.next
}

// commit asks for n transactions with these branches, a turn's worth at a time, and calls
// rest between two turns.
func (n *turnNode) commit(count int, branches []txn.Branch, rest func()) (ids []txn.ID) {
	for done := 0; done < count; {
		for i := 0; i < mostEvents/2 && done < count; i++ {
			done++
			id := n.newID()
			if branches != nil {
				ids = append(ids, id)
			}
			n.ask(false, func(r uint64) replica.Event {
				return CommitAsked{Request: r, CommitRequest: txn.CommitRequest{ID: id, Branches: branches}}
			})
		}
		n.turn()
		rest()
	}
	return ids
}

// newID is txn.NewID without the cost of chance.
func (n *turnNode) newID() txn.ID {
	n.ids++
	id := txn.FirstID(n.now)
	binary.BigEndian.PutUint64(id[6:], n.ids) // what is behind it is class and lease
	return id
}

func (n *turnNode) check(what string) {
	n.t.Helper()
	n.t.Logf("node %d: %s: at most %d steps in one of %d turns", n.core.Log().ID, what, n.most, n.turns)
	require.LessOrEqual(n.t, n.most, mostSteps, what)
	n.most, n.turns = 0, 0
}

var twoBranches = []txn.Branch{{No: 1, Resource: "orders"}, {No: 2, Resource: "billing"}}

// However much there is, no turn of the core takes more than so many steps: one node.
func TestNoTurnGrowsWithWhatThereIs(t *testing.T) {
	finished, open := 10_000_000, 100_000
	if testing.Short() || raceEnabled {
		finished, open = 200_000, 20_000
	}
	nodes := newTurnNodes(t, 1, 0)
	n := leaderOf(t, nodes)
	c := n.machine
	for i := 0; i < finished; i += 100_000 {
		n.commit(min(100_000, finished-i), nil, func() {})
		tick(nodes, time.Second)
	}
	require.Equal(t, uint64(finished), c.committed)
	require.Zero(t, n.busy)
	n.check(fmt.Sprintf("%d transactions that are finished at once", finished))

	ids := n.commit(open, twoBranches, func() {})
	require.Equal(t, open, c.table.OpenCount())
	n.check(fmt.Sprintf("%d transactions with branches to finish", open))

	tick(nodes, 6*time.Second) // past the grace
	require.Len(t, n.tasks, 2*MaxTasks)
	n.check("all of them are due, and nobody finishes them")
	for range min(100, open/(2*MaxTasks)) { // while there are branches that were never tried
		tasks := n.tasks
		n.tasks = nil
		for _, task := range tasks {
			n.inbox = append(n.inbox, Failed{XID: task.XID, Why: "the database is down"})
		}
		tick(nodes, 2*sweepInterval)
		require.GreaterOrEqual(t, len(n.tasks), 2*MaxTasks)
	}
	n.check("their database is down")
	for _, name := range []string{"orders", "billing"} {
		n.turn(Fitness{Resource: name, Fit: true, Down: true})
		n.turn(Fitness{Resource: name, Fit: true})
	}
	tick(nodes, time.Second)
	n.check("their database is back")

	var listing []adapters.Prepared
	for _, id := range ids {
		listing = append(listing, adapters.Prepared{XID: c.xid(id, 1)})
	}
	for i := range open { // and as many that nobody decided, and of another cluster
		listing = append(listing, adapters.Prepared{XID: c.xid(txn.NewID(n.now.Add(-time.Hour)), 1)},
			adapters.Prepared{XID: txn.XID{Cluster: 8, ID: txn.NewID(n.now), Branch: txn.BranchNo(i % 9)}})
	}
	n.turn(Listed{Resource: "orders", Listing: listing})
	state := c.ScanState("orders")
	require.Equal(t, []int{2 * open, open}, []int{state.InDoubt, state.Foreign})
	inDoubt, heuristic := c.counts()
	require.Equal(t, []int{2 * open, 0}, []int{inDoubt, heuristic})
	for _, r := range c.Figures(n.now).Resources {
		require.Equal(t, map[string]int{"orders": 2 * open, "billing": open}[r.Name], r.InDoubt, r.Name)
	}
	n.check("a long listing")

	plan := n.ask(true, func(r uint64) replica.Event {
		return PlanAsked{Request: r, Listings: map[string][]adapters.Prepared{"orders": listing}}
	})
	everything := n.ask(true, func(r uint64) replica.Event { return ViewAsked{Request: r} })
	one := n.ask(true, func(r uint64) replica.Event { return ViewAsked{Request: r, ID: ids[7]} })
	outcome := n.ask(true, func(r uint64) replica.Event {
		return OutcomeAsked{Request: r, Inquiry: txn.Inquiry{ID: listing[open].XID.ID}}
	})
	n.turn()
	tick(nodes, time.Second)
	require.Equal(t, 3*open, len(n.replies[plan].Plan))
	require.Equal(t, open, len(n.replies[everything].View.InDoubt))
	require.Len(t, n.replies[one].View.Branches, 2)
	require.NoError(t, n.replies[outcome].Err)
	require.Equal(t, txn.Abort, n.replies[outcome].Txn.Decision)
	n.check("a plan, a view of everything, one of one, an outcome")

	n.turn(Listed{Resource: "orders", Listing: listing}) // orphans, at the second sight
	for range 3 {
		tick(nodes, sweepInterval)
		n.turn(Listed{Resource: "orders", Listing: listing})
	}
	require.Greater(t, c.aborted, uint64(open/20), "orphans are aborted")
	n.check("as many orphans")
	n.turn(Listed{Resource: "orders"})
	require.Zero(t, c.ScanState("orders").InDoubt)
	inDoubt, _ = c.counts()
	require.Equal(t, open, inDoubt)
	n.check("an empty listing in place of a long one")

	n.turn(replica.Peer{Event: zab.Compact{Upto: n.core.Zxid(), Must: n.core.Zxid()}})
	require.Equal(t, n.core.Zxid(), n.log.base)
	n.check("a cut of the log")

	n.now = n.now.Add(8 * 24 * time.Hour)
	tick(nodes, time.Second)
	n.commit(1, nil, func() {})
	tick(nodes, time.Second)
	require.False(t, n.archive.purged.IsZero(), "the watermark has moved")
	n.check("a watermark")

	for _, id := range ids {
		for _, b := range twoBranches {
			n.inbox = append(n.inbox, Finished{XID: c.xid(id, b.No), Finish: txn.Done, By: txn.FromClient,
				Who: "client"})
		}
	}
	n.turn()
	tick(nodes, time.Second)
	require.Zero(t, c.table.OpenCount())
	inDoubt, _ = c.counts()
	require.Zero(t, inDoubt)
	for _, r := range c.Figures(n.now).Resources {
		require.Zero(t, r.InDoubt, r.Name)
		require.Zero(t, r.Oldest, r.Name)
	}
	n.check("all are finished at once")
}

// The same, where a leader is lost with many requests that wait and transactions that are open,
// and a node comes back that needs a snapshot.
func TestNoTurnGrowsWithALeaderChange(t *testing.T) {
	open, asked := 100_000, 20_000
	if testing.Short() || raceEnabled {
		open, asked = 20_000, 4_000
	}
	nodes := newTurnNodes(t, 3, 0)
	first := leaderOf(t, nodes)
	rest := func() { arrive(nodes) }
	late := nodes[first.core.Log().ID%3+1]
	late.down = true
	first.commit(open, twoBranches, rest)
	tick(nodes, time.Second)
	first.check("open transactions")
	first.turn(replica.Peer{Event: zab.Compact{Upto: first.core.Zxid(), Must: first.core.Zxid()}})
	first.check("a cut of the log")

	late.down = false
	tick(nodes, 3*time.Second)
	require.Equal(t, first.core.Zxid(), late.core.Zxid())
	require.Equal(t, open, late.machine.table.OpenCount(), "by a snapshot")
	late.check("a snapshot")

	// The leader hears nobody. What is asked of it now is answered when it gives up.
	for _, n := range nodes {
		n.down = n != first
	}
	var requests []uint64
	for range asked {
		requests = append(requests, first.ask(true, func(r uint64) replica.Event {
			return CommitAsked{Request: r,
				CommitRequest: txn.CommitRequest{ID: txn.NewID(first.now), Branches: twoBranches}}
		}))
	}
	tick(nodes, 3*time.Second)
	require.False(t, first.core.Leading())
	for _, r := range requests {
		require.Error(t, first.replies[r].Err)
	}
	first.check("the end of a leadership")

	first.down = true
	for _, n := range nodes {
		n.down = n == first
		n.inbox = nil
	}
	second := leaderOf(t, nodes)
	tick(nodes, time.Second)
	require.NotSame(t, first, second)
	require.Equal(t, open, len(second.machine.live), "all that is open is in hand")
	second.check("a take-over")

	first.down, first.inbox = false, nil
	tick(nodes, 3*time.Second)
	require.Equal(t, second.core.Zxid(), first.core.Zxid())
	require.Equal(t, second.machine.table.Meta().Digest, first.machine.table.Meta().Digest)
	first.check("the former leader follows")
}

// A node that was away applies a log of any length in pieces.
func TestNoTurnGrowsWithTheLogThatIsApplied(t *testing.T) {
	count := 150_000
	if testing.Short() || raceEnabled {
		count = 40_000
	}
	nodes := newTurnNodes(t, 3, 0)
	leader := leaderOf(t, nodes)
	late := nodes[leader.core.Log().ID%3+1]
	late.down = true
	leader.commit(count, twoBranches[:1], func() { arrive(nodes) })
	late.down = false
	tick(nodes, 3*time.Second)
	require.Equal(t, leader.core.Zxid(), late.core.Zxid())
	require.Equal(t, count, late.machine.table.OpenCount())
	leader.check("a long log is sent")
	late.check("a long log is applied")
}

// However many old decisions wait for room, a new one is the next to be carried out.
func TestNewDecisionsAreCarriedOutBeforeOldOnes(t *testing.T) {
	l := newLone(t, "orders")
	for range 2 * MaxTasks {
		l.commit(l.newID(), txn.Branch{Resource: "orders"})
	}
	l.tick(2 * time.Second)
	old := l.take()
	require.Len(t, old, MaxTasks)
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	l.tick(2 * time.Second)
	require.Empty(t, l.take(), "there is no room")
	l.step(Finished{XID: old[0].XID, Finish: txn.Done, By: txn.FromCluster})
	l.tick(sweepInterval)
	next := l.take()
	require.Len(t, next, 1)
	require.Equal(t, id, next[0].XID.ID)
}

// A branch that was finished while a scan was under way may still be in its answer. It is not looked for: its evidence
// is gone with its transaction, so that nothing would be found but a loss.
func TestAListingThatIsOlderThanTheEndOfABranchHandsOutNothing(t *testing.T) {
	l := newLone(t, "orders")
	l.tick(6 * time.Second) // a scan is due
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	l.step(Finished{XID: l.xid(id, 0), Finish: txn.Done, By: txn.FromClient})
	l.tick(time.Second)
	require.True(t, l.get(id).Ended)
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
	l.tick(sweepInterval)
	require.Empty(t, l.take())
	l.tick(6 * time.Second) // what the next one shows has come back
	l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
	l.tick(sweepInterval)
	require.Len(t, l.take(), 1)
}
