// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// scanAgain is when a resource that could not be listed is asked again: so soon, because what
// waits for it holds locks elsewhere.
const scanAgain = time.Second

func (c *Machine) rules() recovery.Rules {
	return recovery.Rules{Cluster: c.table.Cluster(), MaxAge: c.config.Rules.MaxTransaction,
		Horizon: c.latest().Add(maxAheadListed), ThreePhase: c.decides(txn.ThreePhase),
		LastResource: c.decides(txn.LastResource)}
}

// scanDue asks resources for their prepared branches.
func (c *Machine) scanDue() {
	for _, name := range c.config.Resources {
		s := c.scans[name]
		if !s.running && !c.core.Now().Before(s.due) {
			s.running, s.gone = true, map[txn.XID]bool{}
			c.fx.Scan = append(c.fx.Scan, name)
		}
	}
}

// onListed takes an answer. What recovery plans for it is carried out a piece in a turn.
func (c *Machine) onListed(e Listed) {
	s, ok := c.scans[e.Resource]
	if !c.core.Leading() || !ok || s.next != nil { // the one before is not judged yet
		return
	}
	failed := s.err != nil
	s.running, s.due, s.err = false, c.core.Now().Add(c.config.Rules.Scan), e.Err
	if e.Err != nil {
		s.due = c.core.Now().Add(min(c.config.Rules.Scan, scanAgain))
		return
	}
	if failed {
		c.returned(e.Resource)
		s.due = c.core.Now().Add(c.config.Rules.Scan)
	}
	if s.again {
		s.due, s.again = c.core.Now(), false
	}
	s.running, s.next = true, newListing(c.core.Now(), e.Listing)
	s.sightings.Begin()
	c.due[e.Resource].chases = [2][]*listedBranch{}
	c.judgeListing(s, c.core.Piece())
}

// judgeBranch carries out what recovery plans for one branch of a listing.
func (c *Machine) judgeBranch(s *scan, p adapters.Prepared) {
	if s.gone[p.XID] {
		return
	}
	b := c.enlist(s.next, s.resource, p.XID)
	b.last = p.Last
	if last := s.listing.branches[p.XID]; last != nil {
		b.tried = last.tried
	}
	if c.table.Quarantined(s.resource) {
		return // a branch may have come back with the data
	}
	a, ours := s.sightings.Judge(s.resource, p, c.table, c.rules(), c.core.Now())
	if !ours {
		return
	}
	switch a.Kind {
	case recovery.Commit:
		if c.inHand(a.XID.ID) == nil {
			c.pursue(b, a)
		}
	case recovery.Rollback:
		if x, known := c.table.Get(a.XID.ID); known {
			c.see(&x)
		}
		c.pursue(b, a)
	case recovery.Abort:
		if c.core.Waiting() >= replica.MaxWaiting && c.live[a.XID.ID] == nil {
			return // the next scan lists it again
		}
		l := c.hold(a.XID.ID)
		l.seen, l.record.By = true, txn.FromCluster
		c.carry(l, l.core.Step(protocol.OrphanMet{Reason: "orphan: " + a.Why}))
		c.core.Note("%v at %s is an orphan: %s", a.XID, s.resource, a.Why)
	case recovery.Settle:
		last := c.lastTagged(a.XID.ID, p.Last)
		if last == "" || c.core.Waiting() >= replica.MaxWaiting && c.live[a.XID.ID] == nil {
			return // whyUnsettled says what it waits for; the next scan lists it again
		}
		l := c.hold(a.XID.ID)
		if l.record.Last == "" {
			c.core.Note("%v at %s is an orphan: %s", a.XID, s.resource, a.Why)
		}
		l.seen, l.record.By = true, txn.FromCluster
		c.settleLast(l, last, protocol.OrphanMet{Reason: "orphan: " + a.Why})
	case recovery.Report:
		if !s.listing.reported[a.XID] {
			c.core.Alarm("%v at %s cannot be finished: %s", a.XID, s.resource, a.Why)
		}
		s.next.reported[a.XID] = true
		if len(s.next.report) < maxReport {
			s.next.report = append(s.next.report, a.XID.String()+" at "+s.resource+": "+a.Why)
		}
	case recovery.Leave:
	}
}

// pursue has a listed branch with a known decision wait for the workers.
func (c *Machine) pursue(b *listedBranch, a recovery.Action) {
	b.chase = Task{XID: a.XID, Branch: a.Branch, Decision: a.Decision()}
	c.queue(b)
}

// queue has a listed branch wait for room at the workers.
func (c *Machine) queue(b *listedBranch) {
	due := c.due[b.resource]
	b.tried = due.current(b.tried, c.core.Now())
	queue := 0
	if b.tried.attempts > 0 {
		queue = 1
	}
	due.chases[queue] = append(due.chases[queue], b)
	c.sweeping = true
}

// rescan looks again soon at the resources that listed a branch of id: its decision
// has just become known.
func (c *Machine) rescan(id txn.ID) {
	for _, b := range c.listed[id] {
		c.scans[b.resource].due = c.core.Now()
	}
}

// planning is a PlanAsked that is being answered, a piece in a turn.
type planning struct {
	PlanAsked
	resource, done int // done: of the listing of that resource
	plan           []recovery.Action
}

// onPlanAsked plans without doing anything and without counting as a sighting.
func (c *Machine) onPlanAsked(e PlanAsked) {
	if c.ready(e.Request) {
		c.plans = append(c.plans, &planning{PlanAsked: e})
	}
}

// planOn goes on with the oldest plan that was asked for.
func (c *Machine) planOn() {
	if len(c.plans) == 0 {
		return
	}
	p := c.plans[0]
	if !c.core.Leading() {
		c.plans = c.plans[1:]
		c.reply(Reply{Request: p.Request, Err: c.core.NotLeader()})
		return
	}
	for left := c.core.Piece(); p.resource < len(c.config.Resources); p.resource, p.done = p.resource+1, 0 {
		name := c.config.Resources[p.resource]
		for listing := p.Listings[name]; p.done < len(listing); p.done++ {
			if left--; left < 0 {
				return
			}
			c.core.Spend(1)
			b := listing[p.done]
			if a, ours := c.scans[name].sightings.Preview(name, b, c.table, c.rules(), c.core.Now()); ours {
				if c.table.Quarantined(name) {
					a.Kind, a.Why = recovery.Report, txn.Quarantined(name)
				}
				p.plan = append(p.plan, a)
			} else {
				p.plan = append(p.plan, c.foreign(name, b))
			}
		}
	}
	c.plans = c.plans[1:]
	c.reply(Reply{Request: p.Request, Zxid: c.core.Zxid(), Plan: p.plan})
}

// foreign reports a branch of another cluster, for people: scans leave it alone.
func (c *Machine) foreign(resource string, p adapters.Prepared) recovery.Action {
	return recovery.Action{Kind: recovery.Report, XID: p.XID, Since: p.Since,
		Branch: txn.Branch{No: p.XID.Branch, Resource: resource},
		Why: fmt.Sprintf("it belongs to cluster %v, but this is cluster %v, which never touches it: let its own "+
			"cluster finish it; if that is lost for good, end all of its branches alike, this one with \"concord "+
			"tx settle %v/%d --commit\" or \"--abort\"", p.XID.Cluster, c.table.Cluster(), p.XID.ID, p.XID.Branch)}
}

func (c *Machine) onFitness(e Fitness) {
	if c.down[e.Resource] && !e.Down {
		c.returned(e.Resource)
	}
	c.down[e.Resource] = e.Down
	if e.Fit {
		delete(c.unfit, e.Resource)
		return
	}
	if why, unfit := c.unfit[e.Resource]; !unfit || why != e.Why {
		c.core.Alarm("resource %s must not take part: %s", e.Resource, e.Why)
	}
	c.unfit[e.Resource] = e.Why
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
func (c *Machine) ScanState(resource string) ScanState {
	s, ok := c.scans[resource]
	if !ok || !c.core.Leading() {
		return ScanState{}
	}
	l := s.listing
	st := ScanState{At: s.at, Err: s.err, InDoubt: len(l.ages), Foreign: len(l.branches) - len(l.ages),
		Report: slices.Sorted(slices.Values(l.report))}
	st.Oldest = l.ages.oldest()
	if more := len(l.reported) - len(l.report); more > 0 {
		st.Report = append(st.Report, fmt.Sprintf("%d more branches at %s cannot be finished: this node's log names "+
			"them all", more, resource))
	}
	return st
}

// counts returns how many transactions are not finished everywhere, and how many
// have a heuristic outcome that nobody has dealt with.
func (c *Machine) counts() (inDoubt, heuristic int) {
	unended, heuristic := c.table.Counts()
	return len(c.lingering) + unended + c.table.WitnessCount(), heuristic
}

// aged belongs to a transaction, and knows its place in a byAge.
type aged interface {
	transaction() txn.ID
	place() *int
}

// byAge is a heap of what belongs to transactions: the oldest transactions first.
type byAge[T aged] []T

func (h *byAge[T]) add(x T)    { heap.Push(h, x) }
func (h *byAge[T]) remove(x T) { heap.Remove(h, *x.place()) }

// oldest returns the birth of the oldest transaction; zero if there is none.
func (h byAge[T]) oldest() time.Time {
	if len(h) == 0 {
		return time.Time{}
	}
	return h[0].transaction().Time()
}

func (h byAge[T]) Len() int           { return len(h) }
func (h byAge[T]) Less(i, j int) bool { return h[i].transaction().Compare(h[j].transaction()) < 0 }
func (h byAge[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].place(), *h[j].place() = i, j
}

// Push implements heap.Interface.
func (h *byAge[T]) Push(x any) {
	*x.(T).place() = len(*h)
	*h = append(*h, x.(T))
}

// Pop implements heap.Interface.
func (h *byAge[T]) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	var none T
	(*h)[last] = none
	*h = (*h)[:last]
	return x
}

// A prepared branch that is gone from a listing was ended: by the session that prepared it, by a worker,
// or by hand. Where the decision is to commit, phase two finds out what became of it. Where it is to
// abort, or there is none, its evidence tells, if it has committed.

const (
	// maxVanished transactions are remembered; of more than that the evidence alone tells.
	maxVanished   = 10_000
	vanishedEvery = 5 * time.Second
)

// judgeVanished looks at a branch that a listing had and the next one may not have; nil is one that was finished
// since.
func (c *Machine) judgeVanished(s *scan, b *listedBranch) {
	if b == nil || !b.ours || s.listing.branches[b.xid] != nil || c.table.Quarantined(s.resource) {
		return
	}
	x, decided := c.table.Get(b.xid.ID)
	if decided && x.Decision == txn.Commit {
		return
	}
	if !s.evidence.running {
		s.evidence = evidenceSweep{due: c.core.Now()}
	}
	if _, open := c.table.Witness(b.xid.ID); !decided && !open && len(c.vanished) < maxVanished {
		c.vanished[b.xid.ID] = inOrder(append(c.vanished[b.xid.ID],
			txn.Branch{No: b.xid.Branch, Resource: s.resource}))
	}
}

// abortVanished has the log decide about transactions whose branches have vanished, once whoever began
// them is gone. As a rule he has rolled them back himself. If somebody has committed a branch by
// hand the abort says that it must not have been.
func (c *Machine) abortVanished() {
	if c.core.Now().Before(c.nextVanished) {
		return
	}
	c.nextVanished = c.core.Now().Add(vanishedEvery)
	rules := c.rules()
	for _, id := range slices.SortedFunc(maps.Keys(c.vanished), txn.ID.Compare) {
		resource := c.vanished[id][0].Resource
		_, decided := c.table.Get(id)
		gone := c.table.LeaseEnded(id.Lease()) || c.core.Clock().Sub(id.Time()) >= 2*rules.MaxAge
		switch {
		case decided || c.table.TooOld(id) || id.Time().After(rules.Horizon) || id.Class() != txn.Plain &&
			id.Class() != txn.Recorded:
			delete(c.vanished, id)
		case gone && c.live[id] == nil:
			delete(c.vanished, id)
			l := c.hold(id)
			l.seen, l.record.By = true, txn.FromCluster
			c.carry(l, l.core.Step(protocol.OrphanMet{Reason: "orphan: whoever began it is gone, and a prepared " +
				"branch has vanished from " + resource}))
		}
	}
}
