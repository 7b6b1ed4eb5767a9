// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"log/slog"
	"time"

	"github.com/concordtx/concord/api"
)

const (
	reportQueue = 4096                  // branches that wait to be reported; when full, further ones are dropped
	reportBatch = 256                   // branches in one report
	reportDelay = 20 * time.Millisecond // how long a batch is collected
	reportLimit = 5 * time.Second       // for one report, and for the last ones at Close
)

// reports tells the cluster in batches which branches were finished by their own
// sessions. A report that is dropped costs nothing but work: the cluster looks at the
// branch by itself after its grace period.
type reports struct {
	api    *api.Client
	logger *slog.Logger
	queue  chan api.Finished
}

func newReports(c *api.Client, l *slog.Logger) *reports {
	return &reports{api: c, logger: l, queue: make(chan api.Finished, reportQueue)}
}

func (r *reports) add(f api.Finished) {
	select {
	case r.queue <- f:
	default:
		r.logger.Debug("dropped the report of a finished branch: the queue is full", "gid", f.ID, "branch", f.No)
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
func (r *reports) collect(batch ...api.Finished) []api.Finished {
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
func (r *reports) send(ctx context.Context, batch []api.Finished) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportLimit)
	defer cancel()
	if _, err := r.api.Finished(ctx, api.FinishedRequest(batch)); err != nil {
		r.logger.Debug("could not report finished branches", "branches", len(batch), "err", err)
	}
}
