// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"slices"

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
// be judged.
func (c *Core) answerKnown(request uint64, id txn.ID) bool {
	if x, ok := c.table.Get(id); ok {
		c.reply(Reply{Request: request, Decision: x.Decision, Reason: x.Reason, Zxid: c.zxid(), Txn: x})
		return true
	}
	if c.table.TooOld(id) {
		c.reply(Reply{Request: request, Err: tooOld(id)})
		return true
	}
	return false
}

// decide proposes a record that decides id, unless one is on its way already, and
// lets the request wait for the verdict.
func (c *Core) decide(request uint64, id txn.ID, r txn.Record) {
	waiting, underway := c.waiting[id]
	c.waiting[id] = append(waiting, request)
	if !underway {
		c.batch = append(c.batch, r)
	}
}

func (c *Core) onCommitAsked(e CommitAsked) {
	if !c.ready(e.Request) || c.answerKnown(e.Request, e.ID) {
		return
	}
	// From here on the answer must be a decision, not a mere refusal: an earlier try of the
	// same request may be on its way into the log through another leader.
	if why := c.unacceptable(e.Branches); why != "" {
		c.decide(e.Request, e.ID, txn.AbortRecord{ID: e.ID, Reason: why})
		return
	}
	c.decide(e.Request, e.ID, txn.CommitRecord{ID: e.ID, Protocol: e.Protocol, Branches: e.Branches})
}

// unacceptable says why a transaction with these branches could never be finished.
func (c *Core) unacceptable(branches []txn.Branch) string {
	if len(branches) > maxBranches {
		return fmt.Sprintf("%d branches: a transaction has at most %d", len(branches), maxBranches)
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

func (c *Core) onOutcomeAsked(e OutcomeAsked) {
	if !c.ready(e.Request) || c.answerKnown(e.Request, e.ID) {
		return
	}
	c.decide(e.Request, e.ID, txn.AbortRecord{ID: e.ID, Reason: "asked for its outcome before it was decided"})
}

func (c *Core) onResolveAsked(e ResolveAsked) {
	if !c.ready(e.Request) {
		return
	}
	if x, ok := c.table.Get(e.ID); ok {
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
	case e.Decision == txn.Abort:
		c.decide(e.Request, e.ID, txn.AbortRecord{ID: e.ID, Reason: reason})
	case len(branches) == 0:
		c.reply(Reply{Request: e.Request, Err: notFound(e.ID)})
	default:
		c.decide(e.Request, e.ID, txn.CommitRecord{ID: e.ID, Branches: branches, Reason: reason})
	}
	c.alarm("%v: an operator asks for %v: %s", e.ID, e.Decision, reason)
}

// listedBranches returns what the last scans saw of a transaction without record.
func (c *Core) listedBranches(id txn.ID) []txn.Branch {
	var branches []txn.Branch
	for _, name := range c.config.Resources {
		for _, p := range c.scans[name].listing {
			if p.XID.ID == id && p.XID.Cluster == c.table.Cluster() {
				branches = append(branches, txn.Branch{No: p.XID.Branch, Resource: name})
			}
		}
	}
	return branches
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

// onVerdict tells a decision to everybody who waits for it, and starts phase two.
func (c *Core) onVerdict(v txn.Verdict, at zab.Zxid) {
	if v.First {
		if v.Decision == txn.Commit {
			c.committed++
		} else {
			c.aborted++
		}
	}
	if !c.leading {
		return
	}
	x, known := c.table.Get(v.ID)
	if v.First && v.Decision == txn.Commit && !x.Ended {
		due := c.now.Add(c.config.Rules.Grace)
		if v.Reason != "" { // an operator decided: there is no client that finishes it
			due = c.now
		}
		c.beginPhaseTwo(x, due)
	}
	if v.First && v.Decision == txn.Abort {
		c.rescan(v.ID)
	}
	if v.TooOld {
		c.answerAll(v.ID, Reply{Err: tooOld(v.ID)})
		return
	}
	if known {
		c.answerAll(v.ID, Reply{Decision: v.Decision, Reason: v.Reason, Zxid: at, Txn: x})
	}
}

func (c *Core) onViewAsked(e ViewAsked) error {
	if !c.ready(e.Request) {
		return nil
	}
	c.views[e.Request] = e.ID
	return c.stepLog(zab.ReadAsked{ID: e.Request})
}

func (c *Core) failView(request uint64) {
	if _, ok := c.views[request]; ok {
		delete(c.views, request)
		c.reply(Reply{Request: request, Err: c.notLeader(0)})
	}
}

func (c *Core) answerView(request uint64, index zab.Zxid) {
	id, ok := c.views[request]
	if !ok {
		return
	}
	delete(c.views, request)
	v := &View{Open: c.table.Open(), Branches: map[txn.XID]BranchView{}, InDoubt: map[txn.XID]ListedBranch{}}
	v.Txn, v.Known = c.table.Get(id)
	for _, p := range c.unfinished {
		for _, b := range p.branches {
			v.Branches[c.xid(p.id, b.branch.No)] = BranchView{Acked: b.acked, Err: b.err}
		}
	}
	for name, s := range c.scans {
		for _, p := range s.listing {
			if p.XID.Cluster != c.table.Cluster() {
				continue
			}
			if x, decided := c.table.Get(p.XID.ID); !decided || x.Decision == txn.Abort || x.Ended {
				v.InDoubt[p.XID] = ListedBranch{Resource: name, Decision: x.Decision}
			}
		}
	}
	c.reply(Reply{Request: request, Zxid: index, View: v})
}

func (c *Core) xid(id txn.ID, no txn.BranchNo) txn.XID {
	return txn.XID{Cluster: c.table.Cluster(), ID: id, Branch: no}
}

// zxid is the position that this node's table reflects.
func (c *Core) zxid() zab.Zxid {
	p := c.table.Meta().Position
	return zab.Zxid{Epoch: zab.Epoch(p.Epoch), Counter: p.Counter}
}
