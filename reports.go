// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"log/slog"
	"time"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

const (
	reportQueue = 4096                  // branches that wait to be reported; when full, further ones are dropped
	reportBatch = 256                   // branches in one report
	reportDelay = 20 * time.Millisecond // how long a batch is collected
	reportLimit = 5 * time.Second       // for one report, and for the last ones at Close
)

// report is of a branch that was finished, or of a transaction that its last resource has committed.
type report struct {
	api.Finished
	decided *txn.LastDecision // nil: of a branch
}

// reports tells the cluster in batches which branches were finished by their own
// sessions. A report that is dropped costs nothing but work: the cluster looks at the
// branch by itself after its grace period.
type reports struct {
	api    *api.Client
	logger *slog.Logger
	queue  chan report
}

func newReports(c *api.Client, l *slog.Logger) *reports {
	return &reports{api: c, logger: l, queue: make(chan report, reportQueue)}
}

func (r *reports) add(f api.Finished) { r.queueUp(report{Finished: f}) }

// decide reports that a last resource has committed, before its other branches are reported. If that is dropped the
// cluster finds the marker there.
func (r *reports) decide(d txn.LastDecision) {
	r.queueUp(report{Finished: api.Finished{ID: d.ID}, decided: &d})
}

func (r *reports) queueUp(one report) {
	select {
	case r.queue <- one:
	default:
		r.logger.Debug("dropped the report of a finished branch: the queue is full", "gid", one.ID, "branch", one.No)
	}
}

// run sends until life ends, and what is queued then. It is the only sender.
func (r *reports) run(life context.Context) {
	for {
		select {
		case f := <-r.queue:
			_ = api.Wait(life, reportDelay) // ended: send at once
			r.send(life, r.collect(f))
		case <-life.Done():
			r.flush()
			return
		}
	}
}

// collect takes what is queued, up to a batch.
func (r *reports) collect(batch ...report) []report {
	for len(batch) < reportBatch {
		select {
		case f := <-r.queue:
			batch = append(batch, f)
		default:
			return batch
		}
	}
	return batch
}

func (r *reports) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), reportLimit)
	defer cancel()
	for batch := r.collect(); len(batch) > 0 && ctx.Err() == nil; batch = r.collect() {
		r.send(ctx, batch)
	}
}

// send goes on under an ended context, since Close waits for it.
func (r *reports) send(ctx context.Context, batch []report) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportLimit)
	defer cancel()
	var finished []api.Finished
	var decided []txn.LastDecision
	for _, one := range batch {
		if one.decided != nil {
			decided = append(decided, *one.decided)
		} else {
			finished = append(finished, one.Finished)
		}
	}
	request := api.FinishedRequest(finished)
	request.Decided = api.DecidedMessages(decided)
	if _, err := r.api.Finished(ctx, request); err != nil {
		r.logger.Debug("could not report finished branches", "branches", len(batch), "err", err)
	}
}
