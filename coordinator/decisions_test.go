// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func (c *testCluster) called(id txn.ID) txn.Outcome {
	c.t.Helper()
	r, err := c.leader().Outcome(c.t.Context(), txn.Inquiry{ID: id})
	require.NoError(c.t, err)
	return r.Txn.Outcome()
}

// Ignorance is not an abort, knowledge is, and it may come later.
func TestWhatTheClusterKnowsOfAnAbortDecidesWhatItCallsIt(t *testing.T) {
	disk := memory.NewDisk()
	orders := memory.New("orders", disk)
	c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	branches := []txn.Branch{{No: 0, Resource: "orders"}, {No: 1, Resource: "nobody"}}
	plain := func() txn.ID { return txn.NewID(time.Now()) }

	t.Run("asked for", func(t *testing.T) {
		id := plain()
		for range 2 {
			require.Equal(t, txn.Unrecorded, c.called(id))
		}
		require.Equal(t, txn.Abort, c.commit(id).Txn.Decision, "and no two databases commit it")
		require.Equal(t, txn.Unrecorded, c.called(id))
	})
	t.Run("asked for by whoever knows that it had several branches", func(t *testing.T) {
		id := plain()
		for range 2 {
			r, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: id, Several: true})
			require.NoError(t, err)
			require.Equal(t, txn.Aborted, r.Txn.Outcome())
		}
		require.Equal(t, txn.Aborted, c.called(id))
	})
	t.Run("asked for, and then by whoever knows", func(t *testing.T) {
		id := plain()
		require.Equal(t, txn.Unrecorded, c.called(id))
		r, err := c.leader().Outcome(t.Context(), txn.Inquiry{ID: id, Several: true})
		require.NoError(t, err)
		require.Equal(t, txn.Aborted, r.Txn.Outcome())
		require.Eventually(t, func() bool { return c.called(id) == txn.Aborted }, 10*time.Second, 10*time.Millisecond)
	})
	t.Run("a late commit request", func(t *testing.T) {
		id := plain()
		require.Equal(t, txn.Unrecorded, c.called(id))
		require.Equal(t, txn.Abort, c.commit(id, branches...).Txn.Decision)
		require.Eventually(t, func() bool { return c.called(id) == txn.Aborted }, 10*time.Second, 10*time.Millisecond)
	})
	t.Run("a commit request that was refused", func(t *testing.T) {
		id := plain()
		require.Equal(t, txn.Abort, c.commit(id, branches...).Txn.Decision)
		require.Equal(t, txn.Aborted, c.called(id))
	})
	t.Run("an orphan", func(t *testing.T) {
		id := plain()
		c.prepared(orders, id, "orphan")
		require.Eventually(t, func() bool {
			v, err := c.leader().View(t.Context(), id)
			return err == nil && v.Known
		}, 10*time.Second, 10*time.Millisecond)
		require.Equal(t, txn.Aborted, c.called(id))
	})
	t.Run("asked for, and then a branch is found", func(t *testing.T) {
		id := plain()
		require.Equal(t, txn.Unrecorded, c.called(id))
		c.prepared(orders, id, "late")
		require.Eventually(t, func() bool { return c.called(id) == txn.Aborted }, 10*time.Second, 10*time.Millisecond)
	})
	t.Run("an operator who knows of no branch", func(t *testing.T) {
		id := plain()
		_, err := c.leader().Resolve(t.Context(), txn.Resolution{ID: id, Decision: txn.Abort, Who: "ann", Why: "test",
			Force: true})
		if err == nil { // it may be refused as well
			require.Equal(t, txn.Unrecorded, c.called(id))
		}
	})
	t.Run("an operator commits what is prepared", func(t *testing.T) {
		id := plain()
		c.prepared(orders, id, "by an operator")
		r := txn.Resolution{ID: id, Decision: txn.Commit, Who: "ann", Why: "test"}
		_, err := c.leader().Resolve(t.Context(), r)
		require.ErrorIs(t, err, txn.ErrRefused, "nobody said what it changed")
		r.Resources = []string{"orders"}
		a, err := c.leader().Resolve(t.Context(), r)
		require.NoError(t, err, "it was listed for the request")
		require.Equal(t, txn.Commit, a.Txn.Decision)
		require.Equal(t, txn.Committed, c.called(id))
	})
	t.Run("recorded", func(t *testing.T) {
		id := plain().WithClass(txn.Recorded)
		require.Equal(t, txn.Aborted, c.called(id))
		id = plain().WithClass(txn.Recorded)
		require.Equal(t, txn.Commit, c.commit(id).Txn.Decision)
		require.Equal(t, txn.Committed, c.called(id))
	})
}

// Of what another protocol decides nothing is said, and nothing is written.
func TestAClassThatIsNotSwitchedOnIsRefusedAndNothingIsPresumed(t *testing.T) {
	c := newCluster(t, 1, func() []adapters.Resource { return nil })
	for _, class := range []txn.Class{txn.ThreePhase, txn.LastResource} {
		id := txn.NewID(time.Now()).WithClass(class)
		n := c.leader()
		_, err := n.Commit(t.Context(), txn.CommitRequest{ID: id})
		require.ErrorIs(t, err, txn.ErrRefused)
		require.ErrorContains(t, err, class.String())
		_, err = n.Outcome(t.Context(), txn.Inquiry{ID: id})
		require.ErrorIs(t, err, txn.ErrRefused)
		_, err = n.Outcome(t.Context(), txn.Inquiry{ID: id, Several: true})
		require.ErrorIs(t, err, txn.ErrRefused)
		_, err = n.Resolve(t.Context(), txn.Resolution{ID: id, Decision: txn.Abort, Who: "ann", Why: "test",
			Force: true})
		require.Error(t, err)
		v, err := n.View(t.Context(), id)
		require.NoError(t, err)
		require.False(t, v.Known)
	}
}

// A record that is dated years ahead would stand before all others, and stay for years.
func TestAGidFromTheFutureIsRefusedAndLeavesNoRecord(t *testing.T) {
	c := newCluster(t, 1, func() []adapters.Resource { return nil })
	require.Equal(t, txn.Commit, c.commit(txn.NewID(time.Now().Add(5*time.Minute))).Txn.Decision, "clocks differ")
	for _, ahead := range []time.Duration{time.Hour, 48 * time.Hour, 366 * 24 * time.Hour, 200 * 366 * 24 * time.Hour} {
		id := txn.NewID(time.Now().Add(ahead))
		n := c.leader()
		_, err := n.Commit(t.Context(), txn.CommitRequest{ID: id})
		require.ErrorIs(t, err, txn.ErrInvalid, "%v", ahead)
		require.ErrorContains(t, err, id.String())
		require.ErrorContains(t, err, "clock")
		_, err = n.Outcome(t.Context(), txn.Inquiry{ID: id})
		require.ErrorIs(t, err, txn.ErrInvalid, "%v", ahead)
		_, err = n.Resolve(t.Context(), txn.Resolution{ID: id, Decision: txn.Abort, Who: "ann", Why: "test",
			Force: true})
		require.Error(t, err)
		v, err := n.View(t.Context(), id)
		require.NoError(t, err)
		require.False(t, v.Known)
	}
}

// The same with nodes: the leader is killed before it lets anything be forgotten.
func TestEvidenceOfADeadLeaderIsForgottenByTheNext(t *testing.T) {
	disk := memory.NewDisk()
	c := newCluster(t, 3, func() []adapters.Resource { return []adapters.Resource{memory.New("orders", disk)} })
	orders := memory.New("orders", disk)
	leader := c.leader()
	x := txn.XID{Cluster: leader.Status().Cluster}
	for range 10 {
		x.ID = txn.NewID(time.Now())
		b := c.prepared(orders, x.ID, x.ID.String())
		require.Equal(t, txn.Commit, c.commit(x.ID, b).Txn.Decision)
		_, err := orders.Commit(t.Context(), x, b)
		require.NoError(t, err)
		c.leader().Finished(x.ID, b.No, txn.Done, commit.Reporter{})
	}
	require.Eventually(t, func() bool {
		v, err := c.leader().View(t.Context(), x.ID)
		return err == nil && v.Known && v.Txn.Ended
	}, 10*time.Second, 10*time.Millisecond)
	c.kill(c.leader().config.Node)
	require.Eventually(t, func() bool {
		kept, err := orders.Evidence(t.Context(), txn.XID{})
		require.NoError(t, err)
		return len(kept) == 0
	}, time.Minute, 50*time.Millisecond)
}

// A leader that has gone wrong proposes what nobody can decode. The followers do not
// acknowledge it and go on living, so that it is never decided and never in their logs; one
// of them leads when the broken one is stopped, and cuts it off its log when it comes back.
func TestEntriesThatDoNotDecodeAreNotAcknowledged(t *testing.T) {
	c := newCluster(t, 3, nobody)
	known := map[txn.ID]txn.Decision{}
	c.decide(3, known)
	broken := c.leader()
	broken.post(t.Context(), replica.Peer{Event: zab.Proposed{ID: 1 << 40, Data: []byte("no records")}})
	require.Eventually(t, func() bool { // it is in the log of the broken one
		_, _, tail, _ := broken.store.Initial()
		return broken.Applied().Less(tail)
	}, 30*time.Second, 10*time.Millisecond)
	c.kill(broken.config.Node)
	c.decide(3, known)
	c.start(broken.config.Node)
	c.equal(3)
	c.remembered(known)
}
