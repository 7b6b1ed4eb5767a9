// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package zabworld

import (
	"testing"

	"github.com/concordtx/concord/internal/explore/exploretest"
)

// hunted says where each mutant is looked for, and which check has to notice it.
var hunted = map[string]exploretest.Hunt{
	"X37": {Check: "S8", Worlds: worlds(Bounds{Elections: 1, Sessions: 2, Changes: 2, Crashes: 1},
		Bounds{Elections: 1, Sessions: 2, Changes: 2, Breaks: 1})},
}

func TestMutants(t *testing.T) { exploretest.Mutants(t, "internal/explore/zabworld", hunted) }
