// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
)

// TxnCounters says how often each situation of transactions occurred.
type TxnCounters [txnSituations]int

// TxnSummary is what the runs of a block with transactions add up to.
type TxnSummary struct {
	Seeds        uint64 // that ended without a violation
	Steps        int
	Transactions int
	Counters     TxnCounters
}

// Add takes in one run.
func (s *TxnSummary) Add(r TxnResult) {
	s.Seeds++
	s.Steps += r.Steps
	s.Transactions += r.Transactions
	for i, n := range r.Counters {
		s.Counters[i] += n
	}
}

// Missing lists the situations that never occurred.
func (s *TxnSummary) Missing() (missing []TxnSituation) {
	for i, n := range s.Counters {
		if n == 0 {
			missing = append(missing, TxnSituation(i))
		}
	}
	return missing
}

// String is the summary in one line.
func (s *TxnSummary) String() string {
	return fmt.Sprintf("%d seeds, %d steps, %d transactions", s.Seeds, s.Steps, s.Transactions)
}

// TxnBlock is Block for whole coordinators with transactions.
func TxnBlock(ctx context.Context, seeds Seeds, o TxnOptions) (TxnSummary, error) {
	var sum TxnSummary
	run := Twice(func(seed uint64) (TxnResult, error) { return RunTxn(seed, o) })
	err := Each(ctx, seeds, run, func(_ uint64, r TxnResult) { sum.Add(r) })
	return sum, err
}
