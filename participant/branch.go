// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// branch is one branch at this agent. What always holds:
//
//  1. busy says that number runs; otherwise digest stands for all work up to number.
//  2. open says that it has a session, which the count of the core knows.
//  3. entered says that the journal has it: it voted Yes, and has not ended well yet.
//  4. opened says that this life opened it. A branch that is neither opened nor entered is known
//     from a listing or from a decision alone.
type branch struct {
	xid      txn.XID
	resource string
	// Who decides what is voted and how the branch ends: core in two phases, in in three, for all
	// branches of the transaction. One of them is nil.
	core *twopc.Participant
	in   *membership

	// The work.
	opened, open bool
	number       uint64
	busy         bool
	sum          statement.Sum // of the work with this number
	current      statement.Work
	answer       Answer // to it, unless busy
	digest       Digest
	workers      []Call // wait for it
	redo         []statement.Work
	redoBytes    int
	partial      bool
	silence      time.Duration
	expires      time.Time

	// The vote.
	asked    bool // no more work
	voters   []Call
	vote     txn.Vote // once cast
	entered  bool
	prepared txn.Branch // as the resource or the journal said
	decideBy time.Time
	torn     bool

	// The end.
	decision  txn.Decision // once heard, or made here by a No
	record    txn.Branch   // as the decision record has it
	finishers []Call
	finishing bool // an attempt is under way
	clearing  bool // after a No: until nothing is left of it
	over      bool
	finish    txn.Finish // once over, if it was finished by a decision
	reason    string     // why it takes no work
	why       string     // what the last attempt to finish it said
	due       time.Time  // of the next question or attempt
	pause     time.Duration
	turn      uint64 // of the last forced write that says something of it
	sightings int    // how many listings in a row had it
}

func (c *Core) newBranch(b Branch) *branch {
	n := &branch{xid: b.XID, resource: b.Resource}
	if b.XID.ID.Class() == txn.ThreePhase {
		n.in = c.member(b.XID.ID)
	} else {
		n.core = twopc.NewParticipant(b.XID.Branch)
	}
	return n
}

// inDoubt reports whether the branch is prepared, and its decision not known here.
func (b *branch) inDoubt() bool {
	if b.in != nil {
		return b.in.core.InDoubt() && b.in.core.Prepared(b.xid.Branch)
	}
	return b.core.InDoubt()
}

// hasEnded reports whether the branch has ended, or is being ended.
func (b *branch) hasEnded() bool {
	if b.in != nil {
		return b.in.core.Ended(b.xid.Branch)
	}
	return b.core.Ended()
}

// restored makes a branch of what the journal has, by the events that led there.
func restored(e Entry, v Voter) *branch {
	b := &branch{xid: txn.XID{Cluster: e.Cluster, ID: e.ID, Branch: v.Branch.No}, resource: v.Branch.Resource,
		core: twopc.NewParticipant(v.Branch.No)}
	b.entered, b.asked, b.prepared, b.redo, b.partial = true, true, v.Branch, v.Redo, v.Partial
	b.reason = "it is prepared"
	events := []protocol.Event{protocol.Opened{}, protocol.PrepareAsked{},
		protocol.Voted{No: v.Branch.No, Vote: txn.VoteYes, Branch: v.Branch}}
	if b.decision = v.Decision; v.Decision != txn.Undecided {
		events = append(events, protocol.Decided{Decision: v.Decision})
	}
	if v.Finish != 0 {
		b.over, b.finish = true, v.Finish
		events = append(events, protocol.Finished{No: v.Branch.No, Finish: v.Finish})
	}
	for _, event := range events {
		b.core.Step(event) // what it asks for was asked for in that life, and is asked for again by a Tick
	}
	return b
}

func (b *branch) branch() Branch { return Branch{b.xid, b.resource} }

// idle reports whether the branch waits for its caller.
func (b *branch) idle() bool { return b.open && !b.busy && !b.asked && !b.hasEnded() }

// forgettable reports whether nobody needs to know of the branch any more.
func (b *branch) forgettable() bool {
	kept := b.entered
	if b.in != nil {
		kept = b.in.core.Kept()
	}
	return b.over && !kept && !b.finishing && !b.clearing && len(b.workers)+len(b.voters)+len(b.finishers) == 0
}

// foreign reports whether the branch may be somebody else's: an application's own session.
func (b *branch) foreign() bool { return !b.opened && !b.entered }

// known is the branch as whoever finishes it needs it: what this agent knows itself goes first.
func (b *branch) known() txn.Branch {
	r := b.prepared
	if r.Resource == "" {
		r = b.record
	}
	r.No, r.Resource = b.xid.Branch, b.resource
	return r
}

func (b *branch) voter() Voter {
	v := Voter{Branch: b.known(), Decision: b.decision, Redo: b.redo, Partial: b.partial}
	if b.over {
		v.Finish = b.finish
	}
	return v
}

// remember keeps work that was done, as far as there is room.
func (b *branch) remember(w statement.Work) {
	size := len(w.AppendBinary(nil))
	if b.partial || b.redoBytes+size > MaxRedo {
		b.partial = true
		return
	}
	b.redoBytes += size
	b.redo = append(b.redo, w)
}

// State is a branch as others see it.
type State struct {
	Branch   Branch
	Phase    string // open, voting, in-doubt, finishing, ended or listed
	Number   uint64 // of the last request
	Decision txn.Decision
	Finish   txn.Finish // once it ended by a decision
	Reason   string     // why it takes no work, or what the last attempt to finish it said
	Redo     []statement.Work
	Partial  bool // not all work is in Redo
}

func (b *branch) state() State {
	s := State{Branch: b.branch(), Number: b.number, Decision: b.decision, Finish: b.finish, Reason: b.reason,
		Redo: slices.Clone(b.redo), Partial: b.partial}
	if b.why != "" {
		s.Reason = b.why
	}
	switch {
	case b.over && !b.clearing:
		s.Phase = "ended"
	case b.clearing || b.hasEnded():
		s.Phase = "finishing"
	case b.inDoubt() && b.foreign():
		s.Phase = "listed"
	case b.inDoubt():
		s.Phase = "in-doubt"
	case b.asked:
		s.Phase = "voting"
	case b.opened:
		s.Phase = "open"
	default:
		s.Phase = "listed"
	}
	return s
}

// States returns the branches of one transaction, or of all with a zero id, in their order.
func (c *Core) States(id txn.ID) []State {
	var list []State
	if id.IsZero() {
		for _, b := range c.branches {
			list = append(list, b.state())
		}
	}
	for _, b := range c.byID[id] {
		list = append(list, b.state())
	}
	slices.SortFunc(list, func(a, b State) int { return a.Branch.XID.Compare(b.Branch.XID) })
	return list
}

// Open is how many branches have a session.
func (c *Core) Open() int { return c.open }

// Quiet reports whether all that a session is still needed for is prepared.
func (c *Core) Quiet() bool {
	for _, b := range c.branches {
		if b.open && !b.inDoubt() || b.clearing {
			return false
		}
	}
	return true
}

// Clone returns an independent copy.
func (c *Core) Clone() *Core {
	d := NewCore(c.name, c.rules, c.life, c.cluster, c.resources, nil)
	d.forcing = slices.Clone(c.forcing)
	for id, m := range c.members {
		n := *m
		n.core, n.addrs = m.core.Clone(), maps.Clone(m.addrs)
		d.members[id] = &n
	}
	for id := range c.restless {
		d.restless[id] = true
	}
	d.now, d.maxAge, d.stopping, d.open = c.now, c.maxAge, c.stopping, c.open
	d.turn, d.loose, d.durable = c.turn, c.loose, c.durable
	d.ended = slices.Clone(c.ended)
	for xid, b := range c.branches {
		n := *b
		if b.in != nil {
			n.in = d.members[xid.ID]
		} else {
			n.core = b.core.Clone()
		}
		n.workers, n.voters, n.finishers = slices.Clone(b.workers), slices.Clone(b.voters), slices.Clone(b.finishers)
		n.redo = slices.Clone(b.redo)
		d.branches[xid] = &n
	}
	for id, list := range c.byID {
		for _, b := range list {
			d.byID[id] = append(d.byID[id], d.branches[b.xid])
		}
	}
	for k, v := range c.calls {
		d.calls[k] = v
	}
	for k, v := range c.asking {
		d.asking[k] = v
	}
	for k, v := range c.live {
		d.live[k] = v
	}
	for k, v := range c.withheld {
		d.withheld[k] = slices.Clone(v)
	}
	return d
}

// String prints the state, a line for each branch.
func (c *Core) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "agent epoch=%d open=%d", c.life.Epoch, c.open)
	for _, state := range c.States(txn.ID{}) {
		b := c.branches[state.Branch.XID]
		fmt.Fprintf(&s, "\n  %s/%02x %s", b.resource, uint8(b.xid.Branch), state.Phase)
		if b.number > 0 {
			fmt.Fprintf(&s, " number=%d", b.number)
		}
		for _, f := range []struct {
			is   bool
			word string
		}{{b.busy, "busy"}, {b.entered, "in-journal"}, {b.foreign(), "foreign"}, {b.finishing, "finishing"},
			{b.clearing, "clearing"}, {b.torn, "torn"}} {
			if f.is {
				s.WriteString(" " + f.word)
			}
		}
		if b.decision != txn.Undecided {
			fmt.Fprintf(&s, " %v", b.decision)
		}
		if b.finish != 0 {
			fmt.Fprintf(&s, " %v", b.finish)
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(c.members), txn.ID.Compare) {
		fmt.Fprintf(&s, "\n  %v", c.members[id].core)
	}
	return s.String()
}
