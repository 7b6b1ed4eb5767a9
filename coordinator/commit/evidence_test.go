// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// shelf is the evidence that a resource keeps.
type shelf map[txn.XID]bool

func (s shelf) page(after txn.XID) []txn.XID {
	order := func(x, y txn.XID) int { return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), x.Compare(y)) }
	var kept []txn.XID
	for x := range s {
		if order(x, after) > 0 {
			kept = append(kept, x)
		}
	}
	slices.SortFunc(kept, order)
	return kept[:min(len(kept), adapters.EvidencePage)]
}

// serve answers what the core asks of one shelf. Words that do not arrive change nothing.
func (l *lone) serve(s shelf, arrives bool) {
	l.t.Helper()
	for _, e := range l.evidence {
		if arrives {
			l.step(Kept{Resource: e.Resource, Evidence: s.page(e.After)})
		} else {
			l.step(Kept{Resource: e.Resource, Err: errors.New("connection refused")})
		}
	}
	l.evidence = nil
	for _, x := range l.forgets["orders"] {
		if arrives {
			delete(s, x)
		}
	}
	clear(l.forgets)
}

// A leader that died took what it wanted forgotten with it, and hundreds of rows stayed for ever.
func TestEvidenceThatNobodyNeedsIsGoneWithinAMinute(t *testing.T) {
	l := newLone(t, "orders")
	s := shelf{}
	for range 907 {
		id := l.newID()
		l.commit(id, txn.Branch{Resource: "orders"})
		l.step(Finished{XID: l.xid(id, 0), Finish: txn.Done, By: txn.FromClient, Who: "client"})
		s[l.xid(id, 0)] = true
	}
	l.tick(time.Second)
	open := l.newID()
	l.commit(open, txn.Branch{Resource: "orders"})
	undecided := l.xid(l.newID(), 0)
	var others []txn.XID
	for i := range 2 * adapters.EvidencePage {
		others = append(others, txn.XID{Cluster: l.table.Cluster() + 1 - 2*txn.ClusterID(i%2), ID: l.newID()})
	}
	needed := append(others, l.xid(open, 0), undecided)
	for _, x := range needed {
		s[x] = true
	}
	l.restart()
	for range 60 {
		l.tick(time.Second)
		l.serve(s, true)
	}
	require.Equal(t, len(needed), len(s))
	for _, x := range needed {
		require.True(t, s[x])
	}
	// And when the word does not arrive, because the resource is slow or away.
	id := l.newID()
	l.commit(id, txn.Branch{Resource: "orders"})
	l.step(Finished{XID: l.xid(id, 0), Finish: txn.Done, By: txn.FromClient, Who: "client"})
	s[l.xid(id, 0)] = true
	for range 120 {
		l.tick(time.Second)
		l.serve(s, false)
	}
	require.True(t, s[l.xid(id, 0)])
	for range 60 {
		l.tick(time.Second)
		l.serve(s, true)
	}
	require.Equal(t, len(needed), len(s))
}

// An operator need not know which databases a transaction changes if its branches say it; one that
// somebody has committed by hand counts, and is finished like the others.
func TestOperatorCommitsWhatSaysThatItIsWhole(t *testing.T) {
	for _, c := range []struct {
		name string
		Census
	}{
		{"all are prepared", Census{Prepared: []txn.Branch{{No: 1, Resource: "billing"}, {No: 0, Resource: "orders"}}}},
		{"one is committed", Census{Prepared: []txn.Branch{{No: 0, Resource: "orders"}},
			Committed: []txn.Branch{{No: 1, Resource: "billing"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLone(t, "orders", "billing")
			id := l.newID()
			l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
			c.Siblings, c.Saying = [][]txn.BranchNo{{0, 1}}, []txn.Branch{{No: 0, Resource: "orders"}}
			r := l.ask(func(request uint64) replica.Event {
				return ResolveAsked{Request: request, Census: c.Census,
					Resolution: txn.Resolution{ID: id, Decision: txn.Commit, Who: "ann", Why: "shipped"}}
			})
			require.NoError(t, r.Err)
			require.Equal(t, txn.Commit, r.Txn.Decision)
			require.Equal(t, []txn.Branch{{No: 0, Resource: "orders"}, {No: 1, Resource: "billing"}},
				l.get(id).Branches)
		})
	}
}

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
