// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/internal/sim/logsim"
	"github.com/concordtx/concord/internal/sim/txnsim"
)

// seeds runs the simulator on seeds that nobody has run before: the replicated log alone for
// half of the time, and whole coordinators with databases and clients for the other half.
func seeds(ctx context.Context, t *table, o options, budget time.Duration) error {
	block := func(share time.Duration) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, share)
	}
	first := sim.Seeds{First: o.seed, Workers: o.workers}

	part, cancel := block(budget / 2)
	logs, logErr := logsim.Block(part, first, sim.Options{})
	cancel()
	t.add("seeds of the replicated log", fmt.Sprintf("%s seeds, %s events, %s entries committed, %s epochs",
		count(logs.Seeds), count(logs.Steps), count(logs.Entries), count(logs.Epochs)), verdict(logErr))

	part, cancel = block(budget / 2)
	txns, txnErr := txnsim.Block(part, first, txnsim.Options{})
	cancel()
	t.add("seeds with transactions", fmt.Sprintf("%s seeds, %s events, %s transactions",
		count(txns.Seeds), count(txns.Steps), count(txns.Transactions)), verdict(txnErr))

	err := errors.Join(logErr, txnErr)
	seen, gone := situations(logs.Counters.Missing(), len(logs.Counters))
	seenTxn, goneTxn := situations(txns.Missing(), len(txns.Counters))
	found := "every one occurred"
	if missing := append(gone, goneTxn...); len(missing) > 0 {
		found = fmt.Sprintf("**NOT SEEN: %v**", missing)
		if ctx.Err() == nil && logs.Seeds >= enough && txns.Seeds >= enough {
			err = errors.Join(err, fmt.Errorf("the simulation has gone quiet: never seen: %v", missing))
		}
	}
	t.add("situations that must occur", fmt.Sprintf("%d of %d of the log, %d of %d of transactions", seen,
		len(logs.Counters), seenTxn, len(txns.Counters)), found)
	return err
}

// enough seeds make it all but certain that the rarest situation has occurred.
const enough = 3000

func situations[S fmt.Stringer](missing []S, all int) (seen int, names []string) {
	for _, s := range missing {
		names = append(names, s.String())
	}
	return all - len(missing), names
}

func verdict(err error) string {
	var v *sim.Violation
	switch {
	case err == nil:
		return "no violation"
	case errors.As(err, &v):
		return fmt.Sprintf("**%s in seed %d**", v.ID, v.Seed)
	}
	return "**FAILED**"
}
