// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// disk is what survives a crash of a host. It is the Storage of its core.
type disk struct {
	hard    HardState
	base    Zxid
	log     []Entry
	applied Zxid
	set     Set // as of the base; zero: none yet
	boot    uint32
}

// changeOfTests takes "voters=123" for a change, and "voters=123 observers=4".
func changeOfTests(data []byte) (members []Member, ok bool) {
	text, ok := strings.CutPrefix(string(data), "voters=")
	if !ok {
		return nil, false
	}
	voters, observers, _ := strings.Cut(text, " observers=")
	for _, d := range voters {
		members = append(members, Member{ID: NodeID(d - '0')})
	}
	for _, d := range observers {
		members = append(members, Member{ID: NodeID(d - '0'), Observer: true})
	}
	return members, ok
}

func (d *disk) last() Zxid {
	if len(d.log) == 0 {
		return d.base
	}
	return d.log[len(d.log)-1].Zxid
}

func (d *disk) Initial() (HardState, Zxid, Zxid, Zxid) { return d.hard, d.base, d.last(), d.applied }

func (d *disk) after(z Zxid) int {
	return sort.Search(len(d.log), func(i int) bool { return z.Less(d.log[i].Zxid) })
}

func (d *disk) Floor(z Zxid) (Zxid, bool) {
	if z.Less(d.base) {
		return Zxid{}, false
	}
	if i := d.after(z); i > 0 {
		return d.log[i-1].Zxid, true
	}
	return d.base, true
}

func (d *disk) Entries(after, upto Zxid, maxBytes int) ([]Entry, error) {
	var out []Entry
	size := 0
	for _, e := range d.log[d.after(after):d.after(upto)] {
		out = append(out, e)
		if size += len(e.Data); size > maxBytes {
			break
		}
	}
	return out, nil
}

// members are those of the applied state.
func (d *disk) members() Set {
	for _, e := range slices.Backward(d.log[:d.after(d.applied)]) {
		if members, ok := changeOfTests(e.Data); ok {
			return Set{At: e.Zxid, Members: members}
		}
	}
	return d.set
}

func (d *disk) do(w Write) {
	if w.TruncateAfter != nil {
		i := d.after(*w.TruncateAfter)
		d.log = d.log[:i:i]
	}
	d.log = append(d.log, w.Entries...)
	if w.Cut != nil {
		d.set = d.members()
		if d.applied.Less(*w.Cut) {
			panic(fmt.Sprintf("cut at %s, but only %s is applied", *w.Cut, d.applied))
		}
		d.log = append([]Entry(nil), d.log[d.after(*w.Cut):]...)
		d.base = *w.Cut
	}
	if w.Install != nil {
		d.base, d.applied, d.log, d.set = w.Install.Zxid, w.Install.Zxid, nil, w.Install.Members
	}
	if w.Hard != nil {
		d.hard = *w.Hard
	}
}

// host is a driver in miniature: it queues writes and messages, and hands them on
// when the test says so.
type host struct {
	cfg     Config
	core    *Node // nil while it is down
	disk    *disk
	writes  []Write
	applies []Zxid
	machine []Entry // everything delivered in this incarnation, after startedAt
	from    Zxid    // applied when this incarnation started
	asked   uint64  // IDs of proposals and reads
	stalled bool    // its disk does nothing
	paused  bool    // its process does nothing, and messages to it wait

	mayFetch map[NodeID]uint64 // sessions that SendSnapshot allowed
	fetch    *fetch            // what FetchSnapshot asked for
}

// fetch is a snapshot on its way to a host.
type fetch struct {
	from    NodeID
	session uint64
	taken   *Snapshot // nil: the other side was not reached yet
}

// cluster is a set of hosts with a queue of encoded messages for each direction.
type cluster struct {
	hosts   []*host
	wires   [][][][]byte // [from][to] messages, oldest first
	cut     [][]bool     // [from][to] messages are lost
	observe func(h *host, e Effect)
}

func newCluster(voters, observers int, tune func(*Config)) *cluster {
	c := &cluster{observe: func(*host, Effect) {}}
	var members []Member
	for i := range voters + observers {
		members = append(members, Member{ID: NodeID(i + 1), Observer: i >= voters})
	}
	for i := range members {
		h := &host{disk: &disk{}, cfg: Config{ID: members[i].ID, Members: members}}
		if tune != nil {
			tune(&h.cfg)
		}
		c.hosts = append(c.hosts, h)
		c.wires = append(c.wires, make([][][]byte, len(members)))
		c.cut = append(c.cut, make([]bool, len(members)))
	}
	return c
}

func (c *cluster) start(h *host) error {
	h.disk.boot++
	h.cfg.Boot = h.disk.boot
	h.writes, h.applies, h.machine, h.from = nil, nil, nil, h.disk.applied
	h.mayFetch, h.fetch = map[NodeID]uint64{}, nil
	h.cfg.Change = changeOfTests
	cfg := h.cfg
	if set := h.disk.members(); set.Members != nil {
		cfg.Members, cfg.MembersAt = set.Members, set.At
	}
	core, err := New(cfg, h.disk)
	h.core = core
	return err
}

// crash loses what was not synced, and every message from and to the host.
func (c *cluster) crash(h *host) {
	h.core, h.writes, h.applies, h.fetch = nil, nil, nil, nil
	i := int(h.cfg.ID) - 1
	for j := range c.hosts {
		c.wires[i][j], c.wires[j][i] = nil, nil
	}
}

func (c *cluster) step(h *host, ev Event) {
	if h.core == nil {
		return
	}
	for _, e := range h.core.Step(ev) {
		switch e := e.(type) {
		case Send:
			from, to := int(e.Message.From)-1, int(e.Message.To)-1
			if !c.cut[from][to] && c.hosts[to].core != nil {
				c.wires[from][to] = append(c.wires[from][to], AppendMessage(nil, e.Message))
			}
		case Write:
			h.writes = append(h.writes, e)
		case Deliver:
			h.machine = append(h.machine, e.Entries...)
			h.applies = append(h.applies, e.Entries[len(e.Entries)-1].Zxid)
		case SendSnapshot:
			h.mayFetch[e.To] = e.Session
		case FetchSnapshot:
			h.fetch = &fetch{from: e.From, session: e.Session}
		case Restored:
			h.machine, h.applies, h.from = nil, nil, e.Snapshot.Zxid
		}
		c.observe(h, e)
	}
}

// deliver hands over the oldest message of a wire.
func (c *cluster) deliver(from, to int) bool {
	wire := c.wires[from][to]
	if len(wire) == 0 || c.hosts[to].paused {
		return false
	}
	c.wires[from][to] = wire[1:]
	m, err := DecodeMessage(wire[0])
	if err != nil {
		panic(fmt.Sprintf("message of our own: %v", err))
	}
	c.step(c.hosts[to], Received{m})
	return true
}

// persist makes the oldest k writes durable, under one sync.
func (c *cluster) persist(h *host, k int) bool {
	k = min(k, len(h.writes))
	if k == 0 || h.stalled || h.paused {
		return false
	}
	for _, w := range h.writes[:k] {
		h.disk.do(w)
	}
	id := h.writes[k-1].ID
	h.writes = h.writes[k:]
	c.step(h, Persisted{id})
	return true
}

func (c *cluster) apply(h *host) bool {
	if len(h.applies) == 0 || h.paused {
		return false
	}
	z := h.applies[0]
	h.applies = h.applies[1:]
	h.disk.applied = z
	c.step(h, Applied{z})
	return true
}

// take makes the other side take the snapshot that h waits for.
func (c *cluster) take(h *host) bool {
	f := h.fetch
	if f == nil || f.taken != nil {
		return false
	}
	from := c.hosts[f.from-1]
	if from.core == nil || from.mayFetch[h.cfg.ID] != f.session {
		return c.failFetch(h, "not allowed")
	}
	f.taken = &Snapshot{Zxid: from.disk.applied, Members: from.disk.members()}
	c.step(from, SnapshotMoved{Peer: h.cfg.ID, Session: f.session})
	c.step(h, SnapshotMoved{Peer: f.from, Session: f.session})
	return true
}

// stage ends the transfer of the snapshot that was taken.
func (c *cluster) stage(h *host) bool {
	f := h.fetch
	if f == nil || f.taken == nil {
		return false
	}
	h.fetch = nil
	c.step(h, SnapshotStaged{Session: f.session, Snapshot: *f.taken})
	return true
}

func (c *cluster) failFetch(h *host, why string) bool {
	f := h.fetch
	if f == nil {
		return false
	}
	h.fetch = nil
	c.step(h, SnapshotFailed{Session: f.session, Why: why})
	return true
}

// settle lets everything under way arrive, until nothing is left but time.
func (c *cluster) settle() {
	for busy := true; busy; {
		busy = false
		for i, h := range c.hosts {
			for c.persist(h, 1) {
				busy = true
			}
			for c.apply(h) {
				busy = true
			}
			if c.take(h) || c.stage(h) {
				busy = true
			}
			for j := range c.hosts {
				for c.deliver(j, i) {
					busy = true
				}
			}
		}
	}
}

// run lets time pass for all, with everything arriving between two ticks.
func (c *cluster) run(ticks int) {
	for range ticks {
		for _, h := range c.hosts {
			if !h.paused {
				c.step(h, Tick{})
			}
		}
		c.settle()
	}
}

// leader returns the established leader of the highest epoch, or nil.
func (c *cluster) leader() *host {
	var best *host
	for _, h := range c.hosts {
		if h.core == nil {
			continue
		}
		s := h.core.Status()
		if s.Role == Leading && s.Established && (best == nil || best.core.Status().Epoch < s.Epoch) {
			best = h
		}
	}
	return best
}

func (c *cluster) propose(h *host, data string) {
	h.asked++
	c.step(h, Proposed{ID: h.asked, Data: []byte(data)})
}
