// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// scanAgain is when a resource that could not be listed is asked again: so soon, because what
// waits for it holds locks elsewhere.
const scanAgain = time.Second

func (c *Core) rules() recovery.Rules {
	return recovery.Rules{Cluster: c.table.Cluster(), MaxAge: c.config.Rules.MaxTransaction,
		Horizon: c.latest().Add(maxAheadListed)}
}

// scanDue asks resources for their prepared branches.
func (c *Core) scanDue() {
	for _, name := range c.config.Resources {
		s := c.scans[name]
		if !s.running && !c.now.Before(s.due) {
			s.running = true
			c.fx.Scan = append(c.fx.Scan, name)
		}
	}
}

// onListed carries out what recovery plans for a listing.
func (c *Core) onListed(e Listed) {
	s, ok := c.scans[e.Resource]
	if !c.leading || !ok {
		return
	}
	failed := s.err != nil
	s.running, s.due, s.err = false, c.now.Add(c.config.Rules.Scan), e.Err
	if e.Err != nil {
		s.due = c.now.Add(min(c.config.Rules.Scan, scanAgain))
		return
	}
	if failed {
		c.returned(e.Resource)
		s.due = c.now.Add(c.config.Rules.Scan)
	}
	if s.again {
		s.due, s.again = c.now, false
	}
	s.listing, s.at = make(map[txn.XID]adapters.Prepared, len(e.Listing)), c.now
	for _, p := range e.Listing {
		s.listing[p.XID] = p
	}
	maps.DeleteFunc(s.tried, func(x txn.XID, _ work) bool { _, listed := s.listing[x]; return !listed })
	s.chases = s.chases[:0]
	reported := map[txn.XID]string{}
	for _, a := range s.sightings.Plan(e.Resource, e.Listing, c.table, c.rules(), c.now) {
		switch a.Kind {
		case recovery.Commit:
			if c.live[a.XID.ID] == nil {
				s.chases = append(s.chases, Task{XID: a.XID, Branch: a.Branch, Decision: txn.Commit})
			}
		case recovery.Rollback:
			if x, known := c.table.Get(a.XID.ID); known {
				c.see(&x)
			}
			s.chases = append(s.chases, Task{XID: a.XID, Branch: a.Branch, Decision: txn.Abort})
		case recovery.Abort:
			l := c.hold(a.XID.ID)
			l.seen, l.by = true, txn.FromCluster
			c.carry(l, l.core.Step(twopc.RollbackAsked{Reason: "orphan: " + a.Why}))
			c.note("%v at %s is an orphan: %s", a.XID, e.Resource, a.Why)
		case recovery.Report:
			reported[a.XID] = a.Why
			if _, again := s.reported[a.XID]; !again {
				c.alarm("%v at %s cannot be finished: %s", a.XID, e.Resource, a.Why)
			}
		case recovery.Leave:
		}
	}
	s.reported = reported
	c.chase(s)
}

// chase gives listed branches with a known decision to the workers, as many as they have room
// for. Those that failed lately wait for a later scan.
func (c *Core) chase(s *scan) {
	left := s.chases[:0]
	for _, t := range s.chases {
		if _, listed := s.listing[t.XID]; !listed {
			continue // it was finished meanwhile
		}
		w := s.tried[t.XID]
		if t.Again = w.attempts > 0; t.Again && c.now.Before(w.due) {
			continue
		}
		if c.hasRoom(t) {
			c.assign(t)
		} else {
			left = append(left, t)
		}
	}
	s.chases = left
}

// rescan looks again soon at the resources that listed a branch of id: its decision
// has just become known.
func (c *Core) rescan(id txn.ID) {
	for _, s := range c.scans {
		for _, p := range s.listing {
			if p.XID.ID == id {
				s.due = c.now
			}
		}
	}
}

// onPlanAsked plans without doing anything and without counting as a sighting.
func (c *Core) onPlanAsked(e PlanAsked) {
	if !c.ready(e.Request) {
		return
	}
	var plan []recovery.Action
	for _, name := range c.config.Resources {
		if listing, ok := e.Listings[name]; ok {
			s := c.scans[name].sightings.Clone()
			plan = append(plan, s.Plan(name, listing, c.table, c.rules(), c.now)...)
			plan = append(plan, c.foreign(name, listing)...)
		}
	}
	slices.SortStableFunc(plan, func(a, b recovery.Action) int { return compareID(a.XID.ID, b.XID.ID) })
	c.reply(Reply{Request: e.Request, Zxid: c.zxid(), Plan: plan})
}

// foreign reports what a listing holds of other clusters, for people: scans leave it alone.
func (c *Core) foreign(resource string, listing []adapters.Prepared) (reports []recovery.Action) {
	for _, p := range listing {
		if p.XID.Cluster == c.table.Cluster() {
			continue
		}
		reports = append(reports, recovery.Action{Kind: recovery.Report, XID: p.XID, Since: p.Since,
			Branch: txn.Branch{No: p.XID.Branch, Resource: resource},
			Why: fmt.Sprintf("it belongs to cluster %v, and this is cluster %v, which never touches it: let its own cluster finish it; "+
				"if that is lost for good, end the branch %v in the database by hand", p.XID.Cluster, c.table.Cluster(), p.XID)})
	}
	return reports
}

func (c *Core) onFitness(e Fitness) {
	if c.down[e.Resource] && !e.Down {
		c.returned(e.Resource)
	}
	c.down[e.Resource] = e.Down
	if e.Fit {
		delete(c.unfit, e.Resource)
		return
	}
	if why, unfit := c.unfit[e.Resource]; !unfit || why != e.Why {
		c.alarm("resource %s must not take part: %s", e.Resource, e.Why)
	}
	c.unfit[e.Resource] = e.Why
}

// unlist forgets that a scan saw a branch, since it was finished after the scan.
func (c *Core) unlist(x txn.XID) {
	for _, s := range c.scans {
		delete(s.listing, x)
		delete(s.tried, x)
	}
}

// whyListed says what keeps a listed branch, for people; empty if nothing is known to.
func (s *scan) whyListed(x txn.XID) string {
	if s.err != nil {
		return s.err.Error()
	}
	return s.tried[x].err
}

// lingers reports whether a listed branch of this cluster counts as in doubt by itself,
// and not as a part of phase two: it has no decision, or is still there after an abort, or
// after the end of its transaction. The scan may have been faster than that end, so a
// branch after it counts only if the workers, who look at once, could not finish it.
func (c *Core) lingers(xid txn.XID) bool {
	if xid.Cluster != c.table.Cluster() {
		return false
	}
	x, decided := c.table.Get(xid.ID)
	if !decided || x.Decision == txn.Abort {
		return true
	}
	_, tried := c.tasks[xid]
	return x.Ended && !tried
}

// ScanState is what the leader knows of one resource.
type ScanState struct {
	At      time.Time // zero if it was never listed
	Err     error
	InDoubt int // prepared branches of this cluster
	Foreign int // of other clusters
	Oldest  time.Time
	Report  []string // branches that cannot be finished
}

// ScanState returns what the last scan of a resource found; the zero value at nodes
// that do not lead.
func (c *Core) ScanState(resource string) ScanState {
	s, ok := c.scans[resource]
	if !ok || !c.leading {
		return ScanState{}
	}
	st := ScanState{At: s.at, Err: s.err}
	for _, p := range s.listing {
		if p.XID.Cluster != c.table.Cluster() {
			st.Foreign++
			continue
		}
		st.InDoubt++
		if born := p.XID.ID.Time(); st.Oldest.IsZero() || born.Before(st.Oldest) {
			st.Oldest = born
		}
	}
	for x, why := range s.reported {
		st.Report = append(st.Report, x.String()+" at "+resource+": "+why)
	}
	slices.Sort(st.Report)
	return st
}

// counts returns how many transactions are not finished everywhere, and how many
// have a heuristic outcome that nobody has dealt with.
func (c *Core) counts() (inDoubt, heuristic int) {
	lingering := map[txn.ID]bool{}
	for _, s := range c.scans {
		for x := range s.listing {
			if c.lingers(x) {
				lingering[x.ID] = true
			}
		}
	}
	inDoubt = len(lingering)
	c.table.EachOpen(func(x txn.Txn) {
		if !x.Ended {
			inDoubt++
		}
		if x.Alarming() {
			heuristic++
		}
	})
	return inDoubt, heuristic
}
