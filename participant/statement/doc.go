// SPDX-License-Identifier: Apache-2.0

// Package statement executes statements that came over the wire in branches of databases:
// typed arguments in, typed rows out, never more than a limit allows.
//
// # What it owes its caller
//
//   - A value is what the database holds, exactly: integers and decimals of any size, bytes,
//     times, null. Nothing passes through a type that is smaller.
//   - A result never has more rows or bytes than Limits. What is larger is an error, and the
//     branch cannot commit unless a savepoint that is older is rolled back to: its caller has
//     not seen what it would commit.
//   - A text that would end or change the transaction, or that holds several statements, is
//     refused before it is sent, as far as its words tell. What they do not tell (a procedure
//     that commits) the adapters find out at the vote: adapters.ErrTorn is the truth.
//
// # What its caller owes it
//
// The methods of a Session that are not of adapters.Session are called one at a time. Rollback
// may come at any moment.
package statement
