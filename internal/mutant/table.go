// SPDX-License-Identifier: Apache-2.0

package mutant

import "slices"

// Mutant is one planted mistake.
type Mutant struct {
	ID   string // X01 to X71
	Name string // of the switch
	What string // is wrong
	// In are the packages whose TestMutants must kill it.
	In []string
	// NotHere says why the product has no place for the mistake; empty if In is not.
	NotHere string
}

// Table lists all mutants in the order of their IDs. It must not be changed.
func Table() []Mutant { return table }

// Of lists the mutants that the tests of one package must kill.
func Of(pkg string) []Mutant {
	var out []Mutant
	for _, m := range table {
		if slices.Contains(m.In, pkg) {
			out = append(out, m)
		}
	}
	return out
}

const (
	inLogSim   = "internal/sim/logsim"
	inTxnSim   = "internal/sim/txnsim"
	inZAB      = "internal/explore/zabworld"
	inTwoPC    = "internal/explore/twopcworld"
	inThreePC  = "internal/explore/threepcworld"
	inLast     = "internal/explore/lastworld"
	inDeadlock = "coordinator/deadlock"
	inCommit   = "coordinator/commit"
	inWAL      = "wal"
	inPostgres = "adapters/postgres"
	inMySQL    = "adapters/mysql"
	inSDK      = "."
)

var table = []Mutant{
	{ID: "X01", Name: "AckBeforeDurable", What: "a follower acknowledges an entry before its disk has it",
		In: []string{inLogSim}},
	{ID: "X02", Name: "VoteBeforeDurable", What: "a branch votes yes before it is prepared durably",
		In: []string{inTwoPC}},
	{ID: "X03", Name: "ReplyBeforeQuorum", What: "a commit is answered when it is proposed", In: []string{inTxnSim}},
	{ID: "X04", Name: "CommitOnOwnDisk", What: "the leader's own disk is quorum enough", In: []string{inLogSim}},
	{ID: "X05", Name: "AppendFromAnyEpoch", What: "a follower takes entries of a leader whose epoch or session is over",
		In: []string{inLogSim}},
	{ID: "X06", Name: "StaleVotes", What: "a vote of an older leader's prepare counts",
		NotHere: "votes arrive inside the one commit request, so no vote belongs to an epoch"},
	{ID: "X07", Name: "ForgetDecisions", What: "a restarted node forgets decisions", In: []string{inTxnSim}},
	{ID: "X08", Name: "ForgetTombstones", What: "an abort leaves no record", In: []string{inTxnSim}},
	{ID: "X09", Name: "RollbackAfterYes", What: "whoever waited long enough rolls back what it voted yes for",
		In: []string{inTwoPC}},
	{ID: "X10", Name: "CommitOnMajority", What: "most of the votes are enough", In: []string{inTwoPC}},
	{ID: "X11", Name: "PresumeCommit", What: "a transaction without a record is presumed committed",
		In: []string{inTxnSim}},
	{ID: "X12", Name: "PurgeUnfinished", What: "a decision is dropped before all branches are finished",
		In: []string{inTxnSim}},
	{ID: "X13", Name: "EndOneShort", What: "a transaction ends with one branch unfinished", In: []string{inTxnSim}},
	{ID: "X14", Name: "LateEnlist", What: "a branch may join after commit was asked for", In: []string{inTwoPC}},
	{ID: "X15", Name: "NotFoundIsDone", What: "a branch that is not found counts as committed",
		In: []string{inPostgres, inMySQL}},
	{ID: "X16", Name: "RollbackTagIsPrepared", What: "the answer ROLLBACK to PREPARE TRANSACTION is taken for a yes",
		In: []string{inPostgres}},
	{ID: "X17", Name: "RetryUnderNewGid", What: "a commit request is repeated under another gid", In: []string{inSDK}},
	{ID: "X18", Name: "LastDecisionWins", What: "a later decision replaces the first", In: []string{inTxnSim}},
	{ID: "X19", Name: "TouchForeign", What: "recovery rolls back what belongs to others", In: []string{inTxnSim}},
	{ID: "X20", Name: "NoGrace", What: "recovery takes young branches for orphans", In: []string{inTxnSim}},
	{ID: "X21", Name: "EpochBeforeHistory", What: "the epoch is durable before the history that it stands for",
		In: []string{inLogSim}},
	{ID: "X22", Name: "AckNewLeaderEarly", What: "NewLeader is acknowledged before the disk has the history",
		In: []string{inLogSim}},
	{ID: "X23", Name: "TruncateCommitted", What: "a follower is cut back below what is committed",
		In: []string{inLogSim}},
	{ID: "X24", Name: "ShorterLogLeads", What: "a leader does not mind a follower that is ahead",
		In: []string{inLogSim}},
	{ID: "X25", Name: "ReadUnconfirmed", What: "a read is served without asking a quorum", In: []string{inLogSim}},
	{ID: "X26", Name: "ReadOnOldRound", What: "a read is confirmed by a ping round that began before it",
		In: []string{inLogSim}},
	{ID: "X27", Name: "GoOnAfterWriteError", What: "a failed sync is taken for a success", In: []string{inWAL}},
	{ID: "X28", Name: "DamageIsTheEnd", What: "a damaged record in the middle counts as the end of the log",
		In: []string{inWAL}},
	{ID: "X29", Name: "PositionApart", What: "the applied position is written apart from the state",
		In: []string{inWAL}},
	{ID: "X30", Name: "SwitchUnsynced", What: "the switch to an installed snapshot is not synced", In: []string{inWAL}},
	{ID: "X31", Name: "SwallowHeuristic", What: "a heuristic outcome is not recorded", In: []string{inTxnSim}},
	{ID: "X32", Name: "ApplyTwice", What: "entries that a snapshot holds are delivered again", In: []string{inLogSim}},
	{ID: "X33", Name: "MinorityDecides", What: "a minority of participants finishes three-phase commit",
		In: []string{inThreePC}},
	{ID: "X34", Name: "TimerNotRearmed", What: "a timer is not set again after an election", In: []string{inLogSim}},
	{ID: "X35", Name: "UnrecordedIsAborted", What: "a transaction that the cluster knows nothing of is called aborted",
		In: []string{inTxnSim, inTwoPC}},
	{ID: "X36", Name: "CommitUnderEndedLease", What: "a commit request of a client whose lease has ended is taken",
		In: []string{inTxnSim}},
	{ID: "X37", Name: "NewSetAtOnce", What: "a new set of members counts before it is delivered",
		In: []string{inLogSim, inZAB}},
	{ID: "X38", Name: "SendBeforePreCommitRecord",
		What: "agents are told to pre-commit before the log has delivered the record",
		In:   []string{inThreePC, inTxnSim}},
	{ID: "X39", Name: "TombstoneOverPreCommit", What: "a tombstone decides a gid that agents may have committed",
		In: []string{inThreePC}},
	{ID: "X40", Name: "NewLeaderAborts", What: "a new leader aborts what it finds open",
		In: []string{inThreePC, inTxnSim}},
	{ID: "X41", Name: "PurgeOpenGids", What: "the watermark removes an open gid", In: []string{inThreePC}},
	{ID: "X42", Name: "ChoiceUnforced", What: "a candidate tells its choice before its own journal has it",
		In: []string{inThreePC}},
	{ID: "X43", Name: "TwoLeadersChoose", What: "a new leader goes on with an election that another leader began",
		In: []string{inThreePC}},
	{ID: "X44", Name: "AnswerBeforePromise",
		What: "the witness answers an election with what it was before its promise was delivered",
		In:   []string{inThreePC}},
	{ID: "X45", Name: "AbortedWithoutForce",
		What: "an agent with a vote in its journal answers Aborted unforced, and votes yes later",
		In:   []string{inThreePC}},
	{ID: "X46", Name: "NotMemberIsAborted", What: "an agent that knows nothing is taken for one that aborted",
		In: []string{inThreePC}},
	{ID: "X47", Name: "OpenBranchVotesLater", What: "an agent answers Aborted for an open branch, and votes yes later",
		In: []string{inThreePC}},
	{ID: "X48", Name: "CountReadOnly", What: "read-only voters count in quorums", In: []string{inThreePC}},
	{ID: "X49", Name: "AckOfAnother", What: "an acknowledgement of another election counts", In: []string{inThreePC}},
	{ID: "X50", Name: "AttemptBelowPromise", What: "an attempt below what was promised is accepted",
		In: []string{inThreePC}},
	{ID: "X51", Name: "MinorityAcks", What: "acknowledgements of a minority decide", In: []string{inThreePC}},
	{ID: "X52", Name: "AnyHalf", What: "any half of the members is a quorum", In: []string{inThreePC}},
	{ID: "X53", Name: "NumberAlone", What: "elections are compared by their number alone, and an equal one is promised",
		In: []string{inThreePC}},
	{ID: "X54", Name: "VoteBeforeJournal", What: "an agent votes yes before its journal has it",
		In: []string{inThreePC}},
	{ID: "X55", Name: "TimeoutCommits", What: "an agent that waits too long in pre-committed commits",
		In: []string{inThreePC}},
	{ID: "X56", Name: "TimeoutAborts", What: "an agent that waits too long for pre-commit aborts",
		In: []string{inThreePC}},
	{ID: "X57", Name: "ForgetKeys", What: "two transactions are committed under one idempotency key",
		In: []string{inTxnSim}},
	{ID: "X58", Name: "DeadlockAtOneLook", What: "one look at the databases makes a deadlock, whoever had the " +
		"sessions before and after it", In: []string{inDeadlock}},
	{ID: "X59", Name: "DeadlockEndsVoters", What: "a transaction that is being committed is a victim of a deadlock",
		In: []string{inDeadlock}},
	{ID: "X60", Name: "JoinTwice", What: "a service does a call of another one that arrives twice, twice",
		In: []string{inTxnSim}},
	{ID: "X61", Name: "JoinAfterVote", What: "a service works in a transaction after it was asked for its vote",
		In: []string{inTxnSim}},
	{ID: "X62", Name: "VoteUnheard", What: "a service votes yes for calls whose answers nobody has heard",
		In: []string{inTxnSim}},
	{ID: "X63", Name: "LeaveActsOpen", What: "nobody says how an act of a person ended whose leader lost its place",
		In: []string{inCommit}},
	{ID: "X64", Name: "SettleReads", What: "settling reads the marker of the last resource, and inserts none",
		In: []string{inLast, inTxnSim}},
	{ID: "X65", Name: "MarkerApart", What: "the marker of a last resource is committed apart from its work",
		In: []string{inLast, inTxnSim}},
	{ID: "X66", Name: "TombstoneWithoutLast", What: "the log aborts a transaction without asking its last resource",
		In: []string{inLast, inTxnSim}},
	{ID: "X67", Name: "AbortMarkerForgotten",
		What: "a marker to abort is removed while the client that may meet it sleeps",
		In:   []string{inLast, inTxnSim}},
	{ID: "X68", Name: "MarkerWithoutBranches", What: "the marker of a last resource does not name the other branches",
		In: []string{inLast, inTxnSim}},
	{ID: "X69", Name: "DuplicateIsCommit", What: "a marker that is there already is taken for a commit, unread",
		In: []string{inLast, inTxnSim}},
	{ID: "X70", Name: "ClaimHoldsNobody", What: "an idempotency key that is in flight elsewhere is not waited for",
		In: []string{inCommit}},
	{ID: "X71", Name: "ClaimOutlivesLease", What: "the key of a client that died is kept from all others",
		In: []string{inCommit}},
}
