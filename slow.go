// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

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
	name := s.Kind.String()
	if s.Resource != "" {
		name += " " + s.Resource
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, slog.Duration(name, took))
}

// all returns a copy: some steps may end after their transaction.
func (l *slowSteps) all() []slog.Attr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]slog.Attr(nil), l.took...)
}
