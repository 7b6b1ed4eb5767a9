// SPDX-License-Identifier: Apache-2.0

package sim

// Situation is something that must happen in some seeds of a block. When a counter
// stays at zero the simulation has gone quiet: it no longer tests what it claims to.
type Situation int

// The situations that are counted.
const (
	CommitAfterTwoElections Situation = iota
	TruncHappened
	TruncAcrossEpochs
	DiffResumed
	CrashBetweenEntriesAndCurrent
	CrashDuringSync
	LeaderSteppedDown
	ReadRefusedByStaleLeader
	ReadServed
	ReadServedByFollower
	ReadServedByObserver
	ReadFailedByStepDown
	ClientMovedOn
	WriteAcknowledged
	ObserverSynced
	ProposalsDropped
	ProposalRefusedBusy
	WindowClosed
	CrashBetweenEffects
	AcceptedAheadOfLeader
	LateBytesArrived
	DuplicateArrived
	EntriesLostInCrash
	StateWentBackInCrash
	WriteTorn
	WriteFailed
	AllDownAtOnce
	MinorityStayedDead
	ForgedBallotArrived
	TwoLeadersAtOnce
	TwoClaimOneEpoch
	CommitBeforeOwnFsync
	CommitAheadOfTail
	DeliveredFromDisk
	LogWasCut
	CutDroppedSession
	SnapshotInstalled
	SnapshotAfterTrunc
	SnapshotBrokeOff
	SnapshotCameTooLate
	SnapshotSenderLeft
	SnapshotReceiverCrashed
	InstallLostInCrash
	FinalizeShortcut
	FinalizeWaited
	CandidateAbstained
	JoinedALeader
	JoinedDuringBroadcast
	StreamTookMessages
	FollowerWasAhead
	PromisedToAnother
	SupportersLeft
	NotSyncedInTime
	SyncWithoutProgress
	LeaderAbdicated
	LeaderResigned
	LeaderLostQuorum
	LeaderFellSilent
	LeaderSaidItLeft
	StalledLeaderYielded
	PausedLeaderWoke
	OldLeaderRefused
	OldPongRefused
	SessionReset
	SilentPeerDropped
	UnacknowledgingPeerDropped
	VoterCame
	VoterWent
	NewerSetLearned
	RemovedStayedDead
	LeadershipHandedOver
	TransferFailed
	Situations
)

var situationNames = [Situations]string{
	CommitAfterTwoElections:       "commit after two elections",
	TruncHappened:                 "TRUNC removed entries",
	TruncAcrossEpochs:             "TRUNC went back to an entry of an older epoch",
	DiffResumed:                   "DIFF brought old entries",
	CrashBetweenEntriesAndCurrent: "follower crashed between entries and Current",
	CrashDuringSync:               "follower crashed in the middle of synchronization",
	LeaderSteppedDown:             "established leader stepped down",
	ReadRefusedByStaleLeader:      "read refused by a stale leader",
	ReadServed:                    "read served",
	ReadServedByFollower:          "read served by a follower",
	ReadServedByObserver:          "read served by an observer",
	ReadFailedByStepDown:          "read failed because its leader stepped down",
	ClientMovedOn:                 "client read at another node than before",
	WriteAcknowledged:             "client was told that its write is applied",
	ObserverSynced:                "observer synced",
	ProposalsDropped:              "proposals dropped with unknown fate",
	ProposalRefusedBusy:           "proposal refused because too much was in flight",
	WindowClosed:                  "entry held back by the closed window of a peer",
	CrashBetweenEffects:           "crash between two effects of one step",
	AcceptedAheadOfLeader:         "accepted epoch ahead of the established leader",
	LateBytesArrived:              "bytes of an old connection arrived late",
	DuplicateArrived:              "bytes of an old connection arrived twice",
	EntriesLostInCrash:            "entries lost in a crash",
	StateWentBackInCrash:          "applied state went back in a crash",
	WriteTorn:                     "crash tore the write that was under way",
	WriteFailed:                   "write failed and ended its node",
	AllDownAtOnce:                 "all nodes were down at once",
	MinorityStayedDead:            "a minority stayed dead after healing",
	ForgedBallotArrived:           "forged ballot arrived",
	TwoLeadersAtOnce:              "two established leaders at once",
	TwoClaimOneEpoch:              "two leaders claimed the same epoch",
	CommitBeforeOwnFsync:          "leader committed before its own fsync",
	CommitAheadOfTail:             "commit watermark ahead of the follower's log",
	DeliveredFromDisk:             "entries of before a restart delivered",
	LogWasCut:                     "log was cut",
	CutDroppedSession:             "cut dropped the session of a peer that lagged",
	SnapshotInstalled:             "snapshot was installed",
	SnapshotAfterTrunc:            "snapshot installed where once was truncated",
	SnapshotBrokeOff:              "snapshot broke off",
	SnapshotCameTooLate:           "snapshot of a session that was over",
	SnapshotSenderLeft:            "snapshot's sender crashed",
	SnapshotReceiverCrashed:       "snapshot's receiver crashed while fetching",
	InstallLostInCrash:            "snapshot's receiver crashed before it was installed",
	FinalizeShortcut:              "election decided at once, all voters agreed",
	FinalizeWaited:                "election decided after waiting for a better vote",
	CandidateAbstained:            "candidate abstained",
	JoinedALeader:                 "looking node joined a leader",
	JoinedDuringBroadcast:         "follower synchronized with proposals in flight",
	StreamTookMessages:            "stream of entries took several messages",
	FollowerWasAhead:              "leader gave up because a follower was ahead",
	PromisedToAnother:             "epoch refused because it was promised to another leader",
	SupportersLeft:                "leader gave up because its supporters left",
	NotSyncedInTime:               "leader gave up because no quorum was synchronized",
	SyncWithoutProgress:           "follower gave up a synchronization without progress",
	LeaderAbdicated:               "leader abdicated for a voter with a higher promise",
	LeaderResigned:                "leader resigned when asked to",
	LeaderLostQuorum:              "leader stepped down without a quorum",
	LeaderFellSilent:              "follower left a silent leader",
	LeaderSaidItLeft:              "follower heard that its leader leads no more",
	StalledLeaderYielded:          "leader with a stalled disk yielded",
	PausedLeaderWoke:              "paused leader woke up behind a newer one",
	OldLeaderRefused:              "message of a leader whose epoch is over refused",
	OldPongRefused:                "pong of an old session refused",
	SessionReset:                  "session reset",
	SilentPeerDropped:             "silent peer dropped",
	UnacknowledgingPeerDropped:    "peer that acknowledges nothing dropped",
	VoterCame:                     "a voter more",
	VoterWent:                     "a voter less",
	NewerSetLearned:               "newer set of members learned from another node",
	RemovedStayedDead:             "removed node stayed dead",
	LeadershipHandedOver:          "leadership handed over",
	TransferFailed:                "leadership not handed over when asked to",
}

// String is the situation in words.
func (s Situation) String() string { return situationNames[s] }

// Counters says how often each situation occurred.
type Counters [Situations]int

func (c *Counters) Hit(s Situation) { c[s]++ }

// Add sums the counters of several runs.
func (c *Counters) Add(o Counters) {
	for i := range c {
		c[i] += o[i]
	}
}

// Missing lists the situations that never occurred.
func (c *Counters) Missing() []Situation {
	var out []Situation
	for s := range Situations {
		if c[s] == 0 {
			out = append(out, s)
		}
	}
	return out
}
