// SPDX-License-Identifier: Apache-2.0

package explore

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A search that meets a limit does not say that it is complete.
func TestLimitsAreSaid(t *testing.T) {
	world := bounce{size: 5000, trap: -1, bad: -1}
	all := Explore[int]("", world, Limits{})
	require.True(t, all.Complete)
	require.Equal(t, 5000, all.States)
	require.Contains(t, all.String(), ", complete, ")

	shallow := Explore[int]("", world, Limits{Depth: 18, Settle: true})
	require.False(t, shallow.Complete)
	require.False(t, shallow.AllSettle)
	require.Equal(t, 18, shallow.Whole)
	require.Equal(t, 18, shallow.Depth)
	require.Less(t, shallow.States, all.States)
	require.Contains(t, shallow.String(), "not complete: depth 18, everything visited up to depth 18")

	few := Explore[int]("", world, Limits{States: 1000})
	require.False(t, few.Complete)
	require.Less(t, few.Whole, all.Depth)
	require.Contains(t, few.String(), "not complete: 1,000 states")
}

// bounce is a world of one number below size. Whoever reaches the trap cannot get out.
type bounce struct{ size, trap, bad int }

func (b bounce) Start() int { return 0 }

func (b bounce) Moves(s *int, moves []Move) []Move {
	if *s == b.trap {
		return moves
	}
	return append(moves, 1, 2, 3)
}

func (b bounce) Do(s *int, m Move) { *s = (*s + int(m)) % b.size }

func (b bounce) Fingerprint(s *int) uint64 { return uint64(*s + 1) }

func (b bounce) Broken(s *int) string {
	if *s == b.bad {
		return "bad"
	}
	return ""
}

func (b bounce) Settled(s *int) bool { return *s == 10 }

func (b bounce) Trace(way []Move) string { return strings.Repeat("step ", len(way)) }

func TestTheShortestWayToAMistakeIsFound(t *testing.T) {
	r := Explore[int]("", bounce{size: 20, trap: -1, bad: 8}, Limits{})
	require.Equal(t, "bad", r.Broken)
	require.Equal(t, "step step step ", r.Trace)
	require.False(t, r.Complete)

	r = Explore[int]("", bounce{size: 20, trap: -1, bad: -1}, Limits{Settle: true})
	require.True(t, r.Complete && r.AllSettle)
	require.Equal(t, 20, r.States)
	require.Equal(t, 60, r.Edges)
}

func TestAStateWithoutAWayToAnEndIsFound(t *testing.T) {
	r := Explore[int]("", bounce{size: 20, trap: 5, bad: -1}, Limits{Settle: true})
	require.True(t, strings.HasPrefix(r.Broken, "AC5:"), r)
	require.Equal(t, "step step ", r.Trace)
	require.False(t, r.AllSettle)
}
