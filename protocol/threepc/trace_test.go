// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// TestTraces plays the stories in testdata. "new N" begins one with N agents, a, b and so on, whose
// branches are open; W is the leader. Each line of a "do" is a step:
//
//	ask                 the client asks the leader to commit
//	elect, wait, tick M it is time for M to elect, to wait no longer, to ask again
//	hear M [from M]     M hears all letters to it, or those of one member
//	lose M [from M]     they are lost
//	force A             the journal of A does what is asked of it
//	base A [refuses]    the database of A prepares or finishes, or refuses to prepare
//	log                 the log delivers what is proposed
//	crash M             M starts again; another leader, if it is W
//	abort               somebody has the log deliver an abort that nothing has proven
//	heal M M ...        all of this, among these members, until nothing happens any more
//
// What was said by it is printed below it, and where everybody stands at the end.
func TestTraces(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "new" {
				s = newStory(t, len(d.CmdArgs[0].Key))
			}
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSpace(line)
				fmt.Fprintln(&s.out, line)
				s.do(strings.Fields(line))
			}
			return s.end()
		})
	})
}

// story is one transaction, its members, the log and all letters between them.
type story struct {
	t       *testing.T
	out     strings.Builder
	id      txn.ID
	names   []string
	agents  map[string]*agentOf
	leader  *Coordinator
	records []txn.Record
	table   *txn.Table
	shelf   shelf
	at      uint64
	letters []letterOf
}

type write struct {
	entry  Entry
	forced bool
}

type agentOf struct {
	*Participant
	id      txn.PartyID
	no      txn.BranchNo
	disk    Entry
	writes  []write
	base    string
	prepare bool
	finish  txn.Decision
}

type letterOf struct {
	from, to string
	Message
}

type shelf map[txn.ID]txn.Txn

func (s shelf) Keep(c txn.Changes) {
	for _, x := range c.Finished {
		s[x.ID] = x
	}
}

func (s shelf) Finished(id txn.ID) (txn.Txn, bool) { x, ok := s[id]; return x, ok }

func (s shelf) KeyUse(string) (txn.KeyUse, bool) { return txn.KeyUse{}, false }

func newStory(t *testing.T, n int) *story {
	s := &story{t: t, id: txn.NewID(time.Now()).WithClass(txn.ThreePhase), agents: map[string]*agentOf{},
		shelf: shelf{}}
	s.table = txn.NewTable(txn.Meta{Cluster: 1, Level: txn.Newest}, nil, s.shelf)
	s.leader = NewCoordinator(s.id)
	for i := range n {
		name := string(rune('a' + i))
		a := &agentOf{id: txn.PartyID{Agent: name, Journal: txn.JournalID{byte(i + 1)}}, no: txn.BranchNo(i),
			base: "open"}
		a.Participant = NewParticipant(a.id, 1)
		a.Step(protocol.Opened{No: a.no})
		s.names, s.agents[name] = append(s.names, name), a
	}
	return s
}

func (s *story) do(words []string) {
	arg := func(n int) string {
		if n < len(words) {
			return words[n]
		}
		return ""
	}
	step := func(e protocol.Event) {
		if arg(1) == "W" {
			s.leaderDoes(s.leader.Step(e))
			return
		}
		s.agentDoes(s.agent(arg(1)), e)
	}
	switch words[0] {
	case "ask":
		asked := Asked{Label: "order"}
		for _, name := range s.names {
			a := s.agents[name]
			asked.Agents = append(asked.Agents, txn.Agent{Party: txn.Party{PartyID: a.id}, Epoch: 1,
				Branches: []txn.Branch{{No: a.no, Resource: name}}})
		}
		s.leaderDoes(s.leader.Step(asked))
	case "elect":
		step(ElectionDue{})
	case "wait":
		step(TimeUp{})
	case "tick":
		step(protocol.Tick{})
	case "hear", "lose":
		letters := s.letters
		s.letters = nil
		for _, l := range letters {
			switch mine := l.to == arg(1) && (arg(3) == "" || l.from == arg(3)); {
			case !mine:
				s.letters = append(s.letters, l)
			case words[0] == "hear":
				s.hear(l)
			}
		}
	case "force":
		s.force(s.agent(arg(1)))
	case "base":
		s.baseDoes(s.agent(arg(1)), arg(2) == "refuses")
	case "log":
		for len(s.records) > 0 {
			s.deliver()
		}
	case "abort":
		s.records = append(s.records, txn.AbortRecord{ID: s.id, Reason: "an operator said so"})
		s.do([]string{"log"})
	case "crash":
		s.crash(arg(1))
	case "heal":
		s.heal(words[1:])
	default:
		s.t.Fatalf("nobody knows how to %q", words)
	}
}

func (s *story) agent(name string) *agentOf {
	a := s.agents[name]
	require.NotNil(s.t, a, name)
	return a
}

func (s *story) hear(l letterOf) {
	r := Received{From: s.party(l.from), Message: l.Message}
	if l.to == "W" {
		s.leaderDoes(s.leader.Step(r))
	} else {
		s.agentDoes(s.agents[l.to], r)
	}
}

func (s *story) party(name string) txn.PartyID {
	if name == "W" {
		return txn.PartyID{}
	}
	return s.agents[name].id
}

func (s *story) send(from string, to txn.PartyID, m Message) {
	name := "W"
	if !to.IsWitness() {
		name = to.Agent
	}
	s.letters = append(s.letters, letterOf{from, name, m})
	fmt.Fprintf(&s.out, "  %s > %s: %s\n", from, name, messageText(m))
}

func (s *story) leaderDoes(effects []protocol.Effect) {
	for _, f := range effects {
		switch f := f.(type) {
		case Send:
			s.send("W", f.To, f.Message)
		case Propose:
			s.propose(f.Record)
		case protocol.Propose:
			if f.Decision == txn.Commit {
				s.propose(txn.CommitRecord{ID: s.id, Branches: f.Branches})
			} else {
				s.propose(txn.AbortRecord{ID: s.id, Reason: f.Reason})
			}
		case protocol.Finish:
			s.send("W", s.agents[s.names[f.No]].id, Decided{Decision: f.Decision})
		case protocol.Reply:
			fmt.Fprintf(&s.out, "  W replies: %v\n", f.Outcome)
		case protocol.End:
			s.propose(txn.End{IDs: []txn.ID{s.id}})
		default:
			fmt.Fprintf(&s.out, "  W: %T%v\n", f, f)
		}
	}
}

func (s *story) propose(r txn.Record) {
	s.records = append(s.records, r)
	fmt.Fprintf(&s.out, "  W proposes %s\n", recordText(r))
}

func (s *story) agentDoes(a *agentOf, e protocol.Event) {
	name := a.id.Agent
	for _, f := range a.Step(e) {
		switch f := f.(type) {
		case Send:
			s.send(name, f.To, f.Message)
		case Force:
			a.writes = append(a.writes, write{f.Entry, true})
			fmt.Fprintf(&s.out, "  %s forces %v elected=%s attempt=%s\n", name, f.Entry.State,
				electionText(f.Entry.LastElected), electionText(f.Entry.LastAttempt))
		case Write:
			a.writes = append(a.writes, write{f.Entry, false})
			fmt.Fprintf(&s.out, "  %s writes %v\n", name, f.Entry.State)
		case protocol.Prepare:
			a.prepare = true
		case protocol.Finish:
			a.finish = f.Decision
		case Blocked:
			fmt.Fprintf(&s.out, "  %s is blocked in %s without %v\n", name, electionText(f.Election), f.Missing)
		default:
			fmt.Fprintf(&s.out, "  %s: %T%v\n", name, f, f)
		}
	}
}

func (s *story) force(a *agentOf) {
	for len(a.writes) > 0 {
		next := a.writes[0]
		a.disk, a.writes = next.entry, a.writes[1:]
		if next.forced {
			s.agentDoes(a, Forced{})
		}
	}
}

func (s *story) baseDoes(a *agentOf, refuses bool) {
	switch {
	case a.prepare && refuses:
		a.prepare, a.base = false, "rolled back"
		s.agentDoes(a, protocol.Voted{No: a.no, Vote: txn.VoteNo, Reason: "a constraint"})
	case a.prepare:
		a.prepare, a.base = false, "prepared"
		s.agentDoes(a, protocol.Voted{No: a.no, Vote: txn.VoteYes, Branch: txn.Branch{No: a.no, Resource: a.id.Agent}})
	case a.finish == txn.Commit:
		require.Contains(s.t, []string{"prepared", "committed"}, a.base)
		a.finish, a.base = txn.Undecided, "committed"
		s.agentDoes(a, protocol.Finished{No: a.no, Finish: txn.Done})
	case a.finish == txn.Abort:
		require.NotEqual(s.t, "committed", a.base)
		a.finish, a.base = txn.Undecided, "rolled back"
		s.agentDoes(a, protocol.Finished{No: a.no, Finish: txn.Done})
	}
}

func (s *story) deliver() {
	r := s.records[0]
	s.records = s.records[1:]
	s.at++
	c, err := s.table.Apply(zab.Zxid{Epoch: 1, Counter: s.at}, txn.EncodeRecords(nil, r))
	require.NoError(s.t, err)
	require.Empty(s.t, c.Broken)
	if x, decided := s.table.Get(s.id); decided {
		s.leaderDoes(s.leader.Step(protocol.Delivered{Txn: x}))
	} else if w, open := s.table.Witness(s.id); open {
		s.leaderDoes(s.leader.Step(Folded{Witness: w}))
	}
}

func (s *story) crash(name string) {
	if name != "W" {
		a := s.agent(name)
		a.Participant, a.writes, a.prepare, a.finish = Recover(a.id, 2, a.disk), nil, false, txn.Undecided
		if a.base == "open" {
			a.base = "lost"
		}
		return
	}
	s.records = nil
	s.leader = NewCoordinator(s.id)
	if w, open := s.table.Witness(s.id); open {
		s.leader = Resume(w)
	} else if x, decided := s.table.Get(s.id); decided && x.Decision == txn.Commit && !x.Ended {
		s.leader = ResumeDecided(s.id, x.Branches)
	}
}

// heal has members talk until all is said. Letters of and to others are kept.
func (s *story) heal(names []string) {
	for busy := true; busy; {
		busy = false
		for _, name := range names {
			switch a := s.agents[name]; {
			case name == "W" && len(s.records) > 0:
				s.do([]string{"log"})
				busy = true
			case a == nil:
			case len(a.writes) > 0 || a.prepare || a.finish != txn.Undecided:
				s.force(a)
				s.baseDoes(a, false)
				busy = true
			}
		}
		letters := s.letters
		s.letters = nil
		for _, l := range letters {
			if slices.Contains(names, l.from) && slices.Contains(names, l.to) {
				s.hear(l)
				busy = true
			} else {
				s.letters = append(s.letters, l)
			}
		}
	}
}

// end says where everybody stands, and that nobody contradicts another.
func (s *story) end() string {
	decisions := map[txn.Decision]bool{}
	log := "undecided"
	if w, open := s.table.Witness(s.id); open {
		log = fmt.Sprintf("open, %v elected=%s attempt=%s", accepted(w.Accepted),
			electionText(w.LastElected), electionText(w.LastAttempt))
	} else if x, decided := s.table.Get(s.id); decided {
		log, decisions[x.Decision] = x.Decision.String(), true
	}
	fmt.Fprintf(&s.out, "log: %s; %v\n", log, s.leader)
	for _, name := range s.names {
		a := s.agents[name]
		fmt.Fprintf(&s.out, "%v; journal %v, database %s\n", a.Participant, a.disk.State, a.base)
		decisions[a.disk.State.Decision()] = true
	}
	require.False(s.t, decisions[txn.Commit] && decisions[txn.Abort], "two decisions")
	defer s.out.Reset()
	return s.out.String()
}

func messageText(m Message) string {
	switch m := m.(type) {
	case CanCommit:
		return "can-commit"
	case Vote:
		return strings.TrimSpace(fmt.Sprintf("vote %v %s", m.Vote, m.Reason))
	case PreCommit:
		return "pre-commit " + electionText(m.Election)
	case PreAbort:
		return "pre-abort " + electionText(m.Election)
	case Ack:
		return fmt.Sprintf("ack %s %v", electionText(m.Election), m.Kind)
	case Refused:
		return fmt.Sprintf("refused %s, promised %s", electionText(m.Election), electionText(m.LastElected))
	case Elect:
		return "elect " + electionText(m.Election)
	case Answer:
		return fmt.Sprintf("answer %s: %v %s", electionText(m.Election), m.State, electionText(m.LastAttempt))
	case Decided:
		return "decided " + m.Decision.String()
	case Finished:
		return fmt.Sprintf("finished %d %v", m.No, m.Finish)
	case Inquire:
		return "inquire"
	case Underway:
		if m.Open {
			return "open"
		}
		return "voting"
	}
	return "not-member"
}

func recordText(r txn.Record) string {
	switch r := r.(type) {
	case txn.PreCommitRecord:
		return "pre-commit " + electionText(r.Election)
	case txn.PreAbortRecord:
		return "pre-abort " + electionText(r.Election)
	case txn.PromiseRecord:
		return "promise " + electionText(r.Election)
	case txn.ProvenRecord:
		return fmt.Sprintf("%v, %s", r.Decision, r.Reason)
	case txn.CommitRecord:
		return "commit without branches"
	case txn.AbortRecord:
		return "abort: " + r.Reason
	}
	return "end"
}
