// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package exploretest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/mutant"
)

// Hunt says where a mutant is looked for, and which check has to notice it.
type Hunt struct {
	Check  string
	Worlds []explore.World
}

const most = 300_000 // states; of the worlds of 2PC and ZAB all are smaller

// Mutants kills every mutant that the table gives to a package, by its id.
func Mutants(t *testing.T, pkg string, hunted map[string]Hunt) {
	mutants := mutant.Of(pkg)
	require.NotEmpty(t, mutants, pkg)
	for _, m := range mutants {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := hunted[m.ID]
			require.True(t, ok, "nobody hunts %s: %s", m.ID, m.What)
			for _, w := range h.Worlds {
				control := w.Run(explore.Limits{States: most})
				require.Empty(t, control.Broken, "without a mutant")
				mutant.With(m.ID, func() {
					r := w.Run(explore.Limits{States: most})
					require.True(t, strings.HasPrefix(r.Broken, h.Check+":"), "%s by %s: %s\n%s", m.What, h.Check, r,
						r.Trace)
					t.Logf("MUTANT %s killed by %s: state %d of at most %d, %d steps from the start: %s: %s", m.ID,
						h.Check, r.States, most, r.Depth, w.Name, r.Broken)
				})
			}
		})
	}
}
