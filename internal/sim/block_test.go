// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEachReportsTheLowestSeedThatFails(t *testing.T) {
	late := make(chan struct{}) // seed 7 ends after seed 8 and 9 have failed
	var failed atomic.Int32
	taken := map[uint64]bool{}
	err := Each(context.Background(), Seeds{First: 1, Count: 100, Workers: 4}, func(seed uint64) (uint64, error) {
		switch {
		case seed < 7:
			return seed, nil
		case seed == 7:
			<-late
		case failed.Add(1) == 1:
			close(late)
		}
		return 0, fmt.Errorf("seed %d", seed)
	}, func(seed, r uint64) {
		require.Equal(t, seed, r)
		taken[seed] = true
	})
	require.EqualError(t, err, "seed 7")
	require.Len(t, taken, 6, "all seeds before it were run")
}

func TestEachRunsOnUntilTheContextIsDone(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	last := uint64(0)
	require.NoError(t, Each(ctx, Seeds{First: 5, Workers: 2}, func(seed uint64) (int, error) { return 1, nil },
		func(seed uint64, _ int) {
			if last = max(last, seed); last >= 1000 {
				stop()
			}
		}))
	require.GreaterOrEqual(t, last, uint64(1000))
}

func TestTwiceNoticesARunThatDoesNotComeFromItsSeed(t *testing.T) {
	calls := 0
	run := Twice(func(uint64) (int, error) { calls++; return calls, nil })
	_, err := run(1)
	require.NoError(t, err)
	require.Equal(t, 1, calls, "most seeds run once")
	_, err = run(200)
	require.ErrorIs(t, err, ErrDifferent)

	same := Twice(func(seed uint64) (uint64, error) { return seed, nil })
	r, err := same(200)
	require.NoError(t, err)
	require.Equal(t, uint64(200), r)
}
