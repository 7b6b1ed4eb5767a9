// SPDX-License-Identifier: Apache-2.0

// Package txn is the vocabulary of concord: identifiers, branches, votes,
// decisions and outcomes of global transactions, the records that the replicated
// log holds of them, and the Table that folds those records.
//
// Everything here is a value or a pure function. No clock, no I/O: times come from
// identifiers and from Watermark records, so every replica that folds the same
// records has the same table.
package txn
