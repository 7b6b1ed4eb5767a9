// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// leaderAndFollower waits until a node other than the leader follows it, and returns both.
func (c *testCluster) leaderAndFollower() (leader, follower *runningNode) {
	leader = c.leader()
	id := leader.config.Node%zab.NodeID(len(c.members)) + 1
	c.follows(id)
	return leader, c.nodes[id]
}

func TestAPositionThatIsNeverReachedIsRefusedAndHoldsUpNobody(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
	leader, follower := c.leaderAndFollower()
	for _, n := range []*runningNode{leader, follower} {
		for _, seen := range []zab.Zxid{{Epoch: n.Applied().Epoch, Counter: math.MaxUint64},
			{Epoch: math.MaxUint32, Counter: 1}} {
			err := n.Reach(t.Context(), seen)
			require.ErrorIs(t, err, txn.ErrUnavailable)
			require.ErrorContains(t, err, "and you have seen "+seen.String()+": ask another node")
			_, err = n.StatusSince(t.Context(), seen)
			require.ErrorIs(t, err, txn.ErrUnavailable)
		}
		require.NoError(t, n.Reach(t.Context(), n.Applied()))
	}

	// As many as there may be, and more: they are refused, and the node goes on meanwhile.
	refused := make(chan error, replica.MaxBehind+10)
	for range cap(refused) {
		go func() { refused <- follower.Reach(t.Context(), zab.Zxid{Epoch: math.MaxUint32}) }()
	}
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now())).Txn.Decision)
	for range cap(refused) {
		err := <-refused
		require.Error(t, err)
		require.True(t, isAny(err, txn.ErrUnavailable, txn.ErrBusy), "%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, leader.Reach(ctx, zab.Zxid{Epoch: math.MaxUint32}), context.Canceled)
}

func TestWhoIsBehindAnswersWhenItHasCaughtUp(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	for range 50 {
		r := c.commit(txn.NewID(time.Now()))
		_, follower := c.leaderAndFollower()
		s, err := follower.StatusSince(t.Context(), r.Zxid)
		require.NoError(t, err)
		require.False(t, s.Zxid.Less(r.Zxid), "%v is older than %v", s.Zxid, r.Zxid)
	}
}

func TestAFollowerAnswersWhatIsDecidedAndLeavesTheRestToTheLeader(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	for range 20 {
		id := txn.NewID(time.Now())
		require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
		leader, follower := c.leaderAndFollower()
		r, err := follower.Outcome(t.Context(), txn.Inquiry{ID: id})
		require.NoError(t, err, "it knows all that was decided before it was asked")
		require.Equal(t, txn.Commit, r.Txn.Decision)

		open := txn.NewID(time.Now())
		_, err = follower.Outcome(t.Context(), txn.Inquiry{ID: open})
		var notLeader *txn.NotLeaderError
		require.ErrorAs(t, err, &notLeader)
		require.EqualValues(t, leader.config.Node, notLeader.Leader)
		require.Equal(t, txn.Commit, c.commit(open).Txn.Decision, "the question has decided nothing")
	}
}

func TestANodeThatIsCutOffSaysSoAndAnswersNoRead(t *testing.T) {
	c := newCluster(t, 3, func() []adapters.Resource { return nil })
	id := txn.NewID(time.Now())
	require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
	_, left := c.leaderAndFollower()
	require.Zero(t, left.Status().CutOff(time.Now()))
	for _, m := range c.members {
		if m.ID != left.config.Node {
			c.kill(m.ID)
		}
	}
	require.Eventually(t, func() bool { return left.Status().CutOff(time.Now()) > 0 }, 20*time.Second,
		20*time.Millisecond)
	require.Zero(t, left.Status().Leader)
	_, err := left.Outcome(t.Context(), txn.Inquiry{ID: id})
	require.ErrorIs(t, err, txn.ErrUnavailable, "it knows the decision, but not whether it knows the present")
	for _, m := range c.members {
		if m.ID != left.config.Node {
			c.start(m.ID)
		}
	}
	require.Eventually(t, func() bool { return left.Status().CutOff(time.Now()) == 0 }, 20*time.Second,
		20*time.Millisecond)
	require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
}

func TestWhatWasDecidedAMomentAgoIsListed(t *testing.T) {
	c := newCluster(t, 1, func() []adapters.Resource { return nil })
	var want []txn.ID
	born := time.Now()
	for i := range 200 {
		r := txn.NewID(born.Add(time.Duration(i) * time.Millisecond))
		require.Equal(t, txn.Abort, c.outcome(r).Txn.Decision)
		want = append([]txn.ID{r}, want...)
		var got []txn.ID
		require.NoError(t, c.leader().EachFinished(txn.ID{}, func(x txn.Txn) bool {
			got = append(got, x.ID)
			return len(got) < 3
		}))
		require.Equal(t, want[:min(3, len(want))], got, "newest first, each once")
	}
	var got []txn.ID
	require.NoError(t, c.leader().EachFinished(want[100],
		func(x txn.Txn) bool { got = append(got, x.ID); return true }))
	require.Equal(t, want[101:], got)
}

func (c *testCluster) outcome(id txn.ID) commit.Reply {
	r, err := c.leader().Outcome(c.t.Context(), txn.Inquiry{ID: id})
	require.NoError(c.t, err)
	return r
}

func isAny(err error, kinds ...error) bool {
	for _, kind := range kinds {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}
