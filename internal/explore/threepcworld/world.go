// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// Council says how large a world of three-phase commit is: agents with one branch each, and the
// cluster.
type Council struct {
	Agents     int // at most 3
	ReadOnly   int // so many of them wrote nothing
	Elections  int // begun after the first, by anybody
	Crashes    int // of any agent or leader, in any order
	Watermarks int // that pass the transaction
	Tombstones int // that somebody has the log deliver, whatever the leader knows
	// Voted begins where all agents have voted and the log has not delivered PreCommit yet, and has
	// databases finish at once: what is left is how members come to an end.
	Voted bool
	// Attempted goes on from there: the log has PreCommit, which no agent has heard of, and the first
	// agent has pre-aborted with the answer of the second. Its election is not counted.
	Attempted bool
	// Lonely demands T7 of every state: the search tries each set of members that is left
	// alone there.
	Lonely bool
}

// String names the size.
func (z Council) String() string {
	s := fmt.Sprintf("3PC, %d agents", z.Agents)
	if z.Agents == 1 {
		s = "3PC, 1 agent"
	}
	if z.ReadOnly > 0 {
		s += fmt.Sprintf(", %d read-only", z.ReadOnly)
	}
	s += explore.Counted(z.Elections, "election", "elections") + explore.Counted(z.Crashes, "crash", "crashes") +
		explore.Counted(z.Watermarks, "watermark", "watermarks") +
		explore.Counted(z.Tombstones, "tombstone", "tombstones")
	if z.Attempted {
		s += ", after an attempt"
	} else if z.Voted {
		s += ", after the votes"
	}
	if z.Lonely {
		s += ", any left alone"
	}
	return s
}

// Search visits every state of one transaction. Its cores are those that ship, and so is the fold
// of the log, txn.Table.
//
// Any database may refuse to prepare. Every agent and the leader may crash between any two steps:
// an agent comes back with what its journal has forced, a leader is followed by one that knows
// the log, and loses what it has proposed and was not delivered. A client asks again, a deadline
// or an operator asks for a rollback, agents and leaders begin elections and end their waits,
// at any time. The network is as in TwoPC.
//
// # What must hold
//
//	T1  no two decisions: in journals, databases, the log, or told to the client
//	T2  commit only if every agent has prepared or wrote nothing
//	T3  nobody leaves a decision, in a journal or in the log; promises never fall
//	T4  at most one choice for an election
//	T5  after a decision in an election, every attempt in a later one is of its kind
//	T6  a database commits only with its work, prepared
//	T7  members that are left alone finish, if those with an entry are a quorum, or one has
//	    decided, or has not voted, or is the witness without a record
func Search(size Council, limits explore.Limits) explore.Result {
	return explore.Explore[sitting](size.String(), newThreePC(size), limits)
}

// unforced marks a write that ends without a word to the agent.
const unforced = 1 << 15

const (
	maxAgents  = 3
	maxWrites  = 2         // that a journal is behind; what would write more waits
	maxRecords = 3         // that the log is
	theLeader  = maxAgents // as the number of a member
)

// sitting is a state of one transaction and of everybody who takes part.
type sitting struct {
	leader  uint32
	agents  [maxAgents]uint32
	disks   [maxAgents]uint16            // entries that are durable
	writes  [maxAgents][maxWrites]uint16 // and those under way, in order; 0: none
	bases   [maxAgents]base
	log     uint16             // what the table has
	records [maxRecords]uint16 // proposed and not delivered, in order; 0: none
	net     [netWords]uint64

	elections, crashes, watermarks, tombstones uint8 // left
	decided                                    uint8 // set of decisions that the log ever had, or that were told
	ended                                      bool
	fixed                                      uint8     // the election in which a quorum decided first
	accepted                                   [16]uint8 // by election: the set of members that have accepted it
	// sets of elections that were attempted, to commit and to abort
	tried [2]uint64
	bad   uint8 // a property that was broken on the way here
}

const netWords = 4

// base is what the database of an agent has of its branch, and what it was asked for.
type base struct {
	state  baseState
	ask    bool         // to prepare
	finish txn.Decision // to finish
}

type baseState uint8

const (
	working baseState = iota // the work is in it
	wrote                    // nothing: read-only
	ready                    // prepared
	done                     // committed
	undone                   // rolled back
	lost                     // by a crash, before it was prepared
	over                     // read-only, and ended
)

func (b baseState) String() string {
	return [...]string{"working", "read-only", "prepared", "committed", "rolled back", "lost", "ended"}[b]
}

// deed is what a core did with an event, as far as the world is concerned.
type deed struct {
	next    uint32
	net     [netWords]uint64
	writes  []uint16
	records []uint16
	prepare bool
	finish  txn.Decision
	begun   bool // an election
	told    uint8
	ended   bool
	fixed   uint8
	tried   [2]uint64
	breach  string
	yes     bool // is voted
	quiet   bool // it only adds messages
}

// letter is a message and where it goes.
type letter struct {
	from, to int // members
	event    protocol.Event
}

// threePC knows the cores and the letters of a world. Numbers are given in the order in which
// things are met, which is the same in every search.
type threePC struct {
	size    Council
	id      txn.ID
	members [maxAgents + 1]txn.PartyID
	asked   threepc.Asked

	leaders *memo[*threepc.Coordinator]
	agents  *memo[*threepc.Participant]

	letters   []letter
	known     map[string]int
	entries   []threepc.Entry
	entryAt   map[string]uint16
	records   []txn.Record
	recordAt  map[string]uint16
	folds     []fold
	foldAt    map[string]uint16
	folded    map[[2]uint16]foldStep
	restarts  map[[2]uint16]uint32 // agents that start again, by their number and what their journal has
	leads     map[uint16]uint32    // leaders that begin, by what the log has
	elections []txn.Election       // by number, from 1
	bads      []string
	deaf      bool              // to T5, so that what follows from a mistake is seen
	alone     map[string]string // what T7 found, by state without net
}

// The numbers of events that are no letters.
const (
	evTick = iota
	evElection
	evTimeUp
	evRollback
	evForced
	evListed
	evYes
	evNo
	evReadOnly
	evDone
	evAlready
	evContradicted
	evLost
	evAsked
	evForgotten
	evFixed     // letters come from here on,
	evEvery = 2 // every second number, and what the log says between them
)

func newThreePC(size Council) *threePC {
	w := &threePC{size: size, id: txn.FirstID(time.UnixMilli(1_000)).WithClass(txn.ThreePhase),
		known: map[string]int{}, entryAt: map[string]uint16{}, recordAt: map[string]uint16{},
		foldAt: map[string]uint16{},
		folded: map[[2]uint16]foldStep{}, restarts: map[[2]uint16]uint32{}, leads: map[uint16]uint32{},
		elections: []txn.Election{{}}, bads: []string{""}, alone: map[string]string{}}
	w.records = append(w.records, nil)
	w.entry(threepc.Entry{})
	w.fold(fold{})
	for n := range size.Agents {
		name := string(rune('a' + n))
		w.members[n] = txn.PartyID{Agent: name, Journal: txn.JournalID{byte(n + 1)}}
		w.asked.Agents = append(w.asked.Agents, txn.Agent{Party: txn.Party{PartyID: w.members[n]}, Epoch: 1,
			Branches: []txn.Branch{{No: txn.BranchNo(n), Resource: name}}})
	}
	w.leaders = newMemo(w.carryOutLeader, reasonsAndCurious)
	if size.Watermarks > 0 { // where a leader that has forgotten answers who waits
		w.leaders.unread = reasons
	}
	w.agents = newMemo(w.carryOutAgent, reasons)
	return w
}

// Start is the moment at which the client has asked to commit.
func (w *threePC) Start() sitting {
	s := sitting{elections: uint8(w.size.Elections), crashes: uint8(w.size.Crashes),
		watermarks: uint8(w.size.Watermarks), tombstones: uint8(w.size.Tombstones)}
	for n := range w.size.Agents {
		p := threepc.NewParticipant(w.members[n], 1)
		p.Step(protocol.Opened{No: txn.BranchNo(n)})
		s.agents[n] = w.agents.number(p)
		if n < w.size.ReadOnly {
			s.bases[n].state = wrote
		}
	}
	s.leader = w.leaders.number(threepc.NewCoordinator(w.id))
	w.leaderStep(&s, evAsked, w.asked)
	if w.size.Voted || w.size.Attempted {
		w.vote(&s)
	}
	if w.size.Attempted {
		w.attempt(&s)
	}
	w.forceAtOnce(&s)
	w.saturate(&s)
	return s
}

// vote has every agent vote Yes, or ReadOnly, and the leader propose.
func (w *threePC) vote(s *sitting) {
	for range 2 {
		letters := s.net
		s.net = [netWords]uint64{}
		for at := range w.letters {
			if letters[at/64]>>(at%64)&1 == 1 {
				w.do(s, getLetter|explore.Move(at))
			}
		}
		for n := range w.size.Agents {
			if s.bases[n].ask {
				w.baseDoes(s, n)
			}
			for s.writes[n][0] != 0 {
				w.forced(s, n)
			}
		}
	}
}

// attempt has the first agent begin an election and the second one answer.
func (w *threePC) attempt(s *sitting) {
	hear := func(to int) {
		for at := range w.letters {
			if s.net[at/64]>>(at%64)&1 == 1 && w.letters[at].to == to {
				w.do(s, getLetter|explore.Move(at))
			}
		}
	}
	w.deliver(s)
	s.net = [netWords]uint64{}
	s.elections++
	w.do(s, agentTries)
	w.forced(s, 0)
	hear(1)
	w.forced(s, 1)
	hear(0)
	w.do(s, agentWaited)
	if s.writes[0][0] != 0 {
		w.forced(s, 0)
	}
}

func (w *threePC) member(p txn.PartyID) int {
	if p.IsWitness() {
		return theLeader
	}
	return slices.Index(w.members[:w.size.Agents], p)
}

func (w *threePC) post(set *[netWords]uint64, from int, to txn.PartyID, m threepc.Message) {
	if _, news := m.(threepc.Underway); news {
		return // nobody does anything about it
	}
	if v, ok := m.(threepc.Vote); ok {
		v.Reason = ""
		m = v
	}
	l := letter{from: from, to: w.member(to), event: threepc.Received{From: w.members[from], Message: m}}
	text := fmt.Sprintf("%d>%d %T%v", l.from, l.to, m, m)
	at, known := w.known[text]
	if !known {
		at = len(w.letters)
		if at == netWords*64 {
			panic("more different messages than a set has room for")
		}
		w.letters, w.known[text] = append(w.letters, l), at
	}
	set[at/64] |= 1 << (at % 64)
}

// number finds the number of something by its text.
func number[T any](list *[]T, at map[string]uint16, x T) uint16 {
	text := fmt.Sprintf("%T%+v", x, x)
	n, known := at[text]
	if !known {
		n = uint16(len(*list))
		*list, at[text] = append(*list, x), n
	}
	return n
}

func (w *threePC) entry(e threepc.Entry) uint16 { return number(&w.entries, w.entryAt, e) }
func (w *threePC) record(r txn.Record) uint16 {
	if p, ok := r.(txn.ProvenRecord); ok {
		p.Reason = ""
		r = p
	}
	return number(&w.records, w.recordAt, r)
}

func (w *threePC) election(e txn.Election) uint8 {
	at := slices.Index(w.elections, e)
	if at < 0 {
		at = len(w.elections)
		if w.elections = append(w.elections, e); at == len(sitting{}.accepted) && !w.size.Lonely {
			panic("more elections than a state has room for")
		}
	}
	return uint8(at)
}

// note takes what is said for the record of attempts.
func (w *threePC) note(o *deed, m threepc.Message) {
	switch m := m.(type) {
	case threepc.PreCommit:
		o.tried[0] |= 1 << w.election(m.Election)
	case threepc.PreAbort:
		o.tried[1] |= 1 << w.election(m.Election)
	}
}

// Broken names a property that does not hold, or is empty.
func (w *threePC) Broken(s *sitting) string {
	if s.bad != 0 {
		return w.bads[s.bad]
	}
	commits, aborts := s.decided>>txn.Commit&1 == 1, s.decided>>txn.Abort&1 == 1
	for n := range w.size.Agents {
		entry := w.agents.cores[s.agents[n]].Entry()
		disk := w.entries[s.disks[n]]
		commits = commits || entry.State == threepc.Committed || disk.State == threepc.Committed ||
			s.bases[n].state == done
		aborts = aborts || entry.State == threepc.Aborted || disk.State == threepc.Aborted || s.bases[n].state == undone
	}
	if commits && aborts {
		return "T1: somebody committed and somebody aborted"
	}
	if commits {
		for n := range w.size.Agents {
			if b := s.bases[n].state; b == working || b == lost {
				return fmt.Sprintf("T2: commit was decided while the branch of agent %v is %v", w.members[n], b)
			}
		}
	}
	if s.tried[0]&s.tried[1] != 0 {
		return "T4: both commit and abort were attempted in one election"
	}
	if s.fixed != 0 {
		for at, e := range w.elections {
			if other := s.tried[1] >> at & 1; commits && other == 1 && w.elections[s.fixed].Less(e) {
				return "T5: abort was attempted after commit was decided"
			}
			if other := s.tried[0] >> at & 1; aborts && other == 1 && w.elections[s.fixed].Less(e) {
				return "T5: commit was attempted after abort was decided"
			}
		}
	}
	if w.size.Lonely {
		return w.leftAlone(s)
	}
	return ""
}

// Settled reports whether nothing is left to be done.
func (w *threePC) Settled(s *sitting) bool {
	for n := range w.size.Agents {
		if b := s.bases[n].state; b == working || b == wrote || b == ready {
			return false
		}
	}
	f := w.folds[s.log]
	return f.decided.Decision == txn.Abort || f.decided.Decision == txn.Commit && s.ended
}

// Fingerprint hashes the whole state.
func (w *threePC) Fingerprint(s *sitting) uint64 {
	h := s.fingerprint()
	for _, word := range s.net {
		h = explore.Mix(h, word)
	}
	return h
}

// fingerprint hashes all but the net.
func (s *sitting) fingerprint() uint64 {
	h := explore.Mix(0, uint64(s.leader)|uint64(s.log)<<32|uint64(s.decided)<<48|explore.Bit(s.ended)<<56)
	h = explore.Mix(h, uint64(s.elections)|uint64(s.crashes)<<8|uint64(s.watermarks)<<16|uint64(s.fixed)<<24|uint64(
		s.bad)<<32)
	for n := range maxAgents {
		b := &s.bases[n]
		h = explore.Mix(h, uint64(s.agents[n])|uint64(s.disks[n])<<32|uint64(b.state)<<48|explore.Bit(b.ask)<<56|uint64(
			b.finish)<<60)
		h = explore.Mix(h, uint64(s.writes[n][0])|uint64(s.writes[n][1])<<16)
	}
	h = explore.Mix(h, uint64(s.records[0])|uint64(s.records[1])<<16|uint64(s.records[2])<<32)
	h = explore.Mix(h, uint64(s.tombstones))
	for i := 0; i < len(s.accepted); i += 8 {
		h = explore.Mix(h, binary.LittleEndian.Uint64(s.accepted[i:]))
	}
	return explore.Mix(explore.Mix(h, s.tried[0]), s.tried[1])
}
