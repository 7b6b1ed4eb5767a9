// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"bufio"
	"errors"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
)

var (
	firstSeed = flag.Uint64("sim.seed", 1, "the first seed that TestTransactions runs")
	seedCount = flag.Uint64("sim.seeds", 480, "how many seeds TestTransactions runs")
	stepCount = flag.Int("sim.steps", 3000, "steps of coordinators in each safety phase")
)

// enoughSeeds is how many seeds it takes until every situation is all but certain to
// have happened.
const enoughSeeds = 400

func TestTransactions(t *testing.T) {
	sum, err := Block(t.Context(), sim.Seeds{First: *firstSeed, Count: *seedCount}, Options{Steps: *stepCount})
	require.NoError(t, err)
	t.Log(sum.String())
	for s := range situations {
		t.Logf("%7d %s", sum.Counters[s], s)
	}
	if *seedCount >= enoughSeeds {
		require.Empty(t, sum.Missing(), "the simulation has gone quiet")
	}
}

func TestSeedsOfTransactionsThatOnceFailed(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		_, err = Run(seed, Options{})
		require.NoError(t, err)
	}
}

func TestSameSeedSameTransactions(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		a, err := Run(seed, Options{Steps: 1000})
		require.NoError(t, err)
		b, err := Run(seed, Options{Steps: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b, "seed %d", seed)
	}
}

func TestPlantedTransactionBugsAreCaught(t *testing.T) {
	for _, row := range []struct {
		name  string
		bug   Planted
		mute  []string
		check []string
		first uint64 // seed; the ones before only take longer to say nothing
		seeds uint64
	}{
		{"presume commit", PresumeCommit, nil, []string{"AC1"}, 10, 200},
		{"forget the tombstone", ForgetTombstone, []string{"AC5", "V5"}, []string{"AC1", "AC2", "AC3"}, 10, 200},
		{"not found means done", NotFoundMeansDone, nil, []string{"HEUR", "AC5"}, 1, 200},
		{"ROLLBACK means prepared", RollbackMeansPrepared, nil, []string{"AC3"}, 1, 50},
		{"an empty branch in the place of a lost one", PrepareAgain, nil, []string{"AC3", "AC3w"}, 1, 200},
		{"try again under another gid", TryAgainAsAnother, nil, []string{"IDEM"}, 1, 200},
		{"a lost answer forgiven", ForgiveLostAnswer, []string{"HEUR"}, []string{"AC1", "AC3"}, 3, 200},
		{"a promise broken", BreakPromise, []string{"HEUR"}, []string{"AC1", "AC3"}, 3, 400},
		{"finish at a database that is behind", FinishBehind, nil, []string{"BEHIND"}, 1, 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			for seed := row.first; seed < row.first+row.seeds; seed++ {
				_, err := Run(seed, Options{Planted: row.bug, Mute: row.mute, trace: true})
				if err == nil {
					continue
				}
				var v *sim.Violation
				require.True(t, errors.As(err, &v))
				require.Contains(t, row.check, v.ID, v.Detail)
				t.Logf("caught by %s after %d seeds of at most %d: %s", v.ID, seed-row.first+1, row.seeds, v.Detail)
				return
			}
			t.Fatalf("%d seeds did not catch it", row.seeds)
		})
	}
}
