// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// storyAgent is an agent of a story: its real core, with databases that always do what they are
// asked, and a journal that is durable at once. Letters wait until the story has it hear them.
type storyAgent struct {
	name    string
	members map[txn.ID]*threepc.Participant
	letters []Said // To is this agent
}

func party(name string) txn.Party {
	return txn.Party{PartyID: txn.PartyID{Agent: name, Journal: txn.JournalID{name[0]}}, Addr: name + ":7430"}
}

// council carries out a line about three-phase transactions.
func (s *story) council(words []string) {
	s.t.Helper()
	switch words[0] {
	case "three": // three A ann/orders bob/billing: each agent has a branch in one database
		if s.table.Level() < txn.LevelThreePhase && !s.old {
			levelled(s.lone)
			s.notes = nil
		}
		s.core.config.Hosted = func(resource string) bool { return resource != "plain" }
		id, known := s.ids[words[1]]
		if !known {
			id = txn.FirstID(s.now) // pauses depend on it
			id[14] = byte(len(s.names))
			id = id.WithClass(txn.ThreePhase)
			s.ids[words[1]], s.names = id, append(s.names, words[1])
		}
		r := txn.CommitRequest{ID: id, Protocol: txn.ThreePhaseCommit}
		for _, word := range words[2:] {
			name, resource, _ := strings.Cut(word, "/")
			no := txn.BranchNo(slices.Index(s.machine.Resources, resource))
			r.Agents = append(r.Agents, txn.Agent{Party: party(name), Epoch: 1,
				Branches: []txn.Branch{{No: no, Resource: resource}}, Claims: []txn.Claim{{No: no, Number: 1}}})
			a := s.agents[name]
			if a == nil {
				a = &storyAgent{name: name, members: map[txn.ID]*threepc.Participant{}}
				s.agents[name] = a
			}
			if a.members[id] == nil {
				a.members[id] = threepc.NewParticipant(party(name).PartyID, 1)
				a.members[id].Step(protocol.Opened{No: no})
			}
		}
		s.request++
		s.step(CommitAsked{Request: s.request, CommitRequest: r})
	case "hears": // hears ann: all that waits for it
		a := s.agents[words[1]]
		letters := a.letters
		a.letters = nil
		for _, m := range letters {
			s.stepAgent(a, m.ID, threepc.Received{From: m.From.PartyID, Message: m.Message})
		}
	case "lose": // lose ann: what waits for it
		s.agents[words[1]].letters = nil
	case "elects": // elects ann A
		s.stepAgent(s.agents[words[1]], s.ids[words[2]], threepc.ElectionDue{})
	case "time-up": // time-up ann A
		s.stepAgent(s.agents[words[1]], s.ids[words[2]], threepc.TimeUp{})
	case "asks": // asks ann A: what became of it
		s.step(Said{ID: s.ids[words[2]], From: party(words[1]), Message: threepc.Inquire{}})
	}
}

func (s *story) stepAgent(a *storyAgent, id txn.ID, e protocol.Event) {
	p := a.members[id]
	if p == nil {
		p = threepc.NewParticipant(party(a.name).PartyID, 1)
		a.members[id] = p
	}
	for _, f := range p.Step(e) {
		switch f := f.(type) {
		case protocol.Prepare:
			s.stepAgent(a, id, protocol.Voted{No: f.No, Vote: txn.VoteYes,
				Branch: txn.Branch{Resource: s.resourceOf(id, f.No)}})
		case protocol.Finish:
			s.stepAgent(a, id, protocol.Finished{No: f.No, Finish: txn.Done})
		case threepc.Force:
			s.stepAgent(a, id, threepc.Forced{})
		case threepc.Write:
		case threepc.Send:
			s.notes = append(s.notes, fmt.Sprintf("%s to %v: %s", a.name, f.To, s.saying(f.Message)))
			if f.To.IsWitness() {
				s.step(Said{ID: id, From: party(a.name), Message: f.Message})
			} else {
				to := s.agents[f.To.Agent]
				to.letters = append(to.letters, Said{ID: id, From: party(a.name), Message: f.Message})
			}
		case threepc.Blocked:
			s.notes = append(s.notes, fmt.Sprintf("%s is blocked by %v", a.name, f.Missing))
		default:
			require.Fail(s.t, "an agent of a story does not do this", "%T", f)
		}
	}
}

// resourceOf is that of a branch: of branch 0 the first one, and so on.
func (s *story) resourceOf(_ txn.ID, no txn.BranchNo) string { return s.machine.Resources[no] }

// tellLetters says what the cluster said to agents, who hear it later.
func (s *story) tellLetters() (texts []string) {
	letters := s.letters
	s.letters = nil
	for _, m := range letters {
		a := s.agents[m.To.Agent]
		require.Equal(s.t, party(a.name), m.To)
		a.letters = append(a.letters, Said{ID: m.ID, Message: m.Message})
		texts = append(texts, fmt.Sprintf("to %s: %s", a.name, s.saying(m.Message)))
	}
	return texts
}

// saying is a message in a few words.
func (s *story) saying(m threepc.Message) string {
	text := strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", m), "threepc."))
	number := func(e txn.Election) string {
		if e.By.IsWitness() {
			return fmt.Sprintf(" in %d of the cluster", e.N)
		}
		return fmt.Sprintf(" in %d of %s", e.N, e.By.Agent)
	}
	switch m := m.(type) {
	case threepc.Vote:
		return fmt.Sprintf("votes %v %s", m.Vote, m.Reason)
	case threepc.PreCommit:
		return text + number(m.Election)
	case threepc.PreAbort:
		return text + number(m.Election)
	case threepc.Ack:
		return text + " " + m.Kind.String() + number(m.Election)
	case threepc.Elect:
		return text + number(m.Election)
	case threepc.Answer:
		return text + " " + m.State.String() + number(m.Election)
	case threepc.Refused:
		return text + number(m.Election)
	case threepc.Decided:
		return text + " " + m.Decision.String()
	case threepc.Underway:
		return fmt.Sprintf("%s open=%v", text, m.Open)
	}
	return text
}

// threePhases is a request to commit a three-phase transaction with a branch at each of some agents.
func threePhases(id txn.ID, resources ...string) txn.CommitRequest {
	r := txn.CommitRequest{ID: id, Protocol: txn.ThreePhaseCommit}
	for i, name := range resources {
		no := txn.BranchNo(i)
		r.Agents = append(r.Agents, txn.Agent{Party: party(string(rune('a' + i))), Epoch: 1,
			Branches: []txn.Branch{{No: no, Resource: name}}, Claims: []txn.Claim{{No: no, Number: 1}}})
	}
	return r
}

// opens has agents vote yes for it, and say nothing more.
func opens(l *lone, r txn.CommitRequest) {
	before := len(l.letters)
	l.request++
	l.step(CommitAsked{Request: l.request, CommitRequest: r})
	for i, a := range r.Agents {
		p := threepc.NewParticipant(a.PartyID, a.Epoch)
		p.Step(protocol.Opened{No: a.Branches[0].No})
		p.Step(threepc.Received{Message: l.letters[before+i].Message})
		p.Step(threepc.Forced{})
		for _, f := range p.Step(protocol.Voted{No: a.Branches[0].No, Vote: txn.VoteYes, Branch: a.Branches[0]}) {
			l.step(Said{ID: r.ID, From: a.Party, Message: f.(threepc.Send).Message})
		}
	}
	_, open := l.table.Witness(r.ID)
	require.True(l.t, open)
}

// What members say is bounded by what they are asked: a message that matters to nothing leaves
// nothing behind.
func TestAMessageAboutNothingLeavesNothing(t *testing.T) {
	l := newLone(t, "orders")
	levelled(l)
	for _, m := range []threepc.Message{threepc.Ack{Election: txn.FirstElection, Kind: txn.Commit}, threepc.NotMember{},
		threepc.Vote{Vote: txn.VoteNo},
		threepc.Answer{Election: txn.FirstElection, State: threepc.Wait},
		threepc.Refused{Election: txn.FirstElection, LastElected: txn.FirstElection}} {
		l.step(Said{ID: l.newID().WithClass(txn.ThreePhase), From: party("ann"), Message: m})
		require.Empty(t, l.core.live, "%T", m)
	}
	l.step(Said{ID: l.newID(), From: party("ann"), Message: threepc.Inquire{}})
	require.Empty(t, l.core.live, "of another class")
	l.step(Said{ID: txn.NewID(l.now.AddDate(1, 0, 0)).WithClass(txn.ThreePhase), From: party("ann"),
		Message: threepc.Inquire{}})
	require.Empty(t, l.core.live, "of the future")
	require.Empty(t, l.letters)
}

// A record that contradicts what the log has decided is on its way when that is decided: the alarm says
// who told it.
func TestAnAlarmAboutARecordSaysWhoToldIt(t *testing.T) {
	l := newLone(t, "orders")
	levelled(l)
	l.notes = nil
	id := l.newID().WithClass(txn.ThreePhase)
	l.step(Said{ID: id, From: party("bob"), Message: threepc.Inquire{}},
		Said{ID: id, From: party("ann"), Message: threepc.Decided{Decision: txn.Commit}})
	require.Equal(t, txn.Abort, l.get(id).Decision)
	require.Equal(t, []string{id.String() + ": a record, told by ann, says that it was decided as commit, and " +
		"the log knows abort: no action is taken; look into the databases, and find out who speaks for that agent"},
		l.notes)
}

// However many councils wait, a turn wakes some of them.
func TestCouncilsAreWokenAPieceInATurn(t *testing.T) {
	l := newLone(t, "orders")
	levelled(l)
	l.core.config.Hosted = func(string) bool { return true }
	const many = 5000
	for range many {
		id := l.newID().WithClass(txn.ThreePhase)
		l.request++
		l.step(CommitAsked{Request: l.request, CommitRequest: txn.CommitRequest{ID: id, Protocol: txn.ThreePhaseCommit,
			Agents: []txn.Agent{{Party: party("ann"), Branches: []txn.Branch{{Resource: "orders"}},
				Claims: []txn.Claim{{Number: 1}}}}}})
	}
	require.Len(t, l.letters, many)
	l.letters = nil
	l.now = l.now.Add(2 * askAgain)
	turn := []replica.Event{replica.Tick{Now: l.now}}
	for turns := 0; len(l.letters) < many; turns++ {
		require.Less(t, turns, many)
		before := len(l.letters)
		l.step(turn...)
		require.LessOrEqual(t, len(l.letters)-before, 1024)
		turn = []replica.Event{replica.Tick{Now: l.now}}
	}
	seen := map[txn.ID]bool{}
	for _, m := range l.letters {
		seen[m.ID] = true
	}
	require.Len(t, seen, many)
	require.False(t, l.core.councilsDue())
}

// A class that is forgotten in protocol.go is refused, and not decided by the core of another one.
func TestEveryClassHasACoreOrIsRefused(t *testing.T) {
	notSwitchedOn := []txn.Class{txn.LastResource}
	for class := range txn.Class(32) {
		_, has := cores[class]
		if class.Known() && !has && !slices.Contains(notSwitchedOn, class) {
			t.Errorf("the class %v is known and has no core: give it a row in cores, in protocol.go, or say here "+
				"that it is not switched on", class)
		}
		if has {
			continue
		}
		id := txn.NewID(time.Now()).WithClass(class)
		c := &Machine{table: txn.NewTable(txn.Meta{Level: txn.Newest}, nil, nil)}
		require.False(t, c.decides(class))
		require.Panics(t, func() { c.newLive(id) })
		require.Panics(t, func() { resumeLive(txn.Txn{ID: id, Decision: txn.Commit}, nil) })
	}
}
