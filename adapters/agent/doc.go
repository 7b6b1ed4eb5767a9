// SPDX-License-Identifier: Apache-2.0

// Package agent makes a database that an agent hosts ("concord agent") take part in global
// transactions, wherever they are driven.
//
//	client, err := agent.Dial("10.0.0.7:7430")
//	ledger := agent.New("ledger", client)
//	branch, err := ledger.Tx(ctx, global)
//	result, err := branch.Execute(ctx, agent.Statement{Text: "update t set n = n - $1", Args: []any{1}})
//
// # What a branch is here
//
// The agent holds the session, votes, and finishes what it voted for; this package sends it numbered
// requests and proves at Prepare, by the digest of the last answer, that all answered work is
// there. A request whose answer was lost is sent again under its number, and is not done twice. An
// agent that restarted has lost its open branches: they vote No.
//
// # Who decides
//
// A branch at an agent is never committed in one phase: when its decision does not come, the agent asks
// the cluster for it, so there has to be one. A transaction with an agent is therefore decided by the
// cluster, also when no other database takes part.
package agent
