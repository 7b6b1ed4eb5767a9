// SPDX-License-Identifier: Apache-2.0

package explore

// World is one of the worlds that are worth a search.
type World struct {
	Name string
	Run  func(Limits) Result
}

// Quick are the worlds that every test run visits completely, in seconds.
func Quick() []World {
	return append(transactions(
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
		Size{Agents: true, Branches: 2, Crashes: 1},
		Size{Agents: true, Branches: 2, Crashes: 1, ReadOnly: 1},
		Size{Agents: true, Branches: 2, Losses: 1},
		Size{Agents: true, Branches: 3},
	), append(councils(
		Council{Agents: 1, Elections: 2, Crashes: 2},
		Council{Agents: 1, Elections: 1, Crashes: 1, Lonely: true},
		Council{Agents: 2, Crashes: 1, Lonely: true},
		Council{Agents: 2, Crashes: 1, Watermarks: 1, Voted: true},
		Council{Agents: 2, Tombstones: 2, Voted: true},
		Council{Agents: 2, Elections: 1, Voted: true, Lonely: true},
		Council{Agents: 2, Elections: 1},
		Council{Agents: 2, ReadOnly: 1, Elections: 1},
		Council{Agents: 3},
	), clusters(
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
	)...)...)
}

// Long are larger ones, for minutes and gigabytes; the last are beyond any machine, so that
// their limits say how far they go.
func Long() []World {
	return append(transactions(
		Size{Branches: 4, Crashes: 3},
		Size{Branches: 3, Crashes: 3, Losses: 2},
		Size{Branches: 3, Crashes: 3, ReadOnly: 1, Late: 1},
		Size{Agents: true, Branches: 2, Crashes: 3},
		Size{Agents: true, Branches: 3, Crashes: 1},
		Size{Agents: true, Branches: 3, Crashes: 2},
		Size{Agents: true, Branches: 3, Crashes: 3},
	), append(councils(
		Council{Agents: 2, Crashes: 1, Watermarks: 1},
		Council{Agents: 2, Elections: 1, Crashes: 1, Voted: true},
		Council{Agents: 2, Elections: 2, Voted: true},
		Council{Agents: 2, Elections: 1, Crashes: 1},
		Council{Agents: 2, Elections: 2, Crashes: 2, Voted: true},
		Council{Agents: 2, Elections: 2, Crashes: 2},
		Council{Agents: 3, Elections: 1, Crashes: 1, Voted: true},
		Council{Agents: 3, Elections: 2, Crashes: 1},
	), clusters(
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
	)...)...)
}

func transactions(sizes ...Size) (worlds []World) {
	for _, size := range sizes {
		worlds = append(worlds, World{size.String(), func(l Limits) Result {
			l.Settle = true
			return TwoPC(size, l)
		}})
	}
	return worlds
}

func clusters(bounds ...Bounds) (worlds []World) {
	for _, b := range bounds {
		worlds = append(worlds, World{b.String(), func(l Limits) Result { return ZAB(b, l) }})
	}
	return worlds
}

func councils(sizes ...Council) (worlds []World) {
	for _, size := range sizes {
		worlds = append(worlds, World{size.String(), func(l Limits) Result { return ThreePC(size, l) }})
	}
	return worlds
}
