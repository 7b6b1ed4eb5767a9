// SPDX-License-Identifier: Apache-2.0

// Package postgres makes a PostgreSQL database (14 or newer) a resource of concord.
//
// An application gives it its own pool and works with a real pgx.Tx:
//
//	orders := postgres.New("orders", pool)
//	err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
//		pg, err := orders.Tx(ctx, tx)
//		if err != nil {
//			return err
//		}
//		_, err = pg.Exec(ctx, "update account set cents = cents - 500 where id = $1", id)
//		return err
//	})
//
// What wants a *sql.Tx (gorm, sqlx, bun, ent, sqlboiler) gets one on the same branch by SQLTx.
//
// A coordinator node uses Open, which needs a DSN only and connects when it must.
//
// # What a branch is here
//
// A branch is a transaction that ends with PREPARE TRANSACTION 'concord-…'. From
// then on it belongs to no session, and any session of the same database and role may
// finish it. Its evidence is a marker: a row in concord.branch that the branch writes in the
// same round trip as PREPARE, so it is there exactly if the branch has committed, in this server and
// in whatever is made of its data: a promoted standby, a backup, files that were put back.
// Coordinators remove markers in batches when the transaction is finished.
//
// The transaction number comes with it, and proves less: it tells a transaction that still runs from
// one that does not. pg_xact_status alone was the evidence once, and said "committed" of a
// branch whose files had been put back, because the server had given the number to somebody else. It is
// still asked about branches that changed nothing, those that were declared read only.
//
// # Round trips
//
// A branch is three: its first statement, which takes BEGIN and the limits along; the
// vote; and the end. Further statements cost what they cost in any transaction. What pgx
// cannot put into a batch opens the transaction in a round trip of its own when it comes
// first: statements without arguments, COPY, Prepare, savepoints, large objects, Conn, and
// options of pgx among the arguments. To a tracer the first statement is a batch; and if its
// arguments cannot be encoded, pgx gives up the connection and the branch with it. An
// error of BEGIN is the error of the first statement. A branch without statements sends
// nothing.
//
// # Whose transaction it is
//
// The application has the whole of SQL in its hands. The transaction of a branch carries a
// setting that ends with it (concord.branch, a number that nobody else knows), and the vote's round trip
// compares it: what the
// vote prepares or commits is the transaction that the branch began. A branch whose
// application ended it votes No. The error wraps adapters.ErrTorn if part of the work may be
// committed (COMMIT, with or without AND CHAIN, in one text with others, by Conn), also while the server
// cannot be asked, and not if the server knows that nothing is (ROLLBACK AND CHAIN; RESET ALL, which takes the setting
// away).
//
// # Nothing leaves an aborted branch
//
// What changed no table is not yet a read: NOTIFY, LISTEN and the like show outside, and no
// query tells whether a transaction did them. A branch whose every text is a plain read
// (SELECT and the like, with functions that are known) is rolled back at its vote, and is
// read-only. LOCK and advisory locks are no reads: they keep others out until the whole has ended. Any
// other is prepared, which the server refuses
// after NOTIFY, LISTEN, WITH HOLD, temporary tables and work in foreign tables; so a function that nobody
// knows, or an UPDATE that found nothing, costs a branch that only read a PREPARE. So does serializable
// isolation, where only a commit says that what was read is true, and no commit may come before the
// decision. What a view, a policy or a trigger says by NOTIFY is
// lost if its branch wrote nothing and did nothing but plain reads. A branch that is the only one
// commits in one phase and may do all of it.
//
// SET without LOCAL, locks of the session, PREPARE, DO, and whoever takes Conn leave something
// in the session: it is closed, and nobody else gets it. Functions that do so themselves are
// not seen through: use set_config(…, true) and pg_advisory_xact_lock in them.
//
// # Several goroutines
//
// Statements of one branch wait for each other. While Rows or BatchResults are open another
// statement is refused; like all that was never sent it is missed at the vote, even if the
// application ignores its error, unless a savepoint that is older is rolled back to. Rollback may
// come at any moment: it cancels the statement that runs, and what comes later is refused.
//
// # What the caller owes
//
//   - The table concord.branch (CreateMarkerTable). The first branch makes it, if its role may;
//     else the error has the SQL to run. Every role that a branch takes (SET ROLE too) needs USAGE on
//     the schema and INSERT on the table.
//   - max_prepared_transactions above 0, and a recovery login that is a member of the
//     roles that prepare (GRANT app TO concord). Resource.Check says what is missing.
//   - COMMIT and ROLLBACK as statements are not for a branch.
//   - Conn is for what the handle has not got. Beside the handle, and after the branch, it is
//     nobody's; a statement that fails there may have been a commit, so the error is ErrTorn.
//   - A branch keeps a connection of the pool until the global transaction ends. One that
//     is begun inside another needs a second.
//   - Sessions of the server, not of a pooler in transaction mode. Behind any pooler a
//     session cannot be named, so a vote that was cut off is left to the orphan scan.
package postgres
