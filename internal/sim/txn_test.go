// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTransactions(t *testing.T) {
	var sum [txnSituations]int
	transactions := 0
	seeds := min(*seedCount, 120)
	for seed := *firstSeed; seed < *firstSeed+seeds; seed++ {
		r, err := RunTxn(seed, TxnOptions{Steps: *stepCount})
		if err != nil {
			t.Fatal(err)
		}
		transactions += r.Transactions
		for i, n := range r.Counters {
			sum[i] += n
		}
	}
	t.Logf("%d seeds, %d transactions", seeds, transactions)
	for s := range txnSituations {
		t.Logf("%7d %s", sum[s], s)
		if seeds >= 100 {
			require.NotZero(t, sum[s], "the simulation has gone quiet: %s", s)
		}
	}
}

func TestSameSeedSameTransactions(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		a, err := RunTxn(seed, TxnOptions{Steps: 1000})
		require.NoError(t, err)
		b, err := RunTxn(seed, TxnOptions{Steps: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b, "seed %d", seed)
	}
}

func TestPlantedTransactionBugsAreCaught(t *testing.T) {
	for _, row := range []struct {
		name  string
		bug   PlantedTxn
		mute  []string
		check []string
		first uint64 // seed; the ones before only take longer to say nothing
		seeds uint64
	}{
		{"presume commit", PresumeCommit, nil, []string{"AC1"}, 10, 200},
		{"forget the tombstone", ForgetTombstone, []string{"AC5", "V5"}, []string{"AC1", "AC2", "AC3"}, 10, 200},
		{"not found means done", NotFoundMeansDone, nil, []string{"HEUR", "AC5"}, 1, 200},
		{"ROLLBACK means prepared", RollbackMeansPrepared, nil, []string{"AC3"}, 1, 50},
	} {
		t.Run(row.name, func(t *testing.T) {
			for seed := row.first; seed < row.first+row.seeds; seed++ {
				_, err := RunTxn(seed, TxnOptions{Planted: row.bug, Mute: row.mute, trace: true})
				if err == nil {
					continue
				}
				var v *Violation
				require.True(t, errors.As(err, &v))
				require.Contains(t, row.check, v.ID, v.Detail)
				t.Logf("caught by %s after %d seeds of at most %d: %s", v.ID, seed-row.first+1, row.seeds, v.Detail)
				return
			}
			t.Fatalf("%d seeds did not catch it", row.seeds)
		})
	}
}
