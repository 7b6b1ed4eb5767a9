// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"math/rand/v2"
)

// Instant is a point or a distance in virtual time, in microseconds.
type Instant int64

const (
	Millisecond Instant = 1000
	Second              = 1000 * Millisecond
	never       Instant = math.MaxInt64
)

// scheduler runs callbacks in order of virtual time. Callbacks of the same instant run
// in an order that is drawn from the seed.
type scheduler struct {
	Now   Instant
	RNG   *rand.Rand
	heap  []timer // a binary heap: each parent stands before its children
	count uint64  // timers ever made; the last resort of the order
}

type timer struct {
	at    Instant
	tie   uint64
	order uint64
	run   func()
}

func newScheduler(seed uint64) *scheduler {
	return &scheduler{RNG: rand.New(rand.NewPCG(seed, 0x636f6e636f7264))}
}

func (t timer) before(o timer) bool {
	if t.at != o.at {
		return t.at < o.at
	}
	if t.tie != o.tie {
		return t.tie < o.tie
	}
	return t.order < o.order
}

// After runs the callback when d has passed.
func (s *scheduler) After(d Instant, run func()) {
	s.count++
	s.heap = append(s.heap, timer{at: s.Now + max(d, 0), tie: s.RNG.Uint64(), order: s.count, run: run})
	for i := len(s.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s.heap[i].before(s.heap[parent]) {
			return
		}
		s.heap[i], s.heap[parent] = s.heap[parent], s.heap[i]
		i = parent
	}
}

// Next runs the earliest callback and reports whether there was one.
func (s *scheduler) Next() bool {
	if len(s.heap) == 0 {
		return false
	}
	first := s.heap[0]
	last := len(s.heap) - 1
	s.heap[0], s.heap[last] = s.heap[last], timer{}
	s.heap = s.heap[:last]
	s.sink()
	s.Now = first.at
	first.run()
	return true
}

func (s *scheduler) sink() {
	for i := 0; ; {
		least := i
		for _, child := range [2]int{2*i + 1, 2*i + 2} {
			if child < len(s.heap) && s.heap[child].before(s.heap[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		s.heap[i], s.heap[least] = s.heap[least], s.heap[i]
		i = least
	}
}

// Chance is true with probability p.
func (s *scheduler) Chance(p float64) bool { return p > 0 && s.RNG.Float64() < p }

// upTo draws evenly from [0, n].
func (s *scheduler) upTo(n int) int { return s.RNG.IntN(n + 1) }

// About draws from an exponential distribution with this mean, cut at ten times it.
func (s *scheduler) About(mean Instant) Instant {
	if mean <= 0 {
		return 0
	}
	return Instant(min(s.RNG.ExpFloat64(), 10) * float64(mean))
}

// logUniform draws from [low, high] so that each order of magnitude is as likely.
func (s *scheduler) logUniform(low, high float64) float64 {
	return low * math.Exp(s.RNG.Float64()*math.Log(high/low))
}
