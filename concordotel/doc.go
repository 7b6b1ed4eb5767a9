// SPDX-License-Identifier: Apache-2.0

// Package concordotel traces and measures the transactions of a client with OpenTelemetry.
//
//	c, err := concord.Dial(ctx, addrs, concord.WithHook(concordotel.Hook()))
//
// # Spans
//
// A transaction is a span, with a span for each of its branches, and in these one for the vote and one for the
// end; the question to the cluster is a span of the transaction:
//
//	concord.transaction
//	├─ concord.branch            orders
//	│  ├─ concord.prepare        or concord.commit_one_phase
//	│  └─ concord.commit         or concord.rollback
//	├─ concord.branch            billing
//	│  └─ …
//	└─ concord.decide
//
// The context that Run gives to its function is that of the transaction's span, so what a tracing driver such as
// otelpgx adds is below it. When a branch could not be ended at the first attempt, each further one is a trace of its
// own with a link to the branch: its transaction has had its answer long ago. What the client does not end, because
// it died, the cluster ends. A node that was told of a collector (docs/operations.md, "Traces") has a span for the
// decision within that of the transaction, and for what it ends itself one that links to it; its log has trace_id and
// span_id beside the gid ("branch finished by the cluster"). Another node that leads meanwhile knows the gid only.
//
// Attributes: concord.gid, concord.label (of a transaction that has one), concord.attempt (from the second on),
// concord.resource and db.system.name (of branches), concord.outcome (of a transaction: committed, aborted,
// unknown, torn), and error.type of what failed.
//
// # Metrics
//
// concord.transaction.duration, by concord.outcome; concord.step.duration, by concord.step, concord.resource and
// error.type, both in seconds; concord.transaction.active; and concord.transaction.retries, which counts what
// Run has done once more. No attribute is a gid.
package concordotel
