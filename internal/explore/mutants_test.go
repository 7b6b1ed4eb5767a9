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
	"X35": {"AC1", transactions(Size{Branches: 1, Crashes: 1})},
	"X37": {"S8", clusters(Bounds{Elections: 1, Sessions: 2, Changes: 2, Crashes: 1}, Bounds{Elections: 1, Sessions: 2, Changes: 2, Breaks: 1})},
}

const most = 20_000 // states; all of these worlds are smaller

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
