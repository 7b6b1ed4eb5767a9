// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/testdb"
)

// asConcord in the environment makes this test program the program under test: nodes
// are processes of the program that measures them.
const asConcord = "TEST_PROGRAM_IS_CONCORD"

func TestMain(m *testing.M) {
	if os.Getenv(asConcord) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command runs one command line in this process.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	t.Setenv(asConcord, "yes")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	root := newRoot(strings.NewReader(""), &out, &errs)
	root.SetArgs(args)
	err = root.ExecuteContext(ctx)
	t.Logf("concord %s\n%s%s", strings.Join(args, " "), errs.String(), out.String())
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

func TestBenchRefusesFlagsThatMakeNoSense(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "one.yaml")
	require.NoError(t, os.WriteFile(empty, []byte("resources:\n  - {name: a, driver: postgres, dsn: x}\n"), 0o600))
	for _, c := range []struct{ args, says string }{
		{"transfer", "--config is missing"},
		{"transfer --config " + empty, "\"resources\" has 1 SQL database: money moves between two"},
		{"transfer --config " + empty + ".not", "no such file"},
		{"transfer --config x --workers 0", "--workers: 0 is not between 1 and 4096"},
		{"transfer --config x --rounds 0", "--rounds: 0 is less than 1"},
		{"transfer --config x --duration 0s", "--duration: 0s is not a positive duration"},
		{"transfer --config x surplus", "unexpected argument \"surplus\""},
		{"decisions --workers 5000", "--workers: 5000 is not between 1 and 4096"},
		{"decisions --size -1", "--size: -1 is not between 0 and 1024"},
		{"decisions --size 1025", "--size: 1025 is not between 0 and 1024"},
		{"decisions --duration -1s", "--duration: -1s is not a positive duration"},
		{"failover --kills 0", "--kills: 0 is less than 1"},
		{"failover --workers 0", "--workers: 0 is not between 1 and 4096"},
		{"failover --kills x", "invalid argument"},
		{"history --transactions 1000", "--transactions: 1000 is less than 1000 and the sample together"},
		{"history --sample 0", "--sample: 0 is less than 1"},
		{"history --workers 0", "--workers: 0 is not between 1 and 4096"},
	} {
		_, err := command(t, append([]string{"bench"}, strings.Fields(c.args)...)...)
		require.ErrorContains(t, err, c.says, c.args)
		require.Equal(t, exitUsage, exitCode(err), c.args)
	}
}

func TestBenchDecisionsMeasuresThreeProcesses(t *testing.T) {
	dir := t.TempDir()
	out, err := command(t, "bench", "decisions", "--workers", "4", "--duration", "1s", "--rounds", "1", "--size", "256", "--dir", dir, "-o", "json")
	require.NoError(t, err)
	var r decisionsResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "size", "rounds", "per_second", "p50_ms", "p99_ms", "p999_ms", "longest_gaps_ms", "errors"})
	require.Len(t, r.Gaps, maxGaps)
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

func TestBenchFailoverKillsTheLeaderAndLosesNothing(t *testing.T) {
	out, err := command(t, "bench", "failover", "--kills", "2", "--workers", "2", "--dir", t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r failoverResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"kills", "min_ms", "median_ms", "p90_ms", "worst_ms", "by_kill_ms", "commits", "errors", "verified"})
	require.Equal(t, 2, r.Kills)
	require.Len(t, r.ByKill, 2)
	require.Equal(t, slices.Min(r.ByKill), r.Min)
	require.Equal(t, slices.Max(r.ByKill), r.Worst)
	require.Positive(t, r.Min)
	require.Equal(t, 4, r.Verified, "the last commits of both workers before both kills")
}

func TestBenchHistoryComparesTheBeginningWithTheEnd(t *testing.T) {
	out, err := command(t, "bench", "history", "--transactions", "3000", "--sample", "500", "--workers", "8", "--dir", t.TempDir(), "-o", "json")
	require.NoError(t, err)
	var r historyResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "sample", "points", "cpu_ratio", "memory_ratio", "bytes_per_transaction", "empty_start_seconds", "start_seconds"})
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
	text := fmt.Sprintf("resources:\n  - {name: orders, driver: postgres, dsn: %q}\n  - {name: billing, driver: mysql, dsn: %q}\n",
		pg.DSN("postgres"), maria.DSN("bank"))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return pg, file
}

func TestBenchTransferComparesWithThePlainLoopAndChecksTheSum(t *testing.T) {
	pg, file := databases(t)
	out, err := command(t, "bench", "transfer", "--config", file, "--workers", "4", "--duration", "500ms", "--rounds", "2", "--dir", t.TempDir(),
		"--servers", fmt.Sprint(os.Getpid()), "-o", "json")
	require.NoError(t, err)
	var r transferResult
	keys := fields(t, out, &r)
	require.Subset(t, keys, []string{"workers", "rounds", "per_second", "baseline_per_second", "ratio_median", "ratio_min", "ratio_max",
		"p50_ms", "p99_ms", "baseline_p50_ms", "baseline_p99_ms", "unknown", "errors"})
	require.Equal(t, []any{4, 2, "orders", "billing"}, []any{r.Workers, r.Rounds, r.First, r.Second})
	require.Positive(t, r.Committed)
	require.Positive(t, r.BaselineCommitted)
	require.Zero(t, r.Unknown)
	require.Zero(t, r.Errors+r.BaselineErrors, r.Failure)
	require.Len(t, r.ByRound, 2)
	require.InDelta(t, (r.ByRound[0].Ratio+r.ByRound[1].Ratio)/2, r.RatioMedian, 1e-9)
	require.LessOrEqual(t, r.RatioMin, r.RatioMax)
	require.Equal(t, int64(2*benchAccounts*firstBalance), r.Sum)
	require.Zero(t, r.LeftPrepared)
	require.NotNil(t, r.ServersCPU, "this process and the servers below it were asked for")
	require.Positive(t, *r.ServersCPU)
	require.Positive(t, *r.BaselineServers)

	// What the command says of itself is true: both ways have moved money.
	conn, err := pgx.Connect(t.Context(), pg.DSN("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var moved, prepared int64
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM concord_bench_account WHERE balance <> $1", firstBalance).Scan(&moved))
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_prepared_xacts").Scan(&prepared))
	require.Greater(t, moved, int64(0))
	require.Zero(t, prepared)
}

func TestBenchUsesAClusterThatRuns(t *testing.T) {
	_, file := databases(t)
	resources, err := loadResources(file)
	require.NoError(t, err)
	t.Setenv(asConcord, "yes")
	n, err := startNodes(t.Context(), t.TempDir(), resources)
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

	out, err := command(t, "bench", "transfer", "--config", n.file(1, "yaml"), "--workers", "2", "--duration", "300ms", "--rounds", "1", "-o", "json")
	require.NoError(t, err)
	var moved transferResult
	fields(t, out, &moved)
	require.Nil(t, moved.NodesCPU, "the nodes are not the command's own")
	require.Eventually(t, func() bool { return committed() >= uint64(moved.Committed) }, 10*time.Second, 50*time.Millisecond)

	before := committed()
	out, err = command(t, "bench", "decisions", "--addr", strings.Join(n.addresses(), ","), "--workers", "2", "--duration", "300ms", "--rounds", "1", "-o", "json")
	require.NoError(t, err)
	var decided decisionsResult
	fields(t, out, &decided)
	require.Nil(t, decided.NodesCPU)
	require.Eventually(t, func() bool { return committed() >= before+uint64(decided.Decided) }, 10*time.Second, 50*time.Millisecond)

	// The bytes of --size reach the log.
	id, label := localXID().ID, incompressible(256)
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
	resources, err := loadResources(file)
	require.NoError(t, err)
	b := &transferBench{}
	defer func() { require.NoError(t, b.close()) }()
	for i, r := range resources {
		b.banks[i], err = openSQLBank(t.Context(), r, ledger{table: "concord_bench_account", accounts: 10, conns: 4})
		require.NoError(t, err)
		require.NoError(t, b.banks[i].fill(t.Context()))
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
			sum, err := k.sum(t.Context())
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
		require.Equal(t, exitFailed, exitCode(err))
	}
}

// One worker at one operation per millisecond that is held up for 100 ms would have
// begun 99 more, which would have waited 99, 98, ... 1 ms.
func TestAPauseCountsForWhatItHeldUp(t *testing.T) {
	raw := newHistogram()
	record(raw, 1000, 900)
	record(raw, 100_000, 1)
	h := correct(raw, 1000)
	require.Equal(t, int64(900+1+99), h.TotalCount())
	require.InEpsilon(t, 1000, h.ValueAtPercentile(90), .002)
	require.InEpsilon(t, 50_000, h.ValueAtPercentile(95), .03)
	require.InEpsilon(t, 100_000, h.ValueAtPercentile(100), .002)
	require.InEpsilon(t, 1000, raw.ValueAtPercentile(99), .002, "what a closed loop alone would say")
	require.Equal(t, int64(901), correct(raw, 0).TotalCount(), "no interval, no correction")
}

func TestALapCountsWhatBecameOfEachOperation(t *testing.T) {
	n, broken := 0, errors.New("broken")
	ctx, stop := context.WithCancel(t.Context())
	l, err := drive(ctx, 1, time.Hour, func(ctx context.Context) error {
		require.NoError(t, ctx.Err())
		switch n++; n {
		case 1, 2:
			return nil
		case 3:
			return fmt.Errorf("lost: %w", concord.ErrUnknownOutcome)
		case 4:
			return broken
		}
		stop()
		return ctx.Err() // nil: what has begun is not cut off
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []int64{3, 1, 1}, []int64{l.done, l.unknown, l.failed})
	require.Equal(t, broken, l.failure)
	require.Equal(t, int64(3), l.raw.TotalCount())
}

func TestSilenceKeepsTheLongestGapsBetweenAnyTwoAnswers(t *testing.T) {
	var s silence
	at := 7 * time.Second // before the first answer nothing is a gap
	s.broken(at)
	for _, ms := range []int{3, 1, 80, 2, 55, 4, 5, 55, 1, 60} {
		at += time.Duration(ms) * time.Millisecond
		s.broken(at)
	}
	s.broken(at - time.Millisecond) // two workers changed places
	want := []time.Duration{80 * time.Millisecond, 60 * time.Millisecond, 55 * time.Millisecond, 55 * time.Millisecond, 5 * time.Millisecond}
	require.Equal(t, want, s.longest)

	var l lap
	l.raw = newHistogram()
	l.add(&lap{raw: newHistogram(), gaps: want[:2]})
	l.add(&lap{raw: newHistogram(), gaps: []time.Duration{70 * time.Millisecond, time.Millisecond}})
	require.Equal(t, []time.Duration{80 * time.Millisecond, 70 * time.Millisecond, 60 * time.Millisecond, time.Millisecond}, l.gaps)
}

func TestQuantilesOfFewValues(t *testing.T) {
	require.InDelta(t, 2.0, median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, median([]float64{4, 1, 2, 3}), 0)
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
