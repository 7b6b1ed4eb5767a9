// SPDX-License-Identifier: Apache-2.0

package sim

// Planted is a bug that a driver of the core could have. The checks must catch each.
type Planted int

// The planted bugs.
const (
	Sound           Planted = iota
	AckBeforeFsync          // a write is reported durable when it is handed over
	ForgetHardState         // a crash loses the promises
	SkipTruncate            // a truncation never reaches the disk
	LoseSyncedTail          // a crash loses the last durable entry
	DeliverTwice            // the state machine is given an entry again
	HalfInstall             // a snapshot brings its base, but not its state
)

var plantedNames = []string{"sound", "AckBeforeFsync", "ForgetHardState", "SkipTruncate", "LoseSyncedTail",
	"DeliverTwice", "HalfInstall"}

// String is the name of the bug.
func (p Planted) String() string { return plantedNames[p] }
