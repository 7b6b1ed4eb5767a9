// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bufio"
	"flag"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	firstSeed = flag.Uint64("sim.seed", 1, "the first seed that TestSim runs")
	seedCount = flag.Uint64("sim.seeds", 400, "how many seeds TestSim runs")
	stepCount = flag.Int("sim.steps", 3000, "steps of cores in each safety phase")
)

// enoughSeeds is how many seeds it takes until every situation is all but certain to
// have happened.
const enoughSeeds = 300

func TestSim(t *testing.T) {
	var sum Counters
	steps, committed, epochs := 0, 0, 0
	for seed := *firstSeed; seed < *firstSeed+*seedCount; seed++ {
		r, err := Run(seed, Options{Steps: *stepCount})
		if err != nil {
			t.Fatal(err)
		}
		sum.Add(r.Counters)
		steps, committed, epochs = steps+r.Steps, committed+r.Committed, epochs+r.Epochs
	}
	t.Logf("%d seeds, %d steps, %d entries committed, %d epochs", *seedCount, steps, committed, epochs)
	for s := range situations {
		t.Logf("%7d %s", sum[s], s)
	}
	if *seedCount >= enoughSeeds {
		require.Empty(t, sum.Missing(), "the simulation has gone quiet")
	}
}

// editions are the Swarms as they were when a seed was found.
var editions = map[string]func(w *Swarm){
	"first": (*Swarm).firstEdition, "second": nil,
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
		_, err = Run(seed, Options{Swarm: editions[fields[1]]})
		require.NoError(t, err)
	}
}

func TestSameSeedSameTrace(t *testing.T) {
	different := map[uint64]bool{}
	for seed := uint64(1); seed <= 20; seed++ {
		a, err := Run(seed, Options{Steps: 1000})
		require.NoError(t, err)
		b, err := Run(seed, Options{Steps: 1000})
		require.NoError(t, err)
		require.Equal(t, a, b, "seed %d", seed)
		different[a.Hash] = true
	}
	require.Len(t, different, 20, "the hash of a run depends on its seed")
}
