// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
)

// demoResult is the contract of "demo -o json".
type demoResult struct {
	Transfers   int     `json:"transfers"`
	Committed   int     `json:"committed"`
	Aborted     int     `json:"aborted"`
	Unknown     int     `json:"unknown"`
	LeaderKills int     `json:"leader_kills"`
	SumExpected int64   `json:"sum_expected"`
	Sum         int64   `json:"sum"`
	InDoubt     *int    `json:"in_doubt"` // null: nobody could tell
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"per_second"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
}

type demoOptions struct {
	transfers, workers, kills int
	config                    string
}

func (c *cli) demoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use: "demo", Short: "Three nodes, three banks, money on the move and leaders that die, in one process", Args: noArgs,
		Long: "Starts three coordinator nodes in this process, moves money between banks by transactions over\n" +
			"two of them, stops the leader without warning now and then, and checks at the end that no money\n" +
			"was made or lost and nothing is in doubt. The banks are embedded key-value stores in a temporary\n" +
			"folder, or with --config the databases under \"resources\" in FILE, where a table\n" +
			"concord_demo_account is made. Exit code 0 only if the sum is right and nothing is in doubt.",
		Example: "  concord demo\n  concord demo --transfers 20000 --workers 32 --kill-leader 5 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.transfers < 1 || o.workers < 1 || o.kills < 0 {
				return usagef("--transfers and --workers are at least 1, --kill-leader at least 0")
			}
			return c.demo(cmd.Context(), o)
		},
	}
	cmd.Flags().IntVar(&o.transfers, "transfers", 5000, "how many transfers")
	cmd.Flags().IntVar(&o.workers, "workers", 16, "how many at the same time")
	cmd.Flags().IntVar(&o.kills, "kill-leader", 3, "how often the leader is stopped without warning")
	cmd.Flags().StringVar(&o.config, "config", "", "a file with \"resources\" to use instead of embedded stores")
	return cmd
}

func (c *cli) demo(ctx context.Context, o demoOptions) (err error) {
	dir, err := os.MkdirTemp("", "concord-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	banks, err := openBanks(ctx, o.config, dir)
	if err != nil {
		return err
	}
	defer banks.close()
	cluster, err := startDemoCluster(ctx, dir, banks)
	if err != nil {
		return err
	}
	defer cluster.stop()
	w, err := newWorkload(ctx, o, banks, cluster)
	if err != nil {
		return err
	}
	defer w.close()

	var result demoResult
	if f, ok := c.screen.(*os.File); ok && c.output == "table" && isTerminal(f) && isTerminal(c.in) {
		result, err = w.runWithView(ctx, c.in, f)
	} else {
		result, err = w.runWithLines(ctx, c.err)
	}
	if err != nil {
		return err
	}
	return c.printDemo(result)
}

func (c *cli) printDemo(r demoResult) error {
	if c.output == "json" {
		if err := c.printJSON(r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.out, "%d transfers in %.1f s (%.0f/s, p50 %.1f ms, p99 %.1f ms): %d committed, %d aborted, %d unknown; the leader died %s\n",
			r.Transfers, r.Seconds, r.PerSecond, r.P50, r.P99, r.Committed, r.Aborted, r.Unknown, plural(r.LeaderKills, "time", "times"))
		verdict := "ok"
		if r.Sum != r.SumExpected {
			verdict = "WRONG"
		}
		inDoubt := "unknown whether anything is"
		if r.InDoubt != nil {
			inDoubt = fmt.Sprint(*r.InDoubt)
		}
		fmt.Fprintf(c.out, "sum of all balances %d, expected %d: %s; %s in doubt\n", r.Sum, r.SumExpected, verdict, inDoubt)
	}
	switch {
	case r.Sum != r.SumExpected:
		return &exitError{exitFailed, "the sum of all balances is wrong: this is a bug, please report it with the output above"}
	case r.InDoubt == nil:
		return &exitError{exitInDoubt, "nobody could tell whether transactions are in doubt: the cluster had no leader, or a bank could not be listed"}
	case *r.InDoubt > 0:
		return &exitError{exitInDoubt, plural(*r.InDoubt, "transaction is", "transactions are") + " still in doubt"}
	}
	return nil
}

// runWithLines prints a line of progress every second: for pipes and logs.
func (w *workload) runWithLines(ctx context.Context, out io.Writer) (demoResult, error) {
	fmt.Fprintf(out, "3 nodes: %s\nbanks: %s\n", w.cluster.addresses(), w.banks.describe())
	ended := make(chan struct{})
	go func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p := w.progress()
				fmt.Fprintf(out, "%5.1fs  %d/%d transfers  %.0f/s  leader %s  in doubt %s  killed %d\n",
					p.elapsed.Seconds(), p.done, w.o.transfers, p.rate, p.leader, p.inDoubt, p.kills)
			case line := <-w.events:
				fmt.Fprintln(out, line)
			case <-ended:
				return
			}
		}
	}()
	defer close(ended)
	return w.run(ctx)
}

// quiet is the log of the nodes of a demonstration: what matters is on the screen.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
