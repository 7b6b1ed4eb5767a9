// SPDX-License-Identifier: Apache-2.0

//go:build !mutant

package mutant

// Without the build tag every switch is a constant, and its branch is not compiled.
const (
	AckBeforeDurable          = false // X01
	VoteBeforeDurable         = false // X02
	ReplyBeforeQuorum         = false // X03
	CommitOnOwnDisk           = false // X04
	AppendFromAnyEpoch        = false // X05
	ForgetDecisions           = false // X07
	ForgetTombstones          = false // X08
	RollbackAfterYes          = false // X09
	CommitOnMajority          = false // X10
	PresumeCommit             = false // X11
	PurgeUnfinished           = false // X12
	EndOneShort               = false // X13
	LateEnlist                = false // X14
	NotFoundIsDone            = false // X15
	RollbackTagIsPrepared     = false // X16
	RetryUnderNewGid          = false // X17
	LastDecisionWins          = false // X18
	TouchForeign              = false // X19
	NoGrace                   = false // X20
	EpochBeforeHistory        = false // X21
	AckNewLeaderEarly         = false // X22
	TruncateCommitted         = false // X23
	ShorterLogLeads           = false // X24
	ReadUnconfirmed           = false // X25
	ReadOnOldRound            = false // X26
	GoOnAfterWriteError       = false // X27
	DamageIsTheEnd            = false // X28
	PositionApart             = false // X29
	SwitchUnsynced            = false // X30
	SwallowHeuristic          = false // X31
	ApplyTwice                = false // X32
	MinorityDecides           = false // X33
	TimerNotRearmed           = false // X34
	UnrecordedIsAborted       = false // X35
	CommitUnderEndedLease     = false // X36
	NewSetAtOnce              = false // X37
	SendBeforePreCommitRecord = false // X38
	TombstoneOverPreCommit    = false // X39
	NewLeaderAborts           = false // X40
	PurgeOpenGids             = false // X41
	ChoiceUnforced            = false // X42
	TwoLeadersChoose          = false // X43
	AnswerBeforePromise       = false // X44
	AbortedWithoutForce       = false // X45
	NotMemberIsAborted        = false // X46
	OpenBranchVotesLater      = false // X47
	CountReadOnly             = false // X48
	AckOfAnother              = false // X49
	AttemptBelowPromise       = false // X50
	MinorityAcks              = false // X51
	AnyHalf                   = false // X52
	NumberAlone               = false // X53
	VoteBeforeJournal         = false // X54
	TimeoutCommits            = false // X55
	TimeoutAborts             = false // X56
	ForgetKeys                = false // X57
	DeadlockAtOneLook         = false // X58
	DeadlockEndsVoters        = false // X59
	JoinTwice                 = false // X60
	JoinAfterVote             = false // X61
	VoteUnheard               = false // X62
	LeaveActsOpen             = false // X63
	SettleReads               = false // X64
	MarkerApart               = false // X65
	TombstoneWithoutLast      = false // X66
	AbortMarkerForgotten      = false // X67
	MarkerWithoutBranches     = false // X68
	DuplicateIsCommit         = false // X69
	ClaimHoldsNobody          = false // X70
	ClaimOutlivesLease        = false // X71
)
