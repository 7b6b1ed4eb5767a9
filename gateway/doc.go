// SPDX-License-Identifier: Apache-2.0

// Package gateway drives transactions for programs in any language: TransactionService, which a
// coordinator node serves beside its own service.
//
//	g := gateway.New(gateway.Config{Node: 1, Resources: resources, Dial: dial, Address: node.APIAddress})
//	go g.Run(ctx)
//	server.Serve(ctx, node, listener, log, g.Service())
//
// # What it is
//
// An application like any other: it has a concord.Client of its own cluster, and the databases behind
// agents as its resources. What it adds is a session, which is a transaction with its numbered
// requests, held between the calls of a program that may die or lose its connection at any of them.
//
// # What it owes the program
//
//   - A request under one number is done once, and has one answer, however often it is sent.
//   - Work goes on when the call that brought it is gone: the answer waits for the next one.
//   - Nothing is committed of which the program has no answer: Commit has a number, too.
//   - A transaction that is silent, or too old, or whose node ends, is rolled back. What became of it is
//     said by every node: its gid is of class R.
//
// # What its caller owes it
//
// Config.Dial connects to the cluster that Config.Node belongs to.
package gateway
