// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/txn"
)

const (
	// workersPerResource branches of one resource are finished at the same time, of which
	// retryWorkers may be such that could not be finished before.
	workersPerResource = 8
	retryWorkers       = 3
	// atOnce branches that were never tried are finished together at most: as many as leave no worker without.
	atOnce = commit.MaxTasks / workersPerResource
	// settleWorkers transactions are settled at the same time at one last resource.
	settleWorkers = 4
	// finishTimeout bounds one attempt to finish a branch. It leaves time to fence the
	// session that holds it.
	finishTimeout = 30 * time.Second
	listTimeout   = 15 * time.Second
	waitsTimeout  = time.Second
	// A resource is asked who it is every probeInterval, and has probeTimeout to say so: one that
	// has gone away is known to be down after at most the sum of both.
	probeInterval = 2 * time.Second
	probeTimeout  = 2 * time.Second
	probeRetry    = time.Second // while it is down
	// probeGap apart are two probes at least, however often somebody doubts what is known.
	probeGap = 500 * time.Millisecond
	// recheckPatience is how long whoever doubts waits for the next probe.
	recheckPatience = 3 * time.Second
	// The preflight is run now and then, since grants and settings change rarely, and whenever
	// there is a doubt.
	checkInterval = 30 * time.Second
	checkTimeout  = 4 * time.Second
	// preflightTimeout bounds a preflight that somebody asks for. A client waits for longer than that: it hears
	// that the database does not answer, and not that the node does not.
	preflightTimeout = 6 * time.Second
)

// worker does everything that a node does with one resource: its goroutines are the
// only ones that wait for the database.
type worker struct {
	resource adapters.Resource
	log      *slog.Logger
	spans    *spans.Exporter
	post     func(context.Context, replica.Event) // to the loop
	probed   func(context.Context)                // called when health has changed

	tasks   chan commit.Task     // capacity maxTasks, which is what the core keeps out at most
	alone   chan commit.Task     // of them, those that cannot be finished together with others
	retries chan commit.Task     // capacity maxRetries, likewise
	settles chan commit.LastTask // capacity MaxSettles, likewise
	scans   chan struct{}
	forgets chan commit.Spent
	kept    chan txn.XID  // capacity 1: "list the evidence behind it"
	waits   chan uint64   // capacity 1: "list who waits, for this look"
	doubts  chan struct{} // capacity 1: "probe now"; when full, one is due already
	alive   atomic.Int64  // calls that the resource has answered well
	// remembered is what the log remembers of the database.
	remembered atomic.Pointer[remembered]
	// others are the other members; through is the one that lists the resource while this node does not reach it.
	others  func() []other
	through atomic.Pointer[other]

	mu     sync.Mutex
	health commit.Health
	begun  int           // probes
	ended  chan struct{} // closed when the one that is under way, or the next, has ended
	// down ends when the resource answers again: what was asked before that is asked anew.
	down context.Context
	up   context.CancelFunc
}

func newWorker(r adapters.Resource, log *slog.Logger, traces *spans.Exporter,
	post func(context.Context, replica.Event), probed func(context.Context)) *worker {
	w := &worker{resource: r, log: log.With("resource", r.Name()), spans: traces, post: post, probed: probed,
		tasks: make(chan commit.Task, commit.MaxTasks), alone: make(chan commit.Task, commit.MaxTasks),
		retries: make(chan commit.Task, commit.MaxRetries),
		settles: make(chan commit.LastTask, commit.MaxSettles),
		scans:   make(chan struct{}, 1),
		forgets: make(chan commit.Spent, 16), kept: make(chan txn.XID, 1), waits: make(chan uint64, 1),
		doubts: make(chan struct{}, 1),
		ended:  make(chan struct{}),
		health: commit.Health{Err: "not asked yet"}}
	w.down, w.up = context.WithCancel(context.Background())
	return w
}

// errReturned is why a call is given up that was made before its resource came back. Its
// connection may be one that nobody answers on any more.
var errReturned = errors.New("the database was away and answers again: the attempt is repeated")

// bounded limits one call to the resource.
func (w *worker) bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	ctx, giveUp := context.WithCancelCause(ctx)
	stop := context.AfterFunc(down, func() { giveUp(errReturned) })
	ctx, cancel := context.WithTimeout(ctx, limit)
	return ctx, func() { stop(); cancel(); giveUp(nil) }
}

// returned gives up what was asked while the resource was away.
func (w *worker) returned() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.up()
	w.down, w.up = context.WithCancel(context.Background())
}

func (w *worker) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range workersPerResource {
		retries := w.retries
		if i >= retryWorkers {
			retries = nil // which is never ready
		}
		g.Go(func() error { w.finishTasks(ctx, retries); return nil })
	}
	for range settleWorkers {
		g.Go(func() error { w.settleTasks(ctx); return nil })
	}
	g.Go(func() error { w.scan(ctx); return nil })
	g.Go(func() error { w.forget(ctx); return nil })
	g.Go(func() error { w.watchWaits(ctx); return nil })
	g.Go(func() error { w.probe(ctx); return nil })
	return g.Wait()
}

func (w *worker) finishTasks(ctx context.Context, retries chan commit.Task) {
	for {
		select {
		case t := <-w.tasks:
			w.finishWaiting(ctx, t)
		case t := <-w.alone:
			w.post(ctx, w.finish(ctx, t))
		case t := <-retries:
			w.post(ctx, w.finish(ctx, t))
		case <-ctx.Done():
			return
		}
	}
}

// finishWaiting finishes a branch and what waits behind it, together if the resource can do that.
func (w *worker) finishWaiting(ctx context.Context, t commit.Task) {
	together, able := w.resource.(adapters.Batching)
	able = able && w.byOther() == nil
	all := []commit.Task{t}
	for more := able; more && len(all) < atOnce; {
		select {
		case t := <-w.tasks:
			all = append(all, t)
		default:
			more = false
		}
	}
	if len(all) == 1 {
		w.post(ctx, w.finish(ctx, t))
		return
	}
	call, cancel := w.bounded(ctx, finishTimeout)
	defer cancel()
	branches, begun := make([]adapters.Decided, len(all)), make([]*spans.Span, len(all))
	for i, t := range all {
		branches[i] = adapters.Decided{XID: t.XID, Branch: t.Branch, Decision: t.Decision}
		begun[i] = w.beginFinish(t)
	}
	found := make([]txn.Finish, len(all))
	err := w.carryOut(call, func() (err error) {
		found, err = together.FinishAll(call, branches)
		return err
	})
	for i, t := range all {
		if found[i] == 0 && err == nil {
			select {
			case w.alone <- t:
			default: // a former leadership has left it full
				w.post(ctx, w.finish(ctx, t))
			}
			continue
		}
		var failed error
		if found[i] == 0 {
			failed = err
		}
		w.post(ctx, w.finished(call, t, begun[i], found[i], failed))
	}
}

// finish makes one attempt and says what came of it.
func (w *worker) finish(ctx context.Context, t commit.Task) replica.Event {
	if t.Decision == txn.Undecided {
		return commit.Failed{XID: t.XID, Why: "nothing is decided about it here: ask again"}
	}
	ctx, cancel := w.bounded(ctx, finishTimeout)
	defer cancel()
	finish := w.resource.Commit
	if t.Decision == txn.Abort {
		finish = w.resource.Rollback
	}
	if o := w.byOther(); o != nil {
		finish = o.finish
	}
	span := w.beginFinish(t)
	var f txn.Finish
	err := w.carryOut(ctx, func() (err error) {
		f, err = finish(api.WithTraceparent(ctx, span.Traceparent()), t.XID, t.Branch)
		return err
	})
	return w.finished(ctx, t, span, f, err)
}

// carryOut has the database do something, unless it is quarantined.
func (w *worker) carryOut(ctx context.Context, do func() error) error {
	err := w.quarantined()
	if err == nil {
		err = do()
		w.heard(err)
	}
	if errors.Is(err, adapters.ErrBehind) {
		_ = w.compare(ctx) // says what the database has
	}
	return err
}

// finished is what the loop has to hear of an attempt.
func (w *worker) finished(ctx context.Context, t commit.Task, span *spans.Span, f txn.Finish,
	err error) replica.Event {
	if err == nil {
		span.Say("concord.found", f.String())
	}
	span.End(failure(err))
	log := w.log.With("gid", t.XID.ID.String(), "branch", uint8(t.XID.Branch), "decision", t.Decision.String())
	if t.Trace != "" { // 00-TRACE-SPAN-FLAGS
		log = log.With("trace_id", t.Trace[3:35], "span_id", t.Trace[36:52])
	}
	if err != nil {
		log.Warn("branch not finished, will try again", "err", err)
		return commit.Failed{XID: t.XID, Interrupted: errors.Is(context.Cause(ctx), errReturned), Why: err.Error()}
	}
	log.Info("branch finished by the cluster", "found", f.String())
	return commit.Finished{XID: t.XID, Finish: f, By: txn.FromCluster, Who: w.resource.Name(),
		Why: finishReason(f, t.Decision)}
}

func (w *worker) settleTasks(ctx context.Context) {
	for {
		select {
		case t := <-w.settles:
			m, err := w.settle(ctx, t.ID)
			w.post(ctx, commit.LastSettled{LastTask: t, Marker: m, Err: err})
		case <-ctx.Done():
			return
		}
	}
}

// settle makes one attempt to settle a transaction.
func (w *worker) settle(ctx context.Context, id txn.ID) (m txn.LastMarker, err error) {
	ctx, cancel := w.bounded(ctx, listTimeout)
	defer cancel()
	settler, able := w.resource.(adapters.Settler)
	known := w.remembered.Load()
	switch {
	case !able:
		return m, fmt.Errorf("a %s database cannot be a last resource: name another one", w.resource.Driver())
	case known == nil || known.cluster == 0:
		return m, errors.New("the cluster has not been formed yet: try again")
	}
	span := w.begin("", "concord.settle", id)
	if err = w.quarantined(); err == nil {
		m, err = settler.Settle(ctx, known.cluster, id)
		w.heard(err)
	}
	if err == nil {
		span.Say("concord.decision", m.Decision.String())
	}
	span.End(failure(err))
	if errors.Is(err, adapters.ErrBehind) {
		_ = w.compare(ctx) // says what the database has
	}
	if err != nil {
		w.log.Warn("transaction not settled, will try again", "gid", id.String(), "err", err)
		return m, err
	}
	w.log.Info("transaction settled at its last resource", "gid", id.String(), "decision", m.Decision.String())
	return m, nil
}

func (w *worker) scan(ctx context.Context) {
	for {
		select {
		case <-w.scans:
			listing, err := w.list(ctx)
			w.post(ctx, commit.Listed{Resource: w.resource.Name(), Listing: listing, Err: err})
		case <-ctx.Done():
			return
		}
	}
}

// list lists what the resource holds: through another member if this node does not reach it.
func (w *worker) list(ctx context.Context) ([]adapters.Prepared, error) {
	if h := w.state(); h.Asked && !h.OK {
		if listing, ok := w.listByOther(ctx); ok {
			return listing, nil
		}
	}
	return w.listHere(ctx)
}

func (w *worker) listHere(ctx context.Context) ([]adapters.Prepared, error) {
	ctx, cancel := w.bounded(ctx, listTimeout)
	defer cancel()
	listing, err := w.resource.Recover(ctx)
	w.heard(err)
	if err == nil {
		err = w.compare(ctx) // after it: what was listed before the database was set back counts no more
	}
	return listing, err
}

// forget removes evidence, and lists what there is. What fails is left, for the next listing
// to find.
func (w *worker) forget(ctx context.Context) {
	said := "" // last; it may be the same every few seconds
	for {
		select {
		case s := <-w.forgets:
			call, cancel := w.bounded(ctx, listTimeout)
			err := w.spend(call, s)
			cancel()
			if err != nil && ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				w.log.Warn("evidence of finished branches not removed", "branches", len(s.XIDs), "err", err)
			}
		case after := <-w.kept:
			call, cancel := w.bounded(ctx, listTimeout)
			xs, err := w.resource.Evidence(call, after)
			w.heard(err)
			if err == nil {
				err = w.compare(call)
			}
			cancel()
			w.post(ctx, commit.Kept{Resource: w.resource.Name(), Evidence: xs, Err: err})
		case <-ctx.Done():
			return
		}
	}
}

// watchWaits lists who waits for whom. A resource that cannot tell, or must not, says nothing: "resource
// check" says why, and lock time-outs end what nobody finds.
func (w *worker) watchWaits(ctx context.Context) {
	lister, able := w.resource.(adapters.WaitLister)
	failed := ""
	for {
		select {
		case look := <-w.waits:
			answer := commit.Waits{Resource: w.resource.Name(), Look: look}
			if able {
				call, cancel := w.bounded(ctx, waitsTimeout)
				var err error
				answer.Waits, err = lister.Waits(call, deadlock.Longer)
				cancel()
				if err != nil && err.Error() != failed && ctx.Err() == nil {
					failed = err.Error()
					w.log.Warn("lock waits cannot be listed: deadlocks with other databases will not be found", "err",
						err)
				}
			}
			w.post(ctx, answer)
		case <-ctx.Done():
			return
		}
	}
}

// spend removes evidence, and raises the high-water row of the database if it is to have one.
func (w *worker) spend(ctx context.Context, s commit.Spent) error {
	r, marked := w.resource.(adapters.Marked)
	known := w.remembered.Load()
	if !marked || known == nil || known.cluster == 0 || s.To.IsZero() {
		err := w.resource.Forget(ctx, s.XIDs)
		w.heard(err)
		return err
	}
	now, err := r.Raise(ctx, known.cluster, s.To, s.XIDs)
	w.heard(err)
	if err != nil {
		return err // a database that is behind is looked at: see heard
	}
	w.post(ctx, commit.Raised{Resource: w.resource.Name(), To: s.To, Now: now})
	return nil
}

// remembered is what the log of a cluster remembers of a database.
type remembered struct {
	cluster txn.ClusterID
	txn.Remembered
}

// remember is called by the loop when the log remembers something else.
func (w *worker) remember(c txn.ClusterID, r txn.Remembered) {
	if m, ok := w.resource.(adapters.Marked); ok && c != 0 {
		m.Expect(c, r.At)
	}
	w.remembered.Store(&remembered{cluster: c, Remembered: r})
}

// quarantined returns why nothing is done with the database, or nil.
func (w *worker) quarantined() error {
	if known := w.remembered.Load(); known != nil && known.Quarantine != nil {
		return errors.New(txn.Quarantined(w.resource.Name()))
	}
	return nil
}

// compare asks the database whether it has what the log remembers, and tells the loop if it has less. It asks
// nothing while nothing is remembered, or that is known.
func (w *worker) compare(ctx context.Context) error {
	r, marked := w.resource.(adapters.Marked)
	known := w.remembered.Load()
	if !marked || known == nil || known.HighWater.IsZero() || known.Quarantine != nil {
		return nil
	}
	has, err := r.HighWater(ctx, known.cluster)
	if errors.Is(err, adapters.ErrBehind) {
		w.post(ctx, commit.Behind{Resource: w.resource.Name(), Has: has})
	}
	return err
}

// heard notes how a call went: one that failed is a reason to look at once whether the
// resource is still there.
func (w *worker) heard(err error) {
	if err == nil {
		w.alive.Add(1)
		return
	}
	w.doubt()
}

// doubt makes the next probe due.
func (w *worker) doubt() {
	select {
	case w.doubts <- struct{}{}:
	default:
	}
}

// probe keeps an eye on the resource: whether it is there, and whether it is fit.
func (w *worker) probe(ctx context.Context) {
	var checked time.Time
	doubted := false
	for ctx.Err() == nil {
		w.mu.Lock()
		w.begun++
		w.mu.Unlock()
		h := w.state()
		identity, err := w.greet(ctx)
		switch {
		case err != nil:
			h.Asked, h.OK, h.Err = true, false, err.Error()
		case !h.OK || doubted || identity != h.Identity || time.Since(checked) >= checkInterval:
			h, checked = w.check(ctx, identity), time.Now()
		}
		w.mu.Lock()
		changed := h != w.health
		w.health = h
		w.mu.Unlock()
		if changed && ctx.Err() == nil {
			if h.OK {
				w.log.Info("resource is fit", "identity", h.Identity)
				w.returned()
			} else {
				w.log.Warn("resource is not fit", "err", h.Err)
			}
			w.probed(ctx)
		}
		w.mu.Lock()
		close(w.ended)
		w.ended = make(chan struct{})
		w.mu.Unlock()
		if h.OK {
			doubted = w.untilProbe(ctx, probeInterval)
		} else {
			doubted = w.untilProbe(ctx, probeRetry)
		}
	}
}

// untilProbe waits until the next probe is due, which a doubt makes it at once, and reports whether
// one did.
func (w *worker) untilProbe(ctx context.Context, interval time.Duration) (doubted bool) {
	gap := time.NewTimer(probeGap)
	defer gap.Stop()
	select {
	case <-gap.C:
	case <-ctx.Done():
	}
	rest := time.NewTimer(interval - probeGap)
	defer rest.Stop()
	select {
	case <-w.doubts:
		return true
	case <-rest.C:
	case <-ctx.Done():
	}
	return false
}

// recheck waits until a probe has ended that began after the call.
func (w *worker) recheck(ctx context.Context) {
	w.mu.Lock()
	begun := w.begun
	w.mu.Unlock()
	w.doubt()
	for {
		w.mu.Lock()
		later, ended := w.begun > begun, w.ended
		w.mu.Unlock()
		select {
		case <-ended:
			if later {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// greet asks the resource who it is. A connection that broke is no database that is gone, so it
// gets a second try; neither is one whose connections are all busy, as long as calls on
// them are answered.
func (w *worker) greet(ctx context.Context) (identity string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	alive := w.alive.Load()
	if identity, err = w.resource.Identity(ctx); err != nil && ctx.Err() == nil {
		identity, err = w.resource.Identity(ctx)
	}
	switch {
	case err == nil:
		return identity, w.compare(ctx)
	case ctx.Err() == nil:
		return identity, err
	case w.alive.Load() != alive && w.state().OK:
		return w.state().Identity, nil
	}
	return "", fmt.Errorf("no answer within %v: check that the server runs and can be reached: %w", probeTimeout, err)
}

func (w *worker) check(ctx context.Context, identity string) commit.Health {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	alive := w.alive.Load()
	report, err := w.resource.Check(ctx)
	switch was := w.state(); {
	case err != nil && ctx.Err() != nil && w.alive.Load() != alive && was.OK:
		return was // as in greet
	case err != nil:
		return commit.Health{Asked: true, Identity: identity, Err: err.Error()}
	}
	return commit.Health{Asked: true, Identity: identity, OK: report.OK(), Err: report.Unfit()}
}

func (w *worker) state() commit.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}
