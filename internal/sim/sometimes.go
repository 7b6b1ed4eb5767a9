// SPDX-License-Identifier: Apache-2.0

package sim

// Situation is something that must happen in some seeds of a block. When a counter
// stays at zero the simulation has gone quiet: it no longer tests what it claims to.
type Situation int

// The situations that are counted.
const (
	CommitAfterTwoElections Situation = iota
	TruncHappened
	DiffResumed
	CrashBetweenEntriesAndCurrent
	LeaderSteppedDown
	ReadRefusedByStaleLeader
	ReadServed
	ObserverSynced
	ProposalsDropped
	CrashBetweenEffects
	AcceptedAheadOfLeader
	LateBytesArrived
	EntriesLostInCrash
	StateWentBackInCrash
	ForgedBallotArrived
	TwoLeadersAtOnce
	CommitBeforeOwnFsync
	LogWasCut
	SnapshotInstalled
	SnapshotBrokeOff
	SnapshotCameTooLate
	situations
)

var situationNames = [situations]string{
	"commit after two elections", "TRUNC removed entries", "DIFF brought old entries",
	"follower crashed between entries and Current", "established leader stepped down",
	"read refused by a stale leader", "read served", "observer synced", "proposals dropped with unknown fate",
	"crash between two effects of one step", "accepted epoch ahead of the established leader",
	"bytes of an old connection arrived late", "entries lost in a crash", "applied state went back in a crash",
	"forged ballot arrived", "two established leaders at once", "leader committed before its own fsync",
	"log was cut", "snapshot was installed", "snapshot broke off", "snapshot of a session that was over",
}

// String is the situation in words.
func (s Situation) String() string { return situationNames[s] }

// Counters says how often each situation occurred.
type Counters [situations]int

func (c *Counters) hit(s Situation) { c[s]++ }

// Add sums the counters of several runs.
func (c *Counters) Add(o Counters) {
	for i := range c {
		c[i] += o[i]
	}
}

// Missing lists the situations that never occurred.
func (c *Counters) Missing() []Situation {
	var out []Situation
	for s := range situations {
		if c[s] == 0 {
			out = append(out, s)
		}
	}
	return out
}
