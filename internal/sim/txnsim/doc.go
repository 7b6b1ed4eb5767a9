// SPDX-License-Identifier: Apache-2.0

// Package txnsim simulates whole coordinators in the clusters of package sim, with databases,
// clients, workers and operators, and the checks of transactions: AC1 to AC6, DUR1, DET, IDEM,
// LEASE, HEUR, FOREIGN and LIN.
package txnsim
