// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/txn"
)

// drivenWay is one way to make a transfer, with what was measured of it.
type drivenWay struct {
	*meter.Series
	name     string
	transfer func(context.Context, int) error
}

// drivenResult is the contract of "driven -o json". Ratios are medians of those by round.
type drivenResult struct {
	Workers      int              `json:"workers"`
	Rounds       int              `json:"rounds"`
	RoundSeconds float64          `json:"round_seconds"`
	Ways         []drivenWayShown `json:"ways"`
	Sum          int64            `json:"sum"`
	SumExpected  int64            `json:"sum_expected"`
}

type drivenWayShown struct {
	Name       string  `json:"name"`
	PerSecond  float64 `json:"per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	CPU        float64 `json:"nodes_and_agents_cpu_seconds_per_transfer"`
	RatioToSDK float64 `json:"ratio_to_sdk"`
	Unknown    int64   `json:"unknown"`
	Errors     int64   `json:"errors"`
	Failure    string  `json:"failure,omitempty"` // one of the errors
}

func (c *cli) drivenCommand() *cobra.Command {
	var l load
	var file string
	cmd := &cobra.Command{
		Use:   "driven --config FILE",
		Short: "Transfers that a node drives through agents, next to those of the SDK", Args: terminal.NoArgs,
		Long: "Moves money between the first two SQL databases under \"resources\" in FILE, as \"transfer\"\n" +
			"does, in " +
			"five ways that take turns: the plain loop without a log; the SDK with its own sessions; and\n" +
			"through a node and one agent for each database, over HTTP: in one request (Run), and with begin,\n" +
			"two statements and commit, in two_phase and in three_phase. The SDK has a cluster of its own, as\n" +
			"a database is either a node's or an agent's.\n\n" + omissionHelp,
		Example: "  concord-bench driven --config node1.yaml --workers 16 --duration 10s --rounds 5",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return terminal.Usagef("--config is missing: name a file with \"resources\", as in \"concord serve " +
					"--help\"")
			}
			if err := l.check(); err != nil {
				return err
			}
			r, err := c.benchDriven(cmd.Context(), file, l)
			if err != nil {
				return err
			}
			return c.printDriven(r)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "a file with \"resources\"; the first two are used")
	l.flags(cmd)
	return cmd
}

func (c *cli) benchDriven(ctx context.Context, file string, l load) (_ *drivenResult, err error) {
	dir, remove, err := workFolder(l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	b := &drivenBench{load: l}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, c.concord, file, dir); err != nil {
		return nil, err
	}
	if err := b.run(ctx, func(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }); err != nil {
		return nil, err
	}
	return b.result(ctx)
}

// drivenBench is one measurement.
type drivenBench struct {
	load
	banks         [2]bank.Bank
	bare          *bare
	direct        *nodes // of the SDK
	behind        *nodes // whose databases are behind agents
	agents        []*program.Process
	client        *concord.Client
	driver        concordv1connect.TransactionServiceClient
	ways          []drivenWay
	texts         [2]string // of the statements
	key           string    // begins those of this run
	http          *http.Transport
	resourceNames [2]string
}

func (b *drivenBench) open(ctx context.Context, program, file, dir string) error {
	_, chosen, err := twoDatabases(file)
	if err != nil {
		return err
	}
	if err := openBanks(ctx, &b.banks, chosen, b.workers); err != nil {
		return err
	}
	if b.bare, err = newBare(b.banks[0], b.banks[1]); err != nil {
		return err
	}
	folder := func(name string) (string, error) {
		path := filepath.Join(dir, name)
		return path, os.Mkdir(path, 0o700)
	}
	direct, err := folder("direct")
	if err != nil {
		return err
	}
	if b.direct, err = startNodes(ctx, program, direct, chosen); err != nil {
		return err
	}
	if b.client, err = concord.Dial(ctx, b.direct.addresses()); err != nil {
		return err
	}
	behind, err := folder("behind")
	if err != nil {
		return err
	}
	if err := b.openBehind(ctx, program, behind, chosen); err != nil {
		return err
	}
	b.key = "bench-" + txn.NewID(time.Now()).String()
	for _, w := range []drivenWay{
		{name: "bare", transfer: b.viaBare}, {name: "sdk", transfer: b.viaSDK}, {name: "run", transfer: b.viaRun},
		{name: "two_phase", transfer: b.viaSession("two_phase")},
		{name: "three_phase", transfer: b.viaSession("three_phase")},
	} {
		w.Series = meter.NewSeries(b.workers)
		b.ways = append(b.ways, w)
	}
	return nil
}

// openBehind starts an agent for each database, and nodes that reach the databases through them.
func (b *drivenBench) openBehind(ctx context.Context, program, dir string, chosen []config.Resource) (err error) {
	var resources []config.Resource
	for i, r := range chosen {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		resources = append(resources, config.Resource{Name: r.Name, Driver: "agent", Addr: l.Addr().String()})
		if err := l.Close(); err != nil {
			return err
		}
		b.resourceNames[i] = r.Name
		b.texts[i] = b.banks[i].(interface{ Update() string }).Update() // a plain loop was made of both
	}
	if b.behind, err = startNodes(ctx, program, dir, resources); err != nil {
		return err
	}
	for i, r := range chosen {
		a, err := startAgent(b.behind, resources[i], r)
		if err != nil {
			return err
		}
		b.agents = append(b.agents, a)
	}
	b.http = http.DefaultTransport.(*http.Transport).Clone()
	b.http.MaxIdleConnsPerHost = b.workers
	b.driver = concordv1connect.NewTransactionServiceClient(&http.Client{Transport: b.http},
		"http://"+b.behind.members[0].API)
	return b.awaitAgents(ctx)
}

// startAgent starts the agent of one database.
func startAgent(n *nodes, seen, hosted config.Resource) (*program.Process, error) {
	dsn, err := hosted.Secret()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{ // JSON is YAML
		"name": "agent-" + hosted.Name, "data_dir": filepath.Join(n.dir, hosted.Name), "listen": seen.Addr,
		"coordinators": n.addresses(), "resources": []map[string]any{{"name": hosted.Name, "driver": hosted.Driver,
			"dsn": dsn.Reveal(), "tls": hosted.TLS, "tls_ca": hosted.TLSCA}},
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(n.dir, hosted.Name)
	if err := os.WriteFile(file+".yaml", text, 0o600); err != nil {
		return nil, err
	}
	return startProcess(exec.Command(n.program, "agent", "--config", file+".yaml"), file+".log")
}

// awaitAgents returns when a transfer goes through.
func (b *drivenBench) awaitAgents(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := b.session(ctx, "two_phase", 0, 0, 1)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(10 * pollInterval):
		case <-ctx.Done():
			return fmt.Errorf("no transaction goes through the agents: %w; end of the first one's log:\n%s", err,
				logTail(filepath.Join(b.behind.dir, b.resourceNames[0]+".log")))
		}
	}
}

func (b *drivenBench) viaBare(ctx context.Context, _ int) error {
	from, to, amount := chooseTransfer()
	return b.bare.transfer(ctx, from, to, amount)
}

func (b *drivenBench) viaSDK(ctx context.Context, _ int) error { return move(ctx, b.client, &b.banks) }

func (b *drivenBench) viaRun(ctx context.Context, _ int) error {
	from, to, amount := chooseTransfer()
	r := &concordv1.TransactionServiceRunRequest{Key: b.key + txn.NewID(time.Now()).String()}
	for i, change := range b.changes(from, to, amount) {
		one := int64(1)
		r.Statements = append(r.Statements, &concordv1.RunStatement{Resource: b.resourceNames[i],
			Statement: b.texts[i], Arguments: change, RowsExpected: &one})
	}
	res, err := b.driver.Run(ctx, r)
	if err != nil {
		return err
	}
	return outcomeError(res.GetOutcome(), res.GetReason())
}

func (b *drivenBench) viaSession(protocol string) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		from, to, amount := chooseTransfer()
		return b.session(ctx, protocol, from, to, amount)
	}
}

// session makes a transfer in four requests.
func (b *drivenBench) session(ctx context.Context, protocol string, from, to int, amount int64) error {
	s, err := b.driver.Begin(ctx, &concordv1.TransactionServiceBeginRequest{Protocol: protocol})
	if err != nil {
		return err
	}
	for i, change := range b.changes(from, to, amount) {
		res, err := b.driver.Execute(ctx, &concordv1.TransactionServiceExecuteRequest{Session: s.GetSession(),
			Number: uint64(i + 1), Resource: b.resourceNames[i], Statement: b.texts[i], Arguments: change})
		if err == nil && res.GetError() != "" {
			err = errors.New(res.GetError())
		}
		if err == nil && res.GetAffected() != 1 {
			err = fmt.Errorf("%d accounts were changed instead of one", res.GetAffected())
		}
		if err != nil {
			_, rerr := b.driver.Rollback(ctx, &concordv1.TransactionServiceRollbackRequest{Session: s.GetSession()})
			return errors.Join(err, rerr)
		}
	}
	res, err := b.driver.Commit(ctx, &concordv1.TransactionServiceCommitRequest{Session: s.GetSession(), Number: 3})
	if err != nil {
		return fmt.Errorf("%w: %w", meter.ErrUnknown, err)
	}
	return outcomeError(res.GetOutcome(), res.GetReason())
}

// changes are the arguments of both statements.
func (b *drivenBench) changes(from, to int, amount int64) [2][]*concordv1.Value {
	number := func(n int64) *concordv1.Value { return &concordv1.Value{Kind: &concordv1.Value_Int{Int: n}} }
	return [2][]*concordv1.Value{{number(-amount), number(int64(from))}, {number(amount), number(int64(to))}}
}

func outcomeError(outcome, reason string) error {
	switch outcome {
	case txn.Committed.String():
		return nil
	case txn.Unknown.String():
		return fmt.Errorf("%w: %s", meter.ErrUnknown, reason)
	}
	return fmt.Errorf("%s: %s", outcome, reason)
}

// run makes all rounds. Who begins a round changes.
func (b *drivenBench) run(ctx context.Context, say func(string, ...any)) error {
	for round := 0; round <= b.rounds; round++ {
		d := b.duration
		if round == 0 {
			d = b.warmUp()
		}
		first := round % len(b.ways)
		for _, w := range slices.Concat(b.ways[first:], b.ways[:first]) {
			l, err := b.lap(ctx, d, w.transfer, b.pids()...)
			if err != nil {
				return err
			}
			if l.Done == 0 {
				return fmt.Errorf("no transfer succeeded in a round of %v: %w", d,
					fmt.Errorf("%s: %w", w.name, l.Failure))
			}
			if round > 0 {
				w.Add(&l)
				say("round %d: %s %.0f/s", round, w.name, l.PerSecond())
			}
		}
	}
	return nil
}

// pids are the processes of nodes and agents.
func (b *drivenBench) pids() []int {
	pids := append(b.direct.pids(), b.behind.pids()...)
	for _, a := range b.agents {
		pids = append(pids, a.Pid())
	}
	return pids
}

// result adds up: a run in which money was made or lost has no result.
func (b *drivenBench) result(ctx context.Context) (*drivenResult, error) {
	r := &drivenResult{Workers: b.workers, Rounds: b.rounds, RoundSeconds: b.duration.Seconds(),
		SumExpected: 2 * benchAccounts * bank.FirstBalance}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for { // what is decided may not be finished yet
		r.Sum = 0
		for _, k := range b.banks {
			sum, err := k.Sum(ctx)
			if err != nil {
				return nil, fmt.Errorf("bank %s: add up: %w", k.Name(), err)
			}
			r.Sum += sum
		}
		if r.Sum == r.SumExpected {
			break
		}
		select {
		case <-time.After(10 * pollInterval):
		case <-ctx.Done():
			return nil, &terminal.ExitError{Code: terminal.ExitFailed,
				Text: fmt.Sprintf("no result: the sum of all balances is %d instead of %d: something was committed "+
					"by half", r.Sum, r.SumExpected)}
		}
	}
	sdk := b.ways[1].Rates
	for _, w := range b.ways {
		shown := drivenWayShown{CPU: w.ServersPerOperation(),
			Name: w.name, PerSecond: meter.Median(w.Rates), P50: w.Millis(50), P99: w.Millis(99),
			Unknown: w.Total.Unknown, Errors: w.Total.Failed}
		var ratios []float64
		for i, rate := range w.Rates {
			ratios = append(ratios, rate/sdk[i])
		}
		shown.RatioToSDK = meter.Median(ratios)
		if w.Total.Failure != nil {
			shown.Failure = w.Total.Failure.Error()
		}
		r.Ways = append(r.Ways, shown)
	}
	return r, nil
}

func (b *drivenBench) close() error {
	if b.http != nil {
		b.http.CloseIdleConnections()
	}
	errs := []error{closeCluster(b.client, b.direct)}
	for _, a := range b.agents {
		errs = append(errs, endProcess(a, syscall.SIGTERM))
	}
	return errors.Join(append(errs, closeCluster(nil, b.behind), closeBanks(&b.banks))...)
}

func (c *cli) printDriven(r *drivenResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	var rows [][]string
	for _, w := range r.Ways {
		rows = append(rows, []string{w.Name, fmt.Sprintf("%.0f", w.PerSecond), millis(w.P50), millis(w.P99),
			micros(w.CPU), fmt.Sprintf("%.3f", w.RatioToSDK), fmt.Sprint(w.Unknown), fmt.Sprint(w.Errors)})
	}
	if err := terminal.PrintTable(c.out, []string{"", "PER SECOND", "P50 MS", "P99 MS", "CPU NODES, AGENTS",
		"OF SDK", "UNKNOWN", "ERRORS"},
		rows); err != nil {
		return err
	}
	for _, w := range r.Ways {
		if w.Failure != "" {
			fmt.Fprintf(c.out, "\none of the errors of %s: %s\n", w.Name, w.Failure)
		}
	}
	_, err := fmt.Fprintf(c.out, "\nsum of all balances %d, as expected\n", r.Sum)
	return err
}
