// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// inspect asks the resource what it knows of a branch itself; nothing, if it is of a kind that
// cannot tell.
func (w *worker) inspect(ctx context.Context, x txn.XID) (adapters.Inspection, error) {
	r, ok := w.resource.(adapters.Inspector)
	if !ok {
		return adapters.Inspection{}, nil
	}
	ctx, cancel := w.bounded(ctx, listTimeout)
	defer cancel()
	found, err := r.Inspect(ctx, x)
	w.heard(err)
	return found, err
}

// census asks all databases which branches of a transaction there are. What could not be asked is in
// Unlisted.
func (n *Node) census(ctx context.Context, id txn.ID) commit.Census {
	listings, err := n.listAll(ctx, id)
	c := commit.Census{Unlisted: err}
	var xs []txn.XID
	var at []string
	for name, listing := range listings {
		for _, p := range listing {
			if uint32(p.XID.Cluster) == n.cluster.Load() {
				c.Prepared = append(c.Prepared, txn.Branch{No: p.XID.Branch, Resource: name})
				xs, at = append(xs, p.XID), append(at, name)
			}
		}
	}
	for i, found := range n.inspectAll(ctx, xs, at, &c) {
		if found.Siblings != nil {
			c.Siblings = append(c.Siblings, found.Siblings)
			c.Saying = append(c.Saying, txn.Branch{No: xs[i].Branch, Resource: at[i]})
		}
	}
	// A branch that is missing may be committed: somebody was faster. That is looked for everywhere.
	xs, at = nil, nil
	for _, no := range c.Missing() {
		for name := range n.workers {
			xs = append(xs, txn.XID{Cluster: txn.ClusterID(n.cluster.Load()), ID: id, Branch: no})
			at = append(at, name)
		}
	}
	for i, found := range n.inspectAll(ctx, xs, at, &c) {
		if found.Committed {
			c.Committed = append(c.Committed, txn.Branch{No: xs[i].Branch, Resource: at[i]})
		}
	}
	return c
}

// inspectAll inspects branches, each at a resource, side by side.
func (n *Node) inspectAll(ctx context.Context, xs []txn.XID, at []string, c *commit.Census) []adapters.Inspection {
	found := make([]adapters.Inspection, len(xs))
	errs := make([]error, len(xs))
	var group sync.WaitGroup
	slots := make(chan struct{}, inspectAtOnce)
	for i, x := range xs {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i], errs[i] = n.workers[at[i]].inspect(ctx, x)
		})
	}
	group.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 && c.Unlisted == nil {
		c.Unlisted = replica.Unavailablef("%s could not be asked about %v (%v); run \"concord resource check\"", at[i],
			xs[i], errs[i])
	}
	return found
}

// inspectAtOnce is how many branches are inspected at the same time.
const inspectAtOnce = 16

const (
	// examineTime bounds how long somebody who looks at a transaction waits for databases.
	examineTime = 3 * time.Second
	// censusTimeout bounds the question to all databases that a resolve begins with: a client waits
	// for longer than that, and hears which of them did not answer.
	censusTimeout = 10 * time.Second
)

// Examined is what the databases themselves know of a transaction that is not finished.
type Examined struct {
	// Whole tells, for people, whether every branch is there; empty if it has a decision.
	Whole   string
	Blocked map[txn.BranchNo][]adapters.Blocked // who waits for locks of its prepared branches
}

// Examine asks the databases about the prepared branches of a transaction, for three seconds at most.
func (n *Node) Examine(ctx context.Context, id txn.ID, decided bool, prepared []txn.Branch) Examined {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	e := Examined{Blocked: map[txn.BranchNo][]adapters.Blocked{}}
	var whole sync.WaitGroup
	if !decided {
		whole.Go(func() {
			c := n.census(ctx, id)
			e.Whole = c.Whole(id)
		})
	}
	var xs []txn.XID
	var at []string
	for _, b := range prepared {
		if n.workers[b.Resource] != nil {
			xs, at = append(xs, txn.XID{Cluster: txn.ClusterID(n.cluster.Load()), ID: id, Branch: b.No}),
				append(at, b.Resource)
		}
	}
	for i, found := range n.inspectAll(ctx, xs, at, &commit.Census{}) {
		if len(found.Blocked) > 0 {
			e.Blocked[xs[i].Branch] = found.Blocked
		}
	}
	whole.Wait()
	return e
}
