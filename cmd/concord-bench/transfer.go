// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/txn"
)

// settleTimeout bounds the wait for the end of all transactions after the last transfer.
const settleTimeout = 30 * time.Second

// benchAccounts are in each database: so many that two transfers rarely meet.
const (
	benchTable    = "concord_bench_account"
	benchAccounts = 100_000
)

// transferResult is the contract of "transfer -o json". The baseline is the plain
// loop; ratios are concord's transfers per second to those of the baseline, by round.
type transferResult struct {
	Workers           int             `json:"workers"`
	Rounds            int             `json:"rounds"`
	RoundSeconds      float64         `json:"round_seconds"`
	First             string          `json:"first"`
	Second            string          `json:"second"`
	LastResource      string          `json:"last_resource,omitempty"` // that decides; empty: the cluster does
	PerSecond         float64         `json:"per_second"`
	BaselinePerSecond float64         `json:"baseline_per_second"`
	RatioMedian       float64         `json:"ratio_median"`
	RatioMin          float64         `json:"ratio_min"`
	RatioMax          float64         `json:"ratio_max"`
	P50               float64         `json:"p50_ms"`
	P99               float64         `json:"p99_ms"`
	P999              float64         `json:"p999_ms"`
	BaselineP50       float64         `json:"baseline_p50_ms"`
	BaselineP99       float64         `json:"baseline_p99_ms"`
	BaselineP999      float64         `json:"baseline_p999_ms"`
	ClientCPU         float64         `json:"client_cpu_seconds_per_transfer"`
	NodesCPU          *float64        `json:"nodes_cpu_seconds_per_transfer"` // null if the nodes are not ours
	BaselineCPU       float64         `json:"baseline_cpu_seconds_per_transfer"`
	ServersCPU        *float64        `json:"servers_cpu_seconds_per_transfer"` // null without --servers
	BaselineServers   *float64        `json:"baseline_servers_cpu_seconds_per_transfer"`
	Committed         int64           `json:"committed"`
	BaselineCommitted int64           `json:"baseline_committed"`
	Unknown           int64           `json:"unknown"`
	Errors            int64           `json:"errors"`
	BaselineErrors    int64           `json:"baseline_errors"`
	Failure           string          `json:"failure,omitempty"` // one of the errors
	SumExpected       int64           `json:"sum_expected"`
	Sum               int64           `json:"sum"`
	LeftPrepared      int             `json:"left_prepared"`
	ByRound           []transferRound `json:"by_round"`
}

type transferRound struct {
	PerSecond         float64 `json:"per_second"`
	BaselinePerSecond float64 `json:"baseline_per_second"`
	Ratio             float64 `json:"ratio"`
}

func (c *cli) transferCommand() *cobra.Command {
	var l load
	var file, last string
	var servers []int
	cmd := &cobra.Command{
		Use: "transfer --config FILE", Short: "Transfers between two databases, next to the plain loop without a " +
			"coordinator", Args: terminal.NoArgs,
		Long: "Moves money between the first two SQL databases under \"resources\" in FILE, where a table\n" +
			"concord_bench_account with 100,000 accounts is made anew. Rounds of concord and of a baseline take\n" +
			"turns on the same pools. The baseline is the plain loop that has no log: BEGIN or XA START,\n" +
			"UPDATE, in the first database and then in the second; XA END, PREPARE in both in parallel;\n" +
			"COMMIT in both in parallel; one statement for each round trip. It is not safe: whoever dies\n" +
			"between the phases leaves transfers that nobody can decide.\n\n" +
			"With --last-resource one of the two decides by its own commit, and is not prepared (WithLastResource);\n" +
			"the baseline prepares both all the same.\n\n" +
			"If FILE has \"members\" and they run, they are the coordinator; otherwise three nodes are started\n" +
			"for the measurement. PostgreSQL needs max_prepared_transactions above --workers.\n\n" +
			"At the end all balances are added up and both databases are asked for what is still prepared.\n" +
			"If money was made or lost, or something is left, there is no result and the exit code is 1.\n\n" +
			"CPU is per transfer: of this process and, with --servers, of the database servers in the counted\n" +
			"rounds; of the node processes from start to end.\n\n" +
			omissionHelp,
		Example: "  concord-bench transfer --config node1.yaml --workers 16 --duration 10s --rounds 5\n" +
			"  concord-bench transfer --config node1.yaml --workers 64 -o json\n" +
			"  concord-bench transfer --config node1.yaml --last-resource orders",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return terminal.Usagef("--config is missing: name a file with \"resources\", as in \"concord serve " +
					"--help\"")
			}
			if err := l.check(); err != nil {
				return err
			}
			r, err := c.benchTransfer(cmd.Context(), file, last, l, servers)
			if err != nil {
				return err
			}
			return c.printTransfer(r)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "a file with \"resources\"; the first two are used")
	cmd.Flags().IntSliceVar(&servers, "servers", nil,
		"process ids on this machine, such as those of the database servers; what they and their children use of "+
			"the CPU is shown")
	cmd.Flags().StringVar(&last, "last-resource", "", "the one of the two databases that decides, by its name in FILE")
	l.flags(cmd)
	return cmd
}

func (c *cli) benchTransfer(ctx context.Context, file, last string, l load,
	servers []int) (_ *transferResult, err error) {
	dir, remove, err := workFolder(l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	b := &transferBench{load: l, last: last, program: c.concord, servers: servers}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, file, dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.err, "%s of %v each for concord and for the baseline, %s; %s\n",
		terminal.Plural(l.rounds, "round", "rounds"), l.duration, terminal.Plural(l.workers, "worker", "workers"),
		b.describe())
	if err := b.run(ctx, func(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }); err != nil {
		return nil, err
	}
	return b.result(ctx)
}

// transferBench is one measurement.
type transferBench struct {
	load
	last    string // the last resource; empty: the cluster decides
	program string // of the nodes, if it is named
	servers []int  // processes whose CPU is asked for
	banks   [2]bank.Bank
	nodes   *nodes // nil if the cluster of the file runs
	client  *concord.Client
	cluster txn.ClusterID
	bare    *bare

	concord, baseline *meter.Series
	decided           int64 // by the cluster, warm-up included
}

// open makes the accounts, and starts nodes if none run.
func (b *transferBench) open(ctx context.Context, file, dir string) error {
	conf, chosen, err := twoDatabases(file)
	if err != nil {
		return err
	}
	if b.last != "" && b.last != chosen[0].Name && b.last != chosen[1].Name {
		return terminal.Usagef("--last-resource: %q is neither %q nor %q, between which money moves", b.last,
			chosen[0].Name, chosen[1].Name)
	}
	if err := openBanks(ctx, &b.banks, chosen, b.workers); err != nil {
		return err
	}
	if b.bare, err = newBare(b.banks[0], b.banks[1]); err != nil {
		return err
	}
	addrs, err := b.coordinator(ctx, conf.Members, dir, chosen)
	if err != nil {
		return err
	}
	b.concord, b.baseline = meter.NewSeries(b.workers), meter.NewSeries(b.workers)
	b.client, err = concord.Dial(ctx, addrs)
	return err
}

// twoDatabases are the first of a file, with the rest of it.
func twoDatabases(file string) (*config.Node, []config.Resource, error) {
	conf, err := config.LoadParts(file, "members", "resources")
	if err == nil {
		err = conf.CheckResources()
	}
	if err != nil {
		return nil, nil, &terminal.ExitError{Code: terminal.ExitUsage, Text: err.Error()}
	}
	databases := slices.DeleteFunc(conf.Resources,
		func(r config.Resource) bool { return r.Driver != "postgres" && r.Driver != "mysql" })
	if len(databases) < 2 {
		return nil, nil, terminal.Usagef("%s: \"resources\" has %s: money moves between two", file,
			terminal.Plural(len(databases), "SQL database", "SQL databases"))
	}
	return conf, databases[:2], nil
}

// openBanks opens two databases, and makes the accounts anew. What was opened is there in any case.
func openBanks(ctx context.Context, banks *[2]bank.Bank, chosen []config.Resource, workers int) error {
	for i, r := range chosen {
		// Two more: somebody counts what is prepared, and somebody adds up.
		k, err := bank.OpenSQL(ctx, r, bank.Ledger{Table: benchTable, Accounts: benchAccounts,
			Conns: workers + 2})
		if err != nil {
			return fmt.Errorf("bank %s: %w", r.Name, err)
		}
		banks[i] = k
		if err := k.Fill(ctx); err != nil {
			return fmt.Errorf("bank %s: make accounts: %w", r.Name, err)
		}
	}
	return nil
}

// move makes one transfer through concord.
func move(ctx context.Context, client *concord.Client, banks *[2]bank.Bank, options ...concord.TxOption) error {
	from, to, amount := chooseTransfer()
	err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		if err := banks[0].Add(ctx, tx, from, -amount); err != nil {
			return err
		}
		return banks[1].Add(ctx, tx, to, amount)
	}, options...)
	if errors.Is(err, concord.ErrUnknownOutcome) {
		return fmt.Errorf("%w: %w", meter.ErrUnknown, err)
	}
	return err
}

// coordinator returns the addresses of the members if one of them answers, or else of
// three nodes that it starts.
func (b *transferBench) coordinator(ctx context.Context, members []config.Member, dir string,
	resources []config.Resource) (addrs []string, err error) {
	for _, m := range members {
		addrs = append(addrs, m.API)
	}
	if len(addrs) > 0 {
		if b.cluster, err = clusterAt(ctx, addrs); err == nil {
			return addrs, nil
		}
	}
	if b.nodes, err = startNodes(ctx, b.program, dir, resources); err != nil {
		return nil, err
	}
	b.cluster, err = clusterAt(ctx, b.nodes.addresses())
	return b.nodes.addresses(), err
}

// clusterAt asks the nodes at addrs for the id of their cluster.
func clusterAt(ctx context.Context, addrs []string) (txn.ClusterID, error) {
	client, err := api.Dial(addrs, api.ClientOptions{Patience: askTimeout})
	if err != nil {
		return 0, err
	}
	defer client.Close() // always nil
	s, err := client.Status(ctx, &concordv1.StatusRequest{})
	if err != nil {
		return 0, err
	}
	return api.ParseCluster("cluster", s.GetCluster())
}

func (b *transferBench) close() error {
	return errors.Join(closeCluster(b.client, b.nodes), closeBanks(&b.banks))
}

// closeCluster ends a client and then its nodes; either may be missing.
func closeCluster(client *concord.Client, n *nodes) error {
	var errs []error
	if client != nil {
		errs = append(errs, client.Close())
	}
	if n != nil {
		errs = append(errs, n.stop())
	}
	return errors.Join(errs...)
}

// closeBanks closes those that openBanks has opened.
func closeBanks(banks *[2]bank.Bank) error {
	var errs []error
	for _, k := range banks {
		if k != nil {
			errs = append(errs, k.Close())
		}
	}
	return errors.Join(errs...)
}

func (b *transferBench) describe() string {
	where := "the nodes of the file"
	if b.nodes != nil {
		where = "three nodes of its own"
	}
	decides := "coordinated by"
	if b.last != "" {
		decides = "decided by " + b.last + " and noted by"
	}
	return fmt.Sprintf("from %s (%s) to %s (%s), %s %s",
		b.banks[0].Name(), b.banks[0].Driver(), b.banks[1].Name(), b.banks[1].Driver(), decides, where)
}

// run makes all rounds. Who begins a round alternates, so that neither always gets
// what the other has left behind.
func (b *transferBench) run(ctx context.Context, say func(string, ...any)) error {
	for round := 0; round <= b.rounds; round++ {
		d := b.duration
		if round == 0 {
			d = b.warmUp()
		}
		ways := []way{{b.concord, b.viaConcord}, {b.baseline, b.viaBare}}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, w := range ways {
			l, err := b.lap(ctx, d, w.transfer, b.servers...)
			if err != nil {
				return err
			}
			if l.Done == 0 {
				return fmt.Errorf("no transfer succeeded in a round of %v: %w", d, l.Failure)
			}
			if w.Series == b.concord {
				b.decided += l.Done
			}
			if round > 0 {
				w.Series.Add(&l)
			}
		}
		if round > 0 {
			r := b.round(round - 1)
			say("round %d: concord %.0f/s, baseline %.0f/s, ratio %.3f", round, r.PerSecond, r.BaselinePerSecond,
				r.Ratio)
		}
	}
	return nil
}

type way struct {
	*meter.Series
	transfer func(context.Context, int) error
}

func (b *transferBench) round(i int) transferRound {
	r := transferRound{PerSecond: b.concord.Rates[i], BaselinePerSecond: b.baseline.Rates[i]}
	r.Ratio = r.PerSecond / r.BaselinePerSecond
	return r
}

func chooseTransfer() (from, to int, amount int64) {
	return rand.IntN(benchAccounts), rand.IntN(benchAccounts), int64(1 + rand.IntN(10))
}

func (b *transferBench) viaConcord(ctx context.Context, _ int) error {
	if b.last != "" {
		return move(ctx, b.client, &b.banks, concord.WithLastResource(b.last))
	}
	return move(ctx, b.client, &b.banks)
}

func (b *transferBench) viaBare(ctx context.Context, _ int) error {
	from, to, amount := chooseTransfer()
	return b.bare.transfer(ctx, from, to, amount)
}

// result waits until nothing is prepared any more and adds up. A run that fails the check
// has no result.
func (b *transferBench) result(ctx context.Context) (*transferResult, error) {
	left, err := b.settle(ctx)
	if err != nil {
		return nil, err
	}
	r := b.figures()
	r.LeftPrepared = left
	for _, k := range b.banks {
		sum, err := k.Sum(ctx)
		if err != nil {
			return nil, fmt.Errorf("bank %s: add up: %w", k.Name(), err)
		}
		r.Sum += sum
	}
	r.SumExpected = 2 * benchAccounts * bank.FirstBalance
	if err := r.verdict(); err != nil {
		return nil, err
	}
	if b.nodes != nil {
		if err := b.nodes.stop(); err != nil {
			return nil, err
		}
		cpu := b.nodes.cpu.Seconds() / float64(b.decided)
		r.NodesCPU = &cpu
	}
	return r, nil
}

func (r *transferResult) verdict() error {
	if r.Sum != r.SumExpected {
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: fmt.Sprintf("no result: the sum of all balances is %d instead of %d (errors: %d of concord, %d of "+
				"the baseline %s): something was committed by half",
				r.Sum, r.SumExpected, r.Errors, r.BaselineErrors, r.Failure)}
	}
	if r.LeftPrepared > 0 {
		return &terminal.ExitError{Code: terminal.ExitFailed,
			Text: fmt.Sprintf("no result: %s still prepared %v after the last transfer: see pg_prepared_xacts, XA "+
				"RECOVER and \"concord recover\"",
				terminal.Plural(r.LeftPrepared, "branch is", "branches are"), settleTimeout)}
	}
	return nil
}

// settle returns how many branches are prepared when the time is up, or 0 sooner.
func (b *transferBench) settle(ctx context.Context) (int, error) {
	deadline := time.After(settleTimeout)
	for {
		left := 0
		for _, k := range b.banks {
			n, err := b.bare.leftBehind(ctx, k, b.cluster)
			if err != nil {
				return 0, fmt.Errorf("bank %s: count what is prepared: %w", k.Name(), err)
			}
			left += n
		}
		if left == 0 {
			return 0, nil
		}
		select {
		case <-time.After(pollInterval):
		case <-deadline:
			return left, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (b *transferBench) figures() *transferResult {
	c, p := b.concord, b.baseline
	r := &transferResult{
		Workers: b.workers, Rounds: b.rounds, RoundSeconds: b.duration.Seconds(),
		First: b.banks[0].Name(), Second: b.banks[1].Name(), LastResource: b.last,
		PerSecond: c.Total.PerSecond(), BaselinePerSecond: p.Total.PerSecond(),
		P50: c.Millis(50), P99: c.Millis(99), P999: c.Millis(99.9),
		BaselineP50: p.Millis(50), BaselineP99: p.Millis(99), BaselineP999: p.Millis(99.9),
		ClientCPU: c.CPUPerOperation(), BaselineCPU: p.CPUPerOperation(),
		Committed: c.Total.Done, BaselineCommitted: p.Total.Done,
		Unknown: c.Total.Unknown, Errors: c.Total.Failed, BaselineErrors: p.Total.Failed + p.Total.Unknown,
	}
	if len(b.servers) > 0 {
		ours, theirs := c.ServersPerOperation(), p.ServersPerOperation()
		r.ServersCPU, r.BaselineServers = &ours, &theirs
	}
	if err := errors.Join(c.Total.Failure, p.Total.Failure); err != nil {
		r.Failure = err.Error()
	}
	var ratios []float64
	for i := range b.rounds {
		r.ByRound = append(r.ByRound, b.round(i))
		ratios = append(ratios, r.ByRound[i].Ratio)
	}
	r.RatioMedian, r.RatioMin, r.RatioMax = meter.Median(ratios), slices.Min(ratios), slices.Max(ratios)
	return r
}

func (c *cli) printTransfer(r *transferResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	err := terminal.PrintTable(c.out, []string{"", "PER SECOND", "P50 MS", "P99 MS", "P99.9 MS", "CPU CLIENT",
		"CPU NODES", "CPU SERVERS"}, [][]string{
		{"concord", fmt.Sprintf("%.0f", r.PerSecond), millis(r.P50), millis(r.P99), millis(r.P999),
			micros(r.ClientCPU), microsIf(r.NodesCPU), microsIf(r.ServersCPU)},
		{"baseline", fmt.Sprintf("%.0f", r.BaselinePerSecond), millis(r.BaselineP50), millis(r.BaselineP99),
			millis(r.BaselineP999),
			micros(r.BaselineCPU), "-", microsIf(r.BaselineServers)},
	})
	if err != nil {
		return err
	}
	var ratios []string
	for _, round := range r.ByRound {
		ratios = append(ratios, fmt.Sprintf("%.3f", round.Ratio))
	}
	fmt.Fprintf(c.out, "\nratio %.3f, median of %s\n", r.RatioMedian, strings.Join(ratios, " "))
	fmt.Fprintf(c.out, "%d transfers by concord, %d unknown, %s; %d by the baseline, %s\n", r.Committed, r.Unknown,
		terminal.Plural(int(r.Errors), "error", "errors"), r.BaselineCommitted,
		terminal.Plural(int(r.BaselineErrors), "error", "errors"))
	if r.Failure != "" {
		fmt.Fprintf(c.out, "one of the errors: %s\n", r.Failure)
	}
	fmt.Fprintf(c.out, "sum of all balances %d, as expected; nothing is left prepared\n", r.Sum)
	return nil
}

func millis(ms float64) string { return fmt.Sprintf("%.2f", ms) }

// micros prints seconds of CPU for one operation.
func micros(seconds float64) string { return fmt.Sprintf("%.0fµs", seconds*1e6) }

// microsIf is for what may not be known.
func microsIf(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return micros(*seconds)
}
