// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"fmt"

	"github.com/concordtx/concord/txn"
)

// Broken names a property that does not hold, or is empty.
func (w *twoPC) Broken(d *deal) string {
	commits := d.decision == txn.Commit || d.told>>txn.Committed&1 == 1
	aborts := w.heardByOthers(d) == txn.Aborted || d.told>>txn.Aborted&1 == 1
	lost := false
	for n := range d.resources {
		r := &d.resources[n]
		commits = commits || r.state == committed
		aborts = aborts || r.state == aborted && !r.lost
		lost = lost || r.lost
		if r.state == committed && !r.work {
			return fmt.Sprintf("AC3w: branch %d committed without the work", n)
		}
		if r.state != unused && r.state != committed && !r.readOnly && d.ended && !d.alarmed {
			return fmt.Sprintf("HEUR: ended without an alarm, but branch %d is not committed", n)
		}
	}
	switch {
	case commits && aborts:
		return w.disagreement(d)
	case d.bad != 0:
		return w.bads[d.bad]
	case d.alarmed && !lost:
		return "HEUR: an alarm without a cause"
	}
	return ""
}

// heardByOthers is what the cluster says to whoever asks. It is as the log has it: nobody sees a
// branch of a transaction that one database decides.
func (w *twoPC) heardByOthers(d *deal) txn.Outcome {
	return txn.Txn{Decision: d.decision, Seen: !w.size.alone()}.Outcome()
}

func (w *twoPC) disagreement(d *deal) string {
	var commit, abort []string
	note := func(commits, aborts bool, who string) {
		if commits {
			commit = append(commit, who)
		}
		if aborts {
			abort = append(abort, who)
		}
	}
	note(d.decision == txn.Commit, w.heardByOthers(d) == txn.Aborted, "the log")
	for n, r := range d.resources {
		note(r.state == committed, r.state == aborted && !r.lost, fmt.Sprintf("branch %d", n))
	}
	note(d.told>>txn.Committed&1 == 1, d.told>>txn.Aborted&1 == 1, "the application")
	return fmt.Sprintf("AC1: commit at %v, abort at %v", commit, abort)
}

// Settled reports whether nothing is left to be done.
func (w *twoPC) Settled(d *deal) bool {
	for _, r := range d.resources {
		if r.state == active || r.state == durable {
			return false
		}
	}
	return d.decision != txn.Commit || d.ended
}
