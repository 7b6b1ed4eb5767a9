// SPDX-License-Identifier: Apache-2.0

// Package txnsim simulates whole coordinators in the clusters of package sim, with databases,
// clients, workers and operators, in every fifth seed also agents with three-phase
// transactions, in some others services that join the transactions of clients or a database that is the last resource
// of transactions, and the checks of transactions: AC1 to AC6, DUR1, DET, IDEM, LEASE, HEUR, FOREIGN, JOIN, LIN, A1 to
// A4, T1, T2, T3 and T6.
package txnsim
