// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func summarise(t *testing.T, events string) (string, bool) {
	t.Helper()
	var out strings.Builder
	r := newReport(&out)
	require.NoError(t, r.read(strings.NewReader(events)))
	ok := r.finish()
	return out.String(), ok
}

const onePass = `{"Action":"output","Package":"p","Test":"TestA","Output":"--- PASS: TestA\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
`

func TestPassedTestsAreCountedAndTheirOutputIsLeftOut(t *testing.T) {
	out, ok := summarise(t, onePass+`{"Action":"pass","Package":"p","Elapsed":1.25}`)
	require.True(t, ok)
	require.Equal(t, "pass  p 1.2s\n1 passed, 0 failed, 0 skipped\n", out)
}

func TestMissingMySQLIsSaidLoudlyAndAllowed(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"Action":"output","Package":"p","Test":"TestM","Output":"=== RUN   TestM\n"}
{"Action":"output","Package":"p","Test":"TestM","Output":"    m_test.go:7: MySQL: NOT RUN (server not installed)\n"}
{"Action":"output","Package":"p","Test":"TestM","Output":"--- SKIP: TestM (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestM"}
{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.Contains(t, out, "  p TestM: MySQL: NOT RUN (server not installed)\n")
	require.True(t, strings.HasSuffix(out, "\nMySQL: NOT RUN (server not installed)\n1 passed, 0 failed, 1 skipped\n"),
		out)
}

func TestEveryAllowedReasonIsSaidOnce(t *testing.T) {
	skipped := func(test, reason string) string {
		return `{"Action":"output","Package":"p","Test":"` + test + `","Output":"    x_test.go:7: ` + reason + `\n"}
{"Action":"skip","Package":"p","Test":"` + test + `"}
`
	}
	out, ok := summarise(t, onePass+skipped("TestC", "containers: NOT RUN (x)")+skipped("TestM", "MySQL: NOT RUN (y)")+
		skipped("TestN", "MySQL: NOT RUN (y)")+`{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.True(t, strings.HasSuffix(out,
		"\ncontainers: NOT RUN (x)\nMySQL: NOT RUN (y)\n1 passed, 0 failed, 3 skipped\n"), out)
}

func TestAnyOtherSkipFails(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"Action":"output","Package":"p","Test":"TestP","Output":"    p_test.go:7: PostgreSQL: NOT RUN (x)\n"}
{"Action":"skip","Package":"p","Test":"TestP"}
{"Action":"pass","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "FAIL: 1 tests were skipped that must run")
	require.Contains(t, out, "  p TestP: PostgreSQL: NOT RUN (x)\n")
}

func TestFailureIsShownInFull(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"Action":"output","Package":"p","Test":"TestF","Output":"    f_test.go:3: boom\n"}
{"Action":"fail","Package":"p","Test":"TestF"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "=== FAILED p TestF\n    f_test.go:3: boom\n")
	require.True(t, strings.HasSuffix(out, "FAIL: p TestF\nFAIL: p\n1 passed, 1 failed, 0 skipped\n"), out)
}

func TestTestCutOffByAPanicCountsAsFailed(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"Action":"output","Package":"p","Test":"TestHang","Output":"panic: test timed out\n"}
{"Action":"fail","Package":"p"}`)
	require.False(t, ok)
	require.Contains(t, out, "=== DID NOT END p TestHang\npanic: test timed out\n")
	require.True(t, strings.HasSuffix(out, "FAIL: p TestHang\nFAIL: p\n1 passed, 1 failed, 0 skipped\n"), out)
}

func TestBuildFailureShowsTheCompilersWords(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"ImportPath":"q [q.test]","Action":"build-output","Output":"q.go:1: undefined: x\n"}
{"ImportPath":"q [q.test]","Action":"build-fail"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q [q.test]"}`)
	require.False(t, ok)
	require.Contains(t, out, "q.go:1: undefined: x\n")
	require.Contains(t, out, "FAIL: q\n")
}

func TestNothingRunFails(t *testing.T) {
	out, ok := summarise(t, "go: no such package\n")
	require.False(t, ok)
	require.Equal(t, "go: no such package\nFAIL: no test was run\n0 passed, 0 failed, 0 skipped\n", out)
}

func TestSlowestTestsAreNamedWithoutTheirParts(t *testing.T) {
	out, ok := summarise(t, onePass+
		`{"Action":"pass","Package":"p","Test":"TestB","Elapsed":25}
{"Action":"pass","Package":"p","Test":"TestC/part","Elapsed":31}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":32.5}
{"Action":"pass","Package":"p"}`)
	require.True(t, ok)
	require.True(t, strings.HasSuffix(out,
		"\nSlowest:\n    32.5s p TestC\n    25.0s p TestB\n4 passed, 0 failed, 0 skipped\n"), out)
}
