// SPDX-License-Identifier: Apache-2.0

// Package coordinator is a node of the coordinator cluster: everything around the cores that waits
// for clocks, disks, databases and other nodes.
//
// All that can be right or wrong about a node is in two cores: the replicated log (package replica)
// and the transactions that it carries (package commit). Node has one loop that owns both, a log
// writer, a writer of the applied state, the connections to its peers (package peer) and a few workers
// per resource. They carry events in and effects out and decide nothing.
//
// The way of a commit through a node: Commit puts a request into the loop (bounded; a
// full queue answers "busy" at once). A turn of the loop collects the requests that
// wait, and their records share one log entry and one sync. When a quorum has the
// entry the log delivers it, the table folds it, and the verdict is told: that is the
// commit point, and the only one.
//
// The log is cut behind what is stored when it is too long (disk.go). A node that was away for
// longer than that fetches a snapshot of the leader's state, stages it in its store, and
// makes table and archive anew when the log has installed it (reload.go).
package coordinator
