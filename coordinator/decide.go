// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// ready answers a request with an error unless this node may decide.
func (c *Core) ready(request uint64) bool {
	switch {
	case !c.leading:
		c.reply(Reply{Request: request, Err: c.notLeader(c.role.Leader)})
	case c.table.Cluster() == 0:
		c.reply(Reply{Request: request, Err: c.notLeader(0)}) // being formed at this moment
	default:
		return true
	}
	return false
}

// answerKnown answers a request about a transaction that is decided, or too old to
// be judged. seen says that the request tells of a prepared branch, or of several.
func (c *Core) answerKnown(request uint64, id txn.ID, seen bool) bool {
	if x, ok := c.table.Get(id); ok && !mutant.LastDecisionWins {
		if seen {
			c.see(&x)
		}
		c.reply(Reply{Request: request, Decision: x.Decision, Reason: x.Reason, Zxid: c.zxid(), Txn: x})
		return true
	}
	if c.table.TooOld(id) {
		c.reply(Reply{Request: request, Err: tooOld(id)})
		return true
	}
	return false
}

// see records of an abort that it is no mere lack of knowledge, once that is known.
func (c *Core) see(x *txn.Txn) {
	if x.Outcome() != txn.Unrecorded {
		return
	}
	x.Seen = true
	if c.leading {
		c.batch = append(c.batch, txn.AbortRecord{ID: x.ID, Reason: x.Reason, Seen: true})
	}
}

// maxAhead is how far ahead of the cluster's time a transaction may be born.
const maxAhead = 24 * time.Hour

// undecidable answers a request about a transaction without record that this cluster must not
// decide, whatever is asked.
func (c *Core) undecidable(request uint64, id txn.ID) bool {
	return c.notSwitchedOn(request, id) || c.inFuture(request, id)
}

// notSwitchedOn refuses a transaction that is decided in a way that this version does not know:
// that the log has no record of it says nothing about it.
func (c *Core) notSwitchedOn(request uint64, id txn.ID) bool {
	if class := id.Class(); class != txn.Plain && class != txn.Recorded {
		c.reply(Reply{Request: request, Err: refusedf("transaction %v is of the class %v, which is not switched on in this cluster, so it can neither decide it nor tell its outcome: look into the databases", id, class)})
		return true
	}
	return false
}

// inFuture refuses a transaction that is dated so far ahead that its record would hide and
// outlast all others.
func (c *Core) inFuture(request uint64, id txn.ID) bool {
	now := c.now
	if mark := c.table.Meta().Watermark; !mark.IsZero() {
		seen := mark.Add(c.config.Rules.Retention)
		if seen.Sub(now) > maxAhead {
			return false // the clock of this node is far behind what the log has seen
		}
		if seen.After(now) {
			now = seen
		}
	}
	if !id.Time().After(now.Add(maxAhead)) {
		return false
	}
	c.reply(Reply{Request: request, Err: &requestError{api.ErrInvalid, fmt.Sprintf("transaction %v is dated %s, and here it is %s: unless the gid is mistyped, set the clock of whoever began it, or that of node %d",
		id, id.Time().UTC().Format(time.RFC3339), c.now.UTC().Format(time.RFC3339), c.config.Node)}})
	return true
}

func (c *Core) onCommitAsked(e CommitAsked) {
	if !c.ready(e.Request) || c.answerKnown(e.Request, e.ID, len(e.Branches) > 0) || c.undecidable(e.Request, e.ID) {
		return
	}
	if c.diskFull != "" && c.live[e.ID] == nil {
		c.reply(Reply{Request: e.Request, Err: unavailablef("%s", c.diskFull)}) // not a decision: another leader may take it
		return
	}
	if c.overloaded(e.Request, e.ID) {
		return
	}
	l := c.wait(e.Request, e.ID)
	l.seen = l.seen || len(e.Branches) > 0
	// From here on the answer must be a decision, not a mere refusal: an earlier try of the
	// same request may be on its way into the log through another leader.
	if why := c.unacceptable(e.Branches); why != "" {
		c.carry(l, l.core.Step(twopc.RollbackAsked{Reason: why}))
		return
	}
	l.protocol, l.label = e.Protocol, e.Label
	c.carry(l, l.core.Step(twopc.Asked{Branches: e.Branches}))
}

// overloaded answers "busy" to a request for one more transaction when the log does
// not keep up, and to one more about the same transaction when too many wait for it. That is no
// decision: asking again is safe.
func (c *Core) overloaded(request uint64, id txn.ID) bool {
	if l := c.live[id]; l != nil && len(l.requests) < maxWaiters || l == nil && c.waiting < maxWaiting {
		return false
	}
	c.reply(Reply{Request: request, Err: errBusy})
	return true
}

// unacceptable says why a transaction with these branches could never be finished.
func (c *Core) unacceptable(branches []txn.Branch) string {
	if len(branches) > api.MaxBranches {
		return fmt.Sprintf("%d branches: a transaction has at most %d", len(branches), api.MaxBranches)
	}
	for i, b := range branches {
		if !slices.Contains(c.config.Resources, b.Resource) {
			return fmt.Sprintf("branch %d: the coordinator has no resource %q: add it to \"resources\" on all nodes", b.No, b.Resource)
		}
		if why := c.unfit[b.Resource]; why != "" {
			return fmt.Sprintf("branch %d: resource %q: %s", b.No, b.Resource, why)
		}
		if slices.ContainsFunc(branches[:i], func(o txn.Branch) bool { return o.No == b.No }) {
			return fmt.Sprintf("two branches have the number %d", b.No)
		}
	}
	return ""
}

// settle answers for good: what is not decided is aborted, by the leader.
func (c *Core) settle(e OutcomeAsked) {
	if c.answerKnown(e.Request, e.ID, e.Several) || !c.ready(e.Request) || c.undecidable(e.Request, e.ID) || c.overloaded(e.Request, e.ID) {
		return
	}
	if mutant.ForgetTombstones {
		c.reply(Reply{Request: e.Request, Decision: txn.Abort})
		return
	}
	l := c.wait(e.Request, e.ID)
	l.seen = l.seen || e.Several || len(c.listedBranches(e.ID)) > 0
	c.carry(l, l.core.Step(twopc.RollbackAsked{Reason: "asked for its outcome before it was decided"}))
}

func (c *Core) onResolveAsked(e ResolveAsked) {
	if !c.ready(e.Request) {
		return
	}
	if x, ok := c.table.Get(e.ID); ok {
		if len(c.listedBranches(e.ID)) > 0 {
			c.see(&x)
		}
		if x.Decision != e.Decision {
			c.reply(Reply{Request: e.Request, Err: decided(x)})
			return
		}
		c.reply(Reply{Request: e.Request, Decision: x.Decision, Reason: x.Reason, Zxid: c.zxid(), Txn: x})
		return
	}
	branches := c.listedBranches(e.ID)
	reason := fmt.Sprintf("resolved by %s: %s", e.Who, e.Why)
	switch {
	case c.table.TooOld(e.ID):
		c.reply(Reply{Request: e.Request, Err: tooOld(e.ID)})
	case c.notSwitchedOn(e.Request, e.ID), len(branches) == 0 && c.inFuture(e.Request, e.ID):
	case e.Decision == txn.Abort:
		l := c.wait(e.Request, e.ID)
		l.seen = l.seen || len(branches) > 0
		c.carry(l, l.core.Step(twopc.RollbackAsked{Reason: reason}))
	case c.unlisted() != "":
		c.reply(Reply{Request: e.Request, Err: refusedf("%s, so it is not known whether %v has a branch there that would have to commit too: wait until \"concord status\" shows it well, or abort", c.unlisted(), e.ID)})
	case len(branches) == 0:
		c.reply(Reply{Request: e.Request, Err: notFound(e.ID)})
	default:
		l := c.wait(e.Request, e.ID)
		l.reason = reason
		c.carry(l, l.core.Step(twopc.Asked{Branches: branches}))
	}
	c.alarm("%v: an operator asks for %v: %s", e.ID, e.Decision, reason)
}

// listedBranches returns what the last scans saw of a transaction without record.
func (c *Core) listedBranches(id txn.ID) []txn.Branch {
	var branches []txn.Branch
	for _, b := range c.listed[id] {
		branches = append(branches, txn.Branch{No: b.xid.Branch, Resource: b.resource})
	}
	slices.SortFunc(branches, func(a, b txn.Branch) int {
		return cmp.Or(cmp.Compare(a.No, b.No), cmp.Compare(a.Resource, b.Resource))
	})
	return slices.CompactFunc(branches, func(a, b txn.Branch) bool { return a.No == b.No && a.Resource == b.Resource })
}

// unlisted says which resource has not told lately what it holds prepared; empty if all have.
func (c *Core) unlisted() string {
	for _, name := range c.config.Resources {
		switch s := c.scans[name]; {
		case s.err != nil:
			return fmt.Sprintf("resource %s could not be listed (%v)", name, s.err)
		case s.at.IsZero():
			return fmt.Sprintf("resource %s has not been listed yet", name)
		}
	}
	return ""
}

func (c *Core) onForgetAsked(e ForgetAsked) {
	if !c.ready(e.Request) {
		return
	}
	x, ok := c.table.Get(e.ID)
	switch {
	case !ok:
		c.reply(Reply{Request: e.Request, Err: notFound(e.ID)})
	case !x.Alarming():
		c.reply(Reply{Request: e.Request, Err: refusedf("%v has no heuristic outcome to forget", e.ID)})
	default:
		c.batch = append(c.batch, txn.ForgetRecord{ID: e.ID, Who: e.Who, Why: e.Why})
		c.batchAcks = append(c.batchAcks, e.Request)
		c.alarm("%v: %s forgets its heuristic outcome: %s", e.ID, e.Who, e.Why)
	}
}

// onVerdict tells a decision to everybody who waits for it.
func (c *Core) onVerdict(v txn.Verdict) {
	if v.First && v.Decision == txn.Commit {
		c.committed++
	}
	if v.First && v.Decision == txn.Abort {
		c.aborted++
	}
	if !c.leading {
		return
	}
	if v.TooOld {
		c.giveUp(v.ID, tooOld(v.ID))
		return
	}
	x, known := c.table.Get(v.ID)
	if !known { // a watermark in the same entry has passed it
		c.giveUp(v.ID, tooOld(v.ID))
		return
	}
	if x.Decision == txn.Commit && !x.Ended {
		c.resume(x) // also one that an earlier leader proposed and this one delivers
	}
	if l := c.live[v.ID]; l != nil {
		if l.seen {
			c.see(&x)
		}
		c.carry(l, l.core.Step(twopc.Delivered{Decision: x.Decision, Branches: x.Branches, Reason: x.Reason}))
		c.tell(l) // those that did not ask for a commit
		if x.Decision == txn.Abort || x.Ended {
			delete(c.live, v.ID) // nothing is left that phase two would do
		}
	}
	if v.First && v.Decision == txn.Abort {
		c.rescan(v.ID)
	}
}

func (c *Core) onViewAsked(e ViewAsked) error {
	if !c.ready(e.Request) {
		return nil
	}
	return c.read(e.Request, e)
}

// whyUnfinished says what keeps a branch, for people.
func (c *Core) whyUnfinished(l *live, no txn.BranchNo) string {
	if name := l.branches[no].Resource; c.scans[name] == nil {
		return fmt.Sprintf("it waits: resource %q has left the configuration; add it to \"resources\" again on all nodes", name)
	}
	return l.work[no].err
}

func (c *Core) xid(id txn.ID, no txn.BranchNo) txn.XID {
	return txn.XID{Cluster: c.table.Cluster(), ID: id, Branch: no}
}

// zxid is the position that this node's table reflects.
func (c *Core) zxid() zab.Zxid {
	p := c.table.Meta().Position
	return zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter}
}
