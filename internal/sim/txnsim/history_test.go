// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

func TestHistoriesOfADecisionAreLinearizableOrNot(t *testing.T) {
	const u, c, a = txn.Undecided, txn.Commit, txn.Abort
	type op struct {
		id        byte
		kind      operationKind
		call, end sim.Instant // end 0: no answer
		decision  txn.Decision
	}
	for _, row := range []struct {
		name string
		good bool
		ops  []op
	}{
		{"commit, then everybody hears so", true,
			[]op{{1, askCommit, 1, 2, c}, {1, askOutcome, 3, 4, c}, {1, askView, 5, 6, c}}},
		{"a stale view after a commit", false, []op{{1, askCommit, 1, 2, c}, {1, askView, 3, 4, u}}},
		{"a view at the time of a commit", true, []op{{1, askCommit, 1, 4, c}, {1, askView, 2, 3, u}}},
		{"two answers", false, []op{{1, askCommit, 1, 2, c}, {1, askOutcome, 3, 4, a}}},
		{"of two at a time one wins", true, []op{{1, askCommit, 1, 4, a}, {1, askOutcome, 2, 3, a}}},
		{"a commit that nobody asked for", false, []op{{1, askView, 1, 2, c}}},
		{"a commit that was never answered shows later", true,
			[]op{{1, askCommit, 1, 0, u}, {1, askView, 2, 3, u}, {1, askView, 4, 5, c}}},
		{"and does not vanish again", false,
			[]op{{1, askCommit, 1, 0, u}, {1, askView, 2, 3, c}, {1, askView, 4, 5, u}}},
		{"an abort without anybody who asked for it", false, []op{{1, askCommit, 1, 2, a}}},
		{"two unanswered questions are as good as one", true,
			[]op{{1, askOutcome, 1, 0, u}, {1, askOutcome, 2, 0, u}, {1, askCommit, 3, 4, a}}},
		{"one gid says nothing about another", true, []op{{1, askCommit, 1, 2, c}, {2, askOutcome, 3, 4, a}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var h history
			for _, o := range row.ops {
				asked := h.ask(txn.ID{o.id}, o.kind, o.call)
				if o.end != 0 {
					asked.answer(o.decision, o.end)
				}
			}
			require.Equal(t, row.good, h.check() == "", h.check())
		})
	}
}
