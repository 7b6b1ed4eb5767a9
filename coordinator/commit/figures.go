// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"slices"
	"time"
)

// Figures are what only a leader can know, because it alone lists the databases and
// finishes branches. The other nodes have them from its reports; a node that has heard none lately
// has none, which is not the same as zeros.
type Figures struct {
	// At is when this node got them; Clock is what the leader's clock showed then. The times
	// below are by that clock.
	At, Clock time.Time
	// InDoubt counts transactions that are not finished everywhere: decided ones, and prepared
	// ones without decision that the last scans listed.
	InDoubt   int
	Heuristic int
	Oldest    time.Time // birth of the oldest transaction in doubt; zero if there is none
	Resources []ResourceFigures
	Warnings  []string
}

// ResourceFigures is one resource as the leader knows it.
type ResourceFigures struct {
	Name, Driver string
	Health
	// InDoubt counts branches of this cluster that are not finished: those of decided
	// transactions, whether or not the database can be asked for them, and what the last
	// listing had besides. Oldest is the birth of the oldest of them.
	InDoubt int
	Oldest  time.Time
	Foreign int // prepared branches of other clusters, by the last listing
	// Listed is when the database was last listed by this leader. Zero: never, so the
	// numbers are "at least".
	Listed time.Time
}

// Age returns how old a time of the figures is now: their own, for Clock.
func (f *Figures) Age(of, now time.Time) time.Duration {
	return max(0, f.Clock.Sub(of)+now.Sub(f.At))
}

// Incomplete reports whether a resource has not been listed since the leader leads.
func (f *Figures) Incomplete() bool {
	return slices.ContainsFunc(f.Resources, func(r ResourceFigures) bool { return r.Listed.IsZero() })
}

// Health is what a node knows of a resource by asking it.
type Health struct {
	// Asked says that it has been asked at all.
	Asked bool
	// Identity tells which database it is; empty until it could be asked once.
	Identity string
	OK       bool
	// Err says what is wrong, and the next step.
	Err string
}
