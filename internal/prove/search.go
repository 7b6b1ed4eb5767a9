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
func search(ctx context.Context, t *table, _ options, budget time.Duration) (err error) {
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
	for _, w := range slices.Concat(twopcworld.Quick(), lastworld.Quick(), threepcworld.Quick(), zabworld.Quick()) {
		visit(w, explore.Limits{States: maxStates, Time: 2 * time.Minute})
	}
	for _, w := range slices.Concat(twopcworld.Long(), lastworld.Long(), threepcworld.Long(), zabworld.Long()) {
		left := budget - time.Since(began)
		visit(w, explore.Limits{States: maxStates, Time: max(left/2, 5*time.Second)})
	}
	return err
}
