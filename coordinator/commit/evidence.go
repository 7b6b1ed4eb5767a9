// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// Evidence is forgotten when its transaction is finished, by whoever leads then. What is left
// behind, because that node died or its word did not arrive, is found by a sweep: the leader
// lets each resource list what it keeps, a page at a time, from the oldest on. The same sweep finds evidence of
// commits that were decided to be aborts. It comes at once when a branch without a decision to commit has
// vanished from a listing, since somebody has ended it.

const (
	// evidenceAfter is when a leader begins to sweep: its predecessor may have left a lot.
	evidenceAfter = 5 * time.Second
	// evidenceEvery is the interval between two sweeps of a resource.
	evidenceEvery = 20 * time.Second
	// evidencePage is the interval between two pages of one sweep.
	evidencePage = 200 * time.Millisecond
)

// evidenceSweep is how far a sweep of one resource is.
type evidenceSweep struct {
	due     time.Time // zero: the leader has just begun
	running bool
	after   txn.XID // the last one of the page before; zero: from the first one of this cluster on
}

// sweepEvidence asks for pages of evidence that are due.
func (c *Machine) sweepEvidence() {
	for _, name := range c.config.Resources {
		e := &c.scans[name].evidence
		switch {
		case c.table.Quarantined(name):
		case e.due.IsZero():
			e.due = c.core.Now().Add(evidenceAfter)
		case !e.running && !c.core.Now().Before(e.due):
			e.running, e.after.Cluster = true, c.table.Cluster()
			c.fx.Evidence = append(c.fx.Evidence, EvidenceAsk{Resource: name, After: e.after})
		}
	}
}

// onKept plans for one page. It is as long as it is so that no turn takes long.
func (c *Machine) onKept(k Kept) {
	s := c.scans[k.Resource]
	if !c.core.Leading() || s == nil {
		return
	}
	s.evidence = evidenceSweep{due: c.core.Now().Add(evidenceEvery)}
	if k.Err != nil || c.table.Quarantined(k.Resource) {
		return
	}
	if spent := recovery.Spent(k.Evidence, c.table, c.rules()); len(spent) > 0 {
		c.evidence[k.Resource] = append(c.evidence[k.Resource], spent...)
	}
	c.settleUnreported(k.Resource, k.Evidence)
	for _, x := range recovery.Contradicted(k.Evidence, c.table, c.rules()) {
		c.heuristic(Finished{XID: x, By: txn.FromCluster, Who: k.Resource,
			Why: "decided abort, and the marker of the branch is in the database: somebody committed it by hand"},
			txn.HeuristicCommit)
	}
	// What comes behind that of this cluster belongs to others.
	if n := len(k.Evidence); n >= adapters.EvidencePage && k.Evidence[n-1].Cluster == c.table.Cluster() {
		s.evidence.due, s.evidence.after = c.core.Now().Add(evidencePage), k.Evidence[n-1]
	}
}

// evidenceDone notes that the evidence of a finished transaction is not needed any
// more. Nothing that is alarming is finished, so a contradiction keeps its evidence.
func (c *Machine) evidenceDone(x txn.Txn) {
	for _, b := range x.Branches {
		if !c.table.Quarantined(b.Resource) { // a sweep finds it, once somebody has accepted
			c.evidence[b.Resource] = append(c.evidence[b.Resource], c.xid(x.ID, b.No))
		}
	}
	if x.Last != "" && !c.table.Quarantined(x.Last) {
		c.evidence[x.Last] = append(c.evidence[x.Last], txn.LastXID(c.table.Cluster(), x.ID))
	}
}

// spend has evidence removed, and in the same transaction of each database raises its high-water row. One
// that has no row gets one.
func (c *Machine) spend() {
	if !c.core.Now().After(c.nextEvid) {
		return
	}
	c.nextEvid, c.fx.Forget = c.core.Now().Add(evidenceInterval), make(map[string]Spent, len(c.evidence))
	for name, xs := range c.evidence {
		c.fx.Forget[name] = Spent{XIDs: xs}
	}
	c.evidence = map[string][]txn.XID{}
	for _, name := range c.config.Resources {
		known := c.table.Remembered(name)
		s, wanted := c.fx.Forget[name]
		if c.marks(name) && (wanted || known.HighWater.IsZero() && !c.down[name]) {
			s.From, s.To = known.HighWater, txn.HighWater{At: c.table.Zxid(), Floor: c.floor(name)}
			c.fx.Forget[name], c.raising[name] = s, s.To
		}
	}
}

// marks reports whether the database of a resource is to have a high-water row.
func (c *Machine) marks(resource string) bool {
	return c.config.Marks != nil && c.config.Marks(resource) && c.table.Level() >= txn.LevelHighWater && !c.taking &&
		!c.table.Quarantined(resource)
}

// maxFloor branches are gone through to find where the oldest was decided.
const maxFloor = 1024

// floor is where the oldest transaction was decided that has an unfinished branch at a resource. Where there
// are many it is what it was before, which is not above that.
func (c *Machine) floor(resource string) zab.Zxid {
	d := c.due[resource]
	if len(d.open) > maxFloor {
		return c.table.Remembered(resource).Floor
	}
	floor := c.table.Zxid()
	for _, b := range d.open {
		if x, ok := c.table.Get(b.of.id); ok && x.Decided.Less(floor) {
			floor = x.Decided
		}
	}
	return floor
}

// onRaised has the log remember a row. What was raised before the database was found behind is not in the
// database that is there now.
func (c *Machine) onRaised(e Raised) {
	if !c.core.Leading() || c.raising[e.Resource] != e.To {
		return
	}
	delete(c.raising, e.Resource)
	if !c.table.Remembered(e.Resource).Less(e.Now) || c.table.Zxid().Less(e.Now.At) {
		return
	}
	c.core.Propose(txn.HighWaterRecord{Resource: e.Resource, HighWater: e.Now})
}

// onBehind quarantines a resource whose database was set back.
func (c *Machine) onBehind(e Behind) {
	known := c.table.Remembered(e.Resource)
	if !c.core.Leading() || known.Quarantine != nil || !e.Has.Less(known.HighWater) || c.behind[e.Resource] {
		return
	}
	c.behind[e.Resource] = true
	c.core.Propose(txn.QuarantineRecord{Resource: e.Resource, Has: e.Has, Time: c.core.Clock()})
}

// onQuarantines follows what the log says about databases that were set back.
func (c *Machine) onQuarantines(changes txn.Changes) {
	for _, name := range changes.Quarantined {
		delete(c.behind, name)
		delete(c.evidence, name)
		delete(c.raising, name)
		known, has := c.table.Remembered(name), "no high-water row"
		if q := known.Quarantine; !q.Has.IsZero() {
			has = "the high-water row of " + q.Has.At.String()
		}
		c.core.Alarm("resource %s was set back: its database has %s, but the log remembers that of %v: nothing is "+
			"finished there until an operator accepts it; see \"concord resource report %[1]s\"", name, has, known.At)
		if d := c.due[name]; d != nil {
			d.chases = [2][]*listedBranch{}
		}
	}
	for _, name := range changes.Accepted {
		a := c.table.Remembered(name).Accepted
		c.core.Alarm("resource %s is accepted as it is by %s: %s", name, a.Who, a.Why)
		if s := c.scans[name]; s != nil {
			c.returned(name)
			s.evidence, s.again = evidenceSweep{due: c.core.Now()}, s.running
			c.nextEvid = time.Time{}
		}
	}
}

func (c *Machine) onAcceptAsked(e AcceptAsked) {
	if !c.ready(e.Request) {
		return
	}
	switch known := c.table.Remembered(e.Resource); {
	case known.Quarantine != nil:
		c.core.Propose(txn.AcceptRecord{Resource: e.Resource, Who: e.Who, Why: e.Why, Time: c.core.Clock()})
		c.core.Await(e.Request)
	case c.scans[e.Resource] == nil:
		c.reply(Reply{Request: e.Request, Err: NoResource(e.Resource)})
	default:
		c.reply(Reply{Request: e.Request, Err: txn.Refusedf("resource %q is not quarantined, so there is "+
			"nothing to accept: see \"concord resource ls\"", e.Resource)})
	}
}
