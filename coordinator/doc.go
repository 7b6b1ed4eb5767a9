// SPDX-License-Identifier: Apache-2.0

// Package coordinator is a node of the coordinator cluster.
//
// Core is all that can be right or wrong about it: a plain struct that owns the
// replicated log (protocol/zab), the table of transactions that folds it (txn.Table)
// and, at the leader, the requests that wait and the branches that are not finished.
// It has no clock, disk or network: events go in with Step, effects come out.
//
// Node is everything around it: one loop that owns the Core, a log writer, a writer of
// the applied state, a sender and a receiver per peer, and a few workers per resource.
// They carry events in and effects out and decide nothing.
//
// The way of a commit through a node: Commit puts a request into the loop (bounded; a
// full queue answers "busy" at once). A turn of the loop collects the requests that
// wait, and their records share one log entry and one sync. When a quorum has the
// entry the log delivers it, the table folds it, and the verdict is told: that is the
// commit point, and the only one. Phase two is done by the client on its own sessions
// as a rule; what it has not reported after a grace period is done by the recovery
// workers, first attempts before retries. Scans of the resources find branches that nobody
// remembers, and sweeps find evidence that nobody needs (package recovery says what is
// done about them).
//
// Who the members are is said by the log, too (members.go); a node whose state differs from that of
// a majority stops (diverged.go).
//
// The log is cut behind what is stored when it is too long. A node that was away for
// longer than that fetches a snapshot of the leader's state, stages it in its store, and
// makes table and archive anew when the log has installed it (snapshot.go).
package coordinator
