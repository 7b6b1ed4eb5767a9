// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/bench/meter"
	"github.com/concordtx/concord/cmd/internal/bank"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// built is the concord that nodes run, which TestMain builds.
var built string

func TestMain(m *testing.M) {
	if order := os.Getenv(doomedEnv); order != "" {
		if err := runDoomed(context.Background(), order, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "concord-bench-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	built = filepath.Join(dir, "concord")
	if out, err := exec.Command("go", "build", "-o", built, "../concord").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build concord: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// command runs one command line in this process, with the nodes of built unless it names others.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	root := newRoot(&out, &errs)
	if !slices.Contains(args, "--concord") {
		args = append(args, "--concord", built)
	}
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	t.Logf("concord-bench %s\n%s%s", strings.Join(args, " "), errs.String(), out.String())
	return out.String(), err
}

// fields decodes one JSON object and returns it with its keys.
func fields(t *testing.T, text string, into any) []string {
	t.Helper()
	var all map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &all))
	require.NoError(t, json.Unmarshal([]byte(text), into))
	var keys []string
	for key := range all {
		keys = append(keys, key)
	}
	return keys
}

func TestDecisionsMeasuresThreeProcesses(t *testing.T) {
	dir := t.TempDir()
	out, err := command(t, "decisions", "--workers", "4", "--duration", "1s", "--rounds", "1", "--size", "256", "--dir",
		dir, "-o", "json")
	require.NoError(t, err)
	var r decisionsResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "size", "rounds", "per_second", "p50_ms", "p99_ms", "p999_ms",
		"longest_gaps_ms", "errors"})
	require.Len(t, r.Gaps, meter.MaxGaps)
	require.True(t, slices.IsSortedFunc(r.Gaps, func(a, b float64) int { return cmp.Compare(b, a) }), "%v", r.Gaps)
	require.Positive(t, r.Gaps[0])
	require.Equal(t, []int{4, 256}, []int{r.Workers, r.Size})
	require.Len(t, r.ByRound, 1)
	require.Positive(t, r.Decided)
	require.Zero(t, r.Errors, r.Failure)
	require.Positive(t, r.P50)
	require.LessOrEqual(t, r.P50, r.P99)
	require.LessOrEqual(t, r.P99, r.P999)
	require.NotNil(t, r.NodesCPU)
	require.Positive(t, *r.NodesCPU)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "the nodes' folder is still there")
}

func TestFailoverKillsTheLeaderAndLosesNothing(t *testing.T) {
	out, err := command(t, "failover", "--kills", "2", "--workers", "2", "--dir", t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r failoverResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"kills", "min_ms", "median_ms", "p90_ms", "worst_ms", "by_kill_ms", "commits",
		"errors", "verified"})
	require.Equal(t, 2, r.Kills)
	require.Len(t, r.ByKill, 2)
	require.Equal(t, slices.Min(r.ByKill), r.Min)
	require.Equal(t, slices.Max(r.ByKill), r.Worst)
	require.Positive(t, r.Min)
	require.Equal(t, 4, r.Verified, "the last commits of both workers before both kills")
}

func TestHistoryComparesTheBeginningWithTheEnd(t *testing.T) {
	out, err := command(t, "history", "--transactions", "3000", "--sample", "500", "--workers", "8", "--dir",
		t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r historyResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "sample", "points", "cpu_ratio", "memory_ratio",
		"bytes_per_transaction", "empty_start_seconds", "start_seconds"})
	require.Len(t, r.Points, 2)
	require.EqualValues(t, []int64{1500, 3000}, []int64{r.Points[0].Finished, r.Points[1].Finished})
	require.Positive(t, r.Points[1].Memory)
	require.Greater(t, r.Points[1].Disk, r.Points[0].Disk)
	require.InDelta(t, float64(r.Points[1].Disk-r.Points[0].Disk)/1500, r.BytesPerTransaction, 1e-9)
	require.Positive(t, r.StartSeconds)
}

// databases starts a PostgreSQL and a MariaDB server and writes a file that names them.
func databases(t *testing.T) (pg *testdb.Server, file string) {
	pg, maria := testdb.Postgres(t), testdb.MariaDB(t)
	require.NoError(t, maria.Exec(t.Context(), "", "CREATE DATABASE bank"))
	file = filepath.Join(t.TempDir(), "databases.yaml")
	text := fmt.Sprintf("resources:\n  - {name: orders, driver: postgres, dsn: %q}\n  - {name: billing, driver: "+
		"mysql, dsn: %q}\n",
		pg.DSN("postgres"), maria.DSN("bank"))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return pg, file
}

func TestTransferComparesWithThePlainLoopAndChecksTheSum(t *testing.T) {
	pg, file := databases(t)
	out, err := command(t, "transfer", "--config", file, "--workers", "4", "--duration", "500ms", "--rounds", "2",
		"--dir", t.TempDir(),
		"--servers", fmt.Sprint(os.Getpid()), "-o", "json")
	require.NoError(t, err)
	var r transferResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "rounds", "per_second", "baseline_per_second", "ratio_median",
		"ratio_min", "ratio_max",
		"p50_ms", "p99_ms", "baseline_p50_ms", "baseline_p99_ms", "unknown", "errors"})
	require.Equal(t, []any{4, 2, "orders", "billing"}, []any{r.Workers, r.Rounds, r.First, r.Second})
	require.Positive(t, r.Committed)
	require.Positive(t, r.BaselineCommitted)
	require.Zero(t, r.Unknown)
	require.Zero(t, r.Errors+r.BaselineErrors, r.Failure)
	require.Len(t, r.ByRound, 2)
	require.InDelta(t, (r.ByRound[0].Ratio+r.ByRound[1].Ratio)/2, r.RatioMedian, 1e-9)
	require.LessOrEqual(t, r.RatioMin, r.RatioMax)
	require.Equal(t, int64(2*benchAccounts*bank.FirstBalance), r.Sum)
	require.Zero(t, r.LeftPrepared)
	require.NotNil(t, r.ServersCPU, "this process and the servers below it were asked for")
	require.Positive(t, *r.ServersCPU)
	require.Positive(t, *r.BaselineServers)

	// What the command says of itself is true: both ways have moved money.
	conn, err := pgx.Connect(t.Context(), pg.DSN("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var moved, prepared int64
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM concord_bench_account WHERE balance <> $1",
		bank.FirstBalance).Scan(&moved))
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_xacts").Scan(&prepared))
	require.Greater(t, moved, int64(0))
	require.Zero(t, prepared)
}

func TestUsesAClusterThatRuns(t *testing.T) {
	_, file := databases(t)
	resources, err := config.LoadResources(file)
	require.NoError(t, err)
	n, err := startNodes(t.Context(), built, t.TempDir(), resources)
	require.NoError(t, err)
	defer func() { require.NoError(t, n.stop()) }()
	d, err := newDecider(t.Context(), n.addresses())
	require.NoError(t, err)
	defer d.close()
	committed := func() uint64 {
		s, err := n.await(t.Context())
		require.NoError(t, err)
		return s.GetCommitted()
	}

	out, err := command(t, "transfer", "--config", n.file(1, "yaml"), "--workers", "2", "--duration", "300ms",
		"--rounds", "1", "-o", "json")
	require.NoError(t, err)
	var moved transferResult
	fields(t, out, &moved)
	require.Nil(t, moved.NodesCPU, "the nodes are not the command's own")
	require.Eventually(t, func() bool { return committed() >= uint64(moved.Committed) }, 10*time.Second,
		50*time.Millisecond)

	before := committed()
	out, err = command(t, "decisions", "--addr", strings.Join(n.addresses(), ","), "--workers", "2", "--duration",
		"300ms", "--rounds", "1", "-o", "json")
	require.NoError(t, err)
	var decided decisionsResult
	fields(t, out, &decided)
	require.Nil(t, decided.NodesCPU)
	require.Eventually(t, func() bool { return committed() >= before+uint64(decided.Decided) }, 10*time.Second,
		50*time.Millisecond)

	// The bytes of --size reach the log.
	id, label := txn.NewID(time.Now()), incompressible(256)
	require.Len(t, label, 256)
	_, err = d.commit(t.Context(), id, label)
	require.NoError(t, err)
	kept, err := d.client.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
	require.NoError(t, err)
	require.Equal(t, label, kept.GetTransaction().GetLabel())
}

// A transfer of the plain loop that fails half way leaves nothing, and what a broken
// one leaves is found.
func TestThePlainLoopRollsBackAndItsLeftoversAreCounted(t *testing.T) {
	_, file := databases(t)
	resources, err := config.LoadResources(file)
	require.NoError(t, err)
	b := &transferBench{}
	defer func() { require.NoError(t, b.close()) }()
	for i, r := range resources {
		b.banks[i], err = bank.OpenSQL(t.Context(), r,
			bank.Ledger{Table: "concord_bench_account", Accounts: 10, Conns: 4})
		require.NoError(t, err)
		require.NoError(t, b.banks[i].Fill(t.Context()))
	}
	plain, err := newBare(b.banks[0], b.banks[1])
	require.NoError(t, err)
	left := func() (n int) {
		for _, k := range b.banks {
			one, err := plain.leftBehind(t.Context(), k, 1)
			require.NoError(t, err)
			n += one
		}
		return n
	}
	sums := func() (out []int64) {
		for _, k := range b.banks {
			sum, err := k.Sum(t.Context())
			require.NoError(t, err)
			out = append(out, sum)
		}
		return out
	}

	require.NoError(t, plain.transfer(t.Context(), 1, 2, 7))
	require.Equal(t, []int64{9993, 10007}, sums())
	for range 20 { // more often than there are connections
		require.ErrorContains(t, plain.transfer(t.Context(), 1, 99, 7), "account 99 of billing is not there")
		require.ErrorContains(t, plain.transfer(t.Context(), 99, 1, 7), "account 99 of orders is not there")
	}
	require.Equal(t, []int64{9993, 10007}, sums())
	require.Zero(t, left())

	for i, leg := range plain.legs {
		branch, err := leg.work(t.Context(), plain.run+"-forgotten", 1, 1)
		require.NoError(t, err)
		require.NoError(t, branch.prepare(t.Context()))
		require.Equal(t, 1, left(), "leg %d", i)
		require.NoError(t, branch.rollback(t.Context()))
		require.Zero(t, left())
	}
	require.Equal(t, []int64{9993, 10007}, sums())
}

func TestARunThatFailsTheCheckHasNoResult(t *testing.T) {
	right := transferResult{Sum: 5, SumExpected: 5}
	require.NoError(t, right.verdict())
	for says, wrong := range map[string]transferResult{
		"the sum of all balances is 4 instead of 5": {Sum: 4, SumExpected: 5},
		"2 branches are still prepared":             {Sum: 5, SumExpected: 5, LeftPrepared: 2},
	} {
		err := wrong.verdict()
		require.ErrorContains(t, err, says)
		require.Equal(t, terminal.ExitFailed, terminal.ExitCode(err))
	}
}

func TestQuantilesOfFewValues(t *testing.T) {
	var ten []time.Duration
	for i := range 10 {
		ten = append(ten, time.Duration(i+1)*time.Millisecond)
	}
	require.InDelta(t, 9.0, atLeast(ten, .9), 0)
	require.InDelta(t, 10.0, atLeast(ten, 1), 0)
	require.InDelta(t, 1.0, atLeast(ten[:1], .9), 0)
	require.Equal(t, uint64(3), epochOf("3.17"))
	require.Zero(t, epochOf("nothing"))
	require.Equal(t, uint64(math.MaxUint32), epochOf("4294967295.1"))
}

// The nodes run the program that is named, or else the one beside this program, or else the one in PATH.
func TestTheProgramOfTheNodesIsFound(t *testing.T) {
	elsewhere := t.TempDir()
	t.Setenv("PATH", elsewhere)
	_, err := findConcord("")
	require.ErrorContains(t, err, "there is no program concord")

	inPath := filepath.Join(elsewhere, "concord")
	require.NoError(t, os.Link(built, inPath))
	found, err := findConcord("")
	require.NoError(t, err)
	require.Equal(t, inPath, found)

	own, err := os.Executable()
	require.NoError(t, err)
	beside := filepath.Join(filepath.Dir(own), "concord")
	require.NoError(t, os.WriteFile(beside, []byte("#!/bin/sh\n"), 0o700))
	defer func() { require.NoError(t, os.Remove(beside)) }()
	found, err = findConcord("")
	require.NoError(t, err)
	require.Equal(t, beside, found)

	found, err = findConcord(built)
	require.NoError(t, err)
	require.Equal(t, built, found)
}

func TestDoorsComparesCertificatesWithNone(t *testing.T) {
	_, file := databases(t)
	out, err := command(t, "doors", "--config", file, "--workers", "4", "--duration", "500ms", "--rounds", "2",
		"--clients", "20", "--idle", "200ms", "--dir", t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r doorsResult
	fields(t, out, &r)
	require.Zero(t, r.Errors, r.Failure)
	require.Len(t, r.Ratios, 2)
	require.InDelta(t, (r.Ratios[0]+r.Ratios[1])/2, r.RatioMedian, 1e-9)
	require.Positive(t, r.PerSecond)
	require.Positive(t, r.PlainPerSecond)
	require.Equal(t, 20, r.IdleClients)
	require.NotEmpty(t, r.LoadOfTheMachine)
}

func TestDrivenComparesEveryWay(t *testing.T) {
	_, file := databases(t)
	out, err := command(t, "driven", "--config", file, "--workers", "4", "--duration", "300ms", "--rounds", "1",
		"--dir", t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r drivenResult
	fields(t, out, &r)
	require.Equal(t, r.SumExpected, r.Sum)
	require.Len(t, r.Ways, 5)
	for _, w := range r.Ways {
		require.Positive(t, w.PerSecond, w.Name)
		require.Zero(t, w.Errors+w.Unknown, "%s: %s", w.Name, w.Failure)
	}
	require.InDelta(t, 1, r.Ways[1].RatioToSDK, 1e-9)
}
