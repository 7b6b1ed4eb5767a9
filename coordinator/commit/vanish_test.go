// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// lists has a resource list these branches.
func (l *lone) lists(resource string, xs ...txn.XID) {
	l.t.Helper()
	listing := []adapters.Prepared{}
	for _, x := range xs {
		listing = append(listing, prepared(x))
	}
	l.step(Listed{Resource: resource, Listing: listing})
	l.tick(time.Millisecond) // what is left for later turns
}

// A DBA commits a branch that the log then aborts, or has aborted. No listing shows the branch any more,
// and nobody is asked to finish it: its marker tells, as soon as a listing shows that it is gone.
func TestBranchThatSomebodyCommittedAgainstAnAbortIsReported(t *testing.T) {
	for _, before := range []bool{true, false} {
		l := newLone(t, "orders", "billing")
		s := shelf{}
		for range 30 { // the first sweeps are over
			l.tick(time.Second)
			l.serve(s, true)
		}
		id := l.newID()
		here, there := l.xid(id, 0), l.xid(id, 1)
		l.lists("orders", here)
		l.lists("billing", there)
		if before { // the decision
			s[here] = true
			l.lists("orders")
		}
		l.tick(time.Minute)
		if before {
			l.serve(s, true)
			_, decided := l.table.Get(id)
			require.False(t, decided)
		}
		l.lists("billing", there)
		require.Equal(t, txn.Abort, l.get(id).Decision, "it is an orphan")
		require.Empty(t, l.get(id).Heuristics)
		if !before {
			s[here] = true
			l.lists("orders")
		}
		for range 20 {
			l.tick(time.Second)
			l.serve(s, true)
		}
		require.Len(t, l.get(id).Heuristics, 1)
		require.Equal(t, txn.HeuristicCommit, l.get(id).Heuristics[0].Outcome)
		require.Equal(t, "orders", l.get(id).Heuristics[0].Who)
		require.Equal(t, txn.HeuristicMixed, l.get(id).Outcome())
	}
}

// The client died between two prepares, and somebody committed the branch that there was: nothing is
// left that any listing could show, and no decision.
func TestOnlyBranchThatSomebodyCommittedWithoutADecisionIsReported(t *testing.T) {
	l := newLone(t, "orders")
	s := shelf{}
	id := l.newID()
	l.lists("orders", l.xid(id, 0))
	s[l.xid(id, 0)] = true
	l.lists("orders")
	for range 200 {
		l.tick(time.Second)
		l.serve(s, true)
	}
	require.Equal(t, txn.Abort, l.get(id).Decision)
	require.Len(t, l.get(id).Heuristics, 1)
	require.Equal(t, txn.HeuristicCommit, l.get(id).Heuristics[0].Outcome)
}

// What clients end themselves is no reason for an alarm.
func TestBranchesThatTheirClientsEndAreNoAlarm(t *testing.T) {
	l := newLone(t, "orders")
	s := shelf{}
	committed, rolledBack := l.newID(), l.newID()
	l.lists("orders", l.xid(committed, 0), l.xid(rolledBack, 0))
	l.commit(committed, txn.Branch{Resource: "orders"})
	s[l.xid(committed, 0)] = true
	l.step(Finished{XID: l.xid(committed, 0), Finish: txn.Done, By: txn.FromClient, Who: "client"})
	l.lists("orders")
	for range 200 {
		l.tick(time.Second)
		l.serve(s, true)
	}
	require.Empty(t, l.get(committed).Heuristics)
	require.Equal(t, txn.Committed, l.get(committed).Outcome())
	require.Equal(t, txn.Aborted, l.get(rolledBack).Outcome())
	require.Empty(t, l.get(rolledBack).Heuristics)
}
