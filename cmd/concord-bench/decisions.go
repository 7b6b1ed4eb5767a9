// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

// decisionsResult is the contract of "decisions -o json".
type decisionsResult struct {
	Workers      int       `json:"workers"`
	Size         int       `json:"size"`
	Rounds       int       `json:"rounds"`
	RoundSeconds float64   `json:"round_seconds"`
	PerSecond    float64   `json:"per_second"`
	ByRound      []float64 `json:"per_second_by_round"`
	P50          float64   `json:"p50_ms"`
	P99          float64   `json:"p99_ms"`
	P999         float64   `json:"p999_ms"`
	Gaps         []float64 `json:"longest_gaps_ms"` // between any two answers, in all rounds
	ClientCPU    float64   `json:"client_cpu_seconds_per_decision"`
	NodesCPU     *float64  `json:"nodes_cpu_seconds_per_decision"` // null if the nodes are not ours
	Decided      int64     `json:"decided"`
	Errors       int64     `json:"errors"`
	Failure      string    `json:"failure,omitempty"` // one of the errors
}

func (c *cli) decisionsCommand() *cobra.Command {
	var l load
	var size int
	var addr string
	cmd := &cobra.Command{
		Use: "decisions", Short: "Decisions per second of the replicated log alone", Args: terminal.NoArgs,
		Long: "Asks for the decision to commit transactions without branches: no database is involved, and\n" +
			"what remains is the request, the replicated log with one fsync at a quorum before each\n" +
			"answer, and the answer. --size gives every transaction a label, which the log keeps with the\n" +
			"decision. Three node processes are started for it, or, with --addr, a cluster that runs already\n" +
			"is used: it keeps the decisions like all others.\n\n" +
			"The longest gaps between any two answers, whoever got them, say for how long the cluster stood\n" +
			"still: with many workers each of them should be close to the latency of one decision.\n\n" +
			"CPU is per decision: of this process in the counted rounds, of the node processes from start to\n" +
			"end.\n\n" + omissionHelp,
		Example: "  concord-bench decisions --workers 64 --duration 10s\n" +
			"  concord-bench decisions --workers 256 --size 256\n" +
			"  concord-bench decisions --addr 127.0.0.1:7420 --workers 1 --rounds 1 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := l.check(); err != nil {
				return err
			}
			if size < 0 || size > txn.MaxLabel {
				return terminal.Usagef("--size: %d is not between 0 and %d", size, txn.MaxLabel)
			}
			var addrs []string
			if addr != "" {
				addrs = strings.Split(addr, ",")
			}
			r, err := c.benchDecisions(cmd.Context(), l, size, addrs)
			if err != nil {
				return err
			}
			return c.printDecisions(r)
		},
	}
	cmd.Flags().StringVar(&addr, "addr", "",
		"API addresses of a cluster that runs, host:port[,host:port] (default: three nodes are started)")
	cmd.Flags().IntVar(&size, "size", 0, "bytes of the label of each transaction")
	l.flags(cmd)
	return cmd
}

func (c *cli) benchDecisions(ctx context.Context, l load, size int, addrs []string) (_ *decisionsResult, err error) {
	dir, remove, err := workFolder(l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	var own *nodes
	if len(addrs) == 0 {
		if own, err = startNodes(ctx, c.concord, dir, nil); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, own.stop()) }()
		addrs = own.addresses()
	}
	d, err := newDecider(ctx, addrs)
	if err != nil {
		return nil, err
	}
	defer d.close()

	label := incompressible(size)
	s := meter.NewSeries(l.workers)
	var decided int64
	for round := 0; round <= l.rounds; round++ {
		length := l.duration
		if round == 0 {
			length = l.warmUp()
		}
		one, err := meter.Drive(ctx, l.workers, length, func(ctx context.Context, _ int) error {
			_, err := d.commit(ctx, txn.NewID(time.Now()), label)
			return err
		})
		if err != nil {
			return nil, err
		}
		if one.Done == 0 {
			return nil, fmt.Errorf("nothing was decided in a round of %v: %w", length, one.Failure)
		}
		decided += one.Done
		if round > 0 {
			s.Add(&one)
			fmt.Fprintf(c.err, "round %d: %.0f/s\n", round, one.PerSecond())
		}
	}
	r := &decisionsResult{Workers: l.workers, Size: size, Rounds: l.rounds, RoundSeconds: l.duration.Seconds(),
		PerSecond: s.Total.PerSecond(), ByRound: s.Rates, P50: s.Millis(50), P99: s.Millis(99), P999: s.Millis(99.9),
		Gaps:      s.GapMillis(),
		ClientCPU: s.CPUPerOperation(), Decided: s.Total.Done, Errors: s.Total.Failed + s.Total.Unknown}
	if s.Total.Failure != nil {
		r.Failure = s.Total.Failure.Error()
	}
	if own != nil {
		if err := own.stop(); err != nil {
			return nil, err
		}
		cpu := own.cpu.Seconds() / float64(decided)
		r.NodesCPU = &cpu
	}
	return r, nil
}

// incompressible text, so that no store on the way makes it smaller.
func incompressible(size int) string {
	var b strings.Builder
	for b.Len() < size {
		b.WriteString(rand.Text())
	}
	return b.String()[:size]
}

func texts(values []float64, text func(float64) string) []string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = text(v)
	}
	return out
}

func (c *cli) printDecisions(r *decisionsResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	err := terminal.PrintTable(c.out, []string{"WORKERS", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "CPU CLIENT",
		"CPU NODES"}, [][]string{
		{fmt.Sprint(r.Workers), fmt.Sprintf("%.0f", r.PerSecond), millis(r.P50), millis(r.P99), millis(r.P999),
			micros(r.ClientCPU), microsIf(r.NodesCPU)},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\n%d decisions, %s; per second by round: median %.0f, lowest %.0f, highest %.0f\n", r.Decided,
		terminal.Plural(int(r.Errors), "error", "errors"), meter.Median(r.ByRound), slices.Min(r.ByRound),
		slices.Max(r.ByRound))
	fmt.Fprintf(c.out, "longest gaps between any two answers: %s ms\n", strings.Join(texts(r.Gaps, millis), ", "))
	if r.Failure != "" {
		fmt.Fprintf(c.out, "one of the errors: %s\n", r.Failure)
	}
	return nil
}
