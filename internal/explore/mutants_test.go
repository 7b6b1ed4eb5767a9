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
	check string
	sizes []Size
}{
	"X02": {"AC3", []Size{{Agents: true, Branches: 3}}},
	"X09": {"AC1", []Size{{Agents: true, Branches: 2, Crashes: 1}, {Branches: 3, Crashes: 1}}},
	"X10": {"AC3", []Size{{Agents: true, Branches: 3}}},
	"X14": {"AC3", []Size{{Branches: 2, Crashes: 1, Late: 1}}},
	"X35": {"AC1", []Size{{Branches: 1, Crashes: 1}}},
}

const most = 20_000 // states; all of these worlds are smaller

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("internal/explore") {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := hunted[m.ID]
			require.True(t, ok, "nobody hunts %s: %s", m.ID, m.What)
			for _, size := range h.sizes {
				control := TwoPC(size, Limits{States: most})
				require.Empty(t, control.Broken, "without a mutant")
				mutant.With(m.ID, func() {
					r := TwoPC(size, Limits{States: most})
					require.True(t, strings.HasPrefix(r.Broken, h.check+":"), "%s by %s: %s\n%s", m.What, h.check, r, r.Trace)
					t.Logf("MUTANT %s killed by %s: state %d of at most %d, %d steps from the start: %s: %s", m.ID, h.check, r.States, most, r.Depth, size, r.Broken)
				})
			}
		})
	}
}
