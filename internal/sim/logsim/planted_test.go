// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
)

// TestPlantedBugsAreCaughtByTheirCheck runs drivers with a bug, each also with the
// checks muted that see it at first sight, so that the deeper ones have to.
func TestPlantedBugsAreCaughtByTheirCheck(t *testing.T) {
	for _, row := range []struct {
		bug   sim.Planted
		mute  []string
		check []string // one of these must be the first to fire
		seeds uint64   // within so many
	}{
		{sim.AckBeforeFsync, nil, []string{"L3", "L5"}, 20},
		{sim.AckBeforeFsync, []string{"L3", "L5"}, []string{"S8", "S10"}, 50},
		{sim.AckBeforeFsync, []string{"L1", "L3", "L5", "L6", "S8", "S10"},
			[]string{"S1", "S2", "S5", "S6", "S7", "S9", "S15"}, 200},
		{sim.ForgetHardState, nil, []string{"L1"}, 20},
		{sim.ForgetHardState, []string{"L1", "L4"}, []string{"S1", "S2", "S6", "S7", "S10", "panic"}, 400},
		{sim.SkipTruncate, nil, []string{"L2", "L3", "L5", "S3", "S7", "S8"}, 200},
		{sim.LoseSyncedTail, nil, []string{"S8", "S10", "S14", "L6"}, 20},
		{sim.DeliverTwice, nil, []string{"S4"}, 20},
		{sim.HalfInstall, nil, []string{"L6"}, 400},
		{sim.HalfInstall, []string{"L6"}, []string{"panic", "S4", "S5", "S11", "V2"}, 400},
	} {
		t.Run(row.bug.String(), func(t *testing.T) {
			for seed := uint64(1); seed <= row.seeds; seed++ {
				_, err := Run(seed, sim.Options{Planted: row.bug, Mute: row.mute, Trace: true})
				if err == nil {
					continue
				}
				var v *sim.Violation
				require.True(t, errors.As(err, &v))
				require.Contains(t, row.check, v.ID, v.Detail)
				t.Logf("muted %v: caught by %s in seed %d of at most %d: %s", row.mute, v.ID, seed, row.seeds, v.Detail)
				return
			}
			t.Fatalf("%d seeds did not catch it", row.seeds)
		})
	}
}
