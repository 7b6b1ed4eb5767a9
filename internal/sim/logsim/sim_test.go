// SPDX-License-Identifier: Apache-2.0

package logsim

import (
	"bufio"
	"context"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/sim"
)

var (
	firstSeed = flag.Uint64("sim.seed", 1, "the first seed that TestSim runs")
	seedCount = flag.Uint64("sim.seeds", 400, "how many seeds TestSim runs")
	stepCount = flag.Int("sim.steps", 3000, "steps of cores in each safety phase")
	howLong   = flag.Duration("sim.time", 0, "run seeds until this time is over, however many they are")
)

// enough reports whether a block is so long that every situation must have happened: the
// first seeds are the same each time, of others it takes more to be all but certain.
func enough(first, seeds uint64) bool { return seeds >= 3000 || first == 1 && seeds >= 300 }

func TestSim(t *testing.T) {
	ctx, seeds := context.Background(), sim.Seeds{First: *firstSeed, Count: *seedCount}
	if *howLong > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *howLong)
		defer cancel()
		seeds.Count = 0
	}
	sum, err := Block(ctx, seeds, sim.Options{Steps: *stepCount})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(sum)
	for s := range sim.Situations {
		t.Logf("%7d %s", sum.Counters[s], s)
	}
	if enough(*firstSeed, sum.Seeds) {
		require.Empty(t, sum.Counters.Missing(), "the simulation has gone quiet")
	}
}

func TestSeedsThatOnceFailed(t *testing.T) {
	f, err := os.Open("testdata/seeds.txt")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		if len(fields) == 0 {
			continue
		}
		require.Len(t, fields, 2, "a seed and its edition: %s", text)
		seed, err := strconv.ParseUint(fields[0], 10, 64)
		require.NoError(t, err)
		edition, err := strconv.Atoi(fields[1])
		require.NoError(t, err)
		_, err = Run(seed, sim.Options{Edition: edition})
		require.NoError(t, err)
	}
}

func TestSameSeedSameTrace(t *testing.T) {
	different := map[uint64]bool{}
	for seed := uint64(1); seed <= 20; seed++ {
		a, err := Run(seed, sim.Options{Steps: 1000})
		require.NoError(t, err)
		b, err := Run(seed, sim.Options{Steps: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b, "seed %d", seed)
		different[a.Hash] = true
	}
	require.Len(t, different, 20, "the hash of a run depends on its seed")
}
