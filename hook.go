// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord/api"
)

// Step is a part of a transaction that takes time, as a Hook sees it.
type Step struct {
	Kind     StepKind
	GID      ID
	Label    string // of the transaction
	Resource string // whose branch it is about; empty if it is about none
	Driver   string // of that resource, such as "postgres"
	// Attempt counts from 1: how often Run has done the transaction, or how often the client has
	// tried to end the branch.
	Attempt int
}

// StepKind says what a Step is.
type StepKind uint8

// A transaction is from Begin until its outcome is told. Within it, a branch is from the opening of its
// session until nothing is left for the client to do. Prepare is its vote, Decide the question to the
// cluster, CommitOnePhase the commit of the only branch that wrote, and Commit and Rollback are how a
// branch ends.
const (
	StepTransaction StepKind = iota
	StepBranch
	StepPrepare
	StepDecide
	StepCommitOnePhase
	StepCommit
	StepRollback
)

// String returns transaction, branch, prepare, decide, commit one phase, commit or rollback.
func (k StepKind) String() string {
	words := [...]string{"transaction", "branch", "prepare", "decide", "commit one phase", "commit", "rollback"}
	if int(k) < len(words) {
		return words[k]
	}
	return fmt.Sprintf("invalid(%d)", uint8(k))
}

// Hook is called when a step begins. The context that it returns is that of whatever happens inside
// of the step; it comes from ctx, whose end it must not change. When the step ends, end is called
// once with how: nil, or an error, which of a transaction is an *AbortedError (also if the application rolled it
// back), an *UnknownError or a *TornError. Several goroutines call them, and they must not wait.
//
// An error that end returns in the place of nil makes the client believe that the answer of this step was lost
// on its way, or that the vote was No: so the ways to fail can be tried. Of a transaction and of a branch it
// is ignored.
type Hook func(ctx context.Context, s Step) (inside context.Context, end func(error) error)

// WithHook lets a Hook see the steps of all transactions. The first one is the outermost.
func WithHook(h Hook) Option { return func(o *config) { o.hooks = append(o.hooks, h) } }

// WithTraceparent is for a Hook that traces: the context that it returns for a transaction carries the span, as a W3C
// traceparent, to the node that decides, and to agents. Nodes and agents that export spans have theirs within it, and
// the log of that node names trace and span (trace_id, span_id) when it ends a branch in the place of the client. What
// is no traceparent of version 00 is ignored there.
func WithTraceparent(ctx context.Context, traceparent string) context.Context {
	return api.WithTraceparent(ctx, traceparent)
}

// start begins a step. Its end may be called more than once, and means something the first time.
func (c *Client) start(ctx context.Context, s Step) (context.Context, func(error) error) {
	if len(c.hooks) == 0 {
		return ctx, pass
	}
	ends := make([]func(error) error, 0, len(c.hooks))
	for _, h := range c.hooks {
		var end func(error) error
		if ctx, end = h(ctx, s); end != nil {
			ends = append(ends, end)
		}
	}
	var once sync.Once
	return ctx, func(err error) error {
		once.Do(func() {
			for _, end := range slices.Backward(ends) {
				if worse := end(err); err == nil {
					err = worse
				}
			}
		})
		return err
	}
}

func pass(err error) error { return err }

// valued is a context with the values of another one, before its own.
type valued struct {
	context.Context
	values context.Context
}

func (v valued) Value(key any) any {
	if value := v.values.Value(key); value != nil {
		return value
	}
	return v.Context.Value(key)
}

// within returns ctx with what hooks have put into the context of the step around it.
func (c *Client) within(ctx, step context.Context) context.Context {
	if len(c.hooks) == 0 && api.Traceparent(step) == "" {
		return ctx
	}
	return valued{Context: ctx, values: context.WithoutCancel(step)}
}

// logSlow is the Hook of WithSlowThreshold.
func logSlow(log *slog.Logger, threshold time.Duration) Hook {
	return func(ctx context.Context, s Step) (context.Context, func(error) error) {
		began := time.Now()
		if s.Kind == StepTransaction {
			steps := &slowSteps{}
			return context.WithValue(ctx, slowKey{}, steps), func(err error) error {
				if took := time.Since(began); took > threshold {
					log.Warn("a transaction was slow", "gid", s.GID, "label", s.Label, "took", took, "threshold",
						threshold,
						"outcome", outcomeWord(err), slog.GroupAttrs("steps", steps.all()...))
				}
				return nil
			}
		}
		steps, _ := ctx.Value(slowKey{}).(*slowSteps)
		return ctx, func(error) error {
			if steps != nil && s.Kind != StepBranch { // which takes as long as the application works
				steps.add(s, time.Since(began))
			}
			return nil
		}
	}
}

type slowKey struct{}

// slowSteps is what took how long in one transaction. It has a few steps of each branch.
type slowSteps struct {
	mu   sync.Mutex
	took []slog.Attr
}

func (l *slowSteps) add(s Step, took time.Duration) {
	name := strings.ReplaceAll(s.Kind.String(), " ", "_")
	if s.Resource != "" {
		name += "." + s.Resource
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, slog.Attr{Key: name, Value: slog.DurationValue(took)})
}

// all returns a copy: some steps may end after their transaction.
func (l *slowSteps) all() []slog.Attr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]slog.Attr(nil), l.took...)
}
