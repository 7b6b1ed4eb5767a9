// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// membership is this agent's part in one three-phase transaction. threepc.Participant alone decides
// what is said, promised and done; here is what it has no use for. What always holds:
//
//  1. Each branch of the transaction here points to it, and is known to its core unless it is from a
//     listing that was not told yet.
//  2. forces are the forced writes that its core waits for, in their order.
//
// Nothing that is safe depends on its times.
type membership struct {
	id     txn.ID
	core   *threepc.Participant
	addrs  map[txn.PartyID]string // of who spoke
	forces int                    // under way

	inquire   time.Time // when to ask for what is missing
	questions int       // that were due without news
	elect     time.Time
	elections int // that were due without news
	run       txn.Election
	electing  bool
	runBy     time.Time // the candidacy ends then, if there is one
	missing   []string  // who did not answer the last election of this agent, which was blocked
}

// forcing is a forced write of a membership that is under way.
type forcing struct {
	turn uint64
	id   txn.ID
}

const (
	// candidacyTime is how long a candidate waits for answers, and again for acknowledgements.
	candidacyTime = time.Second
	electMost     = 30 * time.Second
)

// self is who this agent is to other members.
func (c *Core) self() txn.PartyID { return txn.PartyID{Agent: c.name, Journal: c.life.Journal} }

// member returns the membership in a transaction, and begins it if there is none.
func (c *Core) member(id txn.ID) *membership {
	m := c.members[id]
	if m == nil {
		m = &membership{id: id, core: threepc.NewParticipant(c.self(), uint64(c.life.Epoch)),
			addrs: map[txn.PartyID]string{}}
		c.members[id] = m
	}
	return m
}

// restoreMember makes the membership of an entry of an earlier life, and its branches.
func (c *Core) restoreMember(e Entry) {
	entry := *e.Member
	for _, v := range e.Branches {
		entry.Branches = append(entry.Branches, v.Branch)
	}
	m := &membership{id: e.ID, core: threepc.Recover(c.self(), uint64(c.life.Epoch), entry),
		addrs: map[txn.PartyID]string{}}
	c.members[e.ID], c.restless[e.ID] = m, true
	for _, v := range e.Branches {
		b := &branch{xid: txn.XID{Cluster: e.Cluster, ID: e.ID, Branch: v.Branch.No}, resource: v.Branch.Resource,
			in:      m,
			entered: true, asked: true, prepared: v.Branch, redo: v.Redo, partial: v.Partial, reason: "it is prepared",
			decision: entry.State.Decision(), over: entry.Finished, finish: v.Finish}
		c.add(b)
		if b.over {
			c.ended = append(c.ended, ended{b.xid, c.now})
		}
	}
}

// heard takes a message of another member, if it is for this journal of this agent and of its
// cluster.
func (c *Core) heard(e Heard) {
	if c.cluster == 0 || e.Cluster != c.cluster || e.To != c.self() || e.From.PartyID == e.To {
		return
	}
	m, known := c.members[e.ID]
	if !known {
		m = c.member(e.ID)
	}
	if e.From.Addr != "" {
		m.addrs[e.From.PartyID] = e.From.Addr
	}
	if ask, ok := e.Message.(threepc.CanCommit); ok {
		if why := c.unclaimed(m, ask.Claims); why != "" {
			c.abandonWork(m, why)
		}
	}
	if news(e.Message) {
		c.calm(m)
	}
	c.stepMember(m, threepc.Received{From: e.From.PartyID, Message: e.Message})
	switch {
	case m.core.Blank():
		delete(c.members, e.ID)
		delete(c.restless, e.ID)
	case !known && len(c.byID[e.ID]) == 0: // a No, which is remembered as long as an ended branch
		c.ended = append(c.ended, ended{txn.XID{Cluster: c.cluster, ID: e.ID}, c.now})
	}
}

// news reports whether a message says that somebody is at it.
func news(m threepc.Message) bool {
	switch m := m.(type) {
	case threepc.CanCommit, threepc.PreCommit, threepc.PreAbort, threepc.Elect:
		return true
	case threepc.Underway:
		return !m.Open
	}
	return false
}

// unclaimed says in what the work in the branches here is not what the application claims, unless
// the vote is cast: then it stands. It is empty if the work is what is claimed.
func (c *Core) unclaimed(m *membership, claims []txn.Claim) string {
	if !m.core.TakesWork() {
		return ""
	}
	for _, b := range c.byID[m.id] {
		i := slices.IndexFunc(claims, func(k txn.Claim) bool { return k.No == b.xid.Branch })
		switch {
		case !b.opened || b.hasEnded():
		case i < 0:
			return fmt.Sprintf("branch %d in %s was opened here, but the vote was asked for without it", b.xid.Branch,
				b.resource)
		case b.busy:
			return fmt.Sprintf("request %d of branch %d in %s was still running when the vote was asked for", b.number,
				b.xid.Branch, b.resource)
		case claims[i].Number != b.number || claims[i].Digest != [32]byte(b.digest):
			return fmt.Sprintf("the vote was asked for after request %d of branch %d in %s with a digest that is "+
				"not that of the work done here, up to request %d",
				claims[i].Number, b.xid.Branch, b.resource, b.number)
		}
	}
	for _, k := range claims {
		b := c.branches[txn.XID{Cluster: c.cluster, ID: m.id, Branch: k.No}]
		if b == nil || !b.opened {
			return fmt.Sprintf("branch %d is not open here: it never was, or the agent has restarted since", k.No)
		}
	}
	return ""
}

// abandonWork rolls back what has not voted, for good.
func (c *Core) abandonWork(m *membership, why string) {
	for _, b := range c.byID[m.id] {
		if !b.hasEnded() {
			b.reason = why
		}
	}
	c.stepMember(m, protocol.RollbackAsked{Reason: why})
}

func (c *Core) stepMember(m *membership, e protocol.Event) {
	c.carryMember(m, m.core.Step(e))
	run, electing := m.core.Running()
	if run == (txn.Election{}) {
		m.runBy = time.Time{}
	} else if run != m.run || electing != m.electing {
		m.runBy = c.now.Add(candidacyTime)
	}
	m.run, m.electing = run, electing
	if m.core.InDoubt() || m.core.Kept() {
		c.restless[m.id] = true
	}
}

// carryMember carries out what the core of a membership asked for.
func (c *Core) carryMember(m *membership, effects []protocol.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case protocol.Prepare:
			b := c.branches[txn.XID{Cluster: c.cluster, ID: m.id, Branch: e.No}]
			b.asked, b.reason, b.answer = true, "its vote was asked for", Answer{}
			c.emit(Prepare{Branch: b.branch()})
		case protocol.Finish:
			b := c.branches[txn.XID{Cluster: c.cluster, ID: m.id, Branch: e.No}]
			if b.decision == e.Decision && !b.over && c.now.Before(b.due) {
				continue // it failed a moment ago
			}
			c.end(b, e.Decision)
		case threepc.Force:
			c.turn++
			m.forces++
			c.forcing = append(c.forcing, forcing{c.turn, m.id})
			for _, b := range c.byID[m.id] {
				b.turn = c.turn
			}
			c.writeMember(m, e.Entry, c.turn)
		case threepc.Write:
			c.writeMember(m, e.Entry, 0)
		case threepc.Send:
			c.emit(Say{ID: m.id, To: c.find(m, e.To), Message: e.Message})
		case threepc.Blocked:
			m.missing = nil
			for _, p := range e.Missing {
				m.missing = append(m.missing, p.String())
			}
			c.emit(Note{ID: m.id, Text: fmt.Sprintf("no decision in election %d: %q did not answer; it will be "+
				"tried again",
				e.Election.N, m.missing)})
		case threepc.Breach:
			c.emit(Note{ID: m.id, Alarm: true,
				Text: fmt.Sprintf("%v says that it was decided as %v, and here %v is known: no action is taken; "+
					"look into the databases, and find out who speaks for that member",
					e.From, e.Told, e.Known)})
		default:
			panic(fmt.Sprintf("participant: no member asks for %T", e))
		}
	}
}

// find returns where a member is found: where it last spoke from, or where the lists say.
func (c *Core) find(m *membership, id txn.PartyID) txn.Party {
	p := txn.Party{PartyID: id, Addr: m.addrs[id]}
	for _, k := range m.core.Entry().List.Members {
		if k.PartyID == id && p.Addr == "" {
			p.Addr = k.Addr
		}
	}
	return p
}

// writeMember has the journal write the entry of a membership, forced if it has a turn; the zero entry
// takes it off.
func (c *Core) writeMember(m *membership, entry threepc.Entry, turn uint64) {
	e := Entry{ID: m.id, Cluster: c.cluster, Member: &entry}
	for _, k := range entry.Branches {
		b := c.branches[txn.XID{Cluster: c.cluster, ID: m.id, Branch: k.No}]
		k.Resource = b.resource
		v := Voter{Branch: k, Decision: entry.State.Decision(), Redo: b.redo, Partial: b.partial}
		if b.over {
			v.Finish = b.finish
		}
		e.Branches = append(e.Branches, v)
	}
	entry.Branches = nil
	if len(e.Branches) == 0 {
		e.Member = nil
	}
	for _, b := range c.byID[m.id] {
		b.entered = slices.ContainsFunc(e.Branches, func(v Voter) bool { return v.Branch.No == b.xid.Branch })
	}
	c.write(Write{Entry: e, Turn: turn})
}

// forced tells cores that their entries are durable, up to a turn.
func (c *Core) forced(turn uint64) {
	for len(c.forcing) > 0 && c.forcing[0].turn <= turn {
		f := c.forcing[0]
		c.forcing = c.forcing[1:]
		if m := c.members[f.id]; m != nil && m.forces > 0 {
			m.forces--
			c.stepMember(m, threepc.Forced{})
		}
	}
}

// decidedMember obeys a caller who brings the decision, and waits for what ending the branch finds.
// A branch that is not known here is of an earlier life.
func (c *Core) decidedMember(b *branch, e Decided) {
	m := b.in
	known := m.core.Entry().State.Decision()
	contradicts := known != txn.Undecided && known != e.Decision || b.decision != txn.Undecided &&
		b.decision != e.Decision
	working := e.Decision == txn.Commit && b.opened && m.core.TakesWork()
	switch {
	case contradicts || working:
		c.stepMember(m, threepc.Received{Message: threepc.Decided{Decision: e.Decision}}) // for the alarm
		c.refuse(e.Call, Refused, "the transaction cannot have been decided as %v: here it is %v; look into the "+
			"databases", e.Decision, m.core.Entry().State)
		return
	case b.over && !b.clearing:
		c.say(b, func() { c.emit(Ended{Call: e.Call, Finish: repeated(b.finish)}) })
		return
	}
	b.finishers = c.waits(b.finishers, e.Call, b)
	if !m.core.Holds(b.xid.Branch) {
		c.stepMember(m, protocol.Listed{No: b.xid.Branch})
	}
	c.stepMember(m, threepc.Received{Message: threepc.Decided{Decision: e.Decision}})
}

// repeated is what is said of a branch that ended before.
func repeated(f txn.Finish) txn.Finish {
	if f == txn.Done || f == 0 {
		return txn.AlreadyDone
	}
	return f
}

// memberFinished takes what ending a branch of a membership found. Callers need not wait for the journal
// to hear that it ended well: evidence stays until the journal has it (SyncAsked), so that a restart
// which has to ask the database again hears the same.
func (c *Core) memberFinished(b *branch, f txn.Finish) {
	b.finish = f
	c.over(b)
	c.stepMember(b.in, protocol.Finished{No: b.xid.Branch, Finish: f})
	told := func() { c.answered(&b.finishers, func(call Call) Effect { return Ended{Call: call, Finish: f} }) }
	if f == txn.Lost || f == txn.Contradicted {
		c.say(b, told)
	} else {
		told()
	}
}

// calm puts off asking: there was news.
func (c *Core) calm(m *membership) {
	m.elections, m.questions = 0, 0
	m.inquire = c.now.Add(c.askPause(m))
	m.elect = c.now.Add(c.electPause(m))
}

// askPause is how long to wait for the next question.
func (c *Core) askPause(m *membership) time.Duration {
	m.questions++
	return threepc.Pause(c.rules.InquireAfter, c.rules.InquireMost, m.questions-1, m.id, c.self())
}

// electPause is how long to wait for the next election.
func (c *Core) electPause(m *membership) time.Duration {
	m.elections++
	return threepc.Pause(c.rules.ElectAfter, electMost, m.elections-1, m.id, c.self())
}

// tickMembers tells memberships that are not at rest that their times have come.
func (c *Core) tickMembers() {
	for _, id := range slices.SortedFunc(maps.Keys(c.restless), txn.ID.Compare) {
		m := c.members[id]
		if m == nil || !m.core.InDoubt() && !m.core.Kept() {
			delete(c.restless, id)
			continue
		}
		due := func(at time.Time) bool { return !c.now.Before(at) }
		if m.elect.IsZero() { // of an earlier life, or from a listing: nobody knows when there was news
			m.elect = c.now.Add(c.electPause(m))
		}
		if due(m.inquire) {
			m.inquire = c.now.Add(c.askPause(m))
			c.stepMember(m, protocol.Tick{})
		}
		if !m.runBy.IsZero() && due(m.runBy) {
			m.runBy = c.now.Add(candidacyTime)
			c.stepMember(m, threepc.TimeUp{})
		}
		if due(m.elect) {
			m.elect = c.now.Add(c.electPause(m))
			c.stepMember(m, threepc.ElectionDue{})
		}
	}
}

// dropMember forgets a membership of which no branch is known any more.
func (c *Core) dropMember(id txn.ID) {
	m := c.members[id]
	if m == nil || len(c.byID[id]) > 0 {
		return
	}
	delete(c.members, id)
	delete(c.restless, id)
	if m.core.Entry().State != threepc.Nothing {
		c.write(Write{Entry: Entry{ID: id, Cluster: c.cluster}})
	}
}
