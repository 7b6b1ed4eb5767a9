// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFuzzTargetsAreReadFromTheList(t *testing.T) {
	list := strings.Split(`FuzzDecodeRecords
FuzzParseXID
ok  	github.com/concordtx/concord/txn	0.005s
?   	github.com/concordtx/concord/cmd/concord	[no test files]
ok  	github.com/concordtx/concord/server	0.010s
FuzzReadFrame
ok  	github.com/concordtx/concord/coordinator	0.010s`, "\n")
	require.Equal(t, []target{
		{"github.com/concordtx/concord/txn", "FuzzDecodeRecords"},
		{"github.com/concordtx/concord/txn", "FuzzParseXID"},
		{"github.com/concordtx/concord/coordinator", "FuzzReadFrame"},
	}, targetsOf(list))
}

func TestTheLastCountOfExecutionsCounts(t *testing.T) {
	require.Equal(t, uint64(325017), execsOf([]string{
		"fuzz: elapsed: 0s, gathering baseline coverage: 0/192 completed",
		"fuzz: elapsed: 3s, execs: 108336 (36109/sec), new interesting: 11 (total: 202)",
		"fuzz: elapsed: 6s, execs: 325017 (72227/sec), new interesting: 11 (total: 202)",
		"PASS",
	}))
	require.Zero(t, execsOf(nil))
}

func TestTheEndOfFuzzTimeIsNoCrasher(t *testing.T) {
	require.True(t, ranOut([]string{
		"fuzz: elapsed: 6s, execs: 325017 (72227/sec), new interesting: 11 (total: 202)",
		"--- FAIL: FuzzReadFrame (6.02s)", "    context deadline exceeded", "FAIL", "exit status 1",
	}))
	for _, lines := range [][]string{
		{"PASS"},
		{"--- FAIL: FuzzReadFrame (6.02s)"},
		{"--- FAIL: FuzzReadFrame (6.02s)", "    --- FAIL: FuzzReadFrame (0.00s)", "        context deadline exceeded",
			"    Failing input written to testdata/fuzz/FuzzReadFrame/1", "FAIL"},
		{"--- FAIL: FuzzReadFrame (6.02s)", "    context deadline exceeded",
			"    Failing input written to testdata/fuzz/FuzzReadFrame/1", "FAIL"},
		{"--- FAIL: FuzzReadFrame (6.02s)", "    fuzzing process hung or terminated unexpectedly: exit status 2",
			"FAIL"},
	} {
		require.False(t, ranOut(lines), lines)
	}
}

func TestKillsAreReadFromTheLog(t *testing.T) {
	m := killLine.FindStringSubmatch("    mutants_test.go:48: MUTANT X24 killed by S6: seed 3 of at most 200, 19ms: " +
		"node 2 leads")
	require.Equal(t, []string{"X24", "S6"}, m[1:3])
	require.Nil(t, killLine.FindStringSubmatch("MUTANT X24 survived 200 seeds"))
}

func TestPassedTestsAreCountedWithTheirSubtests(t *testing.T) {
	require.Equal(t, 2, passedTests([]string{"=== RUN   TestA", "--- PASS: TestA (0.00s)",
		"    --- PASS: TestA/b (0.00s)", "--- FAIL: TestC (0.00s)"}))
}

func TestTheTableIsMarkdown(t *testing.T) {
	var table table
	table.add("seeds", count(1234567)+" seeds", "no violation")
	var out strings.Builder
	table.print(&out)
	require.Equal(t, "| what | how much | found |\n|---|---|---|\n| seeds | 1,234,567 seeds | no violation |\n",
		out.String())
	require.Equal(t, "0", count(0))
	require.Equal(t, "999", count(999))
	require.Equal(t, "1,000", count(1000))
}

func TestWhatWasNotSeenIsNamed(t *testing.T) {
	seen, gone := situations([]named{"log was cut"}, 5)
	require.Equal(t, 4, seen)
	require.Equal(t, []string{"log was cut"}, gone)
}

type named string

func (n named) String() string { return string(n) }
