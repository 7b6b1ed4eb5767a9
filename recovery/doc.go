// SPDX-License-Identifier: Apache-2.0

// Package recovery makes plans: from what the log has decided and from what a
// resource lists as prepared, to what has to be done about each listed branch. It
// does nothing itself. The leader carries its plans out; "concord recover" shows
// them to people.
//
// The rules (reference: presumed abort, Mohan, Lindsay and Obermarck 1986; the order
// "look at the branches first, at the log second" is what keeps a live
// transaction from being taken for an orphan):
//
//  1. A branch of another cluster is never touched.
//  2. A decision that the log holds is applied, also if the transaction has ended long
//     ago: finished branches come back after a failover of their database.
//  3. A branch without decision is left alone while its transaction may be alive. It is
//     an orphan when it was listed twice, and is older than the longest transaction
//     allowed or was listed for as long as that. An orphan gets an Abort record in the
//     log first, and is rolled back only when that record is delivered.
//  4. A branch older than what the log remembers is reported, never touched.
//  5. A prepared branch that its own transaction's commit record does not name cannot
//     come from this product: it is reported, never touched.
//  6. A branch without decision whose transaction is dated ahead counts by how long it was
//     listed, as above; one that is dated further ahead than anything that the log decides is
//     reported.
//  7. A branch that an operator has given up is his: it is reported, never touched.
package recovery
