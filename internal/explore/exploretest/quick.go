// SPDX-License-Identifier: Apache-2.0

package exploretest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
)

// Quick visits worlds completely. settle says whether every state of them must have a way to an end.
func Quick(t *testing.T, worlds []explore.World, settle bool) {
	require.NotEmpty(t, worlds)
	for _, w := range worlds {
		t.Run(w.Name, func(t *testing.T) {
			r := w.Run(explore.Limits{})
			t.Log(r)
			require.Empty(t, r.Broken, r.Trace)
			require.True(t, r.Complete)
			require.Positive(t, r.Settled)
			require.Equal(t, settle, r.AllSettle)
		})
	}
}
