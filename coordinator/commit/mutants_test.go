// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package commit

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/mutant"
)

func TestMutants(t *testing.T) {
	for _, m := range mutant.Of("coordinator/commit") {
		t.Run(m.ID, func(t *testing.T) {
			var broken error
			began := time.Now()
			mutant.With(m.ID, func() { broken = actsEnd(newLone(t, "orders")) })
			require.Error(t, broken, "MUTANT %s survived: %s", m.ID, m.What)
			t.Logf("MUTANT %s killed by AUDIT: after %s: %v", m.ID, time.Since(began).Round(time.Millisecond), broken)
		})
	}
}
