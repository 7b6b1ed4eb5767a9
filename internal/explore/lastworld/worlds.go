// SPDX-License-Identifier: Apache-2.0

package lastworld

import "github.com/concordtx/concord/internal/explore"

// Quick are the worlds that every test run visits completely, in seconds.
func Quick() []explore.World {
	return worlds(Size{Others: 1}, Size{Others: 1, Crashes: 1, Breaks: 1}, Size{Others: 2, Breaks: 1})
}

// Long are larger ones.
func Long() []explore.World {
	return worlds(Size{Others: 1, Crashes: 3, Breaks: 2}, Size{Others: 2, Crashes: 2, Breaks: 2})
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
