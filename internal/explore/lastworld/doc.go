// SPDX-License-Identifier: Apache-2.0

// Package lastworld is a world of package explore: one transaction with a last resource, L, and everybody who takes
// part in it: the client with its sessions, L, other databases, the leader, and its log.
//
// What has to hold:
//
//	A1  a branch commits only if L has committed with its marker, and L's work and its marker are one
//	A2  after an inserted marker to abort L never commits the transaction
//	A3  the client is told Committed only after L's commit, and Aborted only if that never comes
//	A4  with L reachable every branch ends
package lastworld
