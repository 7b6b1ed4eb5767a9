// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// A request that was on its way while the cluster was being formed is judged by the loop: a
// branch is named with its cluster, so another one could never finish it.
func TestTransactionOfAnotherClusterIsNotDecided(t *testing.T) {
	l := newLone(t, "orders")
	id, other := txn.NewID(l.now), l.table.Cluster()+1
	written := len(l.disk.entries)
	for _, r := range []Reply{
		l.ask(func(request uint64) replica.Event {
			return CommitAsked{Request: request, CommitRequest: txn.CommitRequest{ID: id, Cluster: other, Branches: []txn.Branch{{Resource: "orders"}}}}
		}),
		l.ask(func(request uint64) replica.Event {
			return OutcomeAsked{Request: request, Inquiry: txn.Inquiry{ID: id, Cluster: other, Several: true}}
		}),
	} {
		require.ErrorIs(t, r.Err, api.ErrInvalid)
		require.ErrorContains(t, r.Err, other.String())
	}
	require.Len(t, l.disk.entries, written, "nothing was written")
	require.Equal(t, txn.Commit, l.commit(id).Decision, "and its own may have that gid")
}
