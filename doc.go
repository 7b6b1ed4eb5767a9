// SPDX-License-Identifier: Apache-2.0

// Package concord makes changes to several databases commit everywhere or nowhere.
//
// A Client talks to the coordinator cluster. Run gives a function a global transaction;
// each resource that the function uses opens one branch in it, on a pool of the application's
// own, and hands out the native transaction of its database:
//
//	err := c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
//		pg, err := orders.Tx(ctx, tx) // a pgx.Tx
//		…
//		my, err := billing.Tx(ctx, tx) // a *sql.Tx
//		…
//	})
//
// When the function returns nil, every branch is prepared, the cluster decides, and the
// branches are committed. Run returns nil, an error that wraps ErrAborted (nothing
// happened anywhere), or an *UnknownError: the decision could not be learned in time.
// Retryable tells whether an aborted transaction may be tried again, and WithRetry has Run do so.
// Never retry an unknown outcome blindly; Client.Outcome settles it. A *TornError says that
// the function's own SQL, such as a COMMIT, kept part of a branch from being rolled back.
//
// At its time limit a transaction is rolled back, whatever its function is doing. As long as it
// lives, the Client keeps ending the branches of aborted transactions, over other connections if
// theirs broke.
//
// concord gives atomicity and durability. Isolation is whatever the databases give: a
// reader may see one branch committed a moment before the other.
//
// A transaction that used one resource is committed by that database alone, without
// the cluster; the cluster is asked once per transaction, after all branches have voted. Of
// a transaction with a single branch it therefore knows nothing, and answers Unrecorded. With the
// option Recorded it always decides, and Client.Outcome is Committed or Aborted for ever.
//
// With WithLastResource one database decides: the others are prepared, then it commits its work and a
// marker in one, without prepare. The cluster is told afterwards, and asks that database if it was not.
//
// With WithAnswerAtDecision the caller goes on when a commit is decided, and the branches are committed behind it.
package concord
