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

// Coordinator is one transaction at the leader, who speaks for the cluster, the witness. What the
// witness promises and accepts is in the log: this core says so only when the log delivered it.
//
// Invariants:
//  1. PreCommit is proposed only when every agent has voted, none No, and sent only when its
//     record was delivered.
//  2. As the witness it answers, acknowledges and attempts what Folded has shown, nothing before.
//  3. A commit is told when a quorum has accepted it, the witness included; a decision of the log
//     when it is delivered.
//  4. End comes only when the log has the decision and every branch of a commit was reported
//     finished; a branch that was contradicted or lost gets an Alarm first.
type Coordinator struct {
	id       txn.ID
	phase    phase
	agents   []asked // in order of PartyID
	label    string
	waited   bool // somebody waits for a Reply
	witness  txn.Witness
	resumed  bool
	seen     uint32 // the largest number of an election
	run      candidate
	pending  []pending     // wait for a record of theirs to be delivered
	curious  []txn.PartyID // wait for a decision to be delivered
	proving  bool          // a proven decision is proposed
	told     bool          // all members were, once
	decision txn.Decision
	reason   string
	branches protocol.Finishing // of what is decided
}

type phase uint8

const (
	unheard    phase = iota
	collecting       // waiting for the missing votes
	proposing        // a decision or PreCommit; waiting for the log
	open             // the log has PreCommit: the members decide
	proven           // a quorum has; waiting for the log
	decided          // waiting for branches to finish
	closed
)

// asked is an agent and its vote.
type asked struct {
	txn.Agent
	voted bool
	vote  txn.Vote
}

// strange says what is wrong with the branches of a Yes: an agent votes for its own alone.
func (a *asked) strange(branches []txn.Branch) string {
	for _, b := range branches {
		known := slices.ContainsFunc(a.Branches,
			func(k txn.Branch) bool { return k.No == b.No && k.Resource == b.Resource })
		if !known {
			return fmt.Sprintf("%s voted for branch %d in %q, which it was not asked about", a.PartyID, b.No,
				b.Resource)
		}
	}
	return ""
}

// pending is a question of another member's election that waits for the log.
type pending struct {
	from     txn.PartyID
	election txn.Election
	attempt  bool // asks to accept, not to promise
}

var _ protocol.Transaction = (*Coordinator)(nil)

// NewCoordinator makes a transaction that the leader has not heard of.
func NewCoordinator(id txn.ID) *Coordinator { return &Coordinator{id: id} }

// Resume makes the coordinator of an open gid at a new leader. If the witness's last attempt is its
// own and nothing later was promised, it is repeated; otherwise ElectionDue begins a new one.
func Resume(w txn.Witness) *Coordinator {
	c := &Coordinator{id: w.ID, phase: open, witness: w, resumed: true, seen: w.LastElected.N, label: w.Label}
	if w.LastAttempt == w.LastElected && w.LastElected.By.IsWitness() {
		c.run.attempt(w.LastAttempt, c.list(), txn.PartyID{}, w.Accepted)
	}
	return c
}

// ResumeDecided makes the coordinator of a transaction that the log decided to commit and that is
// not ended. finished are the branches that are known to be finished.
func ResumeDecided(id txn.ID, branches []txn.Branch, finished ...txn.BranchNo) *Coordinator {
	c := &Coordinator{id: id, phase: decided, decision: txn.Commit, told: true}
	c.branches.Add(branches, finished...)
	return c
}

// Step handles one event. An orphan of an open gid is left alone: it has the members elect, which
// finds out what became of it.
func (c *Coordinator) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case Asked:
		return c.ask(e)
	case protocol.RollbackAsked:
		return c.doubt(e.Reason)
	case protocol.OrphanMet:
		return c.doubt(e.Reason)
	case protocol.Delivered:
		return c.deliver(e)
	case protocol.Finished:
		return c.finished(e)
	case protocol.Tick:
		return c.tick()
	case Folded:
		return c.folded(e.Witness)
	case Forgotten:
		return c.forgotten()
	case ElectionDue:
		if c.run.phase == idle || c.run.phase == attempting {
			c.run.stepBack()
			return c.terminate()
		}
	case TimeUp:
		if c.run.phase == electing {
			return c.choose()
		}
	case Received:
		return c.received(e.From, e.Message)
	}
	return nil
}

func (c *Coordinator) received(from txn.PartyID, m Message) []protocol.Effect {
	switch m := m.(type) {
	case Vote:
		return c.vote(from, m)
	case Inquire:
		return c.inquire(from)
	case Elect:
		return c.asks(pending{from: from, election: m.Election})
	case PreCommit:
		return c.asksToAccept(from, m.Election, txn.Commit)
	case PreAbort:
		return c.asksToAccept(from, m.Election, txn.Abort)
	case Answer:
		if c.run.hear(from, m) {
			return c.choose()
		}
	case NotMember:
		if c.run.hearNobody(from, m.Election) {
			return c.choose()
		}
	case Ack:
		if c.run.ack(from, m) {
			return c.prove(c.run.choice)
		}
	case Refused:
		c.see(m.LastElected)
	case Decided:
		return c.hears(from, m.Decision)
	case Finished:
		return c.finished(protocol.Finished(m))
	}
	return nil
}

// ask begins with CanCommit to all agents. There is no record yet, so no record means abort.
func (c *Coordinator) ask(a Asked) []protocol.Effect {
	c.waited = true
	if c.phase >= proven {
		return c.reply()
	}
	if c.phase != unheard {
		return nil // the same request again: its answer is on the way
	}
	c.phase, c.label = collecting, a.Label
	for _, g := range a.Agents {
		c.agents = append(c.agents, asked{Agent: g})
	}
	slices.SortFunc(c.agents, func(a, b asked) int { return a.PartyID.Compare(b.PartyID) })
	return append(c.canCommit(), c.count()...)
}

func (c *Coordinator) canCommit() (effects []protocol.Effect) {
	for _, a := range c.agents {
		if !a.voted {
			effects = append(effects, Send{To: a.PartyID,
				Message: CanCommit{Members: c.long(), Epoch: a.Epoch, Claims: a.Claims}})
		}
	}
	return effects
}

// long is everybody who was asked, and the witness, which comes first.
func (c *Coordinator) long() []txn.Party {
	members := []txn.Party{{}}
	for _, a := range c.agents {
		members = append(members, a.Party)
	}
	return members
}

func (c *Coordinator) vote(from txn.PartyID, v Vote) []protocol.Effect {
	i := slices.IndexFunc(c.agents, func(a asked) bool { return a.PartyID == from })
	switch {
	case c.phase != collecting && v.Vote == txn.VoteYes: // late: the voter has not heard the decision
		return c.inquire(from)
	case c.phase != collecting || i < 0 || c.agents[i].voted || v.List != digest(c.long()):
		return nil // the first vote counts, and only for this list
	}
	a := &c.agents[i]
	if why := a.strange(v.Branches); why != "" {
		return c.propose(txn.Abort, why)
	}
	a.voted, a.vote = true, v.Vote
	switch v.Vote {
	case txn.VoteYes:
		a.Branches = v.Branches
	case txn.VoteReadOnly:
		a.Branches = nil
	default:
		return c.propose(txn.Abort, fmt.Sprintf("%s voted no: %s", from, v.Reason))
	}
	return c.count()
}

// count goes on once every agent has voted.
func (c *Coordinator) count() []protocol.Effect {
	short := []txn.Party{{}}
	var branches []txn.Branch
	for _, a := range c.agents {
		if !a.voted {
			return nil
		}
		if a.vote == txn.VoteYes {
			short = append(short, a.Party)
			branches = append(branches, a.Branches...)
		}
	}
	if len(short) == 1 {
		return c.propose(txn.Commit, "") // nobody wrote
	}
	slices.SortFunc(branches, func(a, b txn.Branch) int { return int(a.No) - int(b.No) })
	c.phase = proposing
	effects := []protocol.Effect{Propose{Record: txn.PreCommitRecord{
		ID: c.id, Election: txn.FirstElection, Members: short, Branches: branches, Label: c.label}}}
	if mutant.SendBeforePreCommitRecord {
		effects = append(effects, sendAll(short, PreCommit{Election: txn.FirstElection, Members: short})...)
	}
	return effects
}

func (c *Coordinator) propose(d txn.Decision, reason string) []protocol.Effect {
	c.phase = proposing
	return []protocol.Effect{protocol.Propose{Decision: d, Reason: reason}}
}

// doubt is what anybody may cause who wants an end: a tombstone while nobody can have committed,
// and an election where somebody can.
func (c *Coordinator) doubt(reason string) []protocol.Effect {
	switch c.phase {
	case unheard, collecting:
		return c.propose(txn.Abort, reason)
	case open:
		if c.run.phase == idle {
			return c.terminate()
		}
	}
	return nil
}

// inquire answers an agent that has heard nothing.
func (c *Coordinator) inquire(from txn.PartyID) []protocol.Effect {
	switch c.phase {
	case unheard:
		c.wonders(from)
		return c.propose(txn.Abort, "asked for its outcome before it was asked to commit")
	case collecting, proposing:
		return []protocol.Effect{Send{To: from, Message: Underway{}}}
	case open:
		return append([]protocol.Effect{Send{To: from, Message: Underway{Open: true}}}, c.doubt("")...)
	}
	return []protocol.Effect{Send{To: from, Message: Decided{Decision: c.decision}}}
}

func (c *Coordinator) wonders(from txn.PartyID) {
	if !slices.Contains(c.curious, from) {
		c.curious = append(c.curious, from)
		slices.SortFunc(c.curious, txn.PartyID.Compare)
	}
}

// prove takes what a quorum has accepted for decided. The record is for those who come later.
func (c *Coordinator) prove(d txn.Decision) []protocol.Effect {
	reason := "accepted in election " + electionText(c.run.election)
	c.phase, c.decision, c.reason = proven, d, reason
	c.run.stepBack()
	effects := c.tell()
	if c.waited {
		effects = append(effects, c.reply()...)
	}
	return append(effects, c.record(d, reason)...)
}

func (c *Coordinator) record(d txn.Decision, reason string) []protocol.Effect {
	if c.proving {
		return nil
	}
	c.proving = true
	return []protocol.Effect{Propose{Record: txn.ProvenRecord{ID: c.id, Decision: d, Reason: reason}}}
}

// tell tells everybody the decision, once. Who does not hear it asks.
func (c *Coordinator) tell() []protocol.Effect {
	if c.told {
		return nil
	}
	c.told = true
	return sendAll(c.everybody().Members, Decided{Decision: c.decision})
}

// everybody is who was asked to vote, if that is known here, or else the members.
func (c *Coordinator) everybody() List {
	if len(c.agents) > 0 {
		return List{Members: c.long()}
	}
	return c.list()
}

// deliver takes the decision of the log.
func (c *Coordinator) deliver(d protocol.Delivered) []protocol.Effect {
	if c.phase >= decided || d.Decision == txn.Undecided {
		return nil
	}
	if c.phase == proven && c.decision != d.Decision {
		return []protocol.Effect{Breach{Told: d.Decision, Known: c.decision}}
	}
	first := c.phase != proven
	c.phase, c.decision, c.reason = decided, d.Decision, d.Reason
	c.run.stepBack()
	effects := c.tell()
	for _, q := range c.pending {
		c.wonders(q.from)
	}
	for _, m := range c.curious {
		if !first || !c.everybody().has(m) {
			effects = append(effects, Send{To: m, Message: Decided{Decision: c.decision}})
		}
	}
	c.pending, c.curious = nil, nil
	if c.waited && first {
		effects = append(effects, c.reply()...)
	}
	c.adopt(d)
	return append(effects, c.settle()...)
}

// adopt says what is to be finished: the branches of the record, or of an abort those that may
// have been prepared.
func (c *Coordinator) adopt(d protocol.Delivered) {
	branches := d.Branches
	if d.Decision == txn.Abort {
		branches = c.witness.Branches
		if len(branches) == 0 {
			for _, a := range c.agents {
				if !a.voted || a.vote == txn.VoteYes {
					branches = append(branches, a.Branches...)
				}
			}
		}
	}
	c.branches.Add(branches)
}

func (c *Coordinator) finished(f protocol.Finished) []protocol.Effect {
	if c.phase != decided {
		return nil
	}
	effects, isNew := c.branches.Reported(f, c.decision)
	if !isNew {
		return nil
	}
	return append(effects, c.settle()...)
}

// settle closes a decided transaction once every branch is finished.
func (c *Coordinator) settle() []protocol.Effect {
	if len(c.Unfinished()) > 0 {
		return nil
	}
	c.phase = closed
	if c.decision == txn.Commit {
		return []protocol.Effect{protocol.End{}}
	}
	return nil
}

// tick asks again for what is missing.
func (c *Coordinator) tick() (effects []protocol.Effect) {
	switch {
	case c.phase == collecting:
		return c.canCommit()
	case c.phase == open && c.run.phase == attempting:
		ask := attempt(c.run.election, c.run.choice, c.list().Members)
		for _, m := range c.run.missing() {
			effects = append(effects, Send{To: m, Message: ask})
		}
	case c.phase == decided:
		for _, no := range c.Unfinished() {
			effects = append(effects, protocol.Finish{No: no, Decision: c.decision})
		}
	}
	return effects
}

func (c *Coordinator) reply() []protocol.Effect {
	outcome := txn.Committed
	if c.decision == txn.Abort {
		outcome = txn.Aborted
	}
	return []protocol.Effect{protocol.Reply{Outcome: outcome, Reason: c.reason}}
}

// sendAll says something to all of the members but the witness.
func sendAll(members []txn.Party, m Message) (effects []protocol.Effect) {
	for _, to := range members {
		if !to.IsWitness() {
			effects = append(effects, Send{To: to.PartyID, Message: m})
		}
	}
	return effects
}

// Decision returns what was delivered, or Undecided.
func (c *Coordinator) Decision() txn.Decision {
	if c.phase < decided {
		return txn.Undecided
	}
	return c.decision
}

// Closed reports whether nothing is left to do but to answer questions.
func (c *Coordinator) Closed() bool { return c.phase == closed }

// Unfinished returns the branches of a decided transaction that nobody has reported
// finished, in order of No.
func (c *Coordinator) Unfinished() []txn.BranchNo { return c.branches.Unfinished() }

// Running returns the election in which the witness is a candidate, if it is, and whether it still
// waits for answers.
func (c *Coordinator) Running() (e txn.Election, waiting bool) {
	return c.run.election, c.run.phase == electing || c.run.phase == promising
}

// Attempting returns the election in which the witness waits for acknowledgements, if it does.
func (c *Coordinator) Attempting() (e txn.Election, waiting bool) {
	return c.run.election, c.run.phase == attempting
}

// Missing returns the members that a running election or attempt waits for, for people.
func (c *Coordinator) Missing() []txn.PartyID { return c.run.missing() }

// Clone returns an independent copy.
func (c *Coordinator) Clone() *Coordinator {
	d := *c
	d.agents, d.branches = slices.Clone(c.agents), c.branches.Clone()
	d.pending, d.curious = slices.Clone(c.pending), slices.Clone(c.curious)
	d.run = c.run.clone()
	return &d
}

// String prints the whole state in one line.
func (c *Coordinator) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "coordinator %v", c.phase)
	if c.phase >= proven {
		fmt.Fprintf(&b, " %v", c.decision)
	}
	for _, a := range c.agents {
		vote := "?"
		if a.voted {
			vote = a.vote.String()
		}
		fmt.Fprintf(&b, " %v=%s", a.PartyID, vote)
	}
	if c.phase == open {
		w := &c.witness
		fmt.Fprintf(&b, "; %v elected=%v attempt=%v", accepted(w.Accepted),
			electionText(w.LastElected), electionText(w.LastAttempt))
	}
	b.WriteString(c.branches.String())
	b.WriteString(c.run.text())
	return b.String()
}

func (p phase) String() string {
	return [...]string{"unheard", "collecting", "proposing", "open", "proven", "decided", "closed"}[p]
}
