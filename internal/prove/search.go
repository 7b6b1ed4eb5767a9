// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/concordtx/concord/internal/explore"
	"github.com/concordtx/concord/internal/explore/lastworld"
	"github.com/concordtx/concord/internal/explore/threepcworld"
	"github.com/concordtx/concord/internal/explore/twopcworld"
	"github.com/concordtx/concord/internal/explore/zabworld"
)

// maxStates keeps the largest search within about 4 GiB.
const maxStates = 20_000_000

// search visits the small worlds completely, and the large ones as far as time allows: each gets
// half of what is left, so that those that can be finished are, and come first.
func search(ctx context.Context, t *table, o options, budget time.Duration) (err error) {
	began := time.Now()
	visit := func(w explore.World, l explore.Limits) {
		if ctx.Err() != nil {
			return
		}
		r := w.Run(l)
		debug.FreeOSMemory()
		found := "complete, every state can settle"
		switch {
		case r.Broken != "":
			found = "**BROKEN: " + r.Broken + "**"
			err = errors.Join(err, fmt.Errorf("%s: %s\n%s", r.Name, r.Broken, r.Trace))
		case !r.Complete:
			found = fmt.Sprintf("holds as far as it went: all up to depth %d, stopped by the bound on %s", r.Whole,
				r.Bound)
		case !r.AllSettle:
			found = "complete"
		}
		t.add(r.Name, fmt.Sprintf("%s states, %s edges, depth %d", count(r.States), count(r.Edges), r.Depth), found)
	}
	quick := slices.Concat(twopcworld.Quick(), lastworld.Quick(), threepcworld.Quick(), zabworld.Quick())
	long := slices.Concat(twopcworld.Long(), lastworld.Long(), threepcworld.Long(), zabworld.Long())
	if o.world != "" {
		all := slices.Concat(quick, long)
		i := slices.IndexFunc(all, func(w explore.World) bool { return w.Name == o.world })
		if i < 0 {
			return fmt.Errorf("there is no world %q: docs/testing.md has their names", o.world)
		}
		visit(all[i], explore.Limits{States: o.states, Time: budget})
		return err
	}
	for _, w := range quick {
		visit(w, explore.Limits{States: o.states, Time: 2 * time.Minute})
	}
	for _, w := range long {
		left := budget - time.Since(began)
		visit(w, explore.Limits{States: o.states, Time: max(left/2, 5*time.Second)})
	}
	return err
}
