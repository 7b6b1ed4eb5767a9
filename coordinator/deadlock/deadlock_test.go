// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// liveWorlds plays worlds until one of them shows something wrong.
func liveWorlds(seeds uint64) (found, ended int, seed uint64, err error) {
	for seed = range seeds {
		w := newWorld(seed)
		for range 20 {
			if err := w.run(100); err != nil {
				return found, ended, seed, err
			}
		}
		found, ended = found+w.found, ended+w.ended
	}
	return found, ended, seed, nil
}

// Looks and words come late, sessions go from one transaction to the next, and waits end for
// other reasons: whoever is named was in a deadlock.
func TestNobodyIsAVictimWithoutADeadlock(t *testing.T) {
	found, ended, seed, err := liveWorlds(150)
	require.NoError(t, err, "seed %d", seed)
	t.Logf("%d deadlocks found, %d transactions ended", found, ended)
	require.Greater(t, ended, 100)
}

// What nobody but the detector ends is ended soon.
func TestDeadlocksEnd(t *testing.T) {
	for seed := range uint64(100) {
		w := newWorld(seed)
		w.quiet = true
		for range 400 {
			require.NoError(t, w.run(5), "seed %d", seed)
			require.NoError(t, w.lasting(6*time.Second), "seed %d", seed)
		}
	}
}
