// SPDX-License-Identifier: Apache-2.0

package threepcworld

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/explore/exploretest"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

func TestEveryOrderOfEventsKeepsThePromises(t *testing.T) { exploretest.Quick(t, Quick(), false) }

// A world without trouble always commits or aborts, and both happen.
func TestAWorldWithoutTroubleEndsBothWays(t *testing.T) {
	w := newThreePC(Council{Agents: 2})
	r := explore.Explore[sitting]("", w, explore.Limits{})
	require.True(t, r.Complete, r)
	require.Empty(t, r.Broken, r.Trace)
	require.Positive(t, r.Settled)
	commits, aborts := false, false
	for _, f := range w.folds {
		commits = commits || f.decided.Decision.String() == "commit"
		aborts = aborts || f.decided.Decision.String() == "abort"
	}
	require.True(t, commits && aborts)
}

// An exhibit. In two-phase commit an agent that voted Yes is in the same state whether the cluster has
// committed or aborted: with every coordinator lost it may do nothing but ask.
func TestTwoPhaseCommitBlocks(t *testing.T) {
	var agents [2]string
	for history, decision := range []txn.Decision{txn.Commit, txn.Abort} {
		a, leader := twopc.NewParticipant(0), new(twopc.Coordinator)
		a.Step(protocol.Opened{})
		a.Step(protocol.PrepareAsked{})
		cast := a.Step(protocol.Voted{Vote: txn.VoteYes})
		require.Equal(t, []protocol.Effect{protocol.CastVote{Vote: txn.VoteYes}}, cast)
		if decision == txn.Commit { // the other one voted Yes, too
			leader.Step(protocol.Asked{Branches: []txn.Branch{{No: 0}, {No: 1}}})
		} else {
			leader.Step(protocol.RollbackAsked{Reason: "the deadline"})
		}
		leader.Step(protocol.Delivered{Txn: txn.Txn{Decision: decision}})
		require.Equal(t, decision, leader.Decision(), "of which the agent does not hear")

		require.Equal(t, []protocol.Effect{protocol.Inquire{}}, a.Step(protocol.Tick{}))
		require.Empty(t, a.Step(protocol.RollbackAsked{}), "it may not decide alone")
		agents[history] = a.String()
	}
	require.Equal(t, agents[0], agents[1])
}
