// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/internal/sim"
)

// Counters says how often each situation of transactions occurred.
type Counters [situations]int

// Summary is what the runs of a block with transactions add up to.
type Summary struct {
	Seeds        uint64 // that ended without a violation
	Steps        int
	Transactions int
	Counters     Counters
}

// Add takes in one run.
func (s *Summary) Add(r Result) {
	s.Seeds++
	s.Steps += r.Steps
	s.Transactions += r.Transactions
	for i, n := range r.Counters {
		s.Counters[i] += n
	}
}

// Missing lists the situations that never occurred.
func (s *Summary) Missing() (missing []Situation) {
	for i, n := range s.Counters {
		if n == 0 {
			missing = append(missing, Situation(i))
		}
	}
	return missing
}

// String is the summary in one line.
func (s *Summary) String() string {
	return fmt.Sprintf("%d seeds, %d steps, %d transactions", s.Seeds, s.Steps, s.Transactions)
}

// Block is Block for whole coordinators with transactions.
func Block(ctx context.Context, seeds sim.Seeds, o Options) (Summary, error) {
	var sum Summary
	run := sim.Twice(func(seed uint64) (Result, error) { return Run(seed, o) })
	err := sim.Each(ctx, seeds, run, func(_ uint64, r Result) { sum.Add(r) })
	return sum, err
}
