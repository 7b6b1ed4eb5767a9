// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// ActionResult is a planned action and, if it was carried out, what came of it.
type ActionResult struct {
	recovery.Action
	// Result is done, already-done, contradicted or lost; empty if nothing was done.
	Result string
	Err    error
}

// maxPlanned branches are asked about in one PlanAsked.
const maxPlanned = 1024

// Recover lists all resources now and plans what recovery would do, for one
// transaction unless id is zero. With apply it does it. Resources that cannot be
// listed are named in the error; the plan for the others stands.
func (n *Node) Recover(ctx context.Context, id txn.ID, apply bool) ([]ActionResult, error) {
	listings, listErr := n.listAll(ctx, id)
	// Also with nothing to plan: only a leader may say so.
	asked := func(request uint64) replica.Event { return commit.PlanAsked{Request: request} }
	if _, err := n.ask(ctx, asked); err != nil {
		return nil, err
	}
	var plan []recovery.Action
	for name, listing := range listings {
		for some := range slices.Chunk(listing, maxPlanned) {
			r, err := n.ask(ctx, func(request uint64) replica.Event {
				return commit.PlanAsked{Request: request, Listings: map[string][]adapters.Prepared{name: some}}
			})
			if err != nil {
				return nil, err
			}
			plan = append(plan, r.Plan...)
		}
	}
	slices.SortFunc(plan, func(a, b recovery.Action) int {
		return cmp.Or(a.XID.ID.Compare(b.XID.ID), cmp.Compare(a.Branch.Resource, b.Branch.Resource),
			a.XID.Compare(b.XID))
	})
	results := make([]ActionResult, len(plan))
	for i, a := range plan {
		results[i].Action = a
		if apply {
			results[i].Result, results[i].Err = n.carryOut(ctx, a)
		}
	}
	return results, listErr
}

func (n *Node) listAll(ctx context.Context, id txn.ID) (map[string][]adapters.Prepared, error) {
	var (
		mu       sync.Mutex
		listings = map[string][]adapters.Prepared{}
		failed   []string
		wg       sync.WaitGroup
	)
	for name, w := range n.workers {
		wg.Go(func() {
			listing, err := w.list(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = append(failed, fmt.Sprintf("%s: %v", name, err))
				return
			}
			listings[name] = slices.DeleteFunc(listing,
				func(p adapters.Prepared) bool { return !id.IsZero() && p.XID.ID != id })
		})
	}
	wg.Wait()
	if len(failed) > 0 {
		slices.Sort(failed)
		return listings, replica.Unavailablef("not listed: %s; run \"concord resource check\"",
			strings.Join(failed, "; "))
	}
	return listings, nil
}

// carryOut does what a plan says about one branch, as the leader's own scan would.
func (n *Node) carryOut(ctx context.Context, a recovery.Action) (string, error) {
	switch a.Kind {
	case recovery.Leave, recovery.Report:
		return "", nil
	case recovery.Commit, recovery.Rollback:
	case recovery.Abort:
		r, err := n.Outcome(ctx, txn.Inquiry{ID: a.XID.ID, Cluster: a.XID.Cluster, Several: true})
		if err != nil {
			return "", err
		}
		if r.Txn.Decision != txn.Abort { // a commit was faster: the client or the scan goes on with it
			return "", replica.Refusedf("%v was committed in the meantime: run \"concord recover\" again", a.XID.ID)
		}
	}
	t := commit.Task{XID: a.XID, Branch: a.Branch, Decision: a.Decision()}
	switch e := n.workers[a.Branch.Resource].finish(ctx, t).(type) {
	case commit.Finished:
		n.post(ctx, e)
		return e.Finish.String(), nil
	case commit.Failed:
		return "", replica.Unavailablef("%s", e.Why)
	}
	return "", nil
}
