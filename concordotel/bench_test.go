// SPDX-License-Identifier: Apache-2.0

package concordotel_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordotel"
	"github.com/concordtx/concord/concordtest"
)

// BenchmarkOff is what the hook costs where no provider was set up: transactions with two databases in memory of a
// client with the hook and of one without, in turns. It prints the ratio of the medians; with databases on disks it is
// nearer to one.
//
//	go test ./concordotel -run '^$' -bench Off -benchtime 3000x
func BenchmarkOff(b *testing.B) {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	cluster := concordtest.New(b, orders, ledger)
	clients := [2]*concord.Client{cluster.Dial(), cluster.Dial(concord.WithHook(concordotel.Hook()))}
	work := func(ctx context.Context, tx *concord.Tx) error {
		for _, r := range []*memory.Resource{orders.Resource(), ledger.Resource()} {
			m, err := r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := m.Add(ctx, "a", 1); err != nil {
				return err
			}
		}
		return nil
	}
	var took [2][]time.Duration
	for i := range b.N {
		for turn := range clients {
			which := (turn + i) % 2 // neither is always the first
			began := time.Now()
			require.NoError(b, clients[which].Run(context.Background(), work))
			took[which] = append(took[which], time.Since(began))
		}
	}
	median := func(which int) float64 {
		slices.Sort(took[which])
		return float64(took[which][len(took[which])/2])
	}
	b.ReportMetric(median(1)/median(0), "off/without")
	b.ReportMetric(median(0)/1e3, "us/without")
}

// BenchmarkSteps is the hook alone, for the eight steps of a transaction with two branches.
func BenchmarkSteps(b *testing.B) {
	hook := concordotel.Hook()
	b.ReportAllocs()
	for range b.N {
		ctx, end := hook(context.Background(), concord.Step{Kind: concord.StepTransaction, Attempt: 1})
		for _, k := range []concord.StepKind{concord.StepBranch, concord.StepPrepare, concord.StepCommit,
			concord.StepBranch, concord.StepPrepare, concord.StepCommit, concord.StepDecide} {
			_, over := hook(ctx, concord.Step{Kind: k, Resource: "orders", Driver: "postgres", Attempt: 1})
			_ = over(nil)
		}
		_ = end(nil)
	}
}
