// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

func (c *Core) rules() recovery.Rules {
	return recovery.Rules{Cluster: c.table.Cluster(), MaxAge: c.config.Rules.MaxTransaction}
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
	s.running, s.due, s.err = false, c.now.Add(c.config.Rules.Scan), e.Err
	if e.Err != nil {
		return
	}
	s.listing, s.at = make(map[txn.XID]adapters.Prepared, len(e.Listing)), c.now
	for _, p := range e.Listing {
		s.listing[p.XID] = p
	}
	reported := map[txn.XID]string{}
	for _, a := range s.sightings.Plan(e.Resource, e.Listing, c.table, c.rules(), c.now) {
		switch a.Kind {
		case recovery.Commit:
			if c.live[a.XID.ID] == nil {
				c.chase(a, txn.Commit)
			}
		case recovery.Rollback:
			c.chase(a, txn.Abort)
		case recovery.Abort:
			l := c.hold(a.XID.ID)
			c.carry(l, l.core.Step(twopc.RollbackAsked{Reason: "orphan: " + a.Why}))
			c.note("%v at %s is an orphan: %s", a.XID, e.Resource, a.Why)
		case recovery.Report:
			reported[a.XID] = a.Why
			if s.reported[a.XID] == "" {
				c.alarm("%v at %s cannot be finished: %s", a.XID, e.Resource, a.Why)
			}
		case recovery.Leave:
		}
	}
	s.reported = reported
}

// chase gives a listed branch with a known decision to the workers; what they cannot
// take now is listed again by the next scan.
func (c *Core) chase(a recovery.Action, d txn.Decision) {
	if c.assignable(a.XID, a.Branch.Resource) {
		c.assign(Task{XID: a.XID, Branch: a.Branch, Decision: d})
	}
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

func (c *Core) onUnfit(e Unfit) {
	if e.Why == "" {
		delete(c.unfit, e.Resource)
		return
	}
	if c.unfit[e.Resource] != e.Why {
		c.alarm("resource %s must not take part: %s", e.Resource, e.Why)
	}
	c.unfit[e.Resource] = e.Why
}

// unlist forgets that a scan saw a branch, since it was finished after the scan.
func (c *Core) unlist(x txn.XID) {
	for _, s := range c.scans {
		delete(s.listing, x)
	}
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
