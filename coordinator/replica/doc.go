// SPDX-License-Identifier: Apache-2.0

// Package replica is the node of a replicated log, without clock, disk and network: events go in
// with Core.Step, effects come out.
//
// A Core owns the log (protocol/zab) and all that any state machine on it needs: who the members
// are and how they change (members.go), which store each of them has (stores.go), which features
// all of them know (feature.go), whether their states agree (digest.go, diverged.go), reads that
// are never older than what was decided before (read.go, seen.go), the handing over of leadership,
// and turns that take a bounded number of steps however much there is (turn.go).
//
// What the entries mean is the business of a Machine, which a Core carries: machine.go has the
// interface, package commit the machine of the transactions, and the tests of this package a register.
// The two call each other within one turn, and share one owner.
package replica
