// SPDX-License-Identifier: Apache-2.0

package threepcworld

import "github.com/concordtx/concord/internal/explore"

// Quick are the worlds that every test run visits completely, in seconds.
func Quick() []explore.World {
	return worlds(
		Council{Agents: 1, Elections: 2, Crashes: 2},
		Council{Agents: 1, Elections: 1, Crashes: 1, Lonely: true},
		Council{Agents: 2, Crashes: 1, Lonely: true},
		Council{Agents: 2, Crashes: 1, Watermarks: 1, Voted: true},
		Council{Agents: 2, Tombstones: 2, Voted: true},
		Council{Agents: 2, Elections: 1, Voted: true, Lonely: true},
		Council{Agents: 2, Elections: 1},
		Council{Agents: 2, ReadOnly: 1, Elections: 1},
		Council{Agents: 3},
	)
}

// Long are larger ones, for minutes and gigabytes; the last are beyond any machine, so that
// their limits say how far they go.
func Long() []explore.World {
	return worlds(
		Council{Agents: 2, Crashes: 1, Watermarks: 1},
		Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true},
		Council{Agents: 2, Elections: 2, Voted: true},
		Council{Agents: 2, Elections: 1, Crashes: 1},
		Council{Agents: 2, Elections: 2, Crashes: 2, Voted: true},
		Council{Agents: 2, Elections: 2, Crashes: 2},
		Council{Agents: 3, Elections: 1, Crashes: 1, Voted: true},
		Council{Agents: 3, Elections: 2, Crashes: 1},
	)
}

func worlds(sizes ...Council) (all []explore.World) {
	for _, size := range sizes {
		all = append(all, explore.World{Name: size.String(), Run: func(l explore.Limits) explore.Result {
			return Search(size, l)
		}})
	}
	return all
}
