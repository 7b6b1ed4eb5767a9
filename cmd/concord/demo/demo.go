// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

// result is the contract of "demo -o json".
type result struct {
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
	// Of a demonstration with agents alone: how many coordinators were stopped together, and how many
	// transactions the agents then finished without any.
	CoordinatorsKilled *int `json:"coordinators_killed,omitempty"`
	FinishedByAgents   *int `json:"finished_by_agents,omitempty"`
}

// Options are what is demonstrated, and where it is shown.
type Options struct {
	Transfers, Workers int
	Kills              int    // how often the leader is stopped without warning
	Config             string // a file with resources to use instead of embedded stores; may be empty
	// Protocol, unless it is empty, is how transactions are decided: two_phase or three_phase, with the embedded
	// stores behind agents, or LastResource, where the second store of each decides.
	Protocol string
	// KillCoordinators stops every node at once, when half of the transfers are done.
	KillCoordinators bool

	In       io.Reader
	Out, Err io.Writer // for the result, and for what is said meanwhile
	Screen   io.Writer // what Out writes to: a live view is drawn if it is a terminal
	JSON     bool
}

// LastResource is the protocol in which one of the databases decides.
const LastResource = "last_resource"

func (o Options) agents() bool { return o.Protocol != "" && o.Protocol != LastResource }

// Run moves money while leaders die, and returns nil only if the sum is right at the end and nothing
// is in doubt. The error has an exit code.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := os.MkdirTemp("", "concord-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	members, err := config.FreeMembers()
	if err != nil {
		return err
	}
	banks, err := openBanks(ctx, o, dir, members)
	if err != nil {
		return err
	}
	defer banks.close()
	cluster, err := startCluster(ctx, dir, members, banks)
	if err != nil {
		return err
	}
	defer cluster.stop()
	w, err := newWorkload(ctx, o, banks, cluster)
	if err != nil {
		return err
	}
	defer w.close()

	var r result
	if f, ok := o.Screen.(*os.File); ok && !o.JSON && terminal.IsTerminal(f) && terminal.IsTerminal(o.In) {
		r, err = w.runWithView(ctx, o.In, f)
	} else {
		r, err = w.runWithLines(ctx, o.Err)
	}
	if err != nil {
		return err
	}
	return r.print(o)
}

func (r result) print(o Options) error {
	if o.JSON {
		if err := terminal.PrintJSON(o.Out, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(o.Out, "%d transfers in %.1f s (%.0f/s, p50 %.1f ms, p99 %.1f ms): %d committed, %d aborted, %d "+
			"unknown; the leader died %s\n",
			r.Transfers, r.Seconds, r.PerSecond, r.P50, r.P99, r.Committed, r.Aborted, r.Unknown,
			terminal.Plural(r.LeaderKills, "time", "times"))
		verdict := "ok"
		if r.Sum != r.SumExpected {
			verdict = "WRONG"
		}
		inDoubt := "unknown whether anything is"
		if r.InDoubt != nil {
			inDoubt = fmt.Sprint(*r.InDoubt)
		}
		if o.KillCoordinators {
			fmt.Fprintf(o.Out, "%d coordinators died together; the agents finished %s without them\n",
				*r.CoordinatorsKilled, terminal.Plural(*r.FinishedByAgents, "transaction", "transactions"))
		}
		fmt.Fprintf(o.Out, "sum of all balances %d, expected %d: %s; %s in doubt\n", r.Sum, r.SumExpected, verdict,
			inDoubt)
	}
	switch {
	case r.FinishedByAgents != nil && *r.FinishedByAgents == 0 && o.KillCoordinators &&
		o.Protocol == concord.ThreePhase:
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: "no transaction was in doubt when the coordinators were stopped, so the agents had nothing to " +
				"finish: try it with more --transfers or --workers"}
	case r.Sum != r.SumExpected:
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: "the sum of all balances is wrong: this is a bug, please report it with the output above"}
	case r.InDoubt == nil:
		return &terminal.ExitError{Code: terminal.ExitInDoubt,
			Text: "nobody could tell whether transactions are in doubt: the cluster had no leader, or a bank could " +
				"not be listed"}
	case *r.InDoubt > 0:
		return &terminal.ExitError{Code: terminal.ExitInDoubt,
			Text: terminal.Plural(*r.InDoubt, "transaction is", "transactions are") + " still in doubt"}
	}
	return nil
}

// runWithLines prints a line of progress every second: for pipes and logs.
func (w *workload) runWithLines(ctx context.Context, out io.Writer) (result, error) {
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
					p.elapsed.Seconds(), p.done, w.o.Transfers, p.rate, p.leader, p.inDoubt, p.kills)
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
