// SPDX-License-Identifier: Apache-2.0

// Package mysql makes MySQL (8.0.29 or newer) and MariaDB (10.5 or newer) resources
// of concord, by XA transactions.
//
//	cfg, err := driver.ParseDSN("app:secret@tcp(127.0.0.1:3306)/billing")
//	connector, err := mysql.NewConnector(cfg) // that of the driver, with fewer round trips
//	billing := mysql.New("billing", connector)
//	tx, err := billing.Tx(ctx, global) // a *sql.Tx: the branch of this global transaction
//
// New is for applications, on their own connector; Open is the recovery half for
// coordinator nodes, from a data source name.
//
// # The *sql.Tx
//
// Commit on it says that the caller has done its work; the branch votes when the
// global transaction commits, and a later call of Tx continues the same branch.
// Rollback dooms the branch. Both may be left out. It does not end with the context
// that was given to Tx: the global transaction ends it.
//
// A statement error dooms the branch, because the server would prepare what is left
// of the work: further statements are refused and the vote is No, with the first
// error as its reason. So does a statement that fails behind its first row, whether its result was read or not:
// the vote reads what is left of it. ROLLBACK TO a savepoint that was set before the error heals the
// branch, unless the server has rolled all of it back (a deadlock).
//
// TxWith gives a branch an isolation level, makes it read-only or limits its lock waits;
// SET TRANSACTION would have no effect inside and is refused.
//
// # What the application's SQL can do to the branch
//
// The servers refuse COMMIT, DDL and the like inside a branch, but not XA END and XA COMMIT in
// a text of several statements or in a procedure. A branch notices (see guard.go): its error
// is then adapters.ErrTorn, because part of it may be committed. The same error says that
// tables without transactions (MyISAM, Aria, MEMORY, CSV, ARCHIVE, ...) were changed by a
// branch that was rolled back; only the session that did it can tell. Temporary tables of such
// engines count as well. INSERT DELAYED, which MariaDB does in a session of its own, is refused; in a procedure nobody
// notices it.
//
// If that session dies, the server is asked through another connection which such tables it has, system schemas
// apart: with none, as a rule, nothing stays. If it has some, the branch is torn if the text of one of its
// writes has a name of them, or if there are routines, triggers or views, which may write where no text says so.
// The server shows only what the user of the resource has some right to. What it said last counts while it cannot
// be asked. In the same way a branch is torn whose statements could have ended its transaction, when
// nobody can be asked whether they did; what is left of it is ended by further attempts (adapters.ErrNotEnded).
//
// # Sessions
//
// A branch has a session of its own from XA START to its end. MariaDB, and MySQL
// with xa_detach_on_prepare=OFF, let nobody else finish a branch while that session
// lives. Afterwards it is kept in a bounded list for the next branch, unless a text of the
// application changed its state (SET, USE, temporary tables, user locks). Statements may change it unseen, by
// routines, triggers and views, so a session that is kept is reset first (COM_RESET_CONNECTION) and set up as it
// was, in a write behind the end of the branch that nobody waits for. With connectors that cannot send ahead
// (see below), and where the server has an init_connect, the session of a branch that was rolled back is closed
// instead; what routines of a committed one have left in it stays there. Its lock
// waits are limited, since two databases can make a deadlock that neither sees, and
// it has a lease: the server ends it when it has been idle for so long. Limits of the
// server that are stricter stay.
//
// There are at most Options.MaxOpen sessions; the next branch waits, also while the server
// answers that it has too many connections. ErrPoolBusy says that it waited in vain: a
// transaction that is begun inside another waits for itself.
//
// go-sql-driver ends a statement whose context ended by closing the socket, and the
// server goes on with the statement. So the session is ended by KILL from another
// connection. That happens at the limit of a transaction, and when one is rolled back while a statement runs
// or a result is open: how much of a result is still to come nobody knows.
//
// # Round trips
//
// The server hears of a branch with its first statement. On connectors of NewConnector, and so
// on resources of Open, a branch is three: its first statement, which takes XA START along; the vote, with marker, XA
// END and XA PREPARE; and the end, with a write behind it that resets the session. A branch without statements is
// none. The commands are sent one behind the other without waiting; the mode of several statements in one, which would
// let a string of the application hold more than it should, stays off. If the server refuses XA START,
// the statement behind it has run outside of the branch. So the session does not commit
// by itself (autocommit = 0), only statements that a rollback undoes travel (SELECT,
// INSERT, UPDATE, DELETE, REPLACE), and the session is ended before the error is returned.
// With other connectors, TLS or compression XA START has a round trip of its own. The first
// statement that is no plain one (CALL, SET, several in one text) costs one more, for the guard.
// Comments before a statement do not make it less plain.
//
// # Evidence
//
// The server answers "unknown XID" for a branch that committed, that rolled back,
// that never was, and that another session holds. So a branch that wrote inserts one
// row, its marker, into the table concord_branch of its own database: the row is
// visible if and only if the branch committed, and a read of uncommitted rows shows
// who holds a branch that has not ended. CreateMarkerTable is the table's definition;
// it is created at first use where the grants allow it.
//
// With Options.NoMarker there is no evidence. Then every answer that the server
// leaves open is Lost to a commit, and an orphan's session is not known, so the loss
// described below can happen to its rollback.
//
// A marker that is not there at all is Lost to a commit and not Contradicted: a
// rollback by hand, a failover that lost the branch and a deleted row look the same.
//
// # The fence
//
// An XA COMMIT or XA ROLLBACK that races with the end of the session that prepared
// can answer OK and do nothing; the branch is then hidden from XA RECOVER, holds its
// locks, and only a restart of the server brings it back. So the recovery half fences
// first: KILL until the server does not know the connection any more, a pause, and
// then it finishes and looks at the list and the marker. Only the session that the marker
// names is ended: what a branch record says may be made up. Without a marker the recovery half
// waits until the session that the record names is gone by itself. A branch that is hidden all
// the same is an error that says so, never Done: its marker is written and
// uncommitted. A holder is a connection id in one life of one server, because
// connection ids start at 1 again after a restart.
//
// A branch whose vote failed, or whose connection broke on the way, does the same for itself:
// its Rollback returns nil only when nothing is left, and tries again when it is called again.
//
// # Read-only branches
//
// A branch that only ran SELECT without locks ends at its vote, if the session's
// handler counters say that no row was written since it began; a stored function
// may write. information_schema.innodb_trx is not asked: InnoDB serves it from a
// cache that is older than the last statement.
package mysql
