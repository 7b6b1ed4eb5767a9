// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// An operator need not know which databases a transaction changes if its branches say it; one that
// somebody has committed by hand counts, and is finished like the others.
func TestOperatorCommitsWhatSaysThatItIsWhole(t *testing.T) {
	for _, c := range []struct {
		name string
		Census
	}{
		{"all are prepared", Census{Prepared: []txn.Branch{{No: 1, Resource: "billing"}, {No: 0, Resource: "orders"}}}},
		{"one is committed", Census{Prepared: []txn.Branch{{No: 0, Resource: "orders"}}, Committed: []txn.Branch{{No: 1, Resource: "billing"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLone(t, "orders", "billing")
			id := l.newID()
			l.step(Listed{Resource: "orders", Listing: []adapters.Prepared{prepared(l.xid(id, 0))}})
			c.Siblings, c.Saying = [][]txn.BranchNo{{0, 1}}, []txn.Branch{{No: 0, Resource: "orders"}}
			r := l.ask(func(request uint64) replica.Event {
				return ResolveAsked{Request: request, Census: c.Census, Resolution: txn.Resolution{ID: id, Decision: txn.Commit, Who: "ann", Why: "shipped"}}
			})
			require.NoError(t, r.Err)
			require.Equal(t, txn.Commit, r.Decision)
			require.Equal(t, []txn.Branch{{No: 0, Resource: "orders"}, {No: 1, Resource: "billing"}}, l.get(id).Branches)
		})
	}
}
