// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package sim

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
)

// hunt says how a mutant is looked for, and who has to notice it.
type hunt struct {
	checks []string // one of these must be the first to fail
	first  uint64   // seed; zero means 1. The ones before only take longer to say nothing
	seeds  uint64   // at most so many
	run    func(seed uint64) error
}

// TestMutants kills every mutant of the log (logMutants) and of transactions (txnMutants).
func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("internal/sim") {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := logMutants[m.ID]
			if !ok {
				h, ok = txnMutants[m.ID]
			}
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			h.kill(t, m.ID)
		})
	}
}

// kill runs seeds until a check fails, and then the same seeds without the mutant.
func (h hunt) kill(t *testing.T, id string) {
	began, first := time.Now(), max(h.first, 1)
	for seed := first; seed < first+h.seeds; seed++ {
		var err error
		mutant.With(id, func() { err = h.run(seed) })
		if err == nil {
			continue
		}
		var v *Violation
		require.True(t, errors.As(err, &v), "%v", err)
		require.Contains(t, h.checks, v.ID, v.Detail)
		what, _, _ := strings.Cut(v.Detail, "\n")
		t.Logf("MUTANT %s killed by %s: seed %d of at most %d, %s: %s", id, v.ID, seed-first+1, h.seeds, time.Since(began).Round(time.Millisecond), what)
		for control := first; control <= seed; control++ {
			require.NoError(t, h.run(control), "seed %d finds something without the mutant too", control)
		}
		return
	}
	t.Fatalf("MUTANT %s survived %d seeds", id, h.seeds)
}
