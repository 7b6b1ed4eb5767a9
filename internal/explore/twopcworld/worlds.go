// SPDX-License-Identifier: Apache-2.0

package twopcworld

import "github.com/concordtx/concord/internal/explore"

// Quick are the worlds that every test run visits completely, in seconds.
func Quick() []explore.World {
	return worlds(
		Size{Branches: 2, Crashes: 3},
		Size{Branches: 3, Crashes: 3},
		Size{Branches: 2, Crashes: 2, ReadOnly: 1},
		Size{Branches: 3, Crashes: 1, ReadOnly: 1, Late: 1},
		Size{Branches: 2, Crashes: 3, ReadOnly: 1, Readers: 1},
		Size{Branches: 3, Crashes: 1, ReadOnly: 1, Readers: 2, Late: 1},
		Size{Branches: 3, Crashes: 1, Losses: 2},
		Size{Branches: 1, Crashes: 3},
		Size{Branches: 1, Crashes: 3, Losses: 1, Recorded: true},
		Size{Branches: 2, Crashes: 3, ReadOnly: 2, Recorded: true},
		Size{Branches: 2, Crashes: 3, Losses: 1, Early: true},
		Size{Agents: true, Branches: 2, Crashes: 1},
		Size{Agents: true, Branches: 2, Crashes: 1, ReadOnly: 1},
		Size{Agents: true, Branches: 2, Losses: 1},
		Size{Agents: true, Branches: 3},
	)
}

// Long are larger ones, for minutes and gigabytes; the last are beyond any machine, so that
// their limits say how far they go.
func Long() []explore.World {
	return worlds(
		Size{Branches: 4, Crashes: 3},
		Size{Branches: 3, Crashes: 3, Losses: 2},
		Size{Branches: 3, Crashes: 3, ReadOnly: 1, Late: 1},
		Size{Agents: true, Branches: 2, Crashes: 3},
		Size{Agents: true, Branches: 3, Crashes: 1},
		Size{Agents: true, Branches: 3, Crashes: 2},
		Size{Agents: true, Branches: 3, Crashes: 3},
	)
}

func worlds(sizes ...Size) (all []explore.World) {
	for _, size := range sizes {
		all = append(all, explore.World{Name: size.String(), Run: func(l explore.Limits) explore.Result {
			l.Settle = true
			return Search(size, l)
		}})
	}
	return all
}
