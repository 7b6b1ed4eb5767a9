// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"fmt"
	"sort"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

const tickLength = 50 * time.Millisecond

// disk is a log in memory.
type disk struct {
	hard    zab.HardState
	base    zab.Zxid
	entries []zab.Entry
	applied zab.Zxid // of the stored state
}

func (d *disk) after(z zab.Zxid) int {
	return sort.Search(len(d.entries), func(i int) bool { return z.Less(d.entries[i].Zxid) })
}

func (d *disk) Initial() (hard zab.HardState, base, last, applied zab.Zxid) {
	last = d.base
	if n := len(d.entries); n > 0 {
		last = d.entries[n-1].Zxid
	}
	return d.hard, d.base, last, d.applied
}

func (d *disk) Floor(z zab.Zxid) (zab.Zxid, bool) {
	if i := d.after(z); i > 0 {
		return d.entries[i-1].Zxid, true
	}
	return d.base, !z.Less(d.base)
}

func (d *disk) Entries(after, upto zab.Zxid, _ int) ([]zab.Entry, error) {
	return append([]zab.Entry(nil), d.entries[d.after(after):d.after(upto)]...), nil
}

func (d *disk) write(w zab.Write) {
	if w.TruncateAfter != nil {
		d.entries = d.entries[:d.after(*w.TruncateAfter)]
	}
	d.entries = append(d.entries, w.Entries...)
	if w.Cut != nil {
		d.entries, d.base = d.entries[d.after(*w.Cut):], *w.Cut
	}
	if w.Install != nil {
		d.entries, d.base, d.applied = nil, w.Install.Zxid, w.Install.Zxid
	}
	if w.Hard != nil {
		d.hard = *w.Hard
	}
}

// node is a core that carries a register, and what a driver does for it, without waiting.
type node struct {
	id    zab.NodeID
	core  *Core // nil: it is down
	state *register
	disk  *disk
	store *register // its state on the disk, which may be behind the log
	boot  uint32
	inbox []Event
}

// world is a cluster in which everything arrives in order, and nodes crash and start when a test
// says so.
type world struct {
	t       testing.TB
	members []Member
	nodes   map[zab.NodeID]*node
	now     time.Time
	request uint64
	answers map[uint64]answer
	notes   []string // in order, by all nodes
}

func newWorld(t testing.TB, size int) *world {
	w := &world{t: t, nodes: map[zab.NodeID]*node{}, now: time.UnixMilli(1_800_000_000_000),
		answers: map[uint64]answer{}}
	for id := range zab.NodeID(size) {
		w.members = append(w.members, Member{ID: id + 1, API: fmt.Sprintf("10.0.0.%d:7420", id+1)})
	}
	for _, m := range w.members {
		w.nodes[m.ID] = &node{id: m.ID, disk: &disk{}, store: &register{}}
	}
	for _, m := range w.members {
		w.start(m.ID)
	}
	return w
}

// start makes the core of a node from its disk.
func (w *world) start(id zab.NodeID) {
	w.t.Helper()
	n := w.nodes[id]
	n.boot++
	n.state = n.store.copy()
	var err error
	n.core, err = New(Config{Node: id, Members: w.members, Boot: n.boot, NewCluster: 7}, n.disk, n.state)
	require.NoError(w.t, err)
	for _, m := range w.members {
		if other := w.nodes[m.ID]; other != n && other.core != nil {
			n.inbox = append(n.inbox, PeerMet{Node: m.ID, Cluster: other.state.Cluster()})
			other.inbox = append(other.inbox, PeerMet{Node: id, Cluster: n.state.Cluster()})
		}
	}
}

// crash takes from a node what is not on its disk.
func (w *world) crash(id zab.NodeID) {
	w.nodes[id].core, w.nodes[id].state, w.nodes[id].inbox = nil, nil, nil
	for _, m := range w.members {
		if n := w.nodes[m.ID]; n.core != nil {
			n.inbox = append(n.inbox, Peer{zab.PeerLost{Peer: id}})
		}
	}
}

// save writes the state of a node to its disk.
func (w *world) save(n *node) { n.store, n.disk.applied = n.state.copy(), n.core.Zxid() }

// pass lets time pass, and everything arrive.
func (w *world) pass(d time.Duration) {
	for range max(1, d/tickLength) {
		w.now = w.now.Add(tickLength)
		for _, m := range w.members {
			if n := w.nodes[m.ID]; n.core != nil {
				n.inbox = append(n.inbox, Tick{Now: w.now})
			}
		}
		w.settle()
	}
}

// settle has the nodes take turns until nothing is on its way.
func (w *world) settle() {
	for busy := true; busy; {
		busy = false
		for _, m := range w.members {
			if n := w.nodes[m.ID]; n.core != nil && (len(n.inbox) > 0 || n.core.More()) {
				w.turn(n)
				busy = true
			}
		}
	}
}

func (w *world) turn(n *node) {
	w.t.Helper()
	events := n.inbox
	n.inbox = nil
	fx, err := n.core.Step(events...)
	require.NoError(w.t, err)
	for _, x := range fx.Write {
		if x.Install != nil {
			n.store = n.state.stored
		}
		n.disk.write(x)
		n.inbox = append(n.inbox, Peer{zab.Persisted{Write: x.ID}})
	}
	for _, m := range fx.Send {
		if to := w.nodes[m.To]; to.core != nil {
			to.inbox = append(to.inbox, Peer{zab.Received{Message: m}})
		}
	}
	if e := fx.FetchSnapshot; e.Session != 0 {
		from := w.nodes[e.From]
		n.state.stored = from.state.copy()
		n.inbox = append(n.inbox, Peer{zab.SnapshotStaged{Session: e.Session,
			Snapshot: zab.Snapshot{Zxid: from.core.Zxid(), Ref: 1}}})
	}
	for _, r := range fx.Reply {
		w.answers[r.Request] = answer{request: r.Request, zxid: r.Zxid, err: r.Err}
	}
	for _, a := range n.state.said {
		w.answers[a.request] = a
	}
	n.state.said = nil
	for _, note := range fx.Notes {
		w.notes = append(w.notes, fmt.Sprintf("node %d: %s", n.id, note.Text))
	}
}

// ask puts a question to a node and returns its answer, if it has one at once.
func (w *world) ask(id zab.NodeID, event func(request uint64) Event) (a answer, answered bool) {
	w.request++
	n := w.nodes[id]
	n.inbox = append(n.inbox, event(w.request))
	w.settle()
	a, answered = w.answers[w.request]
	return a, answered
}

// leader waits until a node leads that is a cluster's.
func (w *world) leader() *node {
	w.t.Helper()
	for range 200 {
		for _, m := range w.members {
			if n := w.nodes[m.ID]; n.core != nil && n.core.Ready() == nil {
				require.True(w.t, n.state.leads)
				return n
			}
		}
		w.pass(tickLength)
	}
	w.t.Fatal("nobody leads")
	return nil
}

func (w *world) write(value string) {
	w.t.Helper()
	a, answered := w.ask(w.leader().id, func(r uint64) Event { return writeAsked{Request: r, Value: value} })
	require.True(w.t, answered)
	require.NoError(w.t, a.err)
}

// equal checks that all nodes that run have one state, by what they hold and by their digests.
func (w *world) equal(value string) {
	w.t.Helper()
	w.pass(time.Second)
	var first *register
	for _, m := range w.members {
		n := w.nodes[m.ID]
		if n.core == nil {
			continue
		}
		if first == nil {
			first = n.state
		}
		require.Equal(w.t, value, n.state.value, "node %d", n.id)
		require.Equal(w.t, first.Zxid(), n.state.Zxid(), "node %d", n.id)
		require.Equal(w.t, first.Digest(), n.state.Digest(), "node %d", n.id)
	}
}

// A register on the log of three: nothing of it is about transactions.
func TestARegisterSurvivesTheDeathOfEachLeader(t *testing.T) {
	w := newWorld(t, 3)
	for _, value := range []string{"a", "b", "c", "d"} {
		w.write(value)
		old := w.leader().id
		w.crash(old)
		w.leader()
		for _, m := range w.members {
			if w.nodes[m.ID].core == nil {
				continue
			}
			a, answered := w.ask(m.ID, func(r uint64) Event { return readAsked{Request: r} })
			require.True(t, answered)
			require.NoError(t, a.err)
			require.Equal(t, value, a.value)
		}
		w.start(old)
		w.equal(value)
	}
}

// What the disk has of the state may be older than the log, which is folded again from there.
func TestARegisterIsFoldedAgainFromWhatItsStoreHas(t *testing.T) {
	w := newWorld(t, 1)
	w.write("a")
	w.save(w.nodes[1])
	w.write("b")
	w.write("c")
	digest, at := w.nodes[1].state.Digest(), w.nodes[1].core.Zxid()
	w.crash(1)
	w.start(1)
	require.Equal(t, "a", w.nodes[1].state.value)
	w.leader()
	require.Equal(t, "c", w.nodes[1].state.value)
	require.Equal(t, at, w.nodes[1].core.Zxid())
	require.Equal(t, digest, w.nodes[1].state.Digest())
}

func TestARegisterComesBackBySnapshot(t *testing.T) {
	w := newWorld(t, 3)
	w.write("a")
	away := w.leader().id%3 + 1
	w.crash(away)
	for _, value := range []string{"b", "c", "d"} {
		w.write(value)
	}
	n := w.leader()
	w.save(n)
	n.inbox = append(n.inbox, Peer{zab.Compact{Upto: n.core.Zxid(), Must: n.core.Zxid()}})
	w.settle()
	require.Equal(t, n.core.Zxid(), n.disk.base)
	w.start(away)
	w.equal("d")
	require.Equal(t, n.disk.base, w.nodes[away].disk.base, "its log begins where the leader's does")
	w.crash(away)
	w.start(away)
	require.Equal(t, "d", w.nodes[away].state.value, "it is in its store")
	w.write("e")
	w.equal("e")
}

// A leader that loses its followers answers nobody with what it takes for the present, and who
// waits for a record hears that it leads no more.
func TestWhoWaitsHearsThatALeaderIsOneNoMore(t *testing.T) {
	w := newWorld(t, 3)
	w.write("a")
	n := w.leader()
	for _, m := range w.members {
		if m.ID != n.id {
			w.crash(m.ID)
		}
	}
	_, answered := w.ask(n.id, func(r uint64) Event { return writeAsked{Request: r, Value: "b"} })
	require.False(t, answered)
	write := w.request
	_, answered = w.ask(n.id, func(r uint64) Event { return readAsked{Request: r} })
	require.False(t, answered)
	read := w.request
	w.pass(5 * time.Second)
	require.False(t, n.state.leads)
	require.Error(t, w.answers[read].err)
	var hears *txn.NotLeaderError
	require.ErrorAs(t, w.answers[write].err, &hears)
	require.False(t, hears.Untouched, "the next leader may find it in the log")
	later, answered := w.ask(n.id, func(r uint64) Event { return writeAsked{Request: r, Value: "c"} })
	require.True(t, answered)
	require.ErrorAs(t, later.err, &hears)
	require.True(t, hears.Untouched)
}

// Two voters that fold something else than the third are a majority against it.
func TestARegisterThatDiffersFromTheMajorityStops(t *testing.T) {
	w := newWorld(t, 3)
	w.write("a")
	w.equal("a")
	n := w.leader()
	for _, m := range w.members {
		if m.ID != n.id {
			n.inbox = append(n.inbox, StateSeen{Node: m.ID, At: n.core.Zxid(), Digest: txn.Digest{1}})
		}
	}
	w.settle()
	require.True(t, n.core.Stopped())
	require.False(t, n.state.leads)
	for _, ask := range []func(uint64) Event{
		func(r uint64) Event { return writeAsked{Request: r} }, func(r uint64) Event { return readAsked{Request: r} },
	} {
		a, answered := w.ask(n.id, ask)
		require.True(t, answered)
		require.ErrorContains(t, a.err, "no majority can agree with it")
	}
	w.leader()
	w.write("b")
}
