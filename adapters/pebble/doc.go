// SPDX-License-Identifier: Apache-2.0

// Package pebble makes an embedded Pebble store take part in global transactions.
//
//	ledger, err := pebble.Open("ledger", "/var/lib/app/ledger") // or pebble.New("ledger", db)
//	tx, err := ledger.Tx(ctx, global)
//	err = tx.Set(ctx, []byte("alice"), balance)
//
// # What a branch is here
//
// A branch takes an exclusive lock on each key that it reads or writes and keeps all
// of them until it ends, so branches are serializable. Waiting for a lock ends with
// the context, after LockTimeout, or at once when branches of this store wait for
// each other in a circle (a circle through another database is seen by nobody; there
// the timeout helps). Any error of a statement dooms the branch: it votes No.
//
// Updates happen in place, together with their undo and redo in the journal
// (journal.Journal). Prepare is one synced write, Commit is another, and Pebble makes
// concurrent ones share an fsync. After a crash, opening the store undoes every
// branch that was not prepared before anything is served; a prepared one is there
// again with its work and its locks, until somebody decides.
//
// Evidence is a marker for each branch that was prepared and committed, kept until
// Forget. A rollback leaves none, since the abort of a transaction is often told to
// nobody who could forget it later: so a commit that comes after it is answered Lost.
//
// # Whose keys are whose
//
// The keys that start with Reserved belong to concord; all others are the
// application's. It may use them beside concord too, but a key that branches change
// is only changed through branches, and is read through a Tx or Resource.Get: the
// store itself shows the updates of branches that are not decided yet. A store needs
// Pebble's default comparer and a write-ahead log.
//
// # One process
//
// The store is inside the process, so "another instance" is another handle on the
// same store: the same *Resource, safe for concurrent use, or one made by Share that
// is closed on its own. A store must have one New or Open at a time; a second New
// would undo the open branches of the first.
package pebble
