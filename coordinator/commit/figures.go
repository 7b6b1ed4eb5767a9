// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/txn"
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

// Figures returns what this core knows as the leader; health is not its business.
func (c *Machine) Figures(now time.Time) *Figures {
	f := &Figures{At: now, Clock: now}
	f.InDoubt, f.Heuristic = c.counts()
	f.Resources = make([]ResourceFigures, len(c.config.Resources))
	for i, name := range c.config.Resources {
		s, d := c.scans[name], c.due[name]
		l := s.listing
		f.Resources[i] = ResourceFigures{Name: name, Listed: s.at, InDoubt: len(l.ages) + len(d.open) - l.working,
			Foreign: len(l.branches) - len(l.ages), Oldest: older(l.ages.oldest(), d.open.oldest())}
	}
	for _, r := range f.Resources {
		f.Oldest = older(f.Oldest, r.Oldest)
		s := c.scans[r.Name]
		if s.err != nil {
			f.Warnings = append(f.Warnings, "resource "+r.Name+" could not be listed: "+s.err.Error())
		}
		if r.Foreign > 0 {
			f.Warnings = append(f.Warnings,
				fmt.Sprintf("resource %s holds %d prepared branches of other clusters (%s), which this one never "+
					"touches: "+
					"\"concord recover\" lists them; if their cluster is lost, see \"The whole cluster is lost\" in "+
					"docs/operations.md", r.Name, r.Foreign, s.listing.strangers()))
		}
		f.Warnings = append(f.Warnings, c.ScanState(r.Name).Report...)
	}
	for name, d := range c.due {
		n := len(d.open)
		if !d.away || n == 0 {
			continue
		}
		f.Oldest = older(f.Oldest, d.open.oldest())
		f.Warnings = append(f.Warnings, fmt.Sprintf("%d branches wait for resource %q, which has left the "+
			"configuration: add it to \"resources\" again on all nodes", n, name))
	}
	return f
}

// older returns the earlier of two times, of which zero is none.
func older(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Decided counts decisions.
type Decided struct{ Commit, Abort uint64 }

func (d *Decided) count(v txn.Decision) {
	if v == txn.Commit {
		d.Commit++
	} else {
		d.Abort++
	}
}
