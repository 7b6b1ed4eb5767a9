// SPDX-License-Identifier: Apache-2.0

package zabworld

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol/zab"
)

// Bounds say how much may happen to a cluster of three nodes. Each number is how often, in all.
type Bounds struct {
	// Cold begins with nodes that were never started; otherwise node 3 leads epoch 1,
	// established, with both others up to date.
	Cold      bool
	Elections int // of anybody who looks for a leader
	Sessions  int // that nodes are told to open with a leader
	Proposals int
	// Changes are of the members: a leader lets a voter go, or takes one back that has gone.
	// Lessons are sets of members that one node hears of from another.
	Changes int
	Lessons int
	// Handovers are of leadership, to another node that the leader is told.
	Handovers int
	Crashes   int
	Breaks    int // of a connection, noticed on both sides or on one
	Stale     int // messages that arrive a second time, at any time later
	Ticks     int // one tick, or a pause after which time comes in a burst
	// Delays is how often something else may happen than what is due; negative: ever.
	// Due is the oldest message of the first wire that has one, and then the writes of the
	// first node that has some. What the other numbers count may happen at any time.
	Delays int
}

// String names the bounds.
func (b Bounds) String() string {
	s := "ZAB, 3 nodes"
	if b.Cold {
		s += " from the start"
	}
	s += explore.Counted(b.Elections, "election", "elections") + explore.Counted(b.Sessions, "session", "sessions") +
		explore.Counted(b.Proposals, "proposal", "proposals") + explore.Counted(b.Changes, "change of the members",
		"changes of the members") +
		explore.Counted(b.Lessons, "lesson", "lessons") + explore.Counted(b.Handovers, "handover", "handovers") +
		explore.Counted(b.Crashes, "crash", "crashes") +
		explore.Counted(b.Breaks, "lost connection", "lost connections") + explore.Counted(b.Stale, "stale message",
		"stale messages") +
		explore.Counted(b.Ticks, "tick", "ticks")
	switch {
	case b.Delays == 0:
		s += ", no delays"
	case b.Delays > 0:
		s += explore.Counted(b.Delays, "delay", "delays")
	}
	return s
}

// Search visits the states of a cluster within bounds.
//
// # What can happen
//
// The first message of a wire arrives; a connection breaks, and what was on it is lost (what came
// before that had arrived); a message comes once more, later. The oldest writes of a node become
// durable, so many as are under one sync. A node crashes, with every prefix of its writes
// having reached the disk, and starts again, with the applied state or without it. An
// established leader is asked to append, or to hand over to another node. Ballots are hints, and safety must not rest
// on them, so an oracle forges them: any node that looks for a leader may be elected, and
// may be told to follow whoever leads. The nodes' own ballots go nowhere. All nodes are voters at
// the start; one that is no member any more goes on as if it were one, as far as it is let.
//
// # What must hold, after every event
//
//	S1   one leader finishes discovery in an epoch
//	S2   a proposal is its epoch's leader's, and the only one of its zxid
//	S3   an entry has one predecessor and one content everywhere
//	S5   every node delivers the committed sequence, from where it is
//	S6   a leader has all that was committed before its epoch
//	S7   a durable current epoch means that all that earlier epochs committed is in the log
//	S8   what is committed is durable at a quorum of the members as of its position, or, if a
//	     leader found a change in its log that it did not know to be committed, of those before
//	S9   what is committed is never cut off
//	S10  what is acknowledged is durable
//	L1 to L5 promises grow, logs have no gaps, applied <= commit, no word for an epoch older
//	     than a promise, nothing said that is not durable
//
// A node that stops with a panic is a mistake too.
func Search(bounds Bounds, limits explore.Limits) explore.Result {
	w := newCluster(bounds, "")
	r := explore.Explore[state](bounds.String(), w, limits)
	if w.full && r.Complete {
		r.Complete, r.Whole, r.Bound = false, 0, fmt.Sprintf("at most %d messages on a wire", wireLen)
	}
	return r
}

const (
	nodes   = 3
	wires   = nodes * (nodes - 1)
	wireLen = 16
	// gone on a wire means that the receiver hears here that the connection was lost.
	gone = uint16(0)
	// Nodes wait for others for syncTicks and initTicks; a pause is longer.
	syncTicks, initTicks, pause = 1, 2, 4
)

// state is a cluster at one moment, and what has happened in it as far as checks need it.
type state struct {
	hosts [nodes]hostID
	wires [wires]wire
	spare [2]uint16 // a message that may come again, and its wire; 0: none
	left  budget
	ghost
	bad  uint16
	over bool // a wire is full: the search does not go on from here
}

type wire struct {
	messages [wireLen]uint16
	n        uint8
}

type budget struct {
	elections, sessions, proposals, changes, lessons, handovers, crashes, breaks, stale, ticks, delays uint8
}

// comingUp is what a cluster needs to come up.
var comingUp = budget{elections: 1, sessions: 2}

// cluster knows the hosts, messages and entries that were met, by number.
type cluster struct {
	bounds   Bounds
	mistake  zabMistake
	hosts    []*host
	byPrint  map[uint64]hostID
	downs    [nodes]hostID
	outcomes map[uint64]*outcome
	messages []string // encoded
	byText   map[string]uint16
	entries  []zab.Entry
	byEntry  map[string]uint8
	bads     []string
	setup    []explore.Move // the way to the start
	full     bool           // some wire was full

	met func(id hostID, h *host) // if set, hears of a host that came into a known state
}

// zabMistake is planted in the driver; the empty one is none.
type zabMistake string

const (
	ackBeforeDurable  zabMistake = "entries are said to be durable when they are handed over"
	forgetPromises    zabMistake = "a crash forgets what was promised"
	applyBeforeCommit zabMistake = "entries are applied when they are written"
)

func newCluster(bounds Bounds, m zabMistake) *cluster {
	w := &cluster{
		bounds: bounds, mistake: m, hosts: make([]*host, 1), byPrint: map[uint64]hostID{},
		outcomes: map[uint64]*outcome{},
		messages: make([]string, 1), byText: map[string]uint16{}, entries: make([]zab.Entry, 1),
		byEntry: map[string]uint8{}, bads: []string{""},
	}
	for i := range nodes {
		h := &host{id: i}
		h.look(w)
		w.downs[i] = w.number(h)
	}
	return w
}

func (w *cluster) config(h *host) zab.Config {
	set := setOf(h.log[:h.after(h.applied)])
	return zab.Config{ID: zab.NodeID(h.id + 1), Members: set.Members, MembersAt: set.At, Change: change,
		Boot: h.boot, SyncTicks: syncTicks, InitTicks: initTicks}
}

// changeMark begins an entry that changes the members: the digits after it name the voters.
const changeMark = "voters="

func change(data []byte) (members []zab.Member, ok bool) {
	digits, ok := strings.CutPrefix(string(data), changeMark)
	if !ok {
		return nil, false
	}
	for _, d := range digits {
		members = append(members, zab.Member{ID: zab.NodeID(d - '0')})
	}
	return members, ok
}

// setOf finds the members as of the end of a log.
func setOf(log []zab.Entry) zab.Set {
	for _, e := range slices.Backward(log) {
		if members, ok := change(e.Data); ok {
			return zab.Set{At: e.Zxid, Members: members}
		}
	}
	return zab.Set{Members: []zab.Member{{ID: 1}, {ID: 2}, {ID: 3}}}
}

func (w *cluster) number(h *host) hostID {
	print := h.fingerprint()
	id, known := w.byPrint[print]
	if !known {
		id = hostID(len(w.hosts))
		w.byPrint[print] = id
		w.hosts = append(w.hosts, h)
	} else if w.met != nil {
		w.met(id, h)
	}
	return id
}

func (w *cluster) message(m zab.Message) uint16 {
	text := string(zab.AppendMessage(nil, m))
	id, known := w.byText[text]
	if !known {
		id = uint16(len(w.messages))
		if int(id) != len(w.messages) {
			panic("more than 65,535 different messages")
		}
		w.byText[text] = id
		w.messages = append(w.messages, text)
	}
	return id
}

// entry gives an entry, with its predecessor and content, a number.
func (w *cluster) entry(e zab.Entry) uint8 {
	text := fmt.Sprintf("%s<%s %s", e.Prev, e.Zxid, e.Data)
	id, known := w.byEntry[text]
	if !known {
		id = uint8(len(w.entries))
		if int(id) != len(w.entries) {
			panic("more than 255 different entries")
		}
		w.byEntry[text] = id
		w.entries = append(w.entries, e)
	}
	return id
}

func (w *cluster) breach(format string, args ...any) uint16 {
	text := fmt.Sprintf(format, args...)
	at := slices.Index(w.bads, text)
	if at < 0 {
		at = len(w.bads)
		w.bads = append(w.bads, text)
	}
	return uint16(at)
}

// Start lets the cluster come up in the simplest way, unless it is to begin cold.
func (w *cluster) Start() state {
	var s state
	s.hosts = w.downs
	w.setup = w.setup[:0]
	do := func(m explore.Move) {
		w.setup = append(w.setup, m)
		w.Do(&s, m)
	}
	s.left = comingUp
	for i := range nodes {
		do(startNode | explore.Move(i))
	}
	if !w.bounds.Cold {
		for _, m := range []explore.Move{elect | 2, follow | 0<<4 | 2, follow | 1<<4 | 2} {
			do(m)
			for moves := w.due(&s, nil); len(moves) > 0 && moves[0]&kinds <= persist; moves = w.due(&s, nil) {
				do(moves[0])
			}
		}
	}
	s.left = w.left()
	return s
}

// left is what may happen from the start on.
func (w *cluster) left() budget {
	b := w.bounds
	return budget{
		elections: uint8(b.Elections), sessions: uint8(b.Sessions), proposals: uint8(b.Proposals),
		crashes: uint8(b.Crashes),
		changes: uint8(b.Changes), lessons: uint8(b.Lessons), handovers: uint8(b.Handovers),
		breaks: uint8(b.Breaks), stale: uint8(b.Stale), ticks: uint8(b.Ticks), delays: uint8(max(b.Delays, 0)),
	}
}

// The moves of a cluster.
const (
	deliver     explore.Move = iota << 16 // wire
	persist                               // node and number of writes
	startNode                             // node, and whether without the applied state
	follow                                // node and leader
	elect                                 // node
	propose                               // node
	crash                                 // node and number of writes that survive
	breakBoth                             // node and node
	breakOne                              // wire
	deliverKeep                           // wire
	again                                 // the spare message
	tickOnce                              // node
	tickPause                             // node
	toggle                                // node that leads, and node that comes or goes
	tell                                  // node, and who told it
	handOver                              // node that leads, and node that shall

	delayed explore.Move = 1 << 24 // something else was due
	kinds   explore.Move = 0xff << 16
	detail  explore.Move = 0xff
)

// wireOf numbers the wire between two nodes, ends does the opposite.
func wireOf(from, to int) int {
	if to > from {
		to--
	}
	return from*(nodes-1) + to
}

func ends(wire int) (from, to int) {
	from, to = wire/(nodes-1), wire%(nodes-1)
	if to >= from {
		to++
	}
	return from, to
}

func (w *cluster) view(s *state, i int) *view { return &w.hosts[s.hosts[i]].view }

// due lists what happens by itself, what is due first.
func (w *cluster) due(s *state, moves []explore.Move) []explore.Move {
	for i := range s.wires {
		if s.wires[i].n > 0 {
			moves = append(moves, deliver|explore.Move(i))
		}
	}
	for i := range nodes {
		for k := w.view(s, i).writes; k > 0; k-- {
			moves = append(moves, persist|explore.Move(i)<<4|explore.Move(k))
		}
	}
	for i := range nodes {
		if !w.view(s, i).up {
			moves = append(moves, startNode|explore.Move(i))
			if w.hosts[s.hosts[i]].place > 0 {
				moves = append(moves, startNode|1<<4|explore.Move(i))
			}
		}
	}
	if s.left.sessions == 0 {
		return moves
	}
	for i := range nodes {
		if v := w.view(s, i); !v.up || v.role != zab.Looking {
			continue
		}
		for j := range nodes {
			if v := w.view(s, j); j != i && v.up && v.role == zab.Leading {
				moves = append(moves, follow|explore.Move(i)<<4|explore.Move(j))
			}
		}
	}
	return moves
}

// Moves lists what can happen.
func (w *cluster) Moves(s *state, moves []explore.Move) []explore.Move {
	if s.bad != 0 || s.over {
		return moves
	}
	moves = w.due(s, moves)
	if w.bounds.Delays >= 0 && len(moves) > 1 {
		if s.left.delays == 0 {
			moves = moves[:1]
		}
		for i := 1; i < len(moves); i++ {
			moves[i] |= delayed
		}
	}
	for i := range nodes {
		v := w.view(s, i)
		if !v.up {
			continue
		}
		if s.left.elections > 0 && v.role == zab.Looking {
			moves = append(moves, elect|explore.Move(i))
		}
		if s.left.proposals > 0 && v.role == zab.Leading && v.established {
			moves = append(moves, propose|explore.Move(i))
		}
		for j := range nodes {
			if j == i {
				continue
			}
			if s.left.changes > 0 && v.role == zab.Leading && v.established {
				moves = append(moves, toggle|explore.Move(i)<<4|explore.Move(j))
			}
			if s.left.handovers > 0 && v.role == zab.Leading && v.established {
				moves = append(moves, handOver|explore.Move(i)<<4|explore.Move(j))
			}
			if o := w.view(s, j); s.left.lessons > 0 && o.up && w.zxid(v.set).Less(w.zxid(o.set)) {
				moves = append(moves, tell|explore.Move(i)<<4|explore.Move(j))
			}
		}
		if s.left.crashes > 0 {
			for k := 0; k <= v.writes; k++ {
				moves = append(moves, crash|explore.Move(i)<<4|explore.Move(k))
			}
		}
		if s.left.ticks > 0 {
			moves = append(moves, tickOnce|explore.Move(i), tickPause|explore.Move(i))
		}
	}
	if s.left.breaks > 0 {
		for i := range wires {
			from, to := ends(i)
			if !w.view(s, from).up || !w.view(s, to).up {
				continue
			}
			moves = append(moves, breakOne|explore.Move(i))
			if from < to {
				moves = append(moves, breakBoth|explore.Move(from)<<4|explore.Move(to))
			}
		}
	}
	if s.left.stale > 0 {
		for i := range s.wires {
			if s.wires[i].n > 0 && s.wires[i].messages[0] != gone {
				moves = append(moves, deliverKeep|explore.Move(i))
			}
		}
	}
	if s.spare[0] != 0 {
		if _, to := ends(int(s.spare[1])); w.view(s, to).up {
			moves = append(moves, again)
		}
	}
	return moves
}

// Do makes a move.
func (w *cluster) Do(s *state, m explore.Move) {
	if m&delayed != 0 {
		s.left.delays--
	}
	a, b := int(m&detail>>4), int(m&detail&15)
	switch m & kinds {
	case deliver:
		w.arrive(s, b)
	case deliverKeep:
		s.left.stale--
		s.spare = [2]uint16{s.wires[b].messages[0], uint16(b)}
		w.arrive(s, b)
	case again:
		_, to := ends(int(s.spare[1]))
		message := s.spare[0]
		s.spare = [2]uint16{}
		w.at(s, to, receives|explore.Move(message))
	case persist:
		w.at(s, a, persists|explore.Move(b))
	case startNode:
		w.at(s, b, starts|explore.Move(a))
	case follow:
		s.left.sessions--
		w.at(s, a, follows|explore.Move(b))
	case elect:
		s.left.elections--
		w.at(s, b, leads)
	case propose:
		s.left.proposals--
		w.at(s, b, proposes|explore.Move(s.left.proposals))
	case toggle:
		s.left.changes--
		w.at(s, a, toggles|explore.Move(b))
	case handOver:
		s.left.handovers--
		w.at(s, a, yields|explore.Move(b))
	case tell:
		s.left.lessons--
		w.at(s, a, learns|explore.Move(w.view(s, b).set))
	case crash:
		s.left.crashes--
		w.at(s, a, crashes|explore.Move(b))
		for j := range nodes {
			if j != a {
				s.wires[wireOf(j, a)] = wire{}
				s.cut(a, j, w.view(s, j).up)
			}
		}
	case breakBoth:
		s.left.breaks--
		s.cut(a, b, true)
		s.cut(b, a, true)
	case breakOne:
		s.left.breaks--
		from, to := ends(b)
		s.cut(from, to, true)
	case tickOnce:
		s.left.ticks--
		w.at(s, b, ticks|1)
	case tickPause:
		s.left.ticks--
		w.at(s, b, ticks|pause)
	}
	w.survey(s)
}

// cut loses what is on a wire; who is at its end will hear of it.
func (s *state) cut(from, to int, noticed bool) {
	s.wires[wireOf(from, to)] = wire{}
	if noticed {
		s.wires[wireOf(from, to)].push(gone)
	}
}

// push reports whether there was room.
func (x *wire) push(message uint16) bool {
	if x.n == wireLen {
		return false
	}
	x.messages[x.n] = message
	x.n++
	return true
}

func (w *cluster) arrive(s *state, at int) {
	x := &s.wires[at]
	message := x.messages[0]
	copy(x.messages[:], x.messages[1:])
	x.n--
	x.messages[wireLen-1] = 0
	from, to := ends(at)
	if message == gone {
		w.at(s, to, loses|explore.Move(from))
	} else {
		w.at(s, to, receives|explore.Move(message))
	}
}

// at lets an event happen at a node, and looks at what it did.
func (w *cluster) at(s *state, i int, m explore.Move) {
	o := w.react(s.hosts[i], m)
	s.hosts[i] = o.next
	for _, x := range o.sends {
		if w.view(s, x.to).up {
			if !s.wires[wireOf(i, x.to)].push(x.message) {
				s.over, w.full = true, true
			}
		}
	}
	if o.bad != 0 && s.bad == 0 {
		s.bad = o.bad
	}
	w.witness(s, i, o.seen)
}

// Broken names a property that does not hold, or is empty.
func (w *cluster) Broken(s *state) string { return w.bads[s.bad] }

// Settled reports whether nothing is under way.
func (w *cluster) Settled(s *state) bool {
	for i := range s.wires {
		if s.wires[i].n > 0 {
			return false
		}
	}
	for i := range nodes {
		if w.view(s, i).writes > 0 {
			return false
		}
	}
	return true
}

// Fingerprint hashes the whole state.
func (w *cluster) Fingerprint(s *state) uint64 {
	h := explore.Mix(uint64(s.hosts[0])|uint64(s.hosts[1])<<32,
		uint64(s.hosts[2])|uint64(s.spare[0])<<32|uint64(s.spare[1])<<48)
	for i := range s.wires {
		x := &s.wires[i]
		h = explore.Mix(h, uint64(x.n))
		for j := 0; j < int(x.n); j += 4 {
			h = explore.Mix(h, uint64(x.messages[j])|uint64(x.messages[j+1])<<16|uint64(x.messages[j+
				2])<<32|uint64(x.messages[j+3])<<48)
		}
	}
	l := &s.left
	h = explore.Mix(h, uint64(l.elections)|uint64(l.sessions)<<8|uint64(l.proposals)<<16|uint64(l.crashes)<<24|
		uint64(l.breaks)<<32|uint64(l.stale)<<40|uint64(l.ticks)<<48|uint64(l.delays)<<56)
	h = explore.Mix(h, uint64(l.changes)|uint64(l.lessons)<<8|uint64(l.handovers)<<16)
	return s.ghost.mix(explore.Mix(h, uint64(s.bad)|explore.Bit(s.over)<<16))
}
