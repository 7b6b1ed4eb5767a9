// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// One worker at one operation per millisecond that is held up for 100 ms would have
// begun 99 more, which would have waited 99, 98, ... 1 ms.
func TestAPauseCountsForWhatItHeldUp(t *testing.T) {
	raw := newHistogram()
	record(raw, 1000, 900)
	record(raw, 100_000, 1)
	h := correct(raw, 1000)
	require.Equal(t, int64(900+1+99), h.TotalCount())
	require.InEpsilon(t, 1000, h.ValueAtPercentile(90), .002)
	require.InEpsilon(t, 50_000, h.ValueAtPercentile(95), .03)
	require.InEpsilon(t, 100_000, h.ValueAtPercentile(100), .002)
	require.InEpsilon(t, 1000, raw.ValueAtPercentile(99), .002, "what a closed loop alone would say")
	require.Equal(t, int64(901), correct(raw, 0).TotalCount(), "no interval, no correction")
}

func TestALapCountsWhatBecameOfEachOperation(t *testing.T) {
	n, broken := 0, errors.New("broken")
	ctx, stop := context.WithCancel(t.Context())
	l, err := Drive(ctx, 1, time.Hour, func(ctx context.Context, _ int) error {
		require.NoError(t, ctx.Err())
		switch n++; n {
		case 1, 2:
			return nil
		case 3:
			return fmt.Errorf("lost: %w", ErrUnknown)
		case 4:
			return broken
		}
		stop()
		return ctx.Err() // nil: what has begun is not cut off
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{3, 1, 1}, []int64{l.Done, l.Unknown, l.Failed})
	require.Equal(t, broken, l.Failure)
	require.Equal(t, int64(3), l.raw.TotalCount())
}

func TestSilenceKeepsTheLongestGapsBetweenAnyTwoAnswers(t *testing.T) {
	var s silence
	at := 7 * time.Second // before the first answer nothing is a gap
	s.broken(at)
	for _, ms := range []int{3, 1, 80, 2, 55, 4, 5, 55, 1, 60} {
		at += time.Duration(ms) * time.Millisecond
		s.broken(at)
	}
	s.broken(at - time.Millisecond) // two workers changed places
	want := []time.Duration{80 * time.Millisecond, 60 * time.Millisecond, 55 * time.Millisecond, 55 * time.Millisecond,
		5 * time.Millisecond}
	require.Equal(t, want, s.longest)

	var l Lap
	l.raw = newHistogram()
	l.add(&Lap{raw: newHistogram(), Gaps: want[:2]})
	l.add(&Lap{raw: newHistogram(), Gaps: []time.Duration{70 * time.Millisecond, time.Millisecond}})
	require.Equal(t, []time.Duration{80 * time.Millisecond, 70 * time.Millisecond, 60 * time.Millisecond,
		time.Millisecond}, l.Gaps)
}

func TestTheMedianOfFewValues(t *testing.T) {
	require.InDelta(t, 2.0, Median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, Median([]float64{4, 1, 2, 3}), 0)
}
