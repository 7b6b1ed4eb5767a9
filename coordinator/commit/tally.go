// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"
	"time"

	"github.com/concordtx/concord/txn"
)

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
		f.Oldest = older(f.Oldest, d.open.oldest())
		f.Warnings = append(f.Warnings, fmt.Sprintf("%d branches wait for resource %q, which has left the configuration: add it to \"resources\" again on all nodes", n, name))
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
