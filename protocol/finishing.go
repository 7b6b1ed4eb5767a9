// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/txn"
)

// Finishing is phase two of a decided transaction, which is the same in every protocol: the branches that the
// decision ends, and which of them somebody has reported finished. The zero value has none.
type Finishing struct{ branches []finishing }

type finishing struct {
	no    txn.BranchNo
	ended bool
}

// Add takes branches in; those among finished are known to be finished.
func (f *Finishing) Add(branches []txn.Branch, finished ...txn.BranchNo) {
	for _, b := range branches {
		f.branches = append(f.branches, finishing{no: b.No, ended: slices.Contains(finished, b.No)})
	}
	slices.SortFunc(f.branches, func(a, b finishing) int { return int(a.no) - int(b.no) })
}

// Reported takes what finishing a branch by the decision has found. It returns an Alarm for a branch that was
// contradicted or lost, and false if the report says nothing new.
func (f *Finishing) Reported(r Finished, d txn.Decision) (alarm []Effect, isNew bool) {
	i := slices.IndexFunc(f.branches, func(b finishing) bool { return b.no == r.No })
	if i < 0 || f.branches[i].ended {
		return nil, false
	}
	switch r.Finish {
	case txn.Done, txn.AlreadyDone:
	case txn.Contradicted:
		outcome := txn.HeuristicRollback
		if d == txn.Abort {
			outcome = txn.HeuristicCommit
		}
		alarm = []Effect{Alarm{No: r.No, Outcome: outcome}}
	case txn.Lost:
		alarm = []Effect{Alarm{No: r.No, Outcome: txn.HeuristicHazard}}
	default:
		return nil, false
	}
	f.branches[i].ended = true
	return alarm, true
}

// Unfinished returns the branches that nobody has reported finished, in order of No.
func (f *Finishing) Unfinished() (open []txn.BranchNo) {
	for _, b := range f.branches {
		if !b.ended {
			open = append(open, b.no)
		}
	}
	return open
}

// Clone returns an independent copy.
func (f *Finishing) Clone() Finishing { return Finishing{slices.Clone(f.branches)} }

// String prints each branch, and whether it is finished, with a blank before it.
func (f *Finishing) String() string {
	var b strings.Builder
	for _, x := range f.branches {
		state := "unfinished"
		if x.ended {
			state = "finished"
		}
		fmt.Fprintf(&b, " %d:%s", x.no, state)
	}
	return b.String()
}
