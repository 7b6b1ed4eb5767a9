// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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

const (
	// maxPlanned branches are asked about in one PlanAsked.
	maxPlanned = 1024
	// recoverPatience is how long Recover waits for a resource to list what it holds. The scans of the leader have
	// more, and go on, and so does Recover if it is to do something.
	recoverPatience = 3 * time.Second
	// recoverAtOnce branches of one resource are finished at the same time.
	recoverAtOnce = workersPerResource
)

// Progress is a piece of what Recover found or did.
type Progress struct {
	// Actions are planned, or carried out: with a result, and once more than before.
	Actions []ActionResult
	// Unlisted is why a resource could not be listed, so what it holds is not among the actions; nil: it could.
	Unlisted error
	// Pending says, for people, that a resource has not been listed yet; empty: none is meant.
	Pending string
}

// Recover lists all resources now and plans what recovery would do, for one transaction unless id is zero. With apply
// it does it. Each resource is listed and worked on by itself: one that does not answer holds up no other.
// each gets the pieces, one at a time, as they come; what it returns ends the recovery.
// The errors are that of each, and those that all requests have.
func (n *Node) Recover(ctx context.Context, id txn.ID, apply bool, each func(Progress) error) error {
	// Also with nothing to plan: only a leader may say so.
	asked := func(request uint64) replica.Event { return commit.PlanAsked{Request: request} }
	if _, err := n.ask(ctx, asked); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	tell := func(p Progress) error {
		mu.Lock()
		defer mu.Unlock()
		return cmp.Or(ctx.Err(), each(p))
	}
	for name, w := range n.workers {
		g.Go(func() error {
			listing, err := w.listSoon(ctx, func() error {
				if !apply {
					return errPatience
				}
				return tell(Progress{Pending: fmt.Sprintf("%s has listed nothing within %v: what it holds is finished "+
					"when it has, which may take until %v are over", name, recoverPatience, listTimeout)})
			})
			if err != nil {
				return tell(Progress{Unlisted: txn.Unavailablef("not listed: %s: %v; run \"concord resource check "+
					"%s\"", name, err, name)})
			}
			listing = slices.DeleteFunc(listing,
				func(p adapters.Prepared) bool { return !id.IsZero() && p.XID.ID != id })
			return n.recoverAt(ctx, name, listing, apply, tell)
		})
	}
	return g.Wait()
}

var errPatience = fmt.Errorf("no answer within %v", recoverPatience) // followed by what the database said

// listSoon lists what a resource holds. If that takes long it asks whether to go on.
func (w *worker) listSoon(ctx context.Context, late func() error) ([]adapters.Prepared, error) {
	ctx, giveUp := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-time.After(recoverPatience):
			if err := late(); err != nil {
				giveUp(err)
			}
		case <-ctx.Done():
		}
	})
	listing, err := w.list(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errPatience) {
		err = fmt.Errorf("%w: %w", errPatience, err)
	}
	giveUp(nil)
	watching.Wait()
	return listing, err
}

// recoverAt plans for the branches of one resource, and does what it has planned.
func (n *Node) recoverAt(ctx context.Context, name string, listing []adapters.Prepared, apply bool,
	tell func(Progress) error) error {
	var plan []recovery.Action
	for some := range slices.Chunk(listing, maxPlanned) {
		r, err := n.ask(ctx, func(request uint64) replica.Event {
			return commit.PlanAsked{Request: request, Listings: map[string][]adapters.Prepared{name: some}}
		})
		if err != nil {
			return err
		}
		p := Progress{Actions: make([]ActionResult, len(r.Plan))}
		for i, a := range r.Plan {
			p.Actions[i].Action = a
		}
		if err := tell(p); err != nil {
			return err
		}
		plan = append(plan, r.Plan...)
	}
	if !apply {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(recoverAtOnce)
	var silent atomic.Bool // the database was, in one attempt: the others would only wait as long
	for _, a := range plan {
		if a.Kind == recovery.Leave || a.Kind == recovery.Report {
			continue
		}
		g.Go(func() error {
			r := ActionResult{Action: a, Err: errSilent}
			if !silent.Load() {
				r.Result, r.Err = n.carryOut(ctx, a)
			}
			if errors.Is(r.Err, errNoAnswer) {
				silent.Store(true)
			}
			return tell(Progress{Actions: []ActionResult{r}})
		})
	}
	return g.Wait()
}

var (
	errNoAnswer = errors.New("the database did not answer")
	errSilent   = errors.New("not tried, because the database did not answer for another branch: run \"concord " +
		"resource check\", and then \"concord recover --apply\" again")
)

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
		return listings, txn.Unavailablef("not listed: %s; run \"concord resource check\"",
			strings.Join(failed, "; "))
	}
	return listings, nil
}

// applyTimeout bounds one attempt to finish a branch that somebody waits for. It leaves time to fence a session.
const applyTimeout = 10 * time.Second

// carryOut does what a plan says about one branch, as the leader's own scan would.
func (n *Node) carryOut(ctx context.Context, a recovery.Action) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	switch a.Kind {
	case recovery.Leave, recovery.Report:
		return "", nil
	case recovery.Commit, recovery.Rollback:
	case recovery.Settle:
		r, err := n.Outcome(ctx, txn.Inquiry{ID: a.XID.ID, Cluster: a.XID.Cluster, Several: true})
		if err != nil {
			return "", err
		}
		return "settled: " + r.Txn.Decision.String() + ", which the next scan carries out", nil
	case recovery.Abort:
		r, err := n.Outcome(ctx, txn.Inquiry{ID: a.XID.ID, Cluster: a.XID.Cluster, Several: true})
		if err != nil {
			return "", err
		}
		if r.Txn.Decision != txn.Abort { // a commit was faster: the client or the scan goes on with it
			return "", txn.Refusedf("%v was committed in the meantime: run \"concord recover\" again", a.XID.ID)
		}
	}
	t := commit.Task{XID: a.XID, Branch: a.Branch, Decision: a.Decision()}
	switch e := n.workers[a.Branch.Resource].finish(ctx, t).(type) {
	case commit.Finished:
		n.post(ctx, e)
		return e.Finish.String(), nil
	case commit.Failed:
		if ctx.Err() != nil {
			return "", fmt.Errorf("%w within %v (%s): run \"concord resource check %s\"", errNoAnswer, applyTimeout,
				e.Why, a.Branch.Resource)
		}
		return "", txn.Unavailablef("%s", e.Why)
	}
	return "", nil
}

// finishReason says in words what a resource answered, for records that people read.
func finishReason(f txn.Finish, d txn.Decision) string {
	switch f {
	case txn.Contradicted:
		return fmt.Sprintf("decided %v, but the evidence in the database says the opposite", d)
	case txn.Lost:
		return fmt.Sprintf("decided %v, but the branch is not in the database and nothing proves what became of it", d)
	}
	return ""
}
