// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"strings"

	"connectrpc.com/connect"
)

// TraceHeader carries the span of whoever calls an agent, as W3C Trace Context has it.
const TraceHeader = "Traceparent"

type traceKey struct{}

// WithTraceparent returns a context whose calls are part of the span that a traceparent names.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, traceparent)
}

// Traceparent returns what WithTraceparent was given, or nothing.
func Traceparent(ctx context.Context) string {
	s, _ := ctx.Value(traceKey{}).(string)
	return s
}

// Traced sends the traceparent of a context with its calls.
func Traced() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if t := ValidTraceparent(Traceparent(ctx)); t != "" {
				req.Header().Set(TraceHeader, t)
			}
			return next(ctx, req)
		}
	}
}

// ValidTraceparent returns what is one, as version 00 of W3C Trace Context says, and else nothing: a transaction does
// not fail for what is only to be looked at.
func ValidTraceparent(s string) string {
	const form = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(form) || s[:3] != form[:3] {
		return ""
	}
	for i := range len(s) {
		if form[i] == '-' && s[i] != '-' || form[i] == '0' && !strings.ContainsRune("0123456789abcdef", rune(s[i])) {
			return ""
		}
	}
	return s
}
