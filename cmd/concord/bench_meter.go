// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/concordtx/concord"
)

const (
	// longest is the longest latency that is told apart from longer ones, in microseconds.
	longest = int64(5 * time.Minute / time.Microsecond)
	// operationLimit bounds one operation, so that a round ends.
	operationLimit = time.Minute
)

// lap is one round of one way to do something.
type lap struct {
	workers int
	elapsed time.Duration // until the last worker has ended
	cpu     time.Duration // of this process
	servers time.Duration // CPU of others that were asked for
	done    int64
	unknown int64
	failed  int64
	failure error // one of those that failed
	raw     *hdrhistogram.Histogram
	gaps    []time.Duration // the longest between two answers to anybody, longest first
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// drive lets workers do an operation again and again for a while. An operation
// that has begun is never cut off, not even when ctx ends: it could leave something
// prepared behind.
func drive(ctx context.Context, workers int, d time.Duration, operation func(context.Context) error) (lap, error) {
	laps := make([]lap, workers)
	cpu, begin := cpuTime(), time.Now()
	var gaps silence
	var wg sync.WaitGroup
	for i := range laps {
		laps[i].raw = newHistogram()
		wg.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < d {
				if laps[i].once(ctx, operation) {
					gaps.broken(time.Since(begin))
				}
			}
		})
	}
	wg.Wait()
	sum := lap{workers: workers, elapsed: time.Since(begin), cpu: cpuTime() - cpu, raw: newHistogram(), gaps: gaps.longest}
	for i := range laps {
		sum.add(&laps[i])
	}
	return sum, context.Cause(ctx)
}

// once reports whether there was an answer.
func (l *lap) once(ctx context.Context, operation func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationLimit)
	defer cancel()
	begin := time.Now()
	err := operation(ctx)
	switch {
	case err == nil:
		l.done++
		record(l.raw, time.Since(begin).Microseconds(), 1)
	case errors.Is(err, concord.ErrUnknownOutcome):
		l.unknown++
	default:
		l.failed++
		l.failure = err
	}
	return err == nil
}

func (l *lap) add(other *lap) {
	l.done += other.done
	l.unknown += other.unknown
	l.failed += other.failed
	if l.failure == nil {
		l.failure = other.failure
	}
	l.raw.Merge(other.raw)
	for _, gap := range other.gaps {
		l.gaps = withGap(l.gaps, gap)
	}
}

// maxGaps gaps are told of.
const maxGaps = 5

// withGap keeps the longest gaps, longest first.
func withGap(gaps []time.Duration, gap time.Duration) []time.Duration {
	i, _ := slices.BinarySearchFunc(gaps, gap, func(a, b time.Duration) int { return cmp.Compare(b, a) })
	if i == maxGaps {
		return gaps
	}
	gaps = slices.Insert(gaps, i, gap)
	return gaps[:min(len(gaps), maxGaps)]
}

// silence finds the longest gaps between any two answers, whoever gets them: a latency says how
// long one waited, this says when nobody was served.
type silence struct {
	last atomic.Int64 // answer, after the beginning; 0 before the first one
	long atomic.Int64 // the shortest gap that is among the longest

	mu      sync.Mutex
	longest []time.Duration
}

// broken notes an answer.
func (s *silence) broken(after time.Duration) {
	last := s.last.Swap(int64(after))
	gap := int64(after) - last // less than zero if two workers changed places
	if last == 0 || gap <= s.long.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.longest = withGap(s.longest, time.Duration(gap))
	if len(s.longest) == maxGaps {
		s.long.Store(int64(s.longest[maxGaps-1]))
	}
}

func (l *lap) perSecond() float64 { return float64(l.done) / l.elapsed.Seconds() }

// corrected returns the latencies free of coordinated omission.
func (l *lap) corrected() *hdrhistogram.Histogram {
	return correct(l.raw, l.elapsed.Microseconds()*int64(l.workers)/max(1, l.done))
}

// correct adds what a closed loop leaves out: to a value longer than interval, one for
// every further interval that it lasted.
func correct(raw *hdrhistogram.Histogram, interval int64) *hdrhistogram.Histogram {
	h := newHistogram()
	for _, bar := range raw.Distribution() {
		if bar.Count == 0 {
			continue
		}
		record(h, bar.To, bar.Count)
		for missing := bar.To - interval; interval > 0 && missing >= interval; missing -= interval {
			record(h, missing, bar.Count)
		}
	}
	return h
}

// record cannot fail: the value is brought into the range.
func record(h *hdrhistogram.Histogram, micros, count int64) {
	_ = h.RecordValues(min(max(micros, 1), longest), count)
}

// series is all rounds of one way.
type series struct {
	total     lap
	corrected *hdrhistogram.Histogram
	rates     []float64
}

func newSeries(workers int) *series {
	return &series{total: lap{workers: workers, raw: newHistogram()}, corrected: newHistogram()}
}

func (s *series) add(l *lap) {
	s.total.add(l)
	s.total.elapsed += l.elapsed
	s.total.cpu += l.cpu
	s.total.servers += l.servers
	s.corrected.Merge(l.corrected())
	s.rates = append(s.rates, l.perSecond())
}

// gapMillis returns the longest gaps between two answers, longest first.
func (s *series) gapMillis() []float64 {
	gaps := make([]float64, len(s.total.gaps))
	for i, gap := range s.total.gaps {
		gaps[i] = float64(gap.Microseconds()) / 1000
	}
	return gaps
}

// millis returns the latency below which the given percentage of the operations stayed.
func (s *series) millis(percentile float64) float64 {
	return float64(s.corrected.ValueAtPercentile(percentile)) / 1000
}

// cpuPerOperation is in seconds.
func (s *series) cpuPerOperation() float64 {
	return s.total.cpu.Seconds() / float64(max(1, s.total.done))
}

func (s *series) serversPerOperation() float64 {
	return s.total.servers.Seconds() / float64(max(1, s.total.done))
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // only with an argument that the system does not know
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
