// SPDX-License-Identifier: Apache-2.0

package zabworld

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sort"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol/zab"
)

// host is one node of the cluster: a core and its driver in miniature, with a disk. It is never
// changed: an event makes another one. It is the Storage of its core.
type host struct {
	id    int // place in the cluster
	core  *zab.Node
	hard  zab.HardState // hard, log, applied and boot survive a crash
	log   []zab.Entry
	boot  uint32
	asked uint64      // proposals
	drawn uint64      // elections by the oracle, of it or of whom it follows
	queue []zab.Write // handed over, not durable
	// The state machine applies at once what is delivered.
	applied zab.Zxid
	place   int // entries before applied
	view    view
}

const maxLog = 8

// view is what others look at.
type view struct {
	up          bool
	role        zab.Role
	phase       zab.Phase
	established bool
	leader      zab.NodeID
	epoch       zab.Epoch
	current     zab.Epoch // durable
	writes      int       // under way
	set         uint8     // the entry that made the members that are in force; 0: none
	durable     chain
	handed      chain // the log when all writes are durable
	committed   uint8 // so many of handed
}

// chain is a log by numbers of entries.
type chain struct {
	entries [maxLog]uint8
	n       uint8
}

func (c *chain) push(e uint8) {
	c.entries[c.n] = e
	c.n++
}

func (c *chain) holds(e uint8) bool { return slices.Contains(c.entries[:c.n], e) }

func (h *host) last() zab.Zxid {
	if len(h.log) == 0 {
		return zab.Zxid{}
	}
	return h.log[len(h.log)-1].Zxid
}

// Initial says what survived.
func (h *host) Initial() (hard zab.HardState, base, last, applied zab.Zxid) {
	return h.hard, zab.Zxid{}, h.last(), h.applied
}

func (h *host) after(z zab.Zxid) int {
	return sort.Search(len(h.log), func(i int) bool { return z.Less(h.log[i].Zxid) })
}

// Floor finds the last entry up to z.
func (h *host) Floor(z zab.Zxid) (zab.Zxid, bool) {
	if i := h.after(z); i > 0 {
		return h.log[i-1].Zxid, true
	}
	return zab.Zxid{}, true
}

// Entries reads the durable log.
func (h *host) Entries(after, upto zab.Zxid, _ int) ([]zab.Entry, error) {
	return slices.Clone(h.log[h.after(after):h.after(upto)]), nil
}

func (h *host) holds(z zab.Zxid) bool {
	f, _ := h.Floor(z)
	return f == z
}

// write makes one batch durable.
func (h *host) write(w zab.Write) {
	log := h.log
	if w.TruncateAfter != nil {
		log = log[:h.after(*w.TruncateAfter)]
	}
	h.log = append(slices.Clone(log), w.Entries...)
	if w.Hard != nil {
		h.hard = *w.Hard
	}
}

// clone makes a host that can be changed.
func (h *host) clone() *host {
	c := *h
	c.queue = slices.Clone(h.queue)
	if h.core != nil {
		c.core = h.core.Clone(&c)
	}
	return &c
}

// fingerprint covers everything that decides what the host does.
func (h *host) fingerprint() uint64 {
	f := fnv.New64a()
	fmt.Fprintf(f, "%d %+v %v %d %d %d %v %d\n", h.id, h.hard, h.log, h.boot, h.asked, h.drawn, h.applied, h.place)
	for _, w := range h.queue {
		fmt.Fprintf(f, "%d %v", w.ID, w.Entries)
		if w.TruncateAfter != nil {
			fmt.Fprintf(f, " after %v", *w.TruncateAfter)
		}
		if w.Hard != nil {
			fmt.Fprintf(f, " %+v", *w.Hard)
		}
	}
	if h.core == nil {
		return explore.Mix(f.Sum64(), 0)
	}
	return explore.Mix(f.Sum64(), h.core.Fingerprint())
}

// What happens to a host: a kind, and what it is about.
const (
	receives explore.Move = iota << 24 // message
	loses                              // the connection to a host
	persists                           // so many writes
	proposes
	leads   // the oracle elects it
	follows // and it, led by a host
	ticks   // so often
	crashes // so many writes survive
	starts  // 1: without the applied state
	toggles // a host comes or goes
	learns  // the members that an entry made
	yields  // leadership to a host

	aboutMask explore.Move = 1<<24 - 1
)

// outcome is what a host does with an event.
type outcome struct {
	next  hostID
	sends []sent
	seen  []sight
	bad   uint16
}

type sent struct {
	to      int
	message uint16
}

// sight is something that is checked against what the others did.
type sight struct {
	kind  sightKind
	about uint8 // entry or epoch
	place uint8
}

type sightKind uint8

const (
	sawLeader   sightKind = iota // of an epoch
	sawProposal                  // of an entry
	sawAppend
	sawCut // of an entry
	sawDelivery
)

// hostID numbers the states of hosts.
type hostID uint32

// react finds out what a host does with an event: the first time by doing it.
func (w *cluster) react(id hostID, m explore.Move) *outcome {
	key := uint64(id)<<32 | uint64(m)
	if o, ok := w.outcomes[key]; ok {
		return o
	}
	o := w.act(w.hosts[id], m)
	w.outcomes[key] = o
	return o
}

// act lets an event happen at a copy of a host.
func (w *cluster) act(h *host, m explore.Move) (o *outcome) {
	h = h.clone()
	a := &actor{host: h, world: w, out: &outcome{}}
	defer func() {
		if p := recover(); p != nil {
			a.fail("PANIC: %v", p)
			o = a.out
			o.next = w.downs[h.id] // nothing goes on behind a mistake
		}
	}()
	a.happen(m)
	h.look(w)
	a.mustBeOrdered()
	a.out.next = w.number(h)
	return a.out
}

// actor is a host that something happens to.
type actor struct {
	*host
	world *cluster
	out   *outcome
}

func (a *actor) happen(m explore.Move) {
	about := int(m & aboutMask)
	switch m &^ aboutMask {
	case receives:
		message, err := zab.DecodeMessage([]byte(a.world.messages[about]))
		if err != nil {
			panic(fmt.Sprintf("a message of our own: %v", err))
		}
		a.step(zab.Received{Message: message})
	case loses:
		a.step(zab.PeerLost{Peer: zab.NodeID(about + 1)})
	case persists:
		a.persist(about)
	case proposes:
		a.asked++
		a.step(zab.Proposed{ID: a.asked, Data: []byte{'a' + byte(about)}})
	case toggles:
		a.asked++
		a.step(zab.Proposed{ID: a.asked, Data: a.toggled(about)})
	case learns:
		e := a.world.entries[about]
		members, _ := change(e.Data)
		a.step(zab.Learned{Set: zab.Set{At: e.Zxid, Members: members}})
	case yields:
		a.step(zab.Transfer{To: zab.NodeID(about + 1)})
	case leads:
		a.drawn++
		for j := range nodes {
			if j != a.id {
				a.forge(j, zab.Looking, a.id)
			}
		}
	case follows:
		a.drawn++
		a.forge(about, zab.Leading, about)
	case ticks:
		for range about {
			a.step(zab.Tick{})
		}
	case crashes:
		a.crash(about)
	case starts:
		a.start(about == 1)
	}
}

// toggled is the change that lets a host come or go.
func (a *actor) toggled(other int) []byte {
	data := []byte(changeMark)
	for i := range nodes {
		votes := slices.Contains(a.core.Status().Set.Members, zab.Member{ID: zab.NodeID(i + 1)})
		if votes != (i == other) {
			data = append(data, '1'+byte(i))
		}
	}
	return data
}

// forge makes a ballot: elections are hints, so anybody may be elected at any time. Its round
// is far above any that the node can have got to by itself.
func (a *actor) forge(from int, state zab.Role, leader int) {
	a.step(zab.Received{Message: zab.Message{
		From: zab.NodeID(from + 1), To: zab.NodeID(a.id + 1),
		Body: zab.Ballot{Seq: a.drawn << 40, Round: a.drawn << 40, State: state,
			Vote: zab.Vote{Leader: zab.NodeID(leader + 1)}},
	}})
}

func (a *actor) persist(k int) {
	for _, w := range a.queue[:k] {
		a.write(w)
	}
	id := a.queue[k-1].ID
	a.queue = a.queue[k:]
	a.step(zab.Persisted{Write: id})
}

// crash loses what was not written, which is all but the first k writes: they got as far as
// the disk, though nobody was told.
func (a *actor) crash(k int) {
	for _, w := range a.queue[:k] {
		a.write(w)
	}
	a.queue, a.core, a.asked, a.drawn = nil, nil, 0, 0
	if a.world.mistake == forgetPromises {
		a.hard.Accepted, a.hard.AcceptedFrom = a.hard.Current, 0
	}
}

func (a *actor) start(anew bool) {
	if anew {
		a.applied, a.place = zab.Zxid{}, 0
	}
	a.boot++
	core, err := zab.New(a.world.config(a.host), a.host)
	if err != nil {
		a.fail("L6: node %d does not start: %v", a.id+1, err)
		return
	}
	a.core = core
}

func (a *actor) step(e zab.Event) {
	var written, delivered uint64
	var applied zab.Zxid
	for _, f := range a.core.Step(e) {
		switch f := f.(type) {
		case zab.Send:
			a.send(f.Message)
		case zab.Write:
			a.handOver(f)
			if len(f.Entries) > 0 {
				written = f.ID
			}
		case zab.Deliver:
			for _, entry := range f.Entries {
				a.deliver(entry)
				applied = entry.Zxid
				delivered++
			}
		case zab.Accepted:
			a.see(sawProposal, a.world.entryNamed(f.Zxid, a.queue), 0)
		case zab.RoleChanged:
			if f.Role == zab.Leading && f.Phase == zab.Synchronization {
				a.see(sawLeader, uint8(f.Epoch), 0)
			}
		}
	}
	if delivered > 0 {
		a.step(zab.Applied{Upto: applied})
	}
	if written > 0 && a.world.mistake == ackBeforeDurable {
		a.step(zab.Persisted{Write: written})
	}
}

func (a *actor) handOver(w zab.Write) {
	if w.TruncateAfter != nil {
		for _, e := range a.log[a.after(*w.TruncateAfter):] {
			a.see(sawCut, a.world.entry(e), 0)
		}
	}
	for _, e := range w.Entries {
		a.see(sawAppend, a.world.entry(e), 0)
		if a.world.mistake == applyBeforeCommit {
			a.deliver(e)
		}
	}
	a.queue = append(a.queue, w)
}

func (a *actor) deliver(e zab.Entry) {
	if a.applied != e.Prev {
		return // only a driver with a mistake gets here
	}
	if !a.holds(e.Zxid) {
		a.fail("L5: node %d applies %s, which is not durable there", a.id+1, e.Zxid)
	}
	a.see(sawDelivery, a.world.entry(e), uint8(a.place))
	a.applied = e.Zxid
	a.place++
}

// send checks that what is said is durable (L5, S10), and not for an epoch older than a promise
// (L4). Ballots are left out: the oracle's take their place.
func (a *actor) send(m zab.Message) {
	must := func(ok bool, rule string) {
		if !ok {
			a.fail("%s: node %d sends %T%+v for epoch %d; durable: %+v, last %s", rule, a.id+1, m.Body, m.Body, m.Epoch,
				a.hard, a.last())
		}
	}
	switch b := m.Body.(type) {
	case zab.Ballot:
		return
	case zab.LeaderInfo:
		must(a.hard.Accepted >= m.Epoch, "L5")
	case zab.AckEpoch:
		must(a.hard.Accepted == m.Epoch, "L4")
		must(a.last() == b.Last && a.hard.Current == b.Current, "L5")
	case zab.AckNewLeader:
		must(a.hard.Accepted == m.Epoch && a.hard.Current == m.Epoch && a.holds(b.End), "S10")
	case zab.Ack:
		must(a.hard.Accepted == m.Epoch && a.holds(b.Upto), "S10")
	case zab.Pong:
		must(a.hard.Accepted == m.Epoch, "L4")
	}
	a.out.sends = append(a.out.sends, sent{int(m.To) - 1, a.world.message(m)})
}

func (a *actor) see(kind sightKind, about, place uint8) {
	a.out.seen = append(a.out.seen, sight{kind, about, place})
}

func (a *actor) fail(format string, args ...any) {
	if a.out.bad == 0 {
		a.out.bad = a.world.breach(format, args...)
	}
}

// mustBeOrdered checks what holds at every node by itself.
func (a *actor) mustBeOrdered() {
	if a.hard.Accepted < a.hard.Current {
		a.fail("L1: node %d has current epoch above accepted: %+v", a.id+1, a.hard)
	}
	prev := zab.Zxid{}
	for _, e := range a.log {
		next := zab.Zxid{Epoch: e.Zxid.Epoch, Counter: 1}
		if e.Zxid.Epoch == prev.Epoch {
			next.Counter = prev.Counter + 1
		}
		if e.Prev != prev || !prev.Less(e.Zxid) || e.Zxid != next {
			a.fail("L2: node %d has %s after %s, before it stands %s", a.id+1, e.Zxid, e.Prev, prev)
		}
		prev = e.Zxid
	}
	if a.core == nil {
		return
	}
	if s := a.core.Status(); s.Commit.Less(s.Applied) || s.Stable.Less(s.Applied) || s.Tail.Less(s.Commit) ||
		s.Tail.Less(s.Stable) || s.Applied.Less(s.Base) {
		a.fail("L3: %s", a.core)
	}
}

// look makes the view.
func (h *host) look(w *cluster) {
	h.view = view{current: h.hard.Current, writes: len(h.queue)}
	v := &h.view
	for _, e := range h.log {
		v.durable.push(w.entry(e))
	}
	v.handed = v.durable
	for _, write := range h.queue {
		if z := write.TruncateAfter; z != nil {
			for v.handed.n > 0 && z.Less(w.entries[v.handed.entries[v.handed.n-1]].Zxid) {
				v.handed.n--
				v.handed.entries[v.handed.n] = 0
			}
		}
		for _, e := range write.Entries {
			v.handed.push(w.entry(e))
		}
	}
	if h.core == nil {
		return
	}
	s := h.core.Status()
	if !s.Set.At.IsZero() {
		v.set = w.changeTo(s.Set)
	}
	v.up, v.role, v.phase, v.established, v.leader, v.epoch = true, s.Role, s.Phase, s.Established, s.Leader, s.Epoch
	for v.committed < v.handed.n && !s.Commit.Less(w.entries[v.handed.entries[v.committed]].Zxid) {
		v.committed++
	}
}
