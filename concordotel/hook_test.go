// SPDX-License-Identifier: Apache-2.0

package concordotel_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordotel"
	"github.com/concordtx/concord/concordtest"
)

// world is a cluster whose client is traced and measured.
type world struct {
	*concordtest.Cluster
	client          *concord.Client
	orders, billing *memory.Resource
	spans           *tracetest.InMemoryExporter
	tracers         *sdktrace.TracerProvider
	reader          *metric.ManualReader
}

func newWorld(t *testing.T) *world {
	orders, billing := concordtest.Memory("orders"), concordtest.Memory("billing")
	w := &world{Cluster: concordtest.New(t, orders, billing), orders: orders.Resource(), billing: billing.Resource(),
		spans: tracetest.NewInMemoryExporter(), reader: metric.NewManualReader()}
	w.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans))
	meters := metric.NewMeterProvider(metric.WithReader(w.reader))
	w.client = w.Dial(concord.WithHook(concordotel.Hook(concordotel.WithTracerProvider(w.tracers),
		concordotel.WithMeterProvider(meters))))
	return w
}

func (w *world) transfer(ctx context.Context, tx *concord.Tx) error {
	for i, r := range []*memory.Resource{w.orders, w.billing} {
		m, err := r.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := m.Add(ctx, "alice", int64(2*i-1)); err != nil {
			return err
		}
	}
	return nil
}

// tree draws the spans that have ended: each with those around it, and how it ended.
func (w *world) tree(t *testing.T, want int) (lines []string) {
	t.Helper()
	require.Eventually(t, func() bool { return len(w.spans.GetSpans()) >= want }, 20*time.Second, time.Millisecond)
	all := map[trace.SpanID]tracetest.SpanStub{}
	for _, s := range w.spans.GetSpans() {
		all[s.SpanContext.SpanID()] = s
	}
	for _, s := range all {
		line := strings.TrimPrefix(s.Name, "concord.")
		for _, a := range s.Attributes {
			switch a.Key {
			case "concord.resource", "concord.outcome", "error.type", "db.system.name", "concord.label",
				"concord.attempt":
				line += fmt.Sprintf(" %s=%s", a.Key[strings.LastIndex(string(a.Key), ".")+1:], a.Value.String())
			}
		}
		if s.Status.Code == codes.Error {
			line += " ERROR"
		}
		for parent, ok := all[s.Parent.SpanID()]; ok; parent, ok = all[parent.Parent.SpanID()] {
			line = strings.TrimPrefix(parent.Name, "concord.") + "/" + line
			require.Equal(t, s.SpanContext.TraceID(), parent.SpanContext.TraceID())
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestATransactionIsATreeOfSpans(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		ctx, span := w.tracers.Tracer("application").Start(ctx, "work") // as a driver that traces
		defer span.End()
		return w.transfer(ctx, tx)
	}, concord.WithLabel("transfer 7")))
	require.Equal(t, []string{
		"transaction label=transfer 7 outcome=committed",
		"transaction/branch resource=billing name=memory",
		"transaction/branch resource=orders name=memory",
		"transaction/branch/commit resource=billing name=memory",
		"transaction/branch/commit resource=orders name=memory",
		"transaction/branch/prepare resource=billing name=memory",
		"transaction/branch/prepare resource=orders name=memory",
		"transaction/decide label=transfer 7",
		"transaction/work",
	}, w.tree(t, 9))
	gids := map[string]int{}
	for _, s := range w.spans.GetSpans() {
		for _, a := range s.Attributes {
			if a.Key == "concord.gid" {
				gids[a.Value.AsString()]++
			}
		}
	}
	require.Len(t, gids, 1)
	for gid, n := range gids {
		_, err := concord.ParseID(gid)
		require.NoError(t, err)
		require.Equal(t, 8, n, "all spans but the application's")
	}
}

func TestWhatFailsIsSeenInItsSpan(t *testing.T) {
	for name, c := range map[string]struct {
		before func(*world)
		fn     func(*world) func(context.Context, *concord.Tx) error
		want   []string
	}{
		"a vote": {before: func(w *world) { w.FailVote("billing") }, want: []string{
			"transaction outcome=aborted type=aborted ERROR",
			"transaction/branch resource=billing name=memory", "transaction/branch resource=orders name=memory",
			"transaction/branch/prepare resource=billing name=memory type=_OTHER ERROR",
			"transaction/branch/prepare resource=orders name=memory",
			"transaction/branch/rollback resource=billing name=memory",
			"transaction/branch/rollback resource=orders name=memory"}},
		"the answer": {before: (*world).loseAnswer, want: []string{
			"transaction outcome=unknown type=unknown ERROR",
			"transaction/branch resource=billing name=memory type=_OTHER ERROR",
			"transaction/branch resource=orders name=memory type=_OTHER ERROR",
			"transaction/branch/prepare resource=billing name=memory",
			"transaction/branch/prepare resource=orders name=memory", "transaction/decide type=_OTHER ERROR"}},
		"the function": {fn: func(w *world) func(context.Context, *concord.Tx) error {
			return func(ctx context.Context, tx *concord.Tx) error {
				return errors.Join(w.transfer(ctx, tx), errors.New("no funds"))
			}
		}, want: []string{
			"transaction outcome=aborted type=aborted ERROR",
			"transaction/branch resource=billing name=memory", "transaction/branch resource=orders name=memory",
			"transaction/branch/rollback resource=billing name=memory",
			"transaction/branch/rollback resource=orders name=memory"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.before != nil {
				c.before(w)
			}
			fn := w.transfer
			if c.fn != nil {
				fn = c.fn(w)
			}
			require.Error(t, w.client.Run(t.Context(), fn))
			require.Equal(t, c.want, w.tree(t, len(c.want)))
		})
	}
}

func (w *world) loseAnswer() { w.LoseAnswer() }

func TestASecondAttemptIsATraceOfItsOwnWithALink(t *testing.T) {
	w := newWorld(t)
	hook := concordotel.Hook(concordotel.WithTracerProvider(w.tracers))
	ctx, endBranch := hook(t.Context(), concord.Step{Kind: concord.StepBranch, Resource: "orders", Driver: "postgres",
		Attempt: 1})
	_, end := hook(ctx, concord.Step{Kind: concord.StepCommit, Resource: "orders", Driver: "postgres", Attempt: 2})
	require.NoError(t, end(nil))
	require.NoError(t, endBranch(nil))
	require.Equal(t, []string{"branch resource=orders name=postgresql",
		"commit resource=orders name=postgresql attempt=2"}, w.tree(t, 2))
	spans := w.spans.GetSpans()
	require.Len(t, spans[0].Links, 1)
	require.Equal(t, spans[1].SpanContext.SpanID(), spans[0].Links[0].SpanContext.SpanID())
	require.NotEqual(t, spans[1].SpanContext.TraceID(), spans[0].SpanContext.TraceID())
}

func TestMetricsHaveFewAttributes(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, w.client.Run(t.Context(), w.transfer))
	require.NoError(t, w.client.Run(t.Context(), w.transfer))
	w.FailVote("billing")
	require.Error(t, w.client.Run(t.Context(), w.transfer))
	hook := w.metricsOfARetry(t)
	var got metricdata.ResourceMetrics
	require.NoError(t, hook.Collect(t.Context(), &got))
	require.Equal(t, []string{"concord.transaction.retries 1"}, measured(got, "retries"))

	got = metricdata.ResourceMetrics{}
	require.NoError(t, w.reader.Collect(t.Context(), &got))
	require.Equal(t, []string{
		"concord.step.duration{concord.resource=billing,concord.step=commit} 2",
		"concord.step.duration{concord.resource=billing,concord.step=prepare,error.type=_OTHER} 1",
		"concord.step.duration{concord.resource=billing,concord.step=prepare} 2",
		"concord.step.duration{concord.resource=billing,concord.step=rollback} 1",
		"concord.step.duration{concord.resource=orders,concord.step=commit} 2",
		"concord.step.duration{concord.resource=orders,concord.step=prepare} 3",
		"concord.step.duration{concord.resource=orders,concord.step=rollback} 1",
		"concord.step.duration{concord.step=decide} 2",
		"concord.transaction.active 0",
		"concord.transaction.duration{concord.outcome=aborted} 1",
		"concord.transaction.duration{concord.outcome=committed} 2",
	}, measured(got, ""))
}

// metricsOfARetry measures a transaction that is done twice.
func (w *world) metricsOfARetry(t *testing.T) *metric.ManualReader {
	reader := metric.NewManualReader()
	hook := concordotel.Hook(concordotel.WithTracerProvider(w.tracers),
		concordotel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	for attempt := 1; attempt <= 2; attempt++ {
		_, end := hook(t.Context(), concord.Step{Kind: concord.StepTransaction, Attempt: attempt})
		require.NoError(t, end(nil))
	}
	return reader
}

// measured is every point whose name has a part, with how often it was measured, or its sum.
func measured(all metricdata.ResourceMetrics, part string) (points []string) {
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if !strings.Contains(m.Name, part) {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					var labels []string
					for _, a := range p.Attributes.ToSlice() {
						labels = append(labels, string(a.Key)+"="+a.Value.String())
					}
					points = append(points, fmt.Sprintf("%s{%s} %d", m.Name, strings.Join(labels, ","), p.Count))
				}
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					points = append(points, fmt.Sprintf("%s %d", m.Name, p.Value))
				}
			}
		}
	}
	slices.Sort(points)
	return points
}
