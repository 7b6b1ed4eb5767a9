// SPDX-License-Identifier: Apache-2.0

//go:build mutant

package mutant

// The switches. All are off until With turns one on.
var (
	AckBeforeDurable          bool // X01
	VoteBeforeDurable         bool // X02
	ReplyBeforeQuorum         bool // X03
	CommitOnOwnDisk           bool // X04
	AppendFromAnyEpoch        bool // X05
	ForgetDecisions           bool // X07
	ForgetTombstones          bool // X08
	RollbackAfterYes          bool // X09
	CommitOnMajority          bool // X10
	PresumeCommit             bool // X11
	PurgeUnfinished           bool // X12
	EndOneShort               bool // X13
	LateEnlist                bool // X14
	NotFoundIsDone            bool // X15
	RollbackTagIsPrepared     bool // X16
	RetryUnderNewGid          bool // X17
	LastDecisionWins          bool // X18
	TouchForeign              bool // X19
	NoGrace                   bool // X20
	EpochBeforeHistory        bool // X21
	AckNewLeaderEarly         bool // X22
	TruncateCommitted         bool // X23
	ShorterLogLeads           bool // X24
	ReadUnconfirmed           bool // X25
	ReadOnOldRound            bool // X26
	GoOnAfterWriteError       bool // X27
	DamageIsTheEnd            bool // X28
	PositionApart             bool // X29
	SwitchUnsynced            bool // X30
	SwallowHeuristic          bool // X31
	ApplyTwice                bool // X32
	MinorityDecides           bool // X33
	TimerNotRearmed           bool // X34
	UnrecordedIsAborted       bool // X35
	CommitUnderEndedLease     bool // X36
	NewSetAtOnce              bool // X37
	SendBeforePreCommitRecord bool // X38
	TombstoneOverPreCommit    bool // X39
	NewLeaderAborts           bool // X40
	PurgeOpenGids             bool // X41
	ChoiceUnforced            bool // X42
	TwoLeadersChoose          bool // X43
	AnswerBeforePromise       bool // X44
	AbortedWithoutForce       bool // X45
	NotMemberIsAborted        bool // X46
	OpenBranchVotesLater      bool // X47
	CountReadOnly             bool // X48
	AckOfAnother              bool // X49
	AttemptBelowPromise       bool // X50
	MinorityAcks              bool // X51
	AnyHalf                   bool // X52
	NumberAlone               bool // X53
	VoteBeforeJournal         bool // X54
	TimeoutCommits            bool // X55
	TimeoutAborts             bool // X56
	ForgetKeys                bool // X57
	DeadlockAtOneLook         bool // X58
	DeadlockEndsVoters        bool // X59
	JoinTwice                 bool // X60
	JoinAfterVote             bool // X61
	VoteUnheard               bool // X62
	LeaveActsOpen             bool // X63
	SettleReads               bool // X64
	MarkerApart               bool // X65
	TombstoneWithoutLast      bool // X66
	AbortMarkerForgotten      bool // X67
	MarkerWithoutBranches     bool // X68
	DuplicateIsCommit         bool // X69
	ClaimHoldsNobody          bool // X70
	ClaimOutlivesLease        bool // X71
)

var switches = map[string]*bool{
	"X01": &AckBeforeDurable,
	"X02": &VoteBeforeDurable,
	"X03": &ReplyBeforeQuorum,
	"X04": &CommitOnOwnDisk,
	"X05": &AppendFromAnyEpoch,
	"X07": &ForgetDecisions,
	"X08": &ForgetTombstones,
	"X09": &RollbackAfterYes,
	"X10": &CommitOnMajority,
	"X11": &PresumeCommit,
	"X12": &PurgeUnfinished,
	"X13": &EndOneShort,
	"X14": &LateEnlist,
	"X15": &NotFoundIsDone,
	"X16": &RollbackTagIsPrepared,
	"X17": &RetryUnderNewGid,
	"X18": &LastDecisionWins,
	"X19": &TouchForeign,
	"X20": &NoGrace,
	"X21": &EpochBeforeHistory,
	"X22": &AckNewLeaderEarly,
	"X23": &TruncateCommitted,
	"X24": &ShorterLogLeads,
	"X25": &ReadUnconfirmed,
	"X26": &ReadOnOldRound,
	"X27": &GoOnAfterWriteError,
	"X28": &DamageIsTheEnd,
	"X29": &PositionApart,
	"X30": &SwitchUnsynced,
	"X31": &SwallowHeuristic,
	"X32": &ApplyTwice,
	"X33": &MinorityDecides,
	"X34": &TimerNotRearmed,
	"X35": &UnrecordedIsAborted,
	"X36": &CommitUnderEndedLease,
	"X37": &NewSetAtOnce,
	"X38": &SendBeforePreCommitRecord,
	"X39": &TombstoneOverPreCommit,
	"X40": &NewLeaderAborts,
	"X41": &PurgeOpenGids,
	"X42": &ChoiceUnforced,
	"X43": &TwoLeadersChoose,
	"X44": &AnswerBeforePromise,
	"X45": &AbortedWithoutForce,
	"X46": &NotMemberIsAborted,
	"X47": &OpenBranchVotesLater,
	"X48": &CountReadOnly,
	"X49": &AckOfAnother,
	"X50": &AttemptBelowPromise,
	"X51": &MinorityAcks,
	"X52": &AnyHalf,
	"X53": &NumberAlone,
	"X54": &VoteBeforeJournal,
	"X55": &TimeoutCommits,
	"X56": &TimeoutAborts,
	"X57": &ForgetKeys,
	"X58": &DeadlockAtOneLook,
	"X59": &DeadlockEndsVoters,
	"X60": &JoinTwice,
	"X61": &JoinAfterVote,
	"X62": &VoteUnheard,
	"X63": &LeaveActsOpen,
	"X64": &SettleReads,
	"X65": &MarkerApart,
	"X66": &TombstoneWithoutLast,
	"X67": &AbortMarkerForgotten,
	"X68": &MarkerWithoutBranches,
	"X69": &DuplicateIsCommit,
	"X70": &ClaimHoldsNobody,
	"X71": &ClaimOutlivesLease,
}

// With runs f while the mutant with this ID is on. Tests that use it must not be parallel.
func With(id string, f func()) {
	on := switches[id]
	*on = true
	defer func() { *on = false }()
	f()
}
