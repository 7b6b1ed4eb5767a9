// SPDX-License-Identifier: Apache-2.0

// Package sqlite makes a SQLite file take part in global transactions.
//
//	ledger, err := sqlite.Open("ledger", "/var/lib/app/ledger.db")
//	…
//	err = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
//		file, err := ledger.Tx(ctx, tx) // a *sql.Tx
//		…
//	}, concord.WithLastResource("ledger"))
//
// SQLite has no prepared transactions, so a branch can be that of the last resource (concord.WithLastResource), which
// commits its work and a marker in one, or the only one that wrote. Anywhere else it votes no, and says so.
//
// # Who settles
//
// Whoever has to know without the client (a node that met a prepared branch in another database) needs the file: a
// node of the cluster has to open it, by Open as well. Any number of processes of one machine may. The program
// "concord" does not link SQLite, as it does not open an application's Pebble store: a node that does is one inside
// of the application, made by coordinator.Open with the resource in its Config. While no node that leads can open the
// file, branches elsewhere whose client has died before it reported its commit wait for it.
//
// # What a branch does to the file
//
// SQLite has one writer at a time. A branch takes that lock with its first statement (BEGIN IMMEDIATE), so it never
// fails for having read too early, and keeps it until the transaction ends: use the file after the other databases.
// Readers go on: Open makes new files with a write-ahead log, in which they are in nobody's way. Commits are
// flushed (synchronous = EXTRA) whatever the file is set to.
//
// The application's SQL can neither end the transaction of a branch nor change its connection: BEGIN, COMMIT, ROLLBACK,
// ATTACH, DETACH and every PRAGMA that sets something are refused, save defer_foreign_keys, user_version and
// application_id. SAVEPOINT, ROLLBACK TO and RELEASE are not. What all the same would commit is rolled back by a hook.
//
// # Tables
//
// Open makes three tables: concord_markers has the evidence, concord_water what the file had last (an old copy is
// noticed by it), concord_file the random name of the file. Branches may read and not write them. A copy of the file
// has the same name: do not use both.
//
// Move, replace or delete a file only while nobody has it open: nothing is committed in one that is not where it was
// opened, and its resource has to be opened again.
//
// The file must be on a file system of the machine, as SQLite demands, for its locks and for the write-ahead log.
package sqlite
