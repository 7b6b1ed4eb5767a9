// SPDX-License-Identifier: Apache-2.0

package txn

// FeatureLevel counts what versions of concord have added to the log: kinds of records, and
// meanings of those that exist. What came with a level is written only when a FeatureRecord
// says that every member of the cluster knows that level, so that nodes of two releases can
// share a log while an upgrade goes through the cluster.
//
// To add to the log: raise Newest, name the level beside it, and ask Table.Level before the
// first record of the new kind is proposed. Stored state of a level below stays as it was,
// to the byte: nodes of the older release read it from snapshots.
type FeatureLevel uint16

const (
	// LevelBase is what the first version of the log could say.
	LevelBase FeatureLevel = 1
	// LevelLeases has leases of clients.
	LevelLeases FeatureLevel = 2
	// LevelMembers has MembersRecord: who the members are.
	LevelMembers FeatureLevel = 3
	// LevelThreePhase has what the witness of three-phase transactions promises and accepts, and
	// their decisions.
	LevelThreePhase FeatureLevel = 4
	// LevelKeys has CommitRecords with idempotency keys. Members that know it also know PostgreSQL's
	// evidence by marker, and its branches that name their siblings.
	LevelKeys FeatureLevel = 5
	// LevelAgents has AgentRecord: in which life of which journal agents have voted.
	LevelAgents FeatureLevel = 6
	// LevelHighWater has what the log remembers of databases, and the quarantine of those that are
	// behind that. It came with LevelAgents.
	LevelHighWater = LevelAgents
	// LevelAudit has ActRecord and ActEndRecord: what people do to the cluster.
	LevelAudit FeatureLevel = 7
	// LevelLastResource has transactions that a last resource decides: CommitRecord.Last, and the stored
	// form of class LastResource.
	LevelLastResource FeatureLevel = 8
	// LevelCaller has ActRecord.From: from where a person has called.
	LevelCaller FeatureLevel = 9
	// Newest is what this program knows.
	Newest = LevelCaller
)

// FeatureRecord says that every member of the cluster knows Level. Levels never fall.
type FeatureRecord struct{ Level FeatureLevel }
