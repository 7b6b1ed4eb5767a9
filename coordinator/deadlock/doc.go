// SPDX-License-Identifier: Apache-2.0

// Package deadlock finds deadlocks that go through several databases, without clock, disk and network.
//
// Transaction A waits for B in one database, and B for A in another: neither database sees a circle, and
// both wait until a time limit ends it. A Detector puts together what clients say (Report: a transaction
// has waited for longer than a second, on which sessions it works) and what databases say (Answer: which
// session waits for which), finds the circles, and names one victim for each: the youngest
// transaction, which its own client then rolls back. Nobody else ends anything.
//
// # Nothing that is not one
//
// Databases are looked at one after the other, and clients speak when they like, so two looks could be put
// together to a circle that never was. These rules keep it from that:
//
//  1. A wait counts if two looks in a row have seen it, and it is the same wait: it began at the same
//     moment. A look begins when the one before has ended everywhere, so at the moment in between all waits
//     that count went on together.
//  2. A session counts as a transaction's if the client said so before the first of the two looks began, and
//     again when it had heard that the second has ended: a transaction has its sessions until it ends.
//  3. A session that two transactions claim is neither's.
//  4. A circle within one database is that database's: whoever is in one is left alone, and everybody
//     who waits behind it.
//
// # What it costs
//
// Databases are asked only while two transactions have waited for longer than a second, and not both in the
// same database; then every lookGap. Otherwise nobody is asked anything.
package deadlock
