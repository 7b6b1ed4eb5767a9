// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// Retryable reports whether a transaction that failed with err has certainly not happened, and may
// well succeed if all of it is done again: its databases could not serialize it, it was the victim
// of a deadlock, or waited for a lock in vain; or no leader could be asked in time, or the client had lost
// its lease. It is false for whatever may have committed, and for what would fail again.
func Retryable(err error) bool {
	if errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrTorn) { // perhaps of another transaction
		return false
	}
	var aborted *AbortedError
	return errors.As(err, &aborted) && aborted.Retryable
}

// RetryPolicy says how often Run does a transaction, and how long it pauses in between. Pauses are drawn at
// random between zero and twice their mean, so that those who met once do not meet again, and
// the mean doubles each time. The zero value is right for most.
type RetryPolicy struct {
	Attempts int           // in all; zero means 5
	Initial  time.Duration // the first mean pause; zero means 10 ms
	Max      time.Duration // what the mean grows to; zero means a second
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	const attempts, initial, longest = 5, 10 * time.Millisecond, time.Second
	if p.Attempts == 0 {
		p.Attempts = attempts
	}
	if p.Initial == 0 {
		p.Initial = initial
	}
	if p.Max == 0 {
		p.Max = max(longest, p.Initial)
	}
	return p
}

func (p RetryPolicy) check() error {
	if p.Attempts < 1 || p.Initial < 0 || p.Max < p.Initial {
		return fmt.Errorf("begin: WithRetry(%d attempts, pauses of %v to %v): %w: want one attempt or more, and "+
			"pauses that grow", p.Attempts, p.Initial, p.Max, txn.ErrInvalid)
	}
	return nil
}

// WithRetry makes Run do a transaction again, under a new id and with its time limit anew, as long as
// what it failed with is Retryable, attempts are left, and ctx lasts. So its function may be
// called more than once, and must not do what the transaction does not undo. Begin refuses it.
func WithRetry(p RetryPolicy) TxOption {
	return func(o *txConfig) { o.retry = p.withDefaults() }
}

var errRetryBegin = fmt.Errorf("begin: WithRetry: %w: only Run can repeat a transaction: call Run, or begin a new "+
	"one as long as concord.Retryable says so", txn.ErrInvalid)

// retry calls once until it succeeds, or fails with what must not be repeated, or too often.
func (c *Client) retry(ctx context.Context, p RetryPolicy, once func(attempt int) error) error {
	pauses := &backoff.ExponentialBackOff{InitialInterval: p.Initial, MaxInterval: p.Max, Multiplier: 2,
		RandomizationFactor: 1}
	pauses.Reset()
	for attempt := 1; ; attempt++ {
		err := once(attempt)
		if err == nil || !Retryable(err) {
			return err
		}
		if attempt == p.Attempts {
			return fmt.Errorf("attempt %d of %d, the last: %w", attempt, p.Attempts, err)
		}
		pause := pauses.NextBackOff()
		c.logger.Debug("a transaction was aborted and will be run "+
			"again", "attempt", attempt, "pause", pause, "err", err)
		if over := api.Wait(ctx, pause); over != nil {
			return fmt.Errorf("attempt %d of %d, after which the context ended (%w): %w", attempt, p.Attempts, over,
				err)
		}
	}
}
