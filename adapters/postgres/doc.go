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
// A coordinator node uses Open, which needs a DSN only and connects when it must.
//
// # What a branch is here
//
// A branch is a transaction that ends with PREPARE TRANSACTION 'concord-…'. From
// then on it belongs to no session, and any session of the same database and role may
// finish it. Its evidence is the transaction number (xid8), fetched in the same round
// trip as PREPARE: pg_xact_status tells for millions of transactions afterwards
// whether that number committed. The number means something on one timeline of one
// system only, so both are part of the evidence, and after a failover the answer is
// "lost" rather than a guess.
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
// # What the caller owes
//
//   - max_prepared_transactions above 0, and a recovery login that is a member of the
//     roles that prepare (GRANT app TO concord). Resource.Check says what is missing.
//   - Temporary tables, LISTEN, NOTIFY and WITH HOLD cursors cannot be prepared: such a
//     branch votes No. A NOTIFY inside a function of a branch that wrote nothing is sent
//     at vote time; notifications are no part of a global transaction.
//   - COMMIT and ROLLBACK as statements are not for a branch: they doom it.
//   - Sessions of the server, not of a pooler in transaction mode. Behind any pooler a
//     session cannot be named, so a vote that was cut off is left to the orphan scan.
package postgres
