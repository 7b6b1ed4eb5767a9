// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package threepcworld

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/explore/exploretest"
	"github.com/concordtx/concord/internal/mutant"
)

// hunted says where each mutant is looked for, and which check has to notice it.
var hunted = map[string]exploretest.Hunt{
	"X33": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
	"X38": {Check: "T1", Worlds: worlds(Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true})},
	"X39": {Check: "T1", Worlds: worlds(Council{Agents: 2, Tombstones: 1, Voted: true})},
	"X40": {Check: "T1", Worlds: worlds(Council{Agents: 2, Crashes: 1, Voted: true})},
	"X41": {Check: "T3", Worlds: worlds(Council{Agents: 2, Watermarks: 1, Voted: true})},
	"X42": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true})},
	"X43": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Crashes: 1, Attempted: true})},
	"X44": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Attempted: true})},
	"X45": {Check: "T1", Worlds: worlds(Council{Agents: 2, Elections: 1})},
	"X46": {Check: "T1", Worlds: worlds(Council{Agents: 2, ReadOnly: 1, Elections: 1, Voted: true})},
	"X47": {Check: "T1", Worlds: worlds(Council{Agents: 2, Elections: 1})},
	"X48": {Check: "T1", Worlds: worlds(Council{Agents: 2, ReadOnly: 1, Elections: 1, Voted: true})},
	"X49": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
	"X50": {Check: "T3", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
	"X51": {Check: "T1", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
	"X52": {Check: "T5", Worlds: worlds(Council{Agents: 3, Elections: 1, Voted: true})},
	"X53": {Check: "T3", Worlds: worlds(Council{Agents: 2, Elections: 2, Voted: true})},
	"X54": {Check: "T2", Worlds: worlds(Council{Agents: 2, Elections: 1, Crashes: 1})},
	"X55": {Check: "T5", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
	"X56": {Check: "T1", Worlds: worlds(Council{Agents: 2, Elections: 1, Voted: true})},
}

func TestMutants(t *testing.T) { exploretest.Mutants(t, "internal/explore/threepcworld", hunted) }

// An exhibit. With the time-outs of the textbook three-phase commit splits without an election: one
// agent has heard PreCommit and commits, the other has not and aborts.
func TestTextbookTimeoutsSplit(t *testing.T) {
	size := Council{Agents: 2, Voted: true}
	require.Empty(t, Search(size, explore.Limits{}).Broken)
	mutant.With("X55", func() {
		mutant.With("X56", func() {
			w := newThreePC(size)
			w.deaf = true
			r := explore.Explore[sitting](size.String(), w, explore.Limits{})
			t.Log(r.Trace)
			require.True(t, strings.HasPrefix(r.Broken, "T1:"), "%s\n%s", r, r.Trace)
		})
	})
}
