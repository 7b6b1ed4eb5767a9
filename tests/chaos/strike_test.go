// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// draw chooses faults of different domains: mostly one, sometimes two or three at once.
func draw(r *rand.Rand) (chosen []fault) {
	n := 1
	switch x := r.IntN(10); {
	case x >= 9:
		n = 3
	case x >= 6:
		n = 2
	}
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	for range n {
		x := r.IntN(total)
		i := slices.IndexFunc(faults, func(f fault) bool { x -= f.weight; return x < 0 })
		f := faults[i]
		if *only != "" {
			f = faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == *only })]
		}
		if f.domain == alone {
			return []fault{f}
		}
		if !slices.ContainsFunc(chosen, func(o fault) bool { return o.domain == f.domain }) {
			chosen = append(chosen, f)
		}
	}
	return chosen
}

// strike does some faults at once, and returns what the product did wrong about them.
func (w *world) strike(r *rand.Rand, chosen []fault) error {
	var group errgroup.Group
	var mu sync.Mutex
	for _, f := range chosen {
		d := 300*time.Millisecond + time.Duration(r.ExpFloat64()*float64(time.Second))
		d = min(d, 4*time.Second)
		own := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
		group.Go(func() error {
			w.say("%s (%v)", f.name, d.Round(time.Millisecond))
			err := f.do(w, own, d)
			mu.Lock()
			defer mu.Unlock()
			if errors.Is(err, errNotHere) {
				w.say("%s: not possible here", f.name)
				return nil
			}
			w.ran[f.name]++
			if err != nil {
				w.say("%s: %v", f.name, err)
				return fmt.Errorf("%s: %w", f.name, err)
			}
			w.say("%s: healed", f.name)
			return nil
		})
	}
	return group.Wait()
}
