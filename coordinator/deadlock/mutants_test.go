// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package deadlock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
)

func TestMutants(t *testing.T) {
	const budget = 300
	for _, m := range mutant.Of("coordinator/deadlock") {
		t.Run(m.ID, func(t *testing.T) {
			var seed uint64
			var broken error
			began := time.Now()
			mutant.With(m.ID, func() { _, _, seed, broken = liveWorlds(budget) })
			require.Error(t, broken, "MUTANT %s survived %d seeds: %s", m.ID, budget, m.What)
			t.Logf("MUTANT %s killed by D1: seed %d of at most %d, %s: %v", m.ID, seed, budget,
				time.Since(began).Round(time.Millisecond), broken)
		})
	}
}
