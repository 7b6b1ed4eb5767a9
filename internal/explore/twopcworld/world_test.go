// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/explore/exploretest"
)

func TestEveryOrderOfEventsKeepsThePromises(t *testing.T) { exploretest.Quick(t, Quick(), true) }

func TestEveryPlantedMistakeIsFound(t *testing.T) {
	sessions, agents := Size{Branches: 2, Crashes: 1}, Size{Agents: true, Branches: 2, Crashes: 1}
	for _, c := range []struct {
		mistake mistake
		size    Size
		check   string
	}{
		{yesBeforeDurable, agents, "AC3:"},
		{presumeCommit, sessions, "AC3:"},
		{forgetTombstone, sessions, "AC1:"},
		{notFoundIsDone, Size{Branches: 2, Losses: 1}, "HEUR:"},
		{decideWithoutVotes, agents, "AC3:"},
		{prepareTheUnknown, agents, "AC3:"},
		{tellBeforeDeliver, sessions, "AC3:"},
		{unknownIsCommit, sessions, "AC1:"},
	} {
		t.Run(string(c.mistake), func(t *testing.T) {
			r := explore.Explore[deal](c.size.String(), newTwoPC(c.size, c.mistake), explore.Limits{})
			t.Log(r)
			require.True(t, strings.HasPrefix(r.Broken, c.check), "%s: %s", c.check, r)
			require.Contains(t, r.Trace, r.Broken)
		})
	}
}

// Renaming branches is a shortcut only: without it nothing else is found, and what
// is found is the same up to names.
func TestNamesOfBranchesMakeNoDifference(t *testing.T) {
	for _, size := range []Size{
		{Branches: 3, Crashes: 1},
		{Branches: 3, ReadOnly: 1},
		{Agents: true, Branches: 2},
	} {
		short := newTwoPC(size, "")
		full := newTwoPC(size, "")
		full.renamings = nil
		few, all := explore.Explore[deal]("", short, explore.Limits{}),
			explore.Explore[deal]("", full, explore.Limits{})
		require.True(t, few.Complete && all.Complete)
		require.Empty(t, few.Broken+all.Broken)
		require.Equal(t, all.Depth, few.Depth)
		require.Less(t, few.States, all.States)
		require.LessOrEqual(t, all.States, few.States*(len(short.renamings)+1))
	}
}
