// SPDX-License-Identifier: Apache-2.0

package twopcworld

import (
	"fmt"

	"github.com/concordtx/concord/internal/explore"
)

// Size says how large a world of two-phase commit is.
type Size struct {
	// Agents hold the branches and vote when the application's side asks them; otherwise it holds
	// them in its sessions.
	Agents   bool
	Branches int  // at most 4
	Crashes  int  // of any process, in any order
	Losses   int  // times that a resource forgets a branch that it had prepared
	ReadOnly int  // so many of the branches wrote nothing
	Readers  int  // so many of the branches wrote nothing, as far as their sessions know
	Late     int  // so many more branches try to join after commit was asked for
	Recorded bool // the cluster decides however many branches there are
	Early    bool // the application is answered at the decision
}

// alone says that the only branch that wrote commits in one phase: the cluster never hears of it,
// and whoever asks the cluster must not hear that it is aborted.
func (z Size) alone() bool {
	only := z.Branches == 1 || z.Branches-z.Readers == 1 && z.Readers <= z.ReadOnly
	return only && !z.Recorded
}

// alike says that two branches may change their names. The first branches read.
func (z Size) alike(a, b int) bool {
	return (a < z.ReadOnly) == (b < z.ReadOnly) && (a < z.Readers) == (b < z.Readers)
}

// String names the size.
func (z Size) String() string {
	holders := "sessions"
	if z.Agents {
		holders = "agents"
	}
	if z.Branches == 1 {
		holders = holders[:len(holders)-1]
	}
	s := fmt.Sprintf("2PC, %d %s%s", z.Branches, holders, explore.Counted(z.Crashes, "crash", "crashes"))
	if z.alone() {
		s += ", in one phase"
	}
	if z.Recorded {
		s += ", recorded"
	}
	if z.Early {
		s += ", answered at the decision"
	}
	s += explore.Counted(z.Losses, "lost branch", "lost branches")
	if z.ReadOnly > 0 {
		s += fmt.Sprintf(", %d read-only", z.ReadOnly)
	}
	if z.Readers > 0 {
		s += explore.Counted(z.Readers, "taken for a reader", "taken for readers")
	}
	if z.Late > 0 {
		s += fmt.Sprintf(", %d late", z.Late)
	}
	return s
}
