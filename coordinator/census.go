// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/recovery"
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
	found, errs := n.inspections(ctx, xs, at)
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 && c.Unlisted == nil {
		c.Unlisted = txn.Unavailablef("%s could not be asked about %v (%v); run \"concord resource check\"", at[i],
			xs[i], errs[i])
	}
	return found
}

func (n *Node) inspections(ctx context.Context, xs []txn.XID, at []string) ([]adapters.Inspection, []error) {
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
	return found, errs
}

// SetBack is what a database that was set back lacks.
type SetBack struct {
	Remembered txn.Remembered
	Told       []recovery.Told // what is missing first, then in order of birth; at most maxTold
	Counts     map[recovery.Fate]int
	BackTo     time.Time // decisions of transactions that were born later were looked at; zero: all
}

const (
	// maxTold branches are named in a SetBack, and maxEvidence looked at for it.
	maxTold     = 10_000
	maxEvidence = 1_000_000
	// lateBy is how much older than its transaction, beyond the longest one, a decision may be that is
	// looked for in a database that was set back: only operators decide so late.
	lateBy = time.Hour
)

// Report compares a database that was set back with the decisions that the log keeps. Only a leader does
// it, whose decisions are the latest.
// The error is txn.ErrNotFound if there is no such resource, txn.ErrRefused if it is not quarantined, and
// txn.ErrUnavailable if its database does not answer.
func (n *Node) Report(ctx context.Context, resource string) (SetBack, error) {
	w := n.workers[resource]
	if w == nil {
		return SetBack{}, commit.NoResource(resource)
	}
	asked := func(request uint64) replica.Event { return commit.PlanAsked{Request: request} }
	if _, err := n.ask(ctx, asked); err != nil {
		return SetBack{}, err
	}
	s := SetBack{Remembered: n.rememberedOf(resource), Counts: map[recovery.Fate]int{}}
	if s.Remembered.Quarantine == nil {
		return s, txn.Refusedf("resource %q is not quarantined, so the cluster knows of nothing that is "+
			"missing: see \"concord resource ls\"", resource)
	}
	r := recovery.Reached{Cluster: txn.ClusterID(n.cluster.Load()), Resource: resource,
		Prepared: map[txn.XID]bool{}, Evidence: map[txn.XID]bool{}}
	if err := w.reached(ctx, &r); err != nil {
		return s, txn.Unavailablef("resource %q could not be asked (%v); run \"concord resource check\"", resource,
			err)
	}
	longest := n.MaxTransaction() + lateBy
	visit := func(x txn.Txn) bool {
		s.add(r.Fates(x))
		if x.Decided.Less(r.Has.Floor) && s.BackTo.IsZero() {
			s.BackTo = x.ID.Time().Add(-longest)
		}
		return ctx.Err() == nil && !x.ID.Time().Before(s.BackTo)
	}
	if err := n.archive.eachFinished(txn.ID{}, visit); err != nil {
		return s, err
	}
	err := n.archive.eachOpen(txn.ID{}, func(x txn.Txn) bool { s.add(r.Fates(x)); return ctx.Err() == nil })
	slices.SortFunc(s.Told, func(a, b recovery.Told) int {
		return cmp.Or(cmp.Compare(a.Fate, b.Fate), a.Txn.ID.Compare(b.Txn.ID), cmp.Compare(a.Branch, b.Branch))
	})
	return s, cmp.Or(err, ctx.Err())
}

// add counts branches, and keeps some: those that are there give way to those that are not.
func (s *SetBack) add(told []recovery.Told) {
	for _, t := range told {
		s.Counts[t.Fate]++
		if len(s.Told) < maxTold {
			s.Told = append(s.Told, t)
		} else if t.Fate == recovery.Missing {
			if i := slices.IndexFunc(s.Told, func(o recovery.Told) bool { return o.Fate != recovery.Missing }); i >= 0 {
				s.Told[i] = t
			}
		}
	}
}

// reached asks a database what it has, whatever it lacks.
func (w *worker) reached(ctx context.Context, r *recovery.Reached) error {
	list, err := w.resource.Recover(ctx)
	if m, marked := w.resource.(adapters.Marked); marked && err == nil {
		// The files may have been put back once more since.
		if r.Has, err = m.HighWater(ctx, r.Cluster); errors.Is(err, adapters.ErrBehind) {
			err = nil
		}
	}
	for _, p := range list {
		r.Prepared[p.XID] = true
	}
	for after := (txn.XID{Cluster: r.Cluster}); err == nil && len(r.Evidence) < maxEvidence; {
		var page []txn.XID
		page, err = w.resource.Evidence(ctx, after)
		for _, x := range page {
			r.Evidence[x], after = true, x
		}
		if len(page) < adapters.EvidencePage || after.Cluster != r.Cluster {
			break
		}
	}
	return err
}

// Accept is an operator's word that the cluster may go on with a database that was set back.
// The error is txn.ErrNotFound if there is no such resource, and txn.ErrRefused if it is not quarantined.
func (n *Node) Accept(ctx context.Context, resource, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.AcceptAsked{Request: request, Resource: resource, Who: who, Why: why}
	})
	return err
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
	Whole string
	// Expected are the branches that a transaction without decision has, as those say that are prepared; nil if none
	// says so. Missing are those that no database has, prepared or committed.
	Expected, Missing []txn.BranchNo
	Branches          map[txn.BranchNo]Seen
}

// Seen is what its database says of one branch, or why it says nothing.
type Seen struct {
	adapters.Inspection
	Err error
}

// Examine asks the databases about branches of a transaction, for three seconds at most.
func (n *Node) Examine(ctx context.Context, id txn.ID, decided bool, branches []txn.Branch) Examined {
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	e := Examined{Branches: map[txn.BranchNo]Seen{}}
	var whole sync.WaitGroup
	if !decided {
		whole.Go(func() {
			c := n.census(ctx, id)
			e.Whole = c.Whole(id)
			if len(c.Siblings) > 0 {
				e.Expected = c.Siblings[0]
			}
			e.Missing = slices.DeleteFunc(c.Missing(),
				func(no txn.BranchNo) bool { return c.Unlisted != nil || c.HasCommitted(no) })
		})
	}
	var xs []txn.XID
	var at []string
	for _, b := range branches {
		w := n.workers[b.Resource]
		if w == nil {
			e.Branches[b.No] = Seen{Err: commit.NoResource(b.Resource)}
			continue
		}
		if _, able := w.resource.(adapters.Inspector); !able {
			e.Branches[b.No] = Seen{Err: txn.Refusedf("a resource of this kind tells nothing of a single branch: see "+
				"\"concord recover %v\"", id)}
			continue
		}
		xs, at = append(xs, txn.XID{Cluster: txn.ClusterID(n.cluster.Load()), ID: id, Branch: b.No}),
			append(at, b.Resource)
	}
	found, errs := n.inspections(ctx, xs, at)
	for i, x := range xs {
		e.Branches[x.Branch] = Seen{Inspection: found[i], Err: errs[i]}
	}
	whole.Wait()
	return e
}
