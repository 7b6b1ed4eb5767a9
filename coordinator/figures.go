// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/protocol/zab"
)

// figuresFor is how long what the leader said about itself is taken for the present. It says
// it every reportInterval.
const figuresFor = 3 * time.Second

// Known returns what the leader knows, or nil if that is unknown here: this node knows no leader,
// or has not heard of it for too long.
func (s *Snapshot) Known(now time.Time) *commit.Figures {
	if f := s.Figures; f != nil && s.Leader != 0 && s.CutOff(now) == 0 && now.Sub(f.At) <= figuresFor {
		return f
	}
	return nil
}

// Figures returns what this core knows as the leader; health is not its business.
func (c *Transactions) Figures(now time.Time) *commit.Figures {
	f := &commit.Figures{At: now, Clock: now}
	f.InDoubt, f.Heuristic = c.counts()
	f.Resources = make([]commit.ResourceFigures, len(c.config.Resources))
	for i, name := range c.config.Resources {
		s, d := c.scans[name], c.due[name]
		l := s.listing
		f.Resources[i] = commit.ResourceFigures{Name: name, Listed: s.at, InDoubt: len(l.ages) + len(d.open) - l.working,
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
func (l *loop) ownFigures(now time.Time, resources []ResourceState) *commit.Figures {
	f := l.commits.Figures(now)
	for i := range f.Resources {
		f.Resources[i].Driver, f.Resources[i].Health = resources[i].Driver, resources[i].Health
	}
	return f
}

// heardFigures returns what a leader has reported of itself, nil if nothing lately.
func (l *loop) heardFigures(leader zab.NodeID, epoch zab.Epoch, now time.Time) *commit.Figures {
	r, ok := l.reports[leader]
	if !ok || r.Role != zab.Leading || !r.Established || r.Epoch != epoch || now.Sub(r.at) > figuresFor || r.Figures == nil {
		return nil
	}
	f := *r.Figures // readers have the one before
	f.At = r.at
	return &f
}
