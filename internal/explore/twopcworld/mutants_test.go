// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package twopcworld

import (
	"testing"

	"github.com/concordtx/concord/internal/explore/exploretest"
)

// hunted says where each mutant is looked for, and which check has to notice it.
var hunted = map[string]exploretest.Hunt{
	"X02": {Check: "AC3", Worlds: worlds(Size{Agents: true, Branches: 3})},
	"X09": {Check: "AC1", Worlds: worlds(Size{Agents: true, Branches: 2, Crashes: 1}, Size{Branches: 3, Crashes: 1})},
	"X10": {Check: "AC3", Worlds: worlds(Size{Agents: true, Branches: 3})},
	"X14": {Check: "AC3", Worlds: worlds(Size{Branches: 2, Crashes: 1, Late: 1})},
	"X35": {Check: "AC1", Worlds: worlds(Size{Branches: 1, Crashes: 1})},
}

func TestMutants(t *testing.T) { exploretest.Mutants(t, "internal/explore/twopcworld", hunted) }
