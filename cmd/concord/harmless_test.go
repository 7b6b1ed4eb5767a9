// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

const nasty = "a\x1b]0;owned\x07b\u009b2Jc\u202ed\u200be\U000e0041f\ng\th\r"

// hostile is a cluster whose databases say what they should not.
var hostile = struct {
	status  *concordv1.StatusResponse
	tx      *concordv1.Transaction
	recover *concordv1.RecoverResponse
}{
	status: &concordv1.StatusResponse{Known: true, Warnings: []string{nasty}, Resources: []*concordv1.ResourceStatus{
		{Name: nasty, Driver: nasty, Error: nasty, Identity: nasty, OwnError: nasty + "!"}, {Name: "billing"}}},
	tx: &concordv1.Transaction{Gid: "01JD2M8Q4ZK3W6T9V0X5Y7ABCR", Label: nasty, Reason: nasty,
		Branches: []*concordv1.Branch{
			{Resource: nasty, Evidence: nasty, Holder: nasty, Error: nasty}},
		Heuristics: []*concordv1.Heuristic{{Who: nasty, Why: nasty}}},
	recover: &concordv1.RecoverResponse{Warnings: []string{nasty},
		Actions: []*concordv1.RecoverAction{{Resource: nasty, Why: nasty, Error: nasty}}},
}

func TestWhatDatabasesSayIsHarmlessOnATerminal(t *testing.T) {
	for _, output := range []string{"table", "json"} {
		var out, errs bytes.Buffer
		c := &cli{out: terminal.Harmless(&out), err: terminal.Harmless(&errs), output: output}
		require.NoError(t, c.printStatus(statusOf(hostile.status)))
		require.NoError(t, c.printList(&concordv1.ListResponse{Transactions: []*concordv1.Transaction{hostile.tx},
			Warnings: []string{nasty}}))
		require.NoError(t, c.printTx(txOf(hostile.tx, time.Now())))
		require.Error(t, c.printRecover(hostile.recover))
		require.NoError(t, c.printReports([]reportJSON{{Name: nasty, Driver: nasty, Version: nasty, Error: nasty,
			Findings: []findingJSON{{What: nasty, Detail: nasty, Fix: nasty}}}}))
		for _, r := range out.String() + errs.String() {
			require.False(t, r != '\n' && api.Hidden(r), "%q in\n%q", r, out.String()+errs.String())
		}
		if output == "table" {
			require.NotContains(t, out.String(), "f\ng", "a row is one line")
			require.Contains(t, errs.String(), `\u001b]0;owned\u0007`, "and is shown")
		}
	}
}

func TestWhatIsToBeChangedCanBePasted(t *testing.T) {
	var out bytes.Buffer
	c := &cli{out: terminal.Harmless(&out), output: "table"}
	require.NoError(t, c.printReports([]reportJSON{{Name: "orders", OK: true,
		Findings: []findingJSON{{What: "t", Detail: "not there yet", Fix: "CREATE TABLE t (\n  a bigint\n)"}}}}))
	require.Contains(t, out.String(), "-> CREATE TABLE t ( a bigint )\n")
}
