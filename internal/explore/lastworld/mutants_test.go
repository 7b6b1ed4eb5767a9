// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package lastworld

import (
	"testing"

	"github.com/concordtx/concord/internal/explore/exploretest"
)

// hunted says where each mutant is looked for, and which check has to notice it.
var hunted = map[string]exploretest.Hunt{
	"X64": {Check: "A2", Worlds: worlds(Size{Others: 1})},
	"X65": {Check: "A1", Worlds: worlds(Size{Others: 1})},
	"X66": {Check: "A2", Worlds: worlds(Size{Others: 1})},
	"X67": {Check: "A2", Worlds: worlds(Size{Others: 1})},
	"X68": {Check: "A4", Worlds: worlds(Size{Others: 1})},
	"X69": {Check: "A4", Worlds: worlds(Size{Others: 1})},
}

func TestMutants(t *testing.T) { exploretest.Mutants(t, "internal/explore/lastworld", hunted) }
