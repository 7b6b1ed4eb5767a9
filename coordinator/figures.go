// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// figuresFor is how long what the leader said about itself is taken for the present. It says
// it every reportInterval.
const figuresFor = 3 * time.Second

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

// Known returns what the leader knows, or nil if that is unknown here: this node knows no leader,
// or has not heard of it for too long.
func (s *Snapshot) Known(now time.Time) *Figures {
	if f := s.Figures; f != nil && s.Leader != 0 && s.CutOff(now) == 0 && now.Sub(f.At) <= figuresFor {
		return f
	}
	return nil
}

// figures returns what this core knows as the leader; health is not its business.
func (c *Core) figures(now time.Time) *Figures {
	f := &Figures{At: now, Clock: now}
	f.InDoubt, f.Heuristic = c.counts()
	f.Resources = make([]ResourceFigures, len(c.config.Resources))
	for i, name := range c.config.Resources {
		s, d := c.scans[name], c.due[name]
		l := s.listing
		f.Resources[i] = ResourceFigures{Name: name, Listed: s.at, InDoubt: len(l.ages) + len(d.open) - l.working,
			Foreign: len(l.branches) - len(l.ages), Oldest: older(l.oldest(), d.oldest())}
	}
	for _, r := range f.Resources {
		f.Oldest = older(f.Oldest, r.Oldest)
		s := c.scans[r.Name]
		if s.err != nil {
			f.Warnings = append(f.Warnings, "resource "+r.Name+" could not be listed: "+s.err.Error())
		}
		if r.Foreign > 0 {
			f.Warnings = append(f.Warnings, fmt.Sprintf("resource %s holds %d prepared branches of other clusters (%s), which this one never touches: "+
				"\"concord recover\" lists them; if their cluster is lost, see \"The whole cluster is lost\" in docs/operations.md", r.Name, r.Foreign, s.listing.strangers()))
		}
		f.Warnings = append(f.Warnings, c.ScanState(r.Name).Report...)
	}
	for name, d := range c.due {
		n := len(d.open)
		if !d.away || n == 0 {
			continue
		}
		f.Oldest = older(f.Oldest, d.oldest())
		f.Warnings = append(f.Warnings, fmt.Sprintf("%d branches wait for resource %q, which has left the configuration: add it to \"resources\" again on all nodes", n, name))
	}
	return f
}

// oldest returns the birth of the oldest transaction of this cluster; zero if there is none.
func (l *listing) oldest() time.Time {
	if len(l.ages) == 0 {
		return time.Time{}
	}
	return l.ages[0].xid.ID.Time()
}

func (d *due) oldest() time.Time {
	if len(d.open) == 0 {
		return time.Time{}
	}
	return d.open[0].x.ID.Time()
}

// older returns the earlier of two times, of which zero is none.
func older(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// ownFigures returns the figures of this node as the leader.
func (l *loop) ownFigures(now time.Time, resources []ResourceState) *Figures {
	f := l.core.figures(now)
	for i := range f.Resources {
		f.Resources[i].Driver, f.Resources[i].Health = resources[i].Driver, resources[i].Health
	}
	return f
}

// heardFigures returns what a leader has reported of itself, nil if nothing lately.
func (l *loop) heardFigures(leader zab.NodeID, epoch zab.Epoch, now time.Time) *Figures {
	r, ok := l.reports[leader]
	if !ok || r.Role != zab.Leading || !r.Established || r.Epoch != epoch || now.Sub(r.at) > figuresFor || r.Figures == nil {
		return nil
	}
	f := *r.Figures // readers have the one before
	f.At = r.at
	return &f
}
