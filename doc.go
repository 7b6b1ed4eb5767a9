// SPDX-License-Identifier: Apache-2.0

// Package concord makes changes to several databases commit everywhere or nowhere.
//
// A Client knows the coordinator cluster. Run gives a function a global transaction;
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
// When the function returns nil every branch is prepared, the cluster decides, and the
// branches are committed. The answer is nil, an error that wraps ErrAborted (nothing
// happened anywhere), or an *UnknownError: the decision could not be learned in time.
// Retryable tells whether what was aborted may be done again, and WithRetry lets Run do it.
// An unknown outcome must not be retried blindly; Client.Outcome settles it. A *TornError says that
// the function's own SQL, a COMMIT say, kept part of a branch from being rolled back.
//
// At its time limit a transaction is rolled back, whatever its function is doing. As long as the Client
// lives it goes on ending the branches of what was aborted, through other connections if theirs broke.
//
// What concord gives is atomicity and durability. Isolation is what the databases give: a
// reader may see one branch committed a moment before the other.
//
// A transaction that used one resource is committed by that database alone, without
// the cluster. The cluster is asked once per transaction, after all branches have voted. So
// of a transaction with one branch it knows nothing, and answers Unrecorded; with the option
// Recorded it decides in any case, and Client.Outcome is Committed or Aborted for ever.
package concord
