// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"cmp"
	"container/heap"
	"fmt"
	"slices"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// A transaction of class LastResource is decided by the marker in its last resource. The log takes note of that: when
// the client says that it has committed there, or when a marker was found or inserted there by the cluster (it was
// settled). So whatever is asked about one that the log does not know waits for that resource.

// MaxSettles transactions per resource may be with its workers to be settled.
const MaxSettles = 16

// LastDecided is the word of a client that a last resource has committed.
type LastDecided struct {
	txn.LastDecision
	Reporter Reporter
}

// LastTask is the order to settle a transaction at its last resource. LastSettled answers it.
type LastTask struct {
	ID       txn.ID
	Resource string
}

// LastSettled is the marker that a last resource has, or why it could not be asked.
type LastSettled struct {
	LastTask
	Marker txn.LastMarker
	Err    error
}

func (LastDecided) IsEvent() {}
func (LastSettled) IsEvent() {}

// asking is how far the leader is with settling a transaction.
type asking struct {
	attempts int
	err      string
}

// onLastDecided takes note of a commit. What is not taken, because the log does not keep up or this node does not
// lead, the cluster finds out by itself.
func (c *Machine) onLastDecided(e LastDecided) {
	_, known := c.table.Get(e.ID)
	if known || c.core.Ready() != nil || !c.decides(txn.LastResource) || e.ID.Class() != txn.LastResource ||
		!e.ID.FitsLast(e.Last) || c.table.TooOld(e.ID) || c.isAhead(e.ID, maxAhead) ||
		c.live[e.ID] == nil && c.core.Waiting() >= replica.MaxWaiting {
		return
	}
	foreign := func(b txn.Branch) bool { return !e.Reporter.on(b.Resource) }
	if e.Reporter.Limited && (!e.Reporter.on(e.Last) || slices.ContainsFunc(e.Branches, foreign)) {
		return
	}
	c.hear(e.ID.Lease())
	l := c.hold(e.ID)
	if l.proposed {
		return
	}
	l.seen = true
	l.record = txn.CommitRecord{Label: e.Label, Last: e.Last}
	c.carry(l, l.core.Step(protocol.Asked{Branches: e.Branches}))
}

// lastOf is the last resource of a transaction, as far as is known; empty: it is not. named is what somebody says.
func (c *Machine) lastOf(id txn.ID, named string) string {
	if l := c.live[id]; l != nil && l.record.Last != "" {
		return l.record.Last
	}
	for _, b := range c.listed[id] {
		if last := c.lastTagged(id, b.last); b.ours && last != "" {
			return last
		}
	}
	return named
}

// lastTagged is the configured resource that a tag stands for; empty if there is none.
func (c *Machine) lastTagged(id txn.ID, tag txn.LastTag) string {
	if tag == 0 {
		return ""
	}
	for _, name := range c.config.Resources {
		if txn.TagOf(name) == tag && id.FitsLast(name) {
			return name
		}
	}
	return ""
}

// settleable answers a request about a transaction whose last resource cannot be asked, and reports false; otherwise
// it names that.
func (c *Machine) settleable(request uint64, id txn.ID, named string) (last string, ok bool) {
	last = c.lastOf(id, named)
	var err error
	switch {
	case last == "":
		err = txn.Refusedf("%v is decided in its last resource, and nothing here says which that is: name it (the "+
			"application knows it), with --last-resource for \"concord tx resolve\"", id)
	case named != "" && named != last:
		err = txn.Refusedf("the last resource of %v is %s, as its prepared branches say, and not %q", id, last, named)
	case !id.FitsLast(last):
		err = txn.Refusedf("the gid %v is not that of a transaction whose last resource is %q: correct the name", id,
			last)
	case c.scans[last] == nil:
		err = txn.Refusedf("%v is decided in its last resource %q, which is not in \"resources\" of the nodes: add "+
			"it on all of them", id, last)
	}
	if err != nil {
		c.reply(Reply{Request: request, Err: err})
	}
	return last, err == nil
}

// settleLast has the last resource of a transaction asked.
func (c *Machine) settleLast(l *live, last string, e protocol.Event) {
	l.record.Last = last
	c.carry(l, l.core.Step(e))
}

// toSettle has a transaction wait for its turn at its last resource.
func (c *Machine) toSettle(l *live, again bool) {
	at := c.core.Now()
	if again {
		at = at.Add(min(retryMax, retryMin<<min(l.asking.attempts, 8)))
		l.asking.attempts++
	}
	heap.Push(&c.settles, timer{at: at, x: txn.LastXID(c.table.Cluster(), l.id)})
	c.settleDue()
}

// settleDue gives transactions whose time has come to the workers of their last resources.
func (c *Machine) settleDue() {
	for left := c.core.Piece(); left > 0 && len(c.settles) > 0 && !c.core.Now().Before(c.settles[0].at); left-- {
		c.core.Spend(1)
		t := heap.Pop(&c.settles).(timer)
		l := c.live[t.x.ID]
		if l == nil {
			continue
		}
		if core, ok := l.core.(*twopc.LastCoordinator); !ok || !core.Settling() {
			continue
		}
		last := l.record.Last
		if c.settling[last] >= MaxSettles || c.table.Quarantined(last) {
			t.at = c.core.Now().Add(sweepInterval)
			if c.table.Quarantined(last) {
				c.notSettled(l, txn.Quarantined(last))
				t.at = c.core.Now().Add(retryMin)
			}
			if c.live[t.x.ID] != nil {
				heap.Push(&c.settles, t)
			}
			continue
		}
		c.settling[last]++
		c.fx.Settle = append(c.fx.Settle, LastTask{ID: l.id, Resource: last})
	}
}

// onLastSettled takes the word of a last resource.
func (c *Machine) onLastSettled(e LastSettled) {
	if !c.core.Leading() {
		return // what was inserted the next leader finds
	}
	c.settling[e.Resource] = max(0, c.settling[e.Resource]-1)
	l := c.live[e.ID]
	if l == nil || l.record.Last != e.Resource {
		return
	}
	if e.Err != nil {
		c.notSettled(l, e.Err.Error())
		if c.live[e.ID] == l {
			c.carry(l, l.core.Step(twopc.SettleFailed{}))
		}
		return
	}
	if !l.proposed {
		l.record.By, l.record.Label = cmp.Or(l.record.By, txn.FromCluster), e.Marker.Label
	}
	c.carry(l, l.core.Step(twopc.MarkerFound{Marker: e.Marker,
		Reason: fmt.Sprintf("its last resource %s has a marker to abort: it had not committed there when it was asked "+
			"for its outcome", e.Resource)}))
}

// notSettled tells everybody who waits that a last resource could not be asked. Where a prepared branch waits for it
// the cluster goes on trying.
func (c *Machine) notSettled(l *live, why string) {
	l.asking.err = why
	c.answer(l, Reply{Err: txn.Unavailablef("%v is in doubt until its last resource %s can be asked (%s): see "+
		"\"concord resource check %s\"", l.id, l.record.Last, why, l.record.Last)})
	if len(c.listed[l.id]) == 0 && !l.proposed {
		c.letGo(l.id)
	}
}

// whyUnsettled says what a listed branch without decision waits for; empty: it does not wait for a last resource.
func (c *Machine) whyUnsettled(b *listedBranch) string {
	if b.last == 0 {
		return ""
	}
	if _, decided := c.table.Get(b.xid.ID); decided {
		return ""
	}
	last := c.lastTagged(b.xid.ID, b.last)
	if last == "" {
		return fmt.Sprintf("it waits for its last resource, whose tag is %v, and none of the \"resources\" of the "+
			"nodes has it: add it on all nodes", b.last)
	}
	l := c.live[b.xid.ID]
	switch {
	case c.table.Quarantined(last):
		return fmt.Sprintf("it waits for its last resource %s: %s", last, txn.Quarantined(last))
	case l != nil && l.asking.err != "":
		return fmt.Sprintf("it waits for its last resource %s: %s", last, l.asking.err)
	case l != nil:
		return fmt.Sprintf("it waits for its last resource %s, which is being asked", last)
	}
	return fmt.Sprintf("its last resource %s decides it", last)
}

// settleUnreported settles what a marker tells of and the log does not: whoever committed has died, or its report was
// dropped. As long as it may be on its way nothing is asked.
func (c *Machine) settleUnreported(resource string, kept []txn.XID) {
	if !c.decides(txn.LastResource) {
		return
	}
	for _, x := range kept {
		old := c.core.Clock().Sub(x.ID.Time()) >= 2*c.config.Rules.MaxTransaction || c.table.LeaseEnded(x.ID.Lease())
		_, known := c.table.Get(x.ID)
		if x.Branch != txn.LastBranch || x.Cluster != c.table.Cluster() || known || !old || c.table.TooOld(x.ID) ||
			!x.ID.FitsLast(resource) || c.live[x.ID] != nil || c.core.Waiting() >= replica.MaxWaiting {
			continue
		}
		l := c.hold(x.ID)
		l.record.By = txn.FromCluster
		c.settleLast(l, resource, protocol.OrphanMet{Reason: "its marker was found at " + resource})
	}
}

// finishEarly takes a report that came before the log has delivered the decision. One that is not good is dropped:
// whoever looks at the branch then finds the same.
func finishEarly(l *live, e Finished) bool {
	if l == nil || l.id.Class() != txn.LastResource || !l.proposed || l.core.Decision() != txn.Undecided {
		return false
	}
	if e.By == txn.FromClient && (e.Finish == txn.Done || e.Finish == txn.AlreadyDone) {
		l.core.Step(protocol.Finished{No: e.XID.Branch, Finish: e.Finish})
	}
	return true
}

// putDownFinished lets go of branches that were reported before the decision was delivered.
func (c *Machine) putDownFinished(l *live) {
	if l.id.Class() != txn.LastResource {
		return
	}
	unfinished := l.core.Unfinished()
	for i := range l.branches {
		if b := &l.branches[i]; b.open && !slices.Contains(unfinished, b.No) {
			c.putDown(b)
		}
	}
}
