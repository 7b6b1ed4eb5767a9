// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package explore

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
)

// hunted says where each mutant is looked for, and which check has to notice it.
var hunted = map[string]struct {
	check  string
	worlds []World
}{
	"X02": {"AC3", transactions(Size{Agents: true, Branches: 3})},
	"X09": {"AC1", transactions(Size{Agents: true, Branches: 2, Crashes: 1}, Size{Branches: 3, Crashes: 1})},
	"X10": {"AC3", transactions(Size{Agents: true, Branches: 3})},
	"X14": {"AC3", transactions(Size{Branches: 2, Crashes: 1, Late: 1})},
	"X33": {"T5", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X38": {"T1", councils(Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true})},
	"X39": {"T1", councils(Council{Agents: 2, Tombstones: 1, Voted: true})},
	"X40": {"T1", councils(Council{Agents: 2, Crashes: 1, Voted: true})},
	"X41": {"T3", councils(Council{Agents: 2, Watermarks: 1, Voted: true})},
	"X42": {"T5", councils(Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true})},
	"X43": {"T5", councils(Council{Agents: 2, Elections: 1, Crashes: 1, Attempted: true})},
	"X44": {"T5", councils(Council{Agents: 2, Elections: 1, Attempted: true})},
	"X45": {"T1", councils(Council{Agents: 2, Elections: 1})},
	"X46": {"T1", councils(Council{Agents: 2, ReadOnly: 1, Elections: 1, Voted: true})},
	"X47": {"T1", councils(Council{Agents: 2, Elections: 1})},
	"X48": {"T1", councils(Council{Agents: 2, ReadOnly: 1, Elections: 1, Voted: true})},
	"X49": {"T5", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X50": {"T3", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X51": {"T1", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X52": {"T5", councils(Council{Agents: 3, Elections: 1, Voted: true})},
	"X53": {"T3", councils(Council{Agents: 2, Elections: 2, Voted: true})},
	"X54": {"T2", councils(Council{Agents: 2, Elections: 1, Crashes: 1})},
	"X55": {"T5", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X56": {"T1", councils(Council{Agents: 2, Elections: 1, Voted: true})},
	"X35": {"AC1", transactions(Size{Branches: 1, Crashes: 1})},
	"X37": {"S8", clusters(Bounds{Elections: 1, Sessions: 2, Changes: 2, Crashes: 1}, Bounds{Elections: 1, Sessions: 2, Changes: 2, Breaks: 1})},
}

const most = 300_000 // states; of the worlds of 2PC and ZAB all are smaller

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("internal/explore") {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := hunted[m.ID]
			require.True(t, ok, "nobody hunts %s: %s", m.ID, m.What)
			for _, w := range h.worlds {
				control := w.Run(Limits{States: most})
				require.Empty(t, control.Broken, "without a mutant")
				mutant.With(m.ID, func() {
					r := w.Run(Limits{States: most})
					require.True(t, strings.HasPrefix(r.Broken, h.check+":"), "%s by %s: %s\n%s", m.What, h.check, r, r.Trace)
					t.Logf("MUTANT %s killed by %s: state %d of at most %d, %d steps from the start: %s: %s", m.ID, h.check, r.States, most, r.Depth, w.Name, r.Broken)
				})
			}
		})
	}
}

// An exhibit. With the time-outs of the textbook three-phase commit splits without an election: one
// agent has heard PreCommit and commits, the other has not and aborts.
func TestTextbookTimeoutsSplit(t *testing.T) {
	size := Council{Agents: 2, Voted: true}
	require.Empty(t, ThreePC(size, Limits{}).Broken)
	mutant.With("X55", func() {
		mutant.With("X56", func() {
			w := newThreePC(size)
			w.deaf = true
			r := explore[sitting](size.String(), w, Limits{})
			t.Log(r.Trace)
			require.True(t, strings.HasPrefix(r.Broken, "T1:"), "%s\n%s", r, r.Trace)
		})
	})
}
