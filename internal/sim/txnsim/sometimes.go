// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"strings"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// Situation is something that must happen in some seeds, as Situation is.
type Situation int

// The situations of this layer.
const (
	ClientToldCommit Situation = iota
	ClientToldAbort
	ClientNeverTold
	ClientCrashed
	StatementFailed
	PreparedTooLate
	RowWaitedFor
	LockTimedOut
	AnsweredAfterALostReply
	CommitRetriedElsewhere
	CommitBeatenByTombstone
	OrphanAborted
	OldCommitted
	LeaderDiedProposing
	SnapshotWithOpenInstalled
	WorkerFinished
	FoundDone
	FinishRetried
	HeldByItsSession
	HolderFenced
	BranchHidden
	BranchLost
	BranchFinishedAgain
	BackupRestored
	DatabaseDown
	DBABeforeDecision
	DBAAfterDecision
	HeuristicCommitReported
	HeuristicRollbackReported
	HazardReported
	HeuristicForgotten
	OperatorResolved
	EndedByHandAsReported
	BranchGivenUp
	ForgetLost
	FinishedPurged
	TooOldRefused
	ForeignListed
	ViewServed
	ViewRefused
	ClockStepped
	CommittedAloneUnrecorded
	LeaseEndedUnderCommit
	OrphanOfEndedLease
	MembersOperated
	MembersRefused
	NodeLearned
	LearnerBecameVoter
	CouncilToldCommit
	CouncilToldAbort
	CouncilNeverTold
	AgentKilled
	AgentsCommittedAlone
	ClusterLostToAgents
	KeyUsedBefore
	KeyLookedUp
	DatabaseQuarantined
	DatabaseAccepted
	JoinedCommitted
	HandedOn
	ServiceKilled
	CallUnanswered
	CallRefused
	VoteUnheard
	DecisionFollowed
	LastToldCommit
	LastSettledByCluster
	LastCommitBeaten
	LastStopped
	VaultDown
	situations
)

var situationNames = [situations]string{
	"client told commit", "client told abort", "client never told", "client crashed",
	"PREPARE answered ROLLBACK", "branch prepared after its client had died", "row waited for", "lock timed out",
	"decision heard after a reply was lost", "commit asked for again at another node",
	"late commit beaten by a tombstone",
	"orphan aborted", "orphan scan beaten by a late commit", "leader died between proposing and delivering",
	"snapshot installed while transactions are open", "branch finished by a worker", "branch found finished",
	"finish retried after a failure", "branch listed and not found while its session lives", "holder fenced",
	"finish answered OK and lost", "prepared branch lost", "branch that came back finished again",
	"old backup restored",
	"database down", "DBA acted before the decision", "DBA acted after the decision", "heuristic commit reported",
	"heuristic rollback reported", "hazard reported", "heuristic outcome forgotten", "resolved by an operator",
	"reported branch ended by hand", "branch given up by an operator",
	"word to forget evidence lost", "finished transaction purged", "client older than the watermark refused",
	"foreign branch listed and left alone", "view served", "view refused", "clock stepped",
	"unrecorded answered for what one database committed",
	"commit asked for and refused because the lease had ended", "orphan aborted because its lease had ended",
	"members changed or leadership moved by an operator", "operator refused about the members", "node learned",
	"learner became a voter",
	"three-phase client told commit", "three-phase client told abort", "three-phase client never told", "agent killed",
	"agents committed without the cluster", "cluster lost to all agents",
	"commit refused because its key was used", "key looked up",
	"database quarantined", "database accepted as it is",
	"branch of a service committed", "transaction handed on to another service", "service killed",
	"call never answered",
	"call that came twice or late refused", "service voted no because of a call that nobody had heard of",
	"decision learned by a service from the cluster",
	"client told commit by its last resource", "last resource settled by a node",
	"commit of a last resource beaten by a marker to abort", "client stopped before the commit of its last resource",
	"last resource down",
}

// String is the situation in words.
func (s Situation) String() string { return situationNames[s] }

func (w *world) hit(s Situation) { w.counters[s]++ }

// countVerdict counts first decisions; each node makes them once.
func (w *world) countVerdict(v txn.Verdict) {
	if v.First && v.By == txn.FromCluster {
		w.hit(OrphanAborted)
		if strings.HasSuffix(v.Reason, txn.LeaseEnded(v.ID.Lease())) {
			w.hit(OrphanOfEndedLease)
		}
	}
}

// lookAt searches entries of the log, each of them once, for what only a record shows.
func (w *world) lookAt(entries []zab.Entry) {
	for _, e := range entries {
		p := e.Zxid
		if p.Epoch < w.lookedAt.Epoch || p.Epoch == w.lookedAt.Epoch && p.Counter <= w.lookedAt.Counter {
			continue
		}
		w.lookedAt = p
		records, err := txn.DecodeRecords(e.Data)
		if err != nil {
			continue // the table has refused it
		}
		for _, r := range records {
			w.lookAtRecord(r)
		}
	}
}

func (w *world) lookAtRecord(r txn.Record) {
	switch r := r.(type) {
	case txn.CommitRecord:
		switch g := w.check.ghosts[r.ID]; {
		case g == nil:
		case g.decision == txn.Abort:
			w.hit(CommitBeatenByTombstone)
		case w.Now-g.born >= sim.Instant(rules.MaxTransaction/time.Microsecond):
			w.hit(OldCommitted)
		}
	case txn.MembersRecord:
		w.lookAtMembers(r)
	case txn.QuarantineRecord:
		w.hit(DatabaseQuarantined)
	case txn.AcceptRecord:
		w.hit(DatabaseAccepted)
	case txn.HeuristicRecord:
		switch r.Outcome {
		case txn.HeuristicCommit:
			w.hit(HeuristicCommitReported)
		case txn.HeuristicRollback:
			w.hit(HeuristicRollbackReported)
		case txn.HeuristicHazard:
			w.hit(HazardReported)
		}
	}
}

func (w *world) countFinish(t commit.Task, f txn.Finish, again bool) {
	w.hit(WorkerFinished)
	switch f {
	case txn.AlreadyDone:
		w.hit(FoundDone)
	case txn.Lost:
		w.hit(BranchLost)
	}
	if w.failures[t.XID] {
		w.hit(FinishRetried)
		delete(w.failures, t.XID)
	}
	if again {
		w.hit(BranchFinishedAgain)
	}
}
