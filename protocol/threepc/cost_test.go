// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// The cost of a run without failures, as docs/three-phase.md has it: 6n messages between the cluster and n
// agents, three records, and three forced writes in each agent's journal, of which two come before the
// reply. Cores are wired to each other, and all that they ask for is done at once and counted.
func TestCostOfARunWithoutFailures(t *testing.T) {
	for n := 1; n <= 5; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := newRun(n)
			r.leads(Asked{Agents: r.asked})
			for len(r.events) > 0 {
				next := r.events[0]
				r.events = r.events[1:]
				next()
			}
			want := 6 * n
			if n == 1 { // the cluster alone is a quorum: nobody is asked to pre-commit
				want = 4
			}
			require.Equal(t, want, r.messages)
			require.Equal(t, []string{"txn.PreCommitRecord", "txn.ProvenRecord", "txn.End"}, r.records)
			require.Equal(t, map[bool]int{true: 1}, r.replies)
			for name, forced := range r.forced {
				want := 3
				if n == 1 {
					want = 2
				}
				require.Equal(t, want, forced, name)
				require.Equal(t, want-1, r.before[name], name)
				require.Equal(t, Committed, r.agents[name].Entry().State)
				require.False(t, r.agents[name].Kept())
			}
		})
	}
}

// run is a leader and its agents, without a clock and without failures.
type run struct {
	leader   *Coordinator
	agents   map[string]*Participant
	asked    []txn.Agent
	events   []func()
	messages int
	records  []string
	replies  map[bool]int
	forced   map[string]int
	before   map[string]int // forced before the reply
}

func newRun(n int) *run {
	r := &run{leader: NewCoordinator(txn.ID{1}), agents: map[string]*Participant{}, replies: map[bool]int{},
		forced: map[string]int{}, before: map[string]int{}}
	for i := range n {
		id := txn.PartyID{Agent: string(rune('a' + i)), Journal: txn.JournalID{byte(i + 1)}}
		branch := txn.Branch{No: txn.BranchNo(i), Resource: id.Agent}
		p := NewParticipant(id, 1)
		p.Step(protocol.Opened{No: branch.No})
		r.agents[id.Agent] = p
		r.asked = append(r.asked, txn.Agent{Party: txn.Party{PartyID: id}, Epoch: 1, Branches: []txn.Branch{branch}})
	}
	return r
}

func (r *run) later(do func()) { r.events = append(r.events, do) }

// leads steps the leader. What it proposes the log delivers next.
func (r *run) leads(e protocol.Event) {
	for _, f := range r.leader.Step(e) {
		switch f := f.(type) {
		case Send:
			r.messages++
			r.later(func() { r.hears(f.To.Agent, Received{Message: f.Message}) })
		case Propose:
			r.records = append(r.records, fmt.Sprintf("%T", f.Record))
			switch record := f.Record.(type) {
			case txn.PreCommitRecord:
				r.later(func() {
					r.leads(Folded{Witness: txn.Witness{ID: record.ID, Members: record.Members,
						Branches: record.Branches, Accepted: txn.Commit, LastAttempt: record.Election,
						LastElected: record.Election}})
				})
			case txn.ProvenRecord:
				r.later(func() {
					var branches []txn.Branch
					for _, a := range r.asked {
						branches = append(branches, a.Branches...)
					}
					r.leads(protocol.Delivered{
						Txn: txn.Txn{Decision: record.Decision, Branches: branches}})
				})
			}
		case protocol.Reply:
			r.replies[f.Outcome == txn.Committed]++
		case protocol.End:
			r.records = append(r.records, "txn.End")
		}
	}
}

// hears steps an agent. Its journal and its database are done next.
func (r *run) hears(name string, e protocol.Event) {
	p := r.agents[name]
	for _, f := range p.Step(e) {
		switch f := f.(type) {
		case Send:
			r.messages++
			r.later(func() { r.leads(Received{From: p.Self(), Message: f.Message}) })
		case Force:
			r.forced[name]++
			if r.replies[true] == 0 {
				r.before[name]++
			}
			r.later(func() { r.hears(name, Forced{}) })
		case protocol.Prepare:
			r.later(func() {
				r.hears(name, protocol.Voted{No: f.No, Vote: txn.VoteYes, Branch: txn.Branch{No: f.No, Resource: name}})
			})
		case protocol.Finish:
			r.later(func() { r.hears(name, protocol.Finished{No: f.No, Finish: txn.Done}) })
		}
	}
}

// An agent votes for the branches that it was asked about: one that claims another's aborts the transaction.
func TestAVoteForABranchOfAnotherAgentAborts(t *testing.T) {
	for name, branch := range map[string]txn.Branch{
		"another branch":               {No: 1, Resource: "a"},
		"its branch, another resource": {No: 0, Resource: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(2)
			asks := r.leader.Step(Asked{Agents: r.asked})
			require.Len(t, asks, 2)
			vote := Vote{Vote: txn.VoteYes, List: digest(asks[0].(Send).Message.(CanCommit).Members),
				Branches: []txn.Branch{branch}}
			effects := r.leader.Step(Received{From: r.asked[0].PartyID, Message: vote})
			require.Equal(t, []protocol.Effect{protocol.Propose{Decision: txn.Abort,
				Reason: fmt.Sprintf("%s voted for branch %d in %q, which it was not asked about", r.asked[0].PartyID,
					branch.No, branch.Resource)}}, effects)
		})
	}
}
