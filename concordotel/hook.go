// SPDX-License-Identifier: Apache-2.0

package concordotel

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/concordtx/concord"
)

// scope names this package to OpenTelemetry.
const scope = "github.com/concordtx/concord/concordotel"

// Option changes where spans and measurements go.
type Option func(*config)

type config struct {
	tracers trace.TracerProvider
	meters  metric.MeterProvider
}

// WithTracerProvider takes the place of the global one.
func WithTracerProvider(p trace.TracerProvider) Option { return func(c *config) { c.tracers = p } }

// WithMeterProvider takes the place of the global one.
func WithMeterProvider(p metric.MeterProvider) Option { return func(c *config) { c.meters = p } }

// Hook returns what traces and measures every step, for concord.WithHook.
func Hook(options ...Option) concord.Hook {
	c := config{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider()}
	for _, o := range options {
		o(&c)
	}
	t := &telemetry{tracer: c.tracers.Tracer(scope), meters: newMeters(c.meters.Meter(scope))}
	return t.start
}

type telemetry struct {
	tracer trace.Tracer
	meters meters
}

func (t *telemetry) start(ctx context.Context, s concord.Step) (context.Context, func(error) error) {
	if ctx.Value(untracedKey{}) != nil {
		return ctx, t.measure(ctx, s)
	}
	began := time.Now()
	ctx, span := t.tracer.Start(ctx, spanName(s.Kind), spanOptions(ctx, s)...)
	if s.Kind == concord.StepTransaction {
		t.meters.begun(ctx, s)
		if !span.SpanContext().IsValid() { // no provider was set up: one that drops spans names them all the same
			ctx = context.WithValue(ctx, untracedKey{}, true)
		} else {
			ctx = concord.WithTraceparent(ctx, traceparent(span.SpanContext()))
		}
	}
	return ctx, func(err error) error {
		if span.IsRecording() {
			if s.Kind == concord.StepTransaction {
				span.SetAttributes(outcome(err))
			}
			if err != nil {
				span.SetAttributes(errorType(err))
				span.SetStatus(codes.Error, err.Error())
			}
		}
		span.End()
		t.meters.ended(ctx, s, time.Since(began), err)
		return nil
	}
}

// traceparent is how W3C Trace Context writes a span.
func traceparent(s trace.SpanContext) string {
	return "00-" + s.TraceID().String() + "-" + s.SpanID().String() + "-" + s.TraceFlags().String()
}

// untracedKey is in the context of a transaction that nobody traces, and so nobody its steps.
type untracedKey struct{}

// measure is for steps without a span.
func (t *telemetry) measure(ctx context.Context, s concord.Step) func(error) error {
	if !t.meters.steps.Enabled(ctx) {
		return unmeasured
	}
	began := time.Now()
	return func(err error) error {
		t.meters.ended(ctx, s, time.Since(began), err)
		return nil
	}
}

func unmeasured(error) error { return nil }

func spanName(k concord.StepKind) string {
	return "concord." + strings.ReplaceAll(k.String(), " ", "_")
}

func spanOptions(ctx context.Context, s concord.Step) []trace.SpanStartOption {
	attributes := []attribute.KeyValue{attribute.String("concord.gid", s.GID.String())}
	if s.Resource != "" {
		attributes = append(attributes, resource(s), attribute.String("db.system.name", system(s.Driver)))
	} else if s.Label != "" {
		attributes = append(attributes, attribute.String("concord.label", s.Label))
	}
	if s.Attempt > 1 {
		attributes = append(attributes, attribute.Int("concord.attempt", s.Attempt))
	}
	options := []trace.SpanStartOption{trace.WithAttributes(attributes...)}
	if s.Kind != concord.StepTransaction && s.Kind != concord.StepBranch { // somebody is asked
		options = append(options, trace.WithSpanKind(trace.SpanKindClient))
	}
	if s.Attempt > 1 && (s.Kind == concord.StepCommit || s.Kind == concord.StepRollback) {
		options = append(options, trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(ctx)))
	}
	return options
}

func resource(s concord.Step) attribute.KeyValue {
	return attribute.String("concord.resource", s.Resource)
}

// system is the name of a kind of database in the semantic conventions.
func system(driver string) string {
	if driver == "postgres" {
		return "postgresql"
	}
	return driver
}

// outcome is how a transaction ended for its application.
func outcome(err error) attribute.KeyValue {
	word := "aborted"
	switch {
	case err == nil:
		word = "committed"
	case errors.Is(err, concord.ErrAborted): // what else it wraps may be of another transaction
	case errors.Is(err, concord.ErrUnknownOutcome):
		word = "unknown"
	case errors.Is(err, concord.ErrTorn):
		word = "torn"
	}
	return attribute.String("concord.outcome", word)
}

// errorType is one of few words for what failed.
func errorType(err error) attribute.KeyValue {
	word, aborted := "_OTHER", errors.Is(err, concord.ErrAborted)
	switch {
	case !aborted && errors.Is(err, concord.ErrUnknownOutcome):
		word = "unknown"
	case !aborted && errors.Is(err, concord.ErrTorn):
		word = "torn"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		word = "timeout"
	case errors.Is(err, concord.ErrAborted):
		word = "aborted"
	}
	return attribute.String("error.type", word)
}
