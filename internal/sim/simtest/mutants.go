// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package simtest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/internal/sim"
)

// Hunt says how a mutant is looked for, and who has to notice it.
type Hunt struct {
	Checks []string // one of these must be the first to fail
	First  uint64   // seed; zero means 1. The ones before only take longer to say nothing
	Seeds  uint64   // at most so many
	Run    func(seed uint64) error
}

// Mutants kills every mutant that the table gives to a package, by its id.
func Mutants(t *testing.T, pkg string, hunted map[string]Hunt) {
	mutants := mutant.Of(pkg)
	require.NotEmpty(t, mutants, pkg)
	for _, m := range mutants {
		t.Run(m.ID, func(t *testing.T) {
			h, ok := hunted[m.ID]
			require.True(t, ok, "%s (%s) is not hunted", m.ID, m.Name)
			h.Kill(t, m.ID)
		})
	}
}

// Kill runs seeds until a check fails, and then the same seeds without the mutant.
func (h Hunt) Kill(t *testing.T, id string) {
	began, first := time.Now(), max(h.First, 1)
	for seed := first; seed < first+h.Seeds; seed++ {
		var err error
		mutant.With(id, func() { err = h.Run(seed) })
		if err == nil {
			continue
		}
		var v *sim.Violation
		require.True(t, errors.As(err, &v), "%v", err)
		require.Contains(t, h.Checks, v.ID, v.Detail)
		what, _, _ := strings.Cut(v.Detail, "\n")
		t.Logf("MUTANT %s killed by %s: seed %d of at most %d, %s: %s", id, v.ID, seed-first+1, h.Seeds,
			time.Since(began).Round(time.Millisecond), what)
		for control := first; control <= seed; control++ {
			require.NoError(t, h.Run(control), "seed %d finds something without the mutant too", control)
		}
		return
	}
	t.Fatalf("MUTANT %s survived %d seeds", id, h.Seeds)
}
