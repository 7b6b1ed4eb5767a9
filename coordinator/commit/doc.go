// SPDX-License-Identifier: Apache-2.0

// Package commit is the transaction machine on the replicated log, without clock, disk and network:
// the first replica.Machine.
//
// A Machine owns the table of transactions that folds the log (txn.Table) and, while its node leads,
// the requests that wait for a decision (decide.go, live.go), the branches that are not finished
// (due.go, finish.go), what the databases list as prepared (listing.go, orphan.go), the evidence
// that nobody needs any more (evidence.go), the leases of the clients and the keys that they have
// claimed (lease.go), and who waits for whom in the databases (waits.go, package deadlock). How one transaction is
// decided is the business of its core, a protocol.Transaction, which newTransaction chooses by the class in its gid.
//
// Phase two is done by the client on its own sessions as a rule; what it has not reported after a
// grace period is done by the recovery workers, first attempts before retries. Scans of the resources
// find branches that nobody remembers, and sweeps find evidence that nobody needs (package recovery
// says what is done about them).
package commit
