// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// Entry is what an agent's journal has of one gid. The zero value stands for no entry: such an
// agent knows nothing of it.
type Entry struct {
	State State
	List  List
	Asked Digest // of the list that the vote was asked for
	// LastElected is what was promised, LastAttempt what was accepted; none before the first.
	LastElected, LastAttempt txn.Election
	// Branches are the agent's. What their databases said when they were prepared is in the first
	// entry that is written after that.
	Branches []txn.Branch
	Finished bool // in all of their databases
}

// Participant is one transaction at an agent that holds branches of it.
//
// Invariants:
//  1. Nothing is said before everything that was to be forced when it was thought of is
//     durable.
//  2. Yes is voted only with all branches prepared and Wait in the journal, and never after
//     Aborted was answered.
//  3. Promises never fall, and nothing below them is accepted.
//  4. A branch is committed only by a decision that was received, or that a quorum accepted.
//  5. Committed and Aborted are left for nothing. That an agent aborts which has not voted is in the
//     journal before it is said; what others decided or accepted need not be.
type Participant struct {
	self     txn.PartyID
	epoch    uint64
	entry    Entry // as the journal has it when all that was asked for is forced
	branches []held
	gaveUp   bool // answered Aborted, or voted No, without an entry: never votes Yes
	voted    bool
	vote     txn.Vote
	reason   string              // of a No
	told     bool                // the cluster knows the decision
	seen     uint32              // the largest number of an election
	withheld [][]protocol.Effect // for each force that is under way, what waits for it
	run      candidate
}

// held is a branch and how far it is.
type held struct {
	branch txn.Branch
	state  branchState
	finish txn.Finish
}

type branchState uint8

const (
	opened    branchState = iota // there may be work
	preparing                    // its resource was asked to
	prepared
	readOnly  // ended with its vote
	refused   // ended with its vote
	stray     // found prepared without an entry: it may be somebody else's business
	finishing // its resource was asked to
	finished
)

// NewParticipant makes a transaction that this agent, in this life of it, knows nothing of.
func NewParticipant(self txn.PartyID, epoch uint64) *Participant {
	return &Participant{self: self, epoch: epoch}
}

// Recover makes a participant of what the journal has after a restart.
func Recover(self txn.PartyID, epoch uint64, e Entry) *Participant {
	p := &Participant{self: self, epoch: epoch, entry: e, seen: e.LastElected.N}
	state := prepared
	switch {
	case e.State.Decision() != txn.Undecided && e.Finished:
		state = finished
	case e.State.Decision() != txn.Undecided:
		state = finishing
	}
	for _, b := range e.Branches {
		p.branches = append(p.branches, held{branch: b, state: state, finish: txn.AlreadyDone})
	}
	return p
}

// Step handles one event.
func (p *Participant) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case protocol.Opened:
		if p.entry.State == Nothing && !p.gaveUp && !p.voted && p.find(e.No) == nil {
			p.add(held{branch: txn.Branch{No: e.No}})
		}
	case protocol.Listed:
		return p.listed(e.No)
	case protocol.Voted:
		if b := p.find(e.No); b != nil && b.state == preparing {
			return p.prepared(b, e)
		}
	case protocol.RollbackAsked:
		if p.entry.State == Nothing && !p.gaveUp {
			return p.giveUp(e.Reason)
		}
	case protocol.Finished:
		if b := p.find(e.No); b != nil && b.state == finishing {
			return p.finished(b, e.Finish)
		}
	case protocol.Tick:
		return p.tick()
	case Forced:
		if len(p.withheld) > 0 {
			released := p.withheld[0]
			p.withheld = p.withheld[1:]
			return released
		}
	case ElectionDue:
		return p.electionDue()
	case TimeUp:
		return p.timeUp()
	case Received:
		return p.received(e.From, e.Message)
	}
	return nil
}

func (p *Participant) received(from txn.PartyID, m Message) []protocol.Effect {
	switch m := m.(type) {
	case CanCommit:
		return p.canCommit(m)
	case PreCommit:
		return p.accept(from, m.Election, txn.Commit, m.Members)
	case PreAbort:
		return p.accept(from, m.Election, txn.Abort, nil)
	case Elect:
		return p.promise(from, m)
	case Answer:
		if p.entry.State.takesPart() {
			p.entry.List.adopt(m.Short)
		}
		if p.run.hear(from, m) {
			return p.timeUp()
		}
	case NotMember:
		if mutant.NotMemberIsAborted && p.entry.State.takesPart() && p.run.phase == electing {
			return p.decide(txn.Abort, from)
		}
		if from.IsWitness() && p.entry.State.Decision() != txn.Undecided {
			p.told = true // it knew once, and has forgotten
		}
		if p.run.hearNobody(from, m.Election) {
			return p.timeUp()
		}
	case Ack:
		if p.run.ack(from, m) {
			return p.decide(p.run.choice, from)
		}
	case Refused:
		p.see(m.LastElected)
	case Decided:
		return p.decided(from, m.Decision)
	}
	return nil
}

// see takes notice of an election. A refusal that names no later one says that the promise was
// given already.
func (p *Participant) see(e txn.Election) {
	p.seen = max(p.seen, e.N)
	p.run.hears(e)
}

// canCommit votes, or begins to find out. The database and the journal work beside each other.
func (p *Participant) canCommit(m CanCommit) []protocol.Effect {
	asked := digest(m.Members)
	switch {
	case p.voted && p.vote != txn.VoteYes:
		return p.repeat(txn.PartyID{}, Vote{Vote: p.vote, List: asked, Reason: p.reason})
	case p.entry.State == Aborted:
		return p.repeat(txn.PartyID{}, Vote{List: asked, Reason: "the transaction was aborted"})
	case p.entry.State != Nothing && asked != p.entry.Asked:
		return p.repeat(txn.PartyID{}, Vote{List: asked,
			Reason: "the agent was asked about a different list of members before"})
	case p.entry.State != Nothing && p.voted:
		return p.repeat(txn.PartyID{}, p.yes())
	case p.entry.State != Nothing:
		return nil // it is on the way; or was lost with an earlier life, which may have cast it
	case p.gaveUp, len(p.branches) == 0, m.Epoch != p.epoch:
		if p.reason == "" {
			p.reason = "the agent does not know these branches: they were never opened, or it restarted"
		}
		return append(p.giveUp(p.reason), p.castNo(asked)...)
	}
	p.entry = Entry{State: Wait, List: List{Members: m.Members}, Asked: asked, LastElected: txn.FirstElection}
	p.see(txn.FirstElection)
	for n := range p.branches {
		p.branches[n].state = preparing
		p.entry.Branches = append(p.entry.Branches, p.branches[n].branch)
	}
	effects := p.force()
	for _, b := range p.branches {
		effects = append(effects, protocol.Prepare{No: b.branch.No})
	}
	return effects
}

// prepared takes the vote of a branch's resource, and casts the agent's when it was the last.
func (p *Participant) prepared(b *held, v protocol.Voted) []protocol.Effect {
	switch v.Vote {
	case txn.VoteYes:
		b.state, b.branch = prepared, v.Branch
		b.branch.No = v.No
	case txn.VoteReadOnly:
		b.state, b.finish = readOnly, txn.Done
	default:
		b.state, b.finish = refused, txn.Done
		p.reason = fmt.Sprintf("branch %d: %s", v.No, v.Reason)
	}
	if d := p.entry.State.Decision(); d != txn.Undecided { // heard meanwhile
		effects := p.carryOut(d)
		return append(effects, p.rest()...)
	}
	if p.entry.State == Nothing {
		return p.rollBack()
	}
	yes, no := false, false
	for _, b := range p.branches {
		if b.state == preparing {
			return nil
		}
		yes, no = yes || b.state == prepared, no || b.state == refused
	}
	asked := p.entry.Asked
	switch {
	case no:
		return append(p.abortUnvoted(), p.castNo(asked)...)
	case !yes && p.entry.LastElected != txn.FirstElection && !mutant.CountReadOnly:
		// A candidate counts on this agent by now, which a read-only voter would leave.
		p.reason = "an election began before the agent could vote"
		return append(p.abortUnvoted(), p.castNo(asked)...)
	case !yes:
		p.voted, p.vote = true, txn.VoteReadOnly
		var effects []protocol.Effect
		if !mutant.CountReadOnly {
			p.entry = Entry{}
			p.run.stepBack()
			effects = p.force()
		}
		return append(effects, p.say(txn.PartyID{}, Vote{Vote: txn.VoteReadOnly, List: asked})...)
	}
	p.entry.Branches = nil
	for _, b := range p.branches {
		if b.state == prepared {
			p.entry.Branches = append(p.entry.Branches, b.branch)
		}
	}
	p.voted, p.vote = true, txn.VoteYes
	if mutant.VoteBeforeJournal {
		return []protocol.Effect{Send{Message: p.yes()}}
	}
	return p.say(txn.PartyID{}, p.yes())
}

func (p *Participant) yes() Vote {
	return Vote{Vote: txn.VoteYes, List: p.entry.Asked, Branches: p.entry.Branches}
}

func (p *Participant) castNo(asked Digest) []protocol.Effect {
	p.voted, p.vote = true, txn.VoteNo
	return p.say(txn.PartyID{}, Vote{List: asked, Reason: p.reason})
}

// abortUnvoted aborts alone, which nobody may who voted Yes.
func (p *Participant) abortUnvoted() []protocol.Effect {
	p.run.stepBack()
	p.entry.State = Aborted
	finishes := p.rollBack()
	p.entry.Finished = !p.unfinished()
	return append(p.force(), finishes...)
}

// giveUp aborts without an entry: work is rolled back, also what is prepared late.
func (p *Participant) giveUp(reason string) []protocol.Effect {
	p.gaveUp, p.reason = true, reason
	return p.rollBack()
}

// rollBack ends what no vote and no decision has ended.
func (p *Participant) rollBack() (effects []protocol.Effect) {
	for n := range p.branches {
		if b := &p.branches[n]; b.state == opened || b.state == prepared {
			b.state = finishing
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: txn.Abort})
		}
	}
	return effects
}

// listed takes a branch that was found prepared. Without an entry it may be somebody else's
// business, so the cluster is asked; with a decision it came late.
func (p *Participant) listed(no txn.BranchNo) []protocol.Effect {
	b := p.find(no)
	if b == nil {
		p.add(held{branch: txn.Branch{No: no}, state: stray})
		b = p.find(no)
	}
	switch d := p.entry.State.Decision(); {
	case d != txn.Undecided && b.state != preparing:
		b.state = finishing
		return []protocol.Effect{protocol.Finish{No: no, Decision: d}}
	case b.state == stray:
		return p.repeat(txn.PartyID{}, Inquire{})
	}
	return nil
}

func (p *Participant) tick() (effects []protocol.Effect) {
	d := p.entry.State.Decision()
	for _, b := range p.branches {
		switch {
		case b.state == finishing && d != txn.Undecided:
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: d})
		case b.state == finishing:
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: txn.Abort})
		}
	}
	switch {
	case p.entry.State.takesPart(), p.holds(stray):
		effects = append(effects, p.repeat(txn.PartyID{}, Inquire{})...)
	case d != txn.Undecided && !p.told:
		effects = append(effects, p.repeat(txn.PartyID{}, Decided{Decision: d})...)
	}
	return effects
}

// decided obeys a decision, however often it comes.
func (p *Participant) decided(from txn.PartyID, d txn.Decision) []protocol.Effect {
	known := p.entry.State.Decision()
	switch {
	case known != txn.Undecided && known != d:
		return []protocol.Effect{Breach{From: from, Told: d, Known: known}}
	case known != txn.Undecided:
		p.told = p.told || from.IsWitness()
		var effects []protocol.Effect
		for _, b := range p.branches {
			if b.state == finished && from.IsWitness() {
				effects = append(effects, p.repeat(from, Finished{No: b.branch.No, Finish: b.finish})...)
			}
		}
		return effects
	case p.entry.State != Nothing:
		p.told = from.IsWitness()
		return p.decide(d, from)
	case p.holds(stray): // of an earlier life, whose entry is gone
		p.entry = Entry{State: decidedAs(d)}
		p.told = from.IsWitness()
		for _, b := range p.branches {
			if b.state == stray {
				p.entry.Branches = append(p.entry.Branches, b.branch)
			}
		}
		return append([]protocol.Effect{Write{Entry: p.entry}}, p.carryOut(d)...)
	case d == txn.Abort:
		return p.giveUp("the transaction was aborted")
	case p.holds(opened): // nobody may without this agent's Yes
		return []protocol.Effect{Breach{From: from, Told: d}}
	}
	return nil
}

// decide leaves for Committed or Aborted: because it was told, or because a quorum accepted what
// this member chose. A candidate tells everybody, who may have waited for it. What is decided cannot
// be undone by forgetting it, so nothing waits for the journal: a restart that finds Wait or an
// attempt there learns the decision again.
func (p *Participant) decide(d txn.Decision, from txn.PartyID) []protocol.Effect {
	var effects []protocol.Effect
	if p.run.phase != idle {
		effects = p.sayAll(Decided{Decision: d})
	}
	p.run.stepBack()
	p.entry.State = decidedAs(d)
	effects = append(effects, Write{Entry: p.entry})
	return append(effects, p.carryOut(d)...)
}

// carryOut tells the databases. What one of them prepares late comes here again.
func (p *Participant) carryOut(d txn.Decision) (effects []protocol.Effect) {
	for n := range p.branches {
		if b := &p.branches[n]; b.state == prepared || b.state == stray {
			b.state = finishing
			effects = append(effects, protocol.Finish{No: b.branch.No, Decision: d})
		}
	}
	return effects
}

// finished reports what a database found. The report of the last branch lets the cluster end the
// transaction, and of one that did not end as decided it goes on to people: so the journal has that
// before it is said. Until then a restart finds out again what the database found.
func (p *Participant) finished(b *held, f txn.Finish) []protocol.Effect {
	b.state, b.finish = finished, f
	if p.entry.State.Decision() == txn.Undecided {
		return nil // given up: nobody waits for it
	}
	effects := p.rest()
	if bad := f == txn.Lost || f == txn.Contradicted; bad && len(effects) == 0 {
		effects = p.force()
	}
	effects = append(effects, p.say(txn.PartyID{}, Finished{No: b.branch.No, Finish: f})...)
	if b.finish == txn.Done {
		b.finish = txn.AlreadyDone // when it is said again
	}
	return effects
}

// rest notes that nothing is left to be done in the databases.
func (p *Participant) rest() []protocol.Effect {
	if p.entry.Finished || p.unfinished() {
		return nil
	}
	p.entry.Finished = true
	return p.force()
}

func (p *Participant) unfinished() bool {
	return p.holds(prepared) || p.holds(finishing) || p.holds(preparing) || p.holds(opened)
}

// Kept reports whether the journal has to keep the entry: it may be dropped once its branches are
// finished, the cluster knows the decision, and its watermark has passed the gid.
func (p *Participant) Kept() bool { return p.entry.State != Nothing && !(p.entry.Finished && p.told) }

// Self returns who this agent is.
func (p *Participant) Self() txn.PartyID { return p.self }

// Entry returns what the journal has when all that was asked for is forced.
func (p *Participant) Entry() Entry { return p.entry }

// InDoubt reports whether branches are prepared and the decision is not known here.
func (p *Participant) InDoubt() bool { return p.entry.State.takesPart() || p.holds(stray) }

// Blank reports whether nothing is known of the transaction, and nothing was ever said about it: who
// forgets such a participant loses nothing.
func (p *Participant) Blank() bool {
	return p.entry.State == Nothing && len(p.branches) == 0 && !p.gaveUp && !p.voted && len(p.withheld) == 0
}

// TakesWork reports whether branches may be opened, and worked in.
func (p *Participant) TakesWork() bool {
	return p.entry.State == Nothing && !p.gaveUp && !p.voted && !p.holds(stray)
}

// Holds reports whether the branch is one of this agent's.
func (p *Participant) Holds(no txn.BranchNo) bool { return p.find(no) != nil }

// Prepared reports whether the branch is prepared, and waits for a decision.
func (p *Participant) Prepared(no txn.BranchNo) bool {
	b := p.find(no)
	return b != nil && (b.state == prepared || b.state == stray)
}

// Ended reports whether the branch has ended, or is being ended.
func (p *Participant) Ended(no txn.BranchNo) bool {
	b := p.find(no)
	return b != nil && b.state >= readOnly && b.state != stray
}

// Running returns the election in which this agent is a candidate and waits for TimeUp, if it is, and
// whether that is for answers.
func (p *Participant) Running() (e txn.Election, waiting bool) {
	return p.run.election, p.run.phase == electing
}

func (p *Participant) holds(s branchState) bool {
	return slices.ContainsFunc(p.branches, func(b held) bool { return b.state == s })
}

func (p *Participant) find(no txn.BranchNo) *held {
	for n := range p.branches {
		if p.branches[n].branch.No == no {
			return &p.branches[n]
		}
	}
	return nil
}

func (p *Participant) add(b held) {
	p.branches = append(p.branches, b)
	slices.SortFunc(p.branches, func(a, b held) int { return int(a.branch.No) - int(b.branch.No) })
}

// force has the journal write the entry. What is said from here on waits for that.
func (p *Participant) force() []protocol.Effect {
	p.withheld = append(p.withheld, nil)
	return []protocol.Effect{Force{Entry: p.entry}}
}

// say sends a message as soon as everything is durable that came before it.
func (p *Participant) say(to txn.PartyID, m Message) []protocol.Effect {
	s := Send{To: to, Message: m}
	if last := len(p.withheld) - 1; last >= 0 {
		p.withheld[last] = append(p.withheld[last], s)
		return nil
	}
	return []protocol.Effect{s}
}

// repeat says something that was said before, or will be asked for again: while the journal is busy
// it need not wait for it, so that what waits has a bound.
func (p *Participant) repeat(to txn.PartyID, m Message) []protocol.Effect {
	if len(p.withheld) > 0 {
		return nil
	}
	return p.say(to, m)
}

// sayAll says something to all other members.
func (p *Participant) sayAll(m Message) (effects []protocol.Effect) {
	for _, to := range p.entry.List.Members {
		if to.PartyID != p.self {
			effects = append(effects, p.say(to.PartyID, m)...)
		}
	}
	return effects
}

// Clone returns an independent copy.
func (p *Participant) Clone() *Participant {
	c := *p
	c.branches = slices.Clone(p.branches)
	c.withheld = make([][]protocol.Effect, len(p.withheld))
	for n, w := range p.withheld {
		c.withheld[n] = slices.Clone(w)
	}
	c.run = p.run.clone()
	return &c
}

// String prints the whole state in one line.
func (p *Participant) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "participant %v %v", p.self, p.entry.State)
	if p.entry.State != Nothing {
		fmt.Fprintf(&b, " elected=%v attempt=%v", electionText(p.entry.LastElected), electionText(p.entry.LastAttempt))
	}
	for _, h := range p.branches {
		fmt.Fprintf(&b, " %d:%v", h.branch.No, h.state)
	}
	if p.gaveUp {
		b.WriteString(" gave-up")
	}
	if p.told {
		b.WriteString(" told")
	}
	if n := len(p.withheld); n > 0 {
		fmt.Fprintf(&b, " forcing=%d", n)
	}
	b.WriteString(p.run.text())
	return b.String()
}

func (s branchState) String() string {
	return [...]string{"opened", "preparing", "prepared", "read-only", "refused", "stray", "finishing", "finished"}[s]
}
