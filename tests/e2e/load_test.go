// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

// load is a number of workers that transfer money with the SDK and remember every
// answer.
type load struct {
	b       *bank
	client  *concord.Client
	workers int
	// enough tells the workers to stop.
	enough  func(committed int) bool
	options []concord.TxOption

	mu        sync.Mutex
	answers   map[txn.ID]concord.Outcome
	causes    map[string]int // of aborts, by resource
	committed int
	unknown   int
	latencies []time.Duration // of commits
	began     time.Time
	took      time.Duration
	done      chan struct{}
}

// startLoad starts workers, which end with ctx or when they have done enough; a test does
// not end before them.
func startLoad(ctx context.Context, b *bank, client *concord.Client, workers int, enough func(committed int) bool,
	opts ...concord.TxOption) *load {
	l := &load{b: b, client: client, workers: workers, enough: enough, options: opts,
		answers: map[txn.ID]concord.Outcome{},
		causes:  map[string]int{}, began: time.Now(), done: make(chan struct{})}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for ctx.Err() == nil && !l.isEnough() {
				if !l.one(ctx) {
					time.Sleep(20 * time.Millisecond) // a database that is down refuses very fast
				}
			}
		})
	}
	go func() {
		group.Wait()
		l.took = time.Since(l.began)
		close(l.done)
	}()
	b.Cleanup(func() { <-l.done })
	return l
}

func (l *load) isEnough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.enough(l.committed)
}

// sofar is how many have committed.
func (l *load) sofar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed
}

// rate is how many commit per second, for as long as it looks.
func (l *load) rate(look time.Duration) float64 {
	from := l.sofar()
	time.Sleep(look) // the measurement itself
	return float64(l.sofar()-from) / look.Seconds()
}

// one does one transfer and reports whether it committed.
func (l *load) one(ctx context.Context) bool {
	began := time.Now()
	id, err := l.b.run(ctx, l.client, l.options...)
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	var aborted *concord.AbortedError
	switch {
	case err == nil:
		l.answers[id] = concord.Committed
		l.committed++
		l.latencies = append(l.latencies, took)
	case errors.Is(err, concord.ErrUnknownOutcome):
		l.answers[id] = concord.Unknown
		l.unknown++
	case errors.As(err, &aborted):
		if id.IsZero() {
			id = aborted.GID
		}
		l.answers[id] = concord.Aborted
		if l.causes[aborted.Resource]++; l.causes[aborted.Resource] <= 3 {
			l.b.Logf("aborted: %v", err)
		}
	default:
		l.b.Errorf("neither nil, aborted nor unknown: %v", err)
	}
	return err == nil
}

// wait waits for the workers, settles unknown outcomes, and checks everything.
func (l *load) wait(t testing.TB, c *cluster) {
	t.Helper()
	<-l.done
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	aborted := 0
	for id, outcome := range l.answers {
		switch outcome {
		case concord.Unknown:
			settled, err := l.client.Outcome(ctx, id)
			require.NoError(t, err)
			l.answers[id] = settled
		case concord.Aborted:
			aborted++
		}
	}
	slices.Sort(l.latencies)
	t.Logf("%d committed, %d aborted %v, %d unknown and settled by Outcome, in %v: %.0f/s; p50 %v p99 %v worst %v",
		l.committed, aborted, l.causes, l.unknown, l.took.Round(time.Millisecond),
		float64(l.committed)/l.took.Seconds(),
		at(l.latencies, 0.5), at(l.latencies, 0.99), at(l.latencies, 1))
	l.b.settled(c)
	l.b.sumHolds()
	l.b.agree(l.answers)
}

// at returns a quantile of sorted durations.
func at(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))].Round(100 * time.Microsecond)
}
