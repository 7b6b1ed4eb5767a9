// SPDX-License-Identifier: Apache-2.0

package zabworld

import "github.com/concordtx/concord/internal/explore"

// Quick are the worlds that every test run visits completely, in seconds.
func Quick() []explore.World {
	return worlds(
		Bounds{Cold: true, Elections: 2, Sessions: 3, Delays: -1},
		Bounds{Cold: true, Elections: 2, Sessions: 2, Crashes: 1, Delays: 2},
		Bounds{Proposals: 2, Stale: 1, Delays: -1},
		Bounds{Elections: 1, Sessions: 2, Proposals: 1, Crashes: 1, Delays: -1},
		Bounds{Elections: 1, Sessions: 2, Proposals: 1, Breaks: 1, Ticks: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 1},
		Bounds{Changes: 2, Delays: -1},
		Bounds{Elections: 2, Sessions: 4, Changes: 2, Crashes: 1},
		Bounds{Elections: 2, Sessions: 3, Changes: 3, Breaks: 1},
		Bounds{Elections: 1, Sessions: 2, Proposals: 1, Changes: 2, Lessons: 1, Crashes: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Handovers: 1, Ticks: 1, Delays: 2},
		Bounds{Elections: 1, Sessions: 2, Proposals: 1, Handovers: 1, Ticks: 1, Delays: -1},
	)
}

// Long are larger ones, for minutes and gigabytes; the last are beyond any machine, so that
// their limits say how far they go.
func Long() []explore.World {
	return worlds(
		Bounds{Cold: true, Elections: 2, Sessions: 3, Crashes: 1, Delays: -1},
		Bounds{Elections: 1, Sessions: 2, Proposals: 2, Crashes: 1, Delays: -1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 1, Breaks: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 2, Stale: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 1, Breaks: 1, Ticks: 1, Delays: 4},
		Bounds{Elections: 2, Sessions: 4, Changes: 3, Lessons: 1, Crashes: 1, Breaks: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 1, Changes: 1, Handovers: 2, Crashes: 1, Ticks: 2},
		Bounds{Elections: 1, Sessions: 3, Proposals: 1, Changes: 1, Handovers: 1, Crashes: 1, Ticks: 1},
		Bounds{Elections: 3, Sessions: 5, Proposals: 1, Changes: 3, Lessons: 2, Crashes: 2, Breaks: 1, Delays: 1},
		Bounds{Elections: 2, Sessions: 4, Proposals: 2, Crashes: 2, Breaks: 2, Stale: 1, Ticks: 2, Delays: -1},
	)
}

func worlds(sizes ...Bounds) (all []explore.World) {
	for _, size := range sizes {
		all = append(all, explore.World{Name: size.String(), Run: func(l explore.Limits) explore.Result {
			return Search(size, l)
		}})
	}
	return all
}
