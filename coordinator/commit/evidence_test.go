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
