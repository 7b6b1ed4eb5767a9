// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// A client that may not use a resource reports nothing about its branches: neither that they are
// finished, nor that they did not end as decided.
func TestReportsOfStrangersCountForNothing(t *testing.T) {
	l := newLone(t, "orders", "billing")
	id := l.newID()
	l.commit(id, txn.Branch{No: 1, Resource: "orders"}, txn.Branch{No: 2, Resource: "billing"})
	report := func(f txn.Finish, r Reporter) {
		l.step(Finished{XID: txn.XID{Cluster: l.core.table.Cluster(), ID: id, Branch: 1}, Finish: f, By: txn.FromClient, Who: "client", Reporter: r})
	}
	stranger := Reporter{Limited: true, Resources: []string{"billing"}}
	report(txn.Contradicted, stranger)
	report(txn.Done, stranger)
	report(txn.Done, Reporter{Limited: true})
	require.True(t, l.core.inHand(id).branch(1).open, "it is still to be finished")
	report(txn.Done, Reporter{Limited: true, Resources: []string{"orders"}})
	require.False(t, l.core.inHand(id).branch(1).open)
	x, ok := l.core.table.Get(id)
	require.True(t, ok)
	require.Empty(t, x.Heuristics)
}
