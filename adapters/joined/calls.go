// SPDX-License-Identifier: Apache-2.0

package joined

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

var (
	errLate = txn.Refusedf("the call has outlived its transaction, which has ended: begin another one, and make the " +
		"call in that")
	errTwice = txn.Refusedf("this very call was made before, and is not done twice; its answer was lost, so the " +
		"transaction has to be begun again")
)

// Heard is which calls somebody has the answers of: their number, and the exclusive or of their names.
type Heard struct {
	Calls uint32
	Sum   api.CallName
}

// Add adds one.
func (h *Heard) Add(n api.CallName) {
	h.Calls++
	h.Sum ^= n
}

// Calls are those that were made in one transaction at the service that they were made to. It is pure; its owner is who
// owns the service's part in the transaction.
//
// What always holds:
//  1. A call is done once, and none after the votes were asked for.
//  2. The votes may be Yes only if who asks has the answers of all calls, and knows of all branches.
type Calls struct {
	under map[api.CallName]bool // whether it is under way; of each that was ever made
	asked bool
}

// Enter begins a call.
func (c *Calls) Enter(n api.CallName) error {
	_, known := c.under[n]
	switch {
	case c.asked && !mutant.JoinAfterVote:
		return errLate
	case known && !mutant.JoinTwice:
		return errTwice
	}
	if c.under == nil {
		c.under = map[api.CallName]bool{}
	}
	c.under[n] = true
	return nil
}

// Leave ends a call.
func (c *Calls) Leave(n api.CallName) { c.under[n] = false }

// UnderWay reports whether a call has begun and has not ended.
func (c *Calls) UnderWay(n api.CallName) bool { return c.under[n] }

// Ask ends the work: the votes are asked for, or nobody wants them any more. It reports whether that is the first time.
func (c *Calls) Ask() (first bool) {
	first = !c.asked
	c.asked = true
	return first
}

// Differ says what who asks for the votes does not know of: it has heard of some calls, and knows of some branches.
func (c *Calls) Differ(heard Heard, known []txn.BranchNo, opened []api.OpenedBranch) error {
	var here Heard
	running := 0
	for n, underWay := range c.under {
		here.Add(n)
		if underWay {
			running++
		}
	}
	switch {
	case mutant.VoteUnheard:
		return nil
	case running > 0:
		return fmt.Errorf("%d calls are still under way here: wait for their answers before the transaction is "+
			"committed", running)
	case here != heard:
		return fmt.Errorf("%d calls were made here, and who began the transaction has the answers to %d, or to "+
			"others: an answer was lost, so begin the transaction again", here.Calls, heard.Calls)
	}
	for _, b := range opened {
		if !slices.Contains(known, b.No) {
			return fmt.Errorf("branch %d was opened in %s after the call had been answered: do all work before the "+
				"handler returns", b.No, b.Resource)
		}
	}
	return nil
}
