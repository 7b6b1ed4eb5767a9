// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/concordtx/concord/api"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
)

// Kind says which side of a call a span is about.
type Kind = trace.Span_SpanKind

// Server answers somebody, Client asks somebody.
const (
	Server = trace.Span_SPAN_KIND_SERVER
	Client = trace.Span_SPAN_KIND_CLIENT
)

// Span is something that takes time. It belongs to one goroutine at a time.
type Span struct {
	of   *Exporter
	span *trace.Span
}

// flagSampled is the one flag of a traceparent that is known here.
const flagSampled = 1

// context is what a traceparent says: 00-TRACE-SPAN-FLAGS.
type traceContext struct {
	trace, span []byte
	sampled     bool
}

func parse(traceparent string) (c traceContext, ok bool) {
	if api.ValidTraceparent(traceparent) == "" {
		return c, false
	}
	b, err := hex.DecodeString(traceparent[3:35] + traceparent[36:52] + traceparent[53:])
	if err != nil {
		return c, false
	}
	return traceContext{trace: b[:16], span: b[16:24], sampled: b[24]&flagSampled != 0}, true
}

// Under begins a span within that of a traceparent. It is nil if there is none, or if whoever began that trace does not
// want it recorded.
func (e *Exporter) Under(traceparent, name string, kind Kind) *Span {
	if e == nil {
		return nil
	}
	c, ok := parse(traceparent)
	if !ok || !c.sampled {
		return nil
	}
	s := e.begin(name, kind)
	s.span.TraceId, s.span.ParentSpanId = c.trace, c.span
	return s
}

// After begins a trace of its own, with a link to the span of a traceparent if there is one. It is nil if whoever began
// that one does not want it recorded.
func (e *Exporter) After(traceparent, name string, kind Kind) *Span {
	if e == nil {
		return nil
	}
	c, ok := parse(traceparent)
	if ok && !c.sampled {
		return nil
	}
	s := e.begin(name, kind)
	if s.span.TraceId = random(16); ok {
		s.span.Links = []*trace.Span_Link{{TraceId: c.trace, SpanId: c.span, Flags: flagSampled}}
	}
	return s
}

func (e *Exporter) begin(name string, kind Kind) *Span {
	return &Span{of: e, span: &trace.Span{Name: name, Kind: kind, SpanId: random(8), Flags: flagSampled,
		StartTimeUnixNano: now()}}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it ends the process if it fails
	return b
}

func now() uint64 { return uint64(time.Now().UnixNano()) } // #nosec G115 -- it is after 1970

// Traceparent is for spans within this one, elsewhere; empty if there is none.
func (s *Span) Traceparent() string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("00-%x-%x-%02x", s.span.GetTraceId(), s.span.GetSpanId(), flagSampled)
}

// Say gives the span an attribute.
func (s *Span) Say(key, value string) {
	if s != nil && value != "" {
		s.span.Attributes = append(s.span.Attributes, text(key, value))
	}
}

func text(key, value string) *common.KeyValue {
	return &common.KeyValue{Key: key, Value: &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: value}}}
}

// End ends the span. failed is one of few words for what went wrong, or empty.
func (s *Span) End(failed string) {
	if s == nil {
		return
	}
	s.span.EndTimeUnixNano = now()
	if failed != "" {
		s.Say("error.type", failed)
		s.span.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR}
	}
	s.of.take(s.span)
}
