// SPDX-License-Identifier: Apache-2.0

package concordotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/concordtx/concord"
)

// meters are the instruments.
type meters struct {
	transactions, steps metric.Float64Histogram
	active              metric.Int64UpDownCounter
	retries             metric.Int64Counter
}

// bounds are those of durations, in seconds.
var bounds = metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30)

func newMeters(m metric.Meter) (all meters) {
	var err [4]error
	all.transactions, err[0] = m.Float64Histogram("concord.transaction.duration", metric.WithUnit("s"), bounds,
		metric.WithDescription("From the beginning of a transaction until its outcome was told."))
	all.steps, err[1] = m.Float64Histogram("concord.step.duration", metric.WithUnit("s"), bounds,
		metric.WithDescription("Of one step of a transaction, such as the vote of a branch."))
	all.active, err[2] = m.Int64UpDownCounter("concord.transaction.active", metric.WithUnit("{transaction}"),
		metric.WithDescription("Transactions that have begun and have no outcome yet."))
	all.retries, err[3] = m.Int64Counter("concord.transaction.retries", metric.WithUnit("{transaction}"),
		metric.WithDescription("Transactions that Run did once more."))
	for _, e := range err {
		if e != nil { // with an instrument that measures nothing
			otel.Handle(e)
		}
	}
	return all
}

func (m meters) begun(ctx context.Context, s concord.Step) {
	m.active.Add(ctx, 1)
	if s.Attempt > 1 {
		m.retries.Add(ctx, 1)
	}
}

func (m meters) ended(ctx context.Context, s concord.Step, took time.Duration, err error) {
	if !m.steps.Enabled(ctx) {
		return
	}
	switch s.Kind {
	case concord.StepTransaction:
		m.active.Add(ctx, -1)
		m.transactions.Record(ctx, took.Seconds(), metric.WithAttributes(outcome(err)))
		return
	case concord.StepBranch: // which takes as long as the application works
		return
	}
	attributes := []attribute.KeyValue{attribute.String("concord.step", s.Kind.String())}
	if s.Resource != "" {
		attributes = append(attributes, resource(s))
	}
	if err != nil {
		attributes = append(attributes, errorType(err))
	}
	m.steps.Record(ctx, took.Seconds(), metric.WithAttributes(attributes...))
}
