// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// Commit asks for the decision to commit: the only request on the path of a
// transaction. All branches have voted Yes. A repeated request gets the same answer.
func (n *Node) Commit(ctx context.Context, r txn.CommitRequest) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event {
		return commit.CommitAsked{Request: request,
			CommitRequest: r}
	})
}

// CommitLater is Commit for many requests at a time: done takes the answer, on a
// goroutine of the node, and must not wait. It is not called if the node closes first.
func (n *Node) CommitLater(r txn.CommitRequest, done func(commit.Reply)) {
	n.submit(func(request uint64) replica.Event { return commit.CommitAsked{Request: request, CommitRequest: r} }, done)
}

// Outcome settles what became of a transaction: one without decision is aborted, as far as the
// cluster would have decided it.
func (n *Node) Outcome(ctx context.Context, q txn.Inquiry) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event { return commit.OutcomeAsked{Request: request, Inquiry: q} })
}

// KeyUse says which transaction was committed under an idempotency key; Reply.Key is nil if none was.
func (n *Node) KeyUse(ctx context.Context, key string) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event { return commit.KeyAsked{Request: request, Key: key} })
}

// Resolve is an operator's decision for a transaction that has none.
// For a commit all databases are asked first which branches there are.
func (n *Node) Resolve(ctx context.Context, asked txn.Resolution) (commit.Reply, error) {
	e := commit.ResolveAsked{Resolution: asked}
	if asked.Decision == txn.Commit {
		bounded, cancel := context.WithTimeout(ctx, censusTimeout)
		e.Census = n.census(bounded, asked.ID)
		cancel()
	}
	r, err := n.ask(ctx, func(request uint64) replica.Event {
		e.Request = request
		return e
	})
	if err == nil && r.Decision != asked.Decision { // somebody else's decision was first
		return r, commit.AlreadyDecided(r.Txn)
	}
	return r, err
}

// Forget is an operator's word that a heuristic outcome was dealt with.
func (n *Node) Forget(ctx context.Context, id txn.ID, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.ForgetAsked{Request: request, ID: id, Who: who, Why: why}
	})
	return err
}

// Abandon is an operator's word that a branch which nobody can finish is given up.
func (n *Node) Abandon(ctx context.Context, id txn.ID, no txn.BranchNo, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.SettleAsked{Request: request, ID: id, Branch: no, Who: who, Why: why}
	})
	return err
}

// EachFinished visits finished transactions, newest first, beginning before the given
// one if it is not zero, until visit returns false. It is never older than a View that
// was taken before.
func (n *Node) EachFinished(before txn.ID, visit func(txn.Txn) bool) error {
	return n.archive.eachFinished(before, visit)
}

// Finished reports branches that the sessions of a client have finished. A report
// that does not fit into the queue is dropped: the cluster finishes the branch again,
// which is harmless.
func (n *Node) Finished(id txn.ID, no txn.BranchNo, f txn.Finish, by commit.Reporter) {
	e := commit.Finished{XID: txn.XID{Cluster: txn.ClusterID(n.cluster.Load()), ID: id, Branch: no}, Finish: f,
		By: txn.FromClient, Reporter: by,
		Who: "client", Why: "reported by the client that prepared the branch"}
	select {
	case n.posted <- e:
	default:
	}
}

// Deliver hears members of three-phase transactions. What does not fit into the queue is lost: whoever
// needs an answer says it again.
func (n *Node) Deliver(envelopes []member.Envelope) {
	for _, e := range envelopes {
		if !e.To.IsWitness() {
			continue // it is for an agent, which is found elsewhere
		}
		select {
		case n.posted <- commit.Said{ID: e.ID, From: e.From, Message: e.Message}:
		default:
			return
		}
	}
}

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
	if _, err := n.ask(ctx, func(request uint64) replica.Event { return commit.PlanAsked{Request: request} }); err != nil {
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
	t := commit.Task{XID: a.XID, Branch: a.Branch, Decision: txn.Commit}
	switch a.Kind {
	case recovery.Leave, recovery.Report:
		return "", nil
	case recovery.Commit:
	case recovery.Rollback:
		t.Decision = txn.Abort
	case recovery.Abort:
		r, err := n.Outcome(ctx, txn.Inquiry{ID: a.XID.ID, Cluster: a.XID.Cluster, Several: true})
		if err != nil {
			return "", err
		}
		if r.Decision != txn.Abort { // a commit was faster: the client or the scan goes on with it
			return "", replica.Refusedf("%v was committed in the meantime: run \"concord recover\" again", a.XID.ID)
		}
		t.Decision = txn.Abort
	}
	switch e := n.workers[a.Branch.Resource].finish(ctx, t).(type) {
	case commit.Finished:
		n.post(ctx, e)
		return e.Finish.String(), nil
	case commit.Failed:
		return "", replica.Unavailablef("%s", e.Why)
	}
	return "", nil
}

// Check runs the preflight of one resource, or of all if name is empty.
func (n *Node) Check(ctx context.Context, name string) (map[string]CheckResult, error) {
	if name != "" && n.workers[name] == nil {
		return nil, noResource(name)
	}
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := map[string]CheckResult{}
	for _, r := range n.config.Resources {
		if name == "" || name == r.Name() {
			wg.Go(func() {
				report, err := r.Check(ctx)
				mu.Lock()
				defer mu.Unlock()
				results[r.Name()] = CheckResult{Driver: r.Driver(), Report: report, Err: err}
			})
		}
	}
	wg.Wait()
	return results, nil
}

// CheckResult is the preflight of one resource.
type CheckResult struct {
	Driver string
	Report adapters.Report
	Err    error
}

// FeatureLevel returns what every member knows, as far as this node has heard.
func (n *Node) FeatureLevel() txn.FeatureLevel { return txn.FeatureLevel(n.level.Load()) }

// MaxTransaction returns how long a transaction may take before its prepared branches
// count as orphans.
func (n *Node) MaxTransaction() time.Duration { return n.config.Rules.MaxTransaction }

// APIAddress returns the API address of a member; empty if there is no such member.
func (n *Node) APIAddress(id uint64) string {
	m, _ := n.list.Load().Find(zab.NodeID(id))
	return m.API
}

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
		r, err := n.ask(ctx, func(request uint64) replica.Event {
			return commit.BranchesAsked{Request: request,
				IDs: ids}
		})
		if err != nil {
			return nil, err
		}
		for x, b := range r.View.Branches {
			v.Branches[x] = b
		}
	}
	return v, nil
}
