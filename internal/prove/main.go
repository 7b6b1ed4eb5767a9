// SPDX-License-Identifier: Apache-2.0

// Command prove runs everything that can show concord wrong, for as long as it is told to,
// and prints one table of what was tried and what was found:
//
//	go run ./internal/prove -time 1h
//
// First the checkers are checked, because what they do not notice counts for nothing. Then
// come the planted mistakes, each of which has to be noticed; the exhaustive search over small
// worlds; fuzzing of every decoder; and for most of the time seeds of the simulator that
// nobody has run before. It exits 1 if anything was found, and prints the command that
// shows it again.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"
)

// stage is one kind of proof. run works for about as long as budget says and adds what it
// did to the table.
type stage struct {
	name  string
	share float64 // of the time
	run   func(ctx context.Context, t *table, o options, budget time.Duration) error
}

// The shares are what is left to those that can use any time; the first two take what they need.
var stages = []stage{
	{"the checkers themselves", 0, checkers},
	{"planted mistakes", 0, mutants},
	{"exhaustive search", 0.25, search},
	{"fuzzing", 0.15, fuzz},
	{"seeds", 0.60, seeds},
}

type options struct {
	time    time.Duration
	seed    uint64
	workers int
	world   string // the only one to be searched
	states  int    // of one world, at most
}

func main() {
	var o options
	flag.DurationVar(&o.time, "time", 10*time.Minute, "how long to run, about")
	flag.Uint64Var(&o.seed, "seed", 0, "the first seed; 0 takes the clock, so that each run tries new ones")
	flag.IntVar(&o.workers, "workers", runtime.NumCPU(), "how many seeds run at a time")
	flag.StringVar(&o.world, "world", "", "search only the world of this name, as in the table, for all of the time")
	flag.IntVar(&o.states, "states", maxStates, "how many states of a world to visit; 10 million take some 2 GiB")
	flag.Parse()
	if flag.NArg() > 0 || o.time <= 0 || o.workers <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	began := time.Now()
	if o.seed == 0 {
		o.seed = uint64(began.Unix()) << 16
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	t := &table{}
	failed := prove(ctx, t, o, began)
	fmt.Printf("\n%s on %d cores, %s, from %s, first seed %d\n\n", round(time.Since(began)), runtime.NumCPU(),
		runtime.Version(),
		began.UTC().Format("2006-01-02 15:04 UTC"), o.seed)
	t.print(os.Stdout)
	if failed {
		os.Exit(1)
	}
}

// prove runs the stages and reports whether one of them found something.
func prove(ctx context.Context, t *table, o options, began time.Time) (failed bool) {
	todo := stages
	if o.world != "" {
		todo = []stage{{"exhaustive search", 1, search}}
	}
	for i, s := range todo {
		left, shares := o.time-time.Since(began), 0.0
		for _, later := range todo[i:] {
			shares += later.share
		}
		budget := time.Duration(float64(left) * s.share / max(shares, 1e-9))
		fmt.Fprintf(os.Stderr, "%s  %s\n", round(time.Since(began)), s.name)
		if err := s.run(ctx, t, o, max(budget, 10*time.Second)); err != nil {
			fmt.Fprintf(os.Stderr, "\n%s: %v\n", s.name, err)
			failed = true
		}
		if ctx.Err() != nil {
			t.add(s.name, "interrupted", "NOT RUN to the end")
			return true
		}
	}
	return failed
}

func round(d time.Duration) time.Duration { return d.Round(time.Second) }
