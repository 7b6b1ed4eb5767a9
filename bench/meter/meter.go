// SPDX-License-Identifier: Apache-2.0

package meter

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
)

const (
	// longest is the longest latency that is told apart from longer ones, in microseconds.
	longest = int64(5 * time.Minute / time.Microsecond)
	// operationLimit bounds one operation, so that a round ends.
	operationLimit = time.Minute
)

// ErrUnknown is wrapped by the error of an operation that may have succeeded.
var ErrUnknown = errors.New("the outcome of the operation is unknown")

// Lap is one round of one way to do something.
type Lap struct {
	Workers int
	Elapsed time.Duration // until the last worker has ended
	CPU     time.Duration // of this process
	Servers time.Duration // CPU of others, if the caller asked for it
	Done    int64
	Unknown int64
	Failed  int64
	Failure error           // one of those that failed
	Gaps    []time.Duration // the longest between two answers to anybody, longest first
	raw     *hdrhistogram.Histogram
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// Drive lets workers, numbered from 0, do an operation again and again for a while. An operation
// that has begun is never cut off, not even when ctx ends: it could leave something prepared
// behind. Each is bounded by a minute.
func Drive(ctx context.Context, workers int, d time.Duration,
	operation func(ctx context.Context, worker int) error) (Lap, error) {
	laps := make([]Lap, workers)
	cpu, begin := cpuTime(), time.Now()
	var gaps silence
	var wg sync.WaitGroup
	for i := range laps {
		laps[i].raw = newHistogram()
		one := func(ctx context.Context) error { return operation(ctx, i) }
		wg.Go(func() {
			for ctx.Err() == nil && time.Since(begin) < d {
				if laps[i].once(ctx, one) {
					gaps.broken(time.Since(begin))
				}
			}
		})
	}
	wg.Wait()
	sum := Lap{Workers: workers, Elapsed: time.Since(begin), CPU: cpuTime() - cpu, raw: newHistogram(),
		Gaps: gaps.longest}
	for i := range laps {
		sum.add(&laps[i])
	}
	return sum, context.Cause(ctx)
}

// once reports whether there was an answer.
func (l *Lap) once(ctx context.Context, operation func(context.Context) error) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationLimit)
	defer cancel()
	begin := time.Now()
	err := operation(ctx)
	switch {
	case err == nil:
		l.Done++
		record(l.raw, time.Since(begin).Microseconds(), 1)
	case errors.Is(err, ErrUnknown):
		l.Unknown++
	default:
		l.Failed++
		l.Failure = err
	}
	return err == nil
}

func (l *Lap) add(other *Lap) {
	l.Done += other.Done
	l.Unknown += other.Unknown
	l.Failed += other.Failed
	if l.Failure == nil {
		l.Failure = other.Failure
	}
	l.raw.Merge(other.raw)
	for _, gap := range other.Gaps {
		l.Gaps = withGap(l.Gaps, gap)
	}
}

// MaxGaps gaps are told of.
const MaxGaps = 5

// withGap keeps the longest gaps, longest first.
func withGap(gaps []time.Duration, gap time.Duration) []time.Duration {
	i, _ := slices.BinarySearchFunc(gaps, gap, func(a, b time.Duration) int { return cmp.Compare(b, a) })
	if i == MaxGaps {
		return gaps
	}
	gaps = slices.Insert(gaps, i, gap)
	return gaps[:min(len(gaps), MaxGaps)]
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
	if len(s.longest) == MaxGaps {
		s.long.Store(int64(s.longest[MaxGaps-1]))
	}
}

// PerSecond is how many operations succeeded in a second.
func (l *Lap) PerSecond() float64 { return float64(l.Done) / l.Elapsed.Seconds() }

// corrected returns the latencies free of coordinated omission.
func (l *Lap) corrected() *hdrhistogram.Histogram {
	return correct(l.raw, l.Elapsed.Microseconds()*int64(l.Workers)/max(1, l.Done))
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

// Series is all rounds of one way.
type Series struct {
	Total     Lap
	Rates     []float64 // operations per second, by round
	corrected *hdrhistogram.Histogram
}

// NewSeries has no rounds yet.
func NewSeries(workers int) *Series {
	return &Series{Total: Lap{Workers: workers, raw: newHistogram()}, corrected: newHistogram()}
}

// Add adds a round.
func (s *Series) Add(l *Lap) {
	s.Total.add(l)
	s.Total.Elapsed += l.Elapsed
	s.Total.CPU += l.CPU
	s.Total.Servers += l.Servers
	s.corrected.Merge(l.corrected())
	s.Rates = append(s.Rates, l.PerSecond())
}

// GapMillis returns the longest gaps between two answers, longest first.
func (s *Series) GapMillis() []float64 {
	gaps := make([]float64, len(s.Total.Gaps))
	for i, gap := range s.Total.Gaps {
		gaps[i] = float64(gap.Microseconds()) / 1000
	}
	return gaps
}

// Millis returns the latency, free of coordinated omission, below which the given percentage of
// the operations stayed.
func (s *Series) Millis(percentile float64) float64 {
	return float64(s.corrected.ValueAtPercentile(percentile)) / 1000
}

// CPUPerOperation is in seconds.
func (s *Series) CPUPerOperation() float64 {
	return s.Total.CPU.Seconds() / float64(max(1, s.Total.Done))
}

// ServersPerOperation is in seconds.
func (s *Series) ServersPerOperation() float64 {
	return s.Total.Servers.Seconds() / float64(max(1, s.Total.Done))
}

// Median of values that are not empty.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // only with an argument that the system does not know
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
