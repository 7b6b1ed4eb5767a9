// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"slices"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// maxBranchesAsked transactions are asked about in one BranchesAsked.
const maxBranchesAsked = 128

// View is a linearizable look at one transaction, or, if id is zero, at everything that is not
// finished: each transaction as it is at some moment from the question on. What is open is read
// from the applied state, while the loop goes on.
func (n *Node) View(ctx context.Context, id txn.ID) (*commit.View, error) {
	r, err := n.ask(ctx, func(request uint64) replica.Event { return commit.ViewAsked{Request: request, ID: id} })
	if err != nil || !id.IsZero() {
		return r.View, err
	}
	v := r.View
	err = n.archive.eachOpen(txn.ID{}, func(x txn.Txn) bool {
		v.Open = append(v.Open, x)
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(v.Open) // oldest first
	for some := range slices.Chunk(v.Open, maxBranchesAsked) {
		ids := make([]txn.ID, len(some))
		for i, x := range some {
			ids[i] = x.ID
		}
		r, err := n.ask(ctx, func(request uint64) replica.Event { return commit.BranchesAsked{Request: request, IDs: ids} })
		if err != nil {
			return nil, err
		}
		for x, b := range r.View.Branches {
			v.Branches[x] = b
		}
	}
	return v, nil
}
