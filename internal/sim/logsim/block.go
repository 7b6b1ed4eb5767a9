// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"context"
	"fmt"

	"github.com/concordtx/concord/internal/sim"
)

// Summary is what the runs of a block add up to.
type Summary struct {
	Seeds    uint64 // that ended without a violation
	Steps    int
	Entries  int // committed
	Epochs   int
	Counters sim.Counters
}

// Add takes in one run.
func (s *Summary) Add(r Result) {
	s.Seeds++
	s.Steps += r.Steps
	s.Entries += r.Committed
	s.Epochs += r.Epochs
	s.Counters.Add(r.Counters)
}

// String is the summary in one line.
func (s Summary) String() string {
	return fmt.Sprintf("%d seeds, %d steps, %d entries committed, %d epochs", s.Seeds, s.Steps, s.Entries, s.Epochs)
}

// Block runs seeds of the log alone, and some of them twice. The error is a *Violation.
func Block(ctx context.Context, seeds sim.Seeds, o sim.Options) (Summary, error) {
	var sum Summary
	run := sim.Twice(func(seed uint64) (Result, error) { return Run(seed, o) })
	err := sim.Each(ctx, seeds, run, func(_ uint64, r Result) { sum.Add(r) })
	return sum, err
}
