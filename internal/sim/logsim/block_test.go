// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
)

func TestBlockAddsUpTheSameOnAnyNumberOfWorkers(t *testing.T) {
	one, err := Block(context.Background(), sim.Seeds{First: 1, Count: 12, Workers: 1}, sim.Options{Steps: 500})
	require.NoError(t, err)
	require.Equal(t, uint64(12), one.Seeds)
	require.Positive(t, one.Entries)
	require.Positive(t, one.Epochs)
	three, err := Block(context.Background(), sim.Seeds{First: 1, Count: 12, Workers: 3}, sim.Options{Steps: 500})
	require.NoError(t, err)
	require.Equal(t, one, three)
}

func TestBlockReportsTheViolationOfASeed(t *testing.T) {
	_, err := Block(context.Background(), sim.Seeds{First: 1, Count: 50},
		sim.Options{Steps: 500, Planted: sim.LoseSyncedTail})
	var v *sim.Violation
	require.True(t, errors.As(err, &v), "%v", err)
	require.Contains(t, []string{"S8", "S10", "S14", "L6"}, v.ID)
	require.NotEmpty(t, v.Trace)
}
