// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"bytes"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ghost knows everything that ever happened in a cluster, and says when it cannot have
// been right. The names S1 to S15, L4 and L5 stand for: one leader per epoch (S1), one proposal
// per zxid (S2), log matching (S3), total order (S5), leader completeness (S6), evidence of
// epochs (S7), quorum durability (S8), committed entries stay (S9), sound acks (S10),
// observers hold only committed entries (S14), read index (S15), no word for an epoch older
// than a promise (L4), nothing said that is not durable (L5).
type ghost struct {
	c       *cluster
	entries map[Zxid]Entry
	leaders map[Epoch]NodeID
	global  []Entry        // the committed sequence
	by      []Epoch        // epoch of the leader that committed it
	place   map[Zxid]int   // position in global, from 1
	atAsk   map[asking]int // committed when a read was asked for
	served  int            // reads that were answered
	// cuts of logs and snapshots that were installed
	cuts, snapshots int
	errs            []string
}

type asking struct {
	host NodeID
	id   uint64
}

func watch(c *cluster) *ghost {
	g := &ghost{
		c: c, entries: map[Zxid]Entry{}, leaders: map[Epoch]NodeID{},
		place: map[Zxid]int{{}: 0}, atAsk: map[asking]int{},
	}
	c.observe = g.effect
	return g
}

func (g *ghost) fail(format string, args ...any) {
	g.errs = append(g.errs, fmt.Sprintf(format, args...))
}

func (g *ghost) last() Zxid {
	if len(g.global) == 0 {
		return Zxid{}
	}
	return g.global[len(g.global)-1].Zxid
}

// holds reports whether z, which is committed if it is not after the base, is in the log
// or in what the log was cut to.
func (d *disk) holds(z Zxid) bool {
	f, ok := d.Floor(z)
	return !ok || f == z
}

func (g *ghost) effect(h *host, e Effect) {
	id := h.cfg.ID
	switch e := e.(type) {
	case Accepted:
		if old, ok := g.leaders[e.Zxid.Epoch]; !ok || old != id {
			g.fail("S2: node %d proposed %s of the epoch of node %d", id, e.Zxid, old)
		}
	case Write:
		g.write(h, e)
	case Deliver:
		g.delivered(h, e)
	case RoleChanged:
		if e.Role == Leading && e.Phase == Synchronization {
			if old, ok := g.leaders[e.Epoch]; ok && old != id {
				g.fail("S1: nodes %d and %d both lead epoch %d", old, id, e.Epoch)
			}
			g.leaders[e.Epoch] = id
			if !h.core.contains(g.last()) && h.core.base.Less(g.last()) {
				g.fail("S6: node %d leads epoch %d without %s, it ends at %s", id, e.Epoch, g.last(), h.core.tail())
			}
		}
	case ReadReady:
		k := asking{id, e.ID}
		if at, ok := g.atAsk[k]; !ok || g.place[e.Index] < at || h.core.applied.Less(e.Index) {
			g.fail("S15: node %d read %d at %s, %d were committed before, applied %s", id, e.ID, e.Index, at,
				h.core.applied)
		}
		delete(g.atAsk, k)
		g.served++
	case ReadFailed:
		delete(g.atAsk, asking{id, e.ID})
	case Send:
		g.sent(h, e.Message)
	case Restored:
		if h.disk.applied != e.Snapshot.Zxid || h.disk.base != e.Snapshot.Zxid {
			g.fail("L6: node %d begins anew from %s, its disk has base %s and applied %s", id, e.Snapshot.Zxid,
				h.disk.base, h.disk.applied)
		}
		g.snapshots++
	}
}

func (g *ghost) write(h *host, w Write) {
	if w.Cut != nil {
		g.cuts++
		if g.place[*w.Cut] == 0 || h.disk.applied.Less(*w.Cut) {
			g.fail("S9: node %d cuts at %s, applied %s, committed %s", h.cfg.ID, *w.Cut, h.disk.applied, g.last())
		}
	}
	if w.Install != nil {
		if z := w.Install.Zxid; g.place[z] == 0 || !h.disk.last().Less(z) {
			g.fail("S9: node %d installs a snapshot of %s over a log to %s, committed %s", h.cfg.ID, z, h.disk.last(),
				g.last())
		}
	}
	if w.TruncateAfter != nil {
		for _, e := range h.disk.log[h.disk.after(*w.TruncateAfter):] {
			if g.place[e.Zxid] > 0 {
				g.fail("S9: node %d truncates %s, which is committed", h.cfg.ID, e.Zxid)
			}
		}
	}
	for _, e := range w.Entries {
		old, ok := g.entries[e.Zxid]
		if ok && (old.Prev != e.Prev || !bytes.Equal(old.Data, e.Data)) {
			g.fail("S3: node %d has %s after %s %q, another has it after %s %q", h.cfg.ID, e.Zxid, e.Prev, e.Data,
				old.Prev, old.Data)
		}
		g.entries[e.Zxid] = e
		if g.place[e.Zxid] == 0 && h.core.observer() {
			g.fail("S14: observer %d has %s, which is not committed", h.cfg.ID, e.Zxid)
		}
	}
}

func (g *ghost) delivered(h *host, d Deliver) {
	g.look(h) // a leader may commit and deliver in one step
	pos := g.place[h.from] + len(h.machine) - len(d.Entries)
	for i, e := range d.Entries {
		if pos+i >= len(g.global) || g.global[pos+i].Zxid != e.Zxid || !bytes.Equal(g.global[pos+i].Data, e.Data) {
			g.fail("S5: node %d delivers %s at position %d", h.cfg.ID, e.Zxid, pos+i)
		}
		if !h.disk.holds(e.Zxid) {
			g.fail("L5: node %d delivers %s, which is not durable there", h.cfg.ID, e.Zxid)
		}
	}
}

func (g *ghost) sent(h *host, m Message) {
	promised := h.disk.hard.Accepted
	must := func(ok bool, rule string) {
		if !ok {
			g.fail("%s: node %d sends %T%+v for epoch %d; durable: %+v last %s", rule, h.cfg.ID, m.Body, m.Body,
				m.Epoch, h.disk.hard, h.disk.last())
		}
	}
	switch b := m.Body.(type) {
	case LeaderInfo:
		must(promised >= m.Epoch, "L5")
	case AckEpoch:
		must(promised == m.Epoch, "L4/L5")
		must(h.disk.last() == b.Last && h.disk.hard.Current == b.Current, "L5")
	case AckNewLeader:
		must(promised == m.Epoch && h.disk.hard.Current == m.Epoch && h.disk.holds(b.End), "S10")
	case Ack:
		must(promised == m.Epoch && h.disk.holds(b.Upto), "S10")
	case Pong:
		must(promised == m.Epoch, "L4")
	}
}

// look compares what is there after an event.
func (g *ghost) look(h *host) {
	if h.core != nil && h.core.lead != nil && h.core.established {
		g.extend(h)
	}
}

// extend appends to the committed sequence what a leader has committed.
func (g *ghost) extend(h *host) {
	n := h.core
	if !g.last().Less(n.commit) {
		return
	}
	if !n.contains(g.last()) {
		g.fail("S6: leader %d commits %s without having %s", h.cfg.ID, n.commit, g.last())
		return
	}
	for after := g.last(); after.Less(n.commit); {
		for _, e := range n.entries(after, n.commit, 1<<30) {
			g.global = append(g.global, e)
			g.by = append(g.by, n.lead.epoch)
			g.place[e.Zxid] = len(g.global)
			after = e.Zxid
			g.durable(e.Zxid)
		}
	}
	for _, o := range g.c.hosts {
		if o.core != nil && o.core.lead != nil && o.core.lead.closed && o.core.lead.epoch > n.lead.epoch &&
			!o.core.contains(n.commit) {
			g.fail("S6: leader %d of epoch %d lacks %s, committed in epoch %d", o.cfg.ID, o.core.lead.epoch, n.commit,
				n.lead.epoch)
		}
	}
}

// durable is S8: what is committed is durable at a quorum of the members as of its position, or,
// if its leader found a change in its log that it did not know to be committed, of those before.
func (g *ghost) durable(z Zxid) {
	sets := []Set{{Members: g.c.hosts[0].cfg.Members}}
	for _, e := range g.global[:g.place[z]-1] {
		if members, ok := changeOfTests(e.Data); ok {
			sets = append(sets, Set{At: e.Zxid, Members: members})
		}
	}
	var have int
	for _, s := range sets[max(0, len(sets)-2):] {
		have = 0
		for _, m := range s.Members {
			if !m.Observer && g.c.hosts[m.ID-1].disk.holds(z) {
				have++
			}
		}
		if have >= majority(countVoters(s.Members)) {
			return
		}
	}
	g.fail("S8: %s is committed, but durable at %d voters", z, have)
}

// survey checks what costs more.
func (g *ghost) survey() {
	for _, h := range g.c.hosts {
		must := Zxid{}
		for i, by := range g.by {
			if by < h.disk.hard.Current {
				must = g.global[i].Zxid
			}
		}
		if !h.disk.holds(must) {
			g.fail("S7: node %d has current epoch %d without %s, it ends at %s", h.cfg.ID, h.disk.hard.Current, must,
				h.disk.last())
		}
	}
	if len(g.global) > 0 {
		g.durable(g.last())
	}
}

// explorer drives a cluster at random.
type explorer struct {
	*cluster
	g     *ghost
	r     *rand.Rand
	spare []wireMessage // messages that may arrive once more
	calm  int           // one of so many troubles really happens
	// ackEarly plants a bug in the driver: it says Persisted before the disk is asked.
	ackEarly bool
}

type wireMessage struct {
	from, to int
	bytes    []byte
}

func (x *explorer) event() {
	h := x.hosts[x.r.Intn(len(x.hosts))]
	i, j := int(h.cfg.ID)-1, x.r.Intn(len(x.hosts))
	switch p := x.r.Intn(1000); {
	case p < 600:
		for range 1 + x.r.Intn(4) {
			x.hand(j, i)
		}
	case p < 800:
		x.persistSome(h)
	case p < 850:
		x.apply(h)
	case p < 860:
		x.step(h, Tick{})
	case p < 870:
		x.compact(h)
	case p < 880:
		x.transfer(h)
	case p < 950:
		x.ask(h)
	case p < 996 && x.r.Intn(x.calm) > 0:
	case p < 965:
		x.connectionLost(i, j)
	case p < 975 && len(x.spare) > 0:
		m := x.spare[x.r.Intn(len(x.spare))]
		x.wires[m.from][m.to] = append(x.wires[m.from][m.to], m.bytes)
	case p < 978:
		x.cut[i][j] = x.r.Intn(3) == 0
	case p < 980:
		x.isolate(i, x.r.Intn(2) == 0)
	case p < 984 && h.core != nil:
		x.crash(h)
	case p < 1000 && h.core == nil:
		x.restart(h)
	}
	x.g.look(h)
}

func (x *explorer) hand(from, to int) {
	wire := x.wires[from][to]
	if len(wire) == 0 {
		return
	}
	switch x.r.Intn(60 * x.calm) {
	case 0:
		x.spare = append(x.spare, wireMessage{from, to, wire[0]})
	case 1:
		x.wires[from][to] = wire[1:] // lost without notice
		return
	}
	if len(x.spare) > 50 {
		x.spare = x.spare[25:]
	}
	x.deliver(from, to)
}

func (x *explorer) persistSome(h *host) {
	if len(h.writes) == 0 {
		return
	}
	k := 1 + x.r.Intn(len(h.writes))
	if x.ackEarly {
		x.step(h, Persisted{h.writes[k-1].ID})
	}
	x.persist(h, k)
}

// connectionLost drops the end of a wire, and tells both sides, or only one.
func (x *explorer) connectionLost(i, j int) {
	if i == j {
		return
	}
	wire := x.wires[i][j]
	x.wires[i][j] = wire[:x.r.Intn(len(wire)+1)]
	x.step(x.hosts[j], PeerLost{NodeID(i + 1)})
	if x.r.Intn(2) == 0 {
		x.step(x.hosts[i], PeerLost{NodeID(j + 1)})
	}
}

// isolate cuts a node off from all others, or joins it again. Nobody is told.
func (x *explorer) isolate(i int, cut bool) {
	for j := range x.hosts {
		x.cut[i][j], x.cut[j][i] = cut, cut
	}
}

// compact offers to cut a log somewhere in what is applied, now and then without mercy.
func (x *explorer) compact(h *host) {
	at := func() Zxid {
		if n := h.disk.after(h.disk.applied); n > 0 {
			return h.disk.log[x.r.Intn(n)].Zxid
		}
		return Zxid{}
	}
	if h.core == nil {
		return
	}
	ev := Compact{Upto: at()}
	if x.r.Intn(4) == 0 {
		ev.Must = at()
	}
	x.step(h, ev)
}

// transfer moves the snapshot that a host waits for, breaks it off, or brings a wrong one.
func (x *explorer) transfer(h *host) {
	switch {
	case h.fetch != nil && x.r.Intn(8) == 0:
		h.fetch.taken = &Snapshot{Zxid: h.disk.base}
		if n := h.disk.after(h.disk.last()); n > 0 {
			h.fetch.taken.Zxid = h.disk.log[x.r.Intn(n)].Zxid
		}
		x.stage(h)
	case x.r.Intn(4*x.calm) == 0:
		x.failFetch(h, "broken off")
	case !x.take(h):
		x.stage(h)
	}
}

func (x *explorer) ask(h *host) {
	if h.core == nil {
		return
	}
	h.asked++
	if x.r.Intn(3) == 0 {
		x.g.atAsk[asking{h.cfg.ID, h.asked}] = len(x.g.global)
		x.step(h, ReadAsked{h.asked})
		return
	}
	x.step(h, Proposed{ID: h.asked, Data: fmt.Appendf(nil, "%d/%d", h.cfg.ID, h.asked)})
}

// restart loses some applied state too: it is not synced.
func (x *explorer) restart(h *host) {
	if n := h.disk.after(h.disk.applied); n > 0 && x.r.Intn(2) == 0 {
		if back := x.r.Intn(n + 1); back > 0 {
			h.disk.applied = h.disk.log[back-1].Zxid
		} else {
			h.disk.applied = h.disk.base
		}
	}
	if err := x.start(h); err != nil {
		x.g.fail("node %d does not start: %v", h.cfg.ID, err)
	}
}

// heal ends all trouble and demands that the cluster comes together.
func (x *explorer) heal() {
	for i, h := range x.hosts {
		clear(x.cut[i])
		if h.core == nil {
			x.restart(h)
		}
	}
	for range 600 {
		for _, h := range x.hosts {
			x.step(h, Tick{})
			x.g.look(h)
		}
		rounds := 0
		for busy := true; busy; rounds++ {
			if rounds > 1000 {
				x.g.fail("V5: messages go round and round: %s", x.talk())
				return
			}
			busy = false
			for i, h := range x.hosts {
				for x.persist(h, 1) || x.apply(h) || x.take(h) || x.stage(h) {
					busy = true
					x.g.look(h)
				}
				for j := range x.hosts {
					if x.deliver(j, i) {
						busy = true
						x.g.look(h)
					}
				}
			}
		}
	}
	leader := x.leader()
	if leader == nil {
		x.g.fail("V1: no leader although all is well again")
		return
	}
	x.propose(leader, "at last")
	x.g.look(leader)
	for range 5 {
		x.run(1)
		x.g.look(leader)
	}
	for _, h := range x.hosts {
		if h.core.applied != leader.core.commit || h.core.commit != leader.core.tail() {
			x.g.fail("V2: %s, but the leader is %s", h.core, leader.core)
		}
	}
}

// talk prints the nodes and the first message of each wire.
func (x *explorer) talk() string {
	var b strings.Builder
	for i, h := range x.hosts {
		fmt.Fprintf(&b, "\n%s", h.core)
		for j, wire := range x.wires[i] {
			if len(wire) > 0 {
				m, _ := DecodeMessage(wire[0])
				fmt.Fprintf(&b, "\n  to n%d: %d, first %T%+v epoch %d session %x", j+1, len(wire), m.Body, m.Body,
					m.Epoch, m.Session)
			}
		}
	}
	return b.String()
}

func explore(seed int64, events int, ackEarly bool) *explorer {
	r := rand.New(rand.NewSource(seed))
	c := newCluster(2+r.Intn(4), r.Intn(2), func(c *Config) {
		c.MaxBatchBytes, c.WindowBytes, c.MaxUncommittedBytes = 100, 400, 3000
		c.SyncTicks, c.InitTicks = 10, 30
	})
	x := &explorer{cluster: c, g: watch(c), r: r, ackEarly: ackEarly, calm: 1 << (2 * r.Intn(5))}
	for _, h := range c.hosts {
		x.restart(h)
	}
	for i := range events {
		x.event()
		if i%50 == 0 {
			x.g.survey()
		}
		if len(x.g.errs) > 0 {
			return x
		}
	}
	x.heal()
	x.g.survey()
	return x
}

func TestRandomHistoriesKeepTheInvariants(t *testing.T) {
	seeds := int64(500)
	if testing.Short() {
		seeds = 30
	}
	committed, reads, cuts, snapshots := 0, 0, 0, 0
	for seed := range seeds {
		x := explore(seed, 4000, false)
		require.Empty(t, x.g.errs, "seed %d", seed)
		committed += len(x.g.global)
		reads += x.g.served
		cuts += x.g.cuts
		snapshots += x.g.snapshots
	}
	t.Logf("%d seeds, %d entries committed, %d reads served, %d cuts, %d snapshots installed", seeds, committed, reads,
		cuts, snapshots)
	require.Greater(t, cuts, int(seeds))
	require.Positive(t, snapshots)
	require.Greater(t, committed, int(seeds)*5, "the exploration hardly does anything")
	require.Greater(t, reads, int(seeds)*2)
}

func TestRandomHistoriesFindAnAckBeforeTheDisk(t *testing.T) {
	for seed := range int64(20) {
		if x := explore(seed, 4000, true); len(x.g.errs) > 0 {
			return
		}
	}
	require.Fail(t, "a driver that says Persisted too early was not noticed")
}
