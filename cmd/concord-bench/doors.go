// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
)

// benchClients have certificates: a node lets one of them have 256 connections.
var benchClients = []string{"bench-1", "bench-2", "bench-3", "bench-4"}

// doorsResult is the contract of "doors -o json". Ratios are transfers per second with certificates to those without,
// by round.
type doorsResult struct {
	Workers          int       `json:"workers"`
	Rounds           int       `json:"rounds"`
	RoundSeconds     float64   `json:"round_seconds"`
	PerSecond        float64   `json:"per_second"`
	PlainPerSecond   float64   `json:"plain_per_second"`
	RatioMedian      float64   `json:"ratio_median"`
	Ratios           []float64 `json:"ratios"`
	P50              float64   `json:"p50_ms"`
	P99              float64   `json:"p99_ms"`
	PlainP50         float64   `json:"plain_p50_ms"`
	PlainP99         float64   `json:"plain_p99_ms"`
	CPU              float64   `json:"cpu_seconds_per_transfer"` // of the nodes and of this process
	PlainCPU         float64   `json:"plain_cpu_seconds_per_transfer"`
	Errors           int64     `json:"errors"`
	Failure          string    `json:"failure,omitempty"` // one of the errors
	IdleClients      int       `json:"idle_clients"`
	IdleSeconds      float64   `json:"idle_seconds"`
	CoreWithout      float64   `json:"core_percent_without"` // of the node that they are connected to
	CoreWith         float64   `json:"core_percent_with"`
	MemoryMiB        float64   `json:"memory_mib"` // what it grew by
	LoadOfTheMachine string    `json:"load_average"`
}

func (c *cli) doorsCommand() *cobra.Command {
	var l load
	var file string
	var idle int
	var idleFor time.Duration
	cmd := &cobra.Command{
		Use: "doors --config FILE", Short: "What certificates and idle clients cost", Args: terminal.NoArgs,
		Long: "Moves money between the first two SQL databases under \"resources\" in FILE, as \"transfer\" does. " +
			"Two\nclusters of three nodes are started for it, one in which all connections have TLS and the client\n" +
			"has a certificate, and one without; rounds of both take turns. CPU is what the\n" +
			"nodes and this process use for a transfer, which says more than rates where others use the\n" +
			"machine as well.\n\n" +
			"Then --clients connections show a certificate to one node, make one call each, and stay. CPU and\n" +
			"memory of that node are those of --idle without them and with them.",
		Example: "  concord-bench doors --config node1.yaml --workers 16 --duration 10s --rounds 5",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return terminal.Usagef("--config is missing: name a file with \"resources\", as in \"concord serve " +
					"--help\"")
			}
			if err := l.check(); err != nil {
				return err
			}
			if most := 250 * len(benchClients); idle < 0 || idle > most {
				return terminal.Usagef("--clients: %d is not between 0 and %d", idle, most)
			}
			r, err := c.benchDoors(cmd.Context(), file, l, idle, idleFor)
			if err != nil {
				return err
			}
			return c.printDoors(r)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "a file with \"resources\"; the first two are used")
	cmd.Flags().IntVar(&idle, "clients", 1000, "how many connections are idle")
	cmd.Flags().DurationVar(&idleFor, "idle", 20*time.Second, "for how long each measurement of the idle node lasts")
	l.flags(cmd)
	return cmd
}

func (c *cli) benchDoors(ctx context.Context, file string, l load, idle int, idleFor time.Duration) (_ *doorsResult,
	err error) {
	dir, remove, err := workFolder(l.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	b := &doorsBench{load: l}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, c.concord, file, dir); err != nil {
		return nil, err
	}
	if err := b.run(ctx, func(format string, args ...any) { fmt.Fprintf(c.err, format+"\n", args...) }); err != nil {
		return nil, err
	}
	r := b.result()
	if idle > 0 {
		if err := b.idle(ctx, idle, idleFor, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// side is a cluster with its client, and what was measured with it.
type side struct {
	*meter.Series
	nodes  *nodes
	client *concord.Client
}

// doorsBench is one measurement.
type doorsBench struct {
	load
	certs          security.Dir
	banks          [2]bank.Bank
	plain, secured side
}

func (b *doorsBench) open(ctx context.Context, program, file, dir string) error {
	_, chosen, err := twoDatabases(file)
	if err != nil {
		return err
	}
	if err := openBanks(ctx, &b.banks, chosen, b.workers); err != nil {
		return err
	}
	b.certs = security.Dir(filepath.Join(dir, "certs"))
	if err := makeCertificates(b.certs, filepath.Join(dir, "ca.key")); err != nil {
		return err
	}
	for _, s := range []struct {
		side  *side
		name  string
		certs security.Dir
	}{{&b.plain, "plain", ""}, {&b.secured, "secured", b.certs}} {
		folder := filepath.Join(dir, s.name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		s.side.Series = meter.NewSeries(b.workers)
		if s.side.nodes, err = startNodesBehind(ctx, s.certs, program, folder, chosen); err != nil {
			return err
		}
		who, err := s.side.nodes.credentials()
		if err != nil {
			return err
		}
		s.side.client, err = concord.Dial(ctx, s.side.nodes.addresses(), concord.WithCredentials(who))
		if err != nil {
			return err
		}
	}
	return nil
}

// makeCertificates makes those of three nodes and of the clients.
func makeCertificates(dir security.Dir, keyFile string) error {
	a, err := security.NewAuthority(dir, keyFile, "bench", security.AuthorityLifetime, false)
	for id := zab.NodeID(1); id <= 3 && err == nil; id++ {
		_, err = a.Issue(dir, security.Node, strconv.FormatUint(uint64(id), 10), []string{"127.0.0.1"},
			security.CertificateLifetime, false)
	}
	for _, name := range benchClients {
		if err == nil {
			_, err = a.Issue(dir, security.Client, name, nil, security.CertificateLifetime, false)
		}
	}
	return err
}

func (b *doorsBench) close() error {
	return errors.Join(closeCluster(b.plain.client, b.plain.nodes), closeCluster(b.secured.client, b.secured.nodes),
		closeBanks(&b.banks))
}

// run makes all rounds. Who begins a round alternates.
func (b *doorsBench) run(ctx context.Context, say func(string, ...any)) error {
	for round := 0; round <= b.rounds; round++ {
		d := b.duration
		if round == 0 {
			d = b.warmUp()
		}
		sides := []*side{&b.secured, &b.plain}
		if round%2 == 1 {
			slices.Reverse(sides)
		}
		for _, s := range sides {
			l, err := b.lap(ctx, d, func(ctx context.Context, _ int) error {
				return move(ctx, s.client, &b.banks)
			}, s.nodes.pids()...)
			if err != nil {
				return err
			}
			if l.Done == 0 {
				return fmt.Errorf("no transfer succeeded in a round of %v: %w", d, l.Failure)
			}
			if round > 0 {
				s.Add(&l)
			}
		}
		if round > 0 {
			x, y := b.secured.Rates[round-1], b.plain.Rates[round-1]
			say("round %d: with certificates %.0f/s, without %.0f/s, ratio %.3f", round, x, y, x/y)
		}
	}
	return nil
}

func (b *doorsBench) result() *doorsResult {
	s, p := b.secured, b.plain
	r := &doorsResult{Workers: b.workers, Rounds: b.rounds, RoundSeconds: b.duration.Seconds(),
		PerSecond: s.Total.PerSecond(), PlainPerSecond: p.Total.PerSecond(), P50: s.Millis(50), P99: s.Millis(99),
		PlainP50: p.Millis(50), PlainP99: p.Millis(99),
		CPU: s.cpuPerTransfer(), PlainCPU: p.cpuPerTransfer(),
		Errors: s.Total.Failed + s.Total.Unknown + p.Total.Failed + p.Total.Unknown}
	if err := errors.Join(s.Total.Failure, p.Total.Failure); err != nil {
		r.Failure = err.Error()
	}
	for i := range b.rounds {
		r.Ratios = append(r.Ratios, s.Rates[i]/p.Rates[i])
	}
	r.RatioMedian = meter.Median(r.Ratios)
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.LoadOfTheMachine = strings.TrimSpace(string(text))
	}
	return r
}

// cpuPerTransfer says more than a rate where others use the machine as well.
func (s *side) cpuPerTransfer() float64 {
	return s.CPUPerOperation() + s.ServersPerOperation()
}

// idle measures the node with the lowest id, without and with clients that do nothing.
func (b *doorsBench) idle(ctx context.Context, clients int, d time.Duration, r *doorsResult) error {
	n := b.secured.nodes
	n.mu.Lock()
	pid := n.running[n.members[0].ID].Pid()
	n.mu.Unlock()
	used := func() (float64, error) {
		before, err := treeCPU(pid)
		if err != nil {
			return 0, err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		after, err := treeCPU(pid)
		return 100 * (after - before).Seconds() / d.Seconds(), err
	}
	without, err := used()
	if err != nil {
		return err
	}
	before, err := residentMemory(pid)
	if err != nil {
		return err
	}
	for i := range clients {
		hangUp, err := b.stay(ctx, benchClients[i%len(benchClients)], n.members[0].API)
		if err != nil {
			return fmt.Errorf("connect idle client %d: %w", i+1, err)
		}
		defer hangUp()
	}
	with, err := used()
	if err != nil {
		return err
	}
	after, err := residentMemory(pid)
	r.IdleClients, r.IdleSeconds, r.CoreWithout, r.CoreWith = clients, d.Seconds(), without, with
	r.MemoryMiB = float64(after-before) / (1 << 20)
	return err
}

// stay makes one call on a connection of its own, and leaves that open.
func (b *doorsBench) stay(ctx context.Context, client, addr string) (hangUp func(), err error) {
	file := filepath.Join(string(b.certs), "client."+client)
	pair, err := tls.LoadX509KeyPair(file+".crt", file+".key")
	if err != nil {
		return nil, err
	}
	keys, err := security.Load(security.Files{CA: []string{filepath.Join(string(b.certs), "ca.crt")}}, nil)
	if err != nil {
		return nil, err
	}
	conf := keys.NodeClient("127.0.0.1")
	conf.Certificates = []tls.Certificate{pair}
	t := &http.Transport{TLSClientConfig: conf, MaxIdleConns: 1}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		"https://"+addr+"/concord.v1.CoordinatorService/Resources", strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := t.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	err = errors.Join(err, res.Body.Close())
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the node answered %s", res.Status)
	}
	return t.CloseIdleConnections, err
}

func (c *cli) printDoors(r *doorsResult) error {
	if c.output == "json" {
		return terminal.PrintJSON(c.out, r)
	}
	err := terminal.PrintTable(c.out, []string{"", "PER SECOND", "P50 MS", "P99 MS", "CPU"}, [][]string{
		{"with certificates", fmt.Sprintf("%.0f", r.PerSecond), millis(r.P50), millis(r.P99),
			micros(r.CPU)},
		{"without", fmt.Sprintf("%.0f", r.PlainPerSecond), millis(r.PlainP50), millis(r.PlainP99),
			micros(r.PlainCPU)},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.out, "\nratio %.3f, median of %.3f; of CPU per transfer %.3f; %s\n", r.RatioMedian, r.Ratios,
		r.PlainCPU/r.CPU,
		terminal.Plural(int(r.Errors), "error", "errors"))
	if r.Failure != "" {
		fmt.Fprintf(c.out, "one of the errors: %s\n", r.Failure)
	}
	if r.IdleClients > 0 {
		fmt.Fprintf(c.out, "a node with %d idle clients: %.2f %% of a core, without them %.2f %%; %.0f MiB more\n",
			r.IdleClients, r.CoreWith, r.CoreWithout, r.MemoryMiB)
	}
	fmt.Fprintf(c.out, "load of the machine: %s\n", r.LoadOfTheMachine)
	return nil
}
