// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/recovery"
	"github.com/concordtx/concord/txn"
)

// onResolveAsked takes an operator's decision. A commit needs to be whole: half of one is what nobody may
// cause, in good faith either. Prepared branches say in their own databases which others there are;
// where they do not, it needs the operator's word for it, and what the databases list now has to agree.
func (c *Machine) onResolveAsked(e ResolveAsked) {
	if !c.ready(e.Request) {
		return
	}
	e.Prepared = inOrder(e.Prepared)
	listed := c.listedBranches(e.ID)
	seen := len(listed)+len(e.Prepared) > 0
	if x, ok := c.table.Get(e.ID); ok {
		if seen {
			c.see(&x)
		}
		if x.Decision != e.Decision {
			c.reply(Reply{Request: e.Request, Err: AlreadyDecided(x)})
			return
		}
		c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid(), Txn: x})
		return
	}
	reason := fmt.Sprintf("resolved by %s: %s", e.Who, e.Why)
	switch {
	case c.table.TooOld(e.ID):
		c.reply(Reply{Request: e.Request, Err: tooOld(e.ID)})
	case c.notSwitchedOn(e.Request, e.ID), !seen && c.inFuture(e.Request, e.ID):
	case e.ID.Class() == txn.LastResource:
		last, ok := c.settleable(e.Request, e.ID, e.Last)
		if !ok {
			return
		}
		l := c.wait(e.Request, e.ID)
		l.seen = l.seen || seen
		l.record.By = txn.FromOperator
		c.settleLast(l, last, protocol.RollbackAsked{Reason: reason})
	case e.Decision == txn.Commit && e.ID.Class() == txn.ThreePhase:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("%v is decided in three phases: only its members can commit it, and they "+
				"continue by themselves when enough of them are connected; see \"concord tx get %v\" for who is "+
				"missing", e.ID,
				e.ID)})
	case e.Decision == txn.Abort && !seen && !e.Force && !c.heardOf(e.ID):
		c.reply(Reply{Request: e.Request, Err: c.neverHeardOf(e)})
	case e.Decision == txn.Abort:
		l := c.wait(e.Request, e.ID)
		l.seen = l.seen || seen
		l.record.By = txn.FromOperator
		c.carry(l, l.core.Step(protocol.RollbackAsked{Reason: reason}))
	case e.Unlisted != nil:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("%v, so it is not known whether %v has a branch there that would have to commit "+
				"too: wait until all are up, or abort", e.Unlisted, e.ID)})
	case !seen:
		c.reply(Reply{Request: e.Request, Err: notFound(e.ID)})
	default:
		if err := c.incomplete(e, slices.Concat(listed, c.vanished[e.ID])); err != nil {
			c.reply(Reply{Request: e.Request, Err: err})
			break
		}
		l := c.wait(e.Request, e.ID)
		l.record.By, l.record.Reason = txn.FromOperator, reason
		c.carry(l, l.core.Step(protocol.Asked{Branches: inOrder(slices.Concat(e.Prepared, e.Committed))}))
	}
	c.core.Alarm("%v: an operator asks for %v: %s", e.ID, e.Decision, reason)
}

// heardOf reports whether the leader has a transaction in hand that has no decision.
func (c *Machine) heardOf(id txn.ID) bool {
	_, open := c.table.Witness(id)
	return open || c.live[id] != nil
}

// neverHeardOf is the answer to an abort of what is nowhere to be seen: as a rule the gid is mistyped, and
// a tombstone for it would hide that.
func (c *Machine) neverHeardOf(e ResolveAsked) error {
	if e.Unlisted == nil {
		return notFound(e.ID)
	}
	return txn.Unavailablef("%v, and nobody else has heard of %v: compare the gid with \"concord tx ls\", and try "+
		"again when all databases can be asked; or abort it unseen, with --force", e.Unlisted, e.ID)
}

// incomplete returns why committing what is prepared may be to commit a part, or nil. Both what is
// prepared and what scans have listed are in order.
func (c *Machine) incomplete(e ResolveAsked, listed []txn.Branch) error {
	prepared := resources(slices.Concat(e.Prepared, e.Committed))
	for _, name := range prepared {
		if c.table.Quarantined(name) {
			return txn.Refusedf("%s; what is prepared there may be a branch that had ended, so decide %v after "+
				"that", txn.Quarantined(name), e.ID)
		}
	}
	for i, b := range e.Prepared {
		if i > 0 && e.Prepared[i-1].No == b.No {
			return txn.Refusedf("%v has a prepared branch %d at %s and another at %s, and a record can name "+
				"only one of them: look into both databases, and abort",
				e.ID, b.No, e.Prepared[i-1].Resource, b.Resource)
		}
	}
	if err := e.Partial(e.ID); err != nil {
		return err
	}
	for _, name := range e.Resources {
		if !slices.Contains(c.config.Resources, name) {
			return txn.Refusedf("the coordinator has no resource %q: see \"concord resource ls\"", name)
		}
		if !slices.Contains(prepared, name) {
			return txn.Refusedf("%v has no prepared branch at %s: it never had one, or that was rolled back, or "+
				"somebody ended it by hand, so a commit might be half of one: "+
				"look into %s, and abort; only if the transaction changed nothing there, leave %s out of --resources",
				e.ID, name, name, name)
		}
	}
	for _, b := range listed {
		if !slices.Contains(prepared, b.Resource) {
			return txn.Refusedf("%v had a prepared branch at %s when it was listed, and has none now: somebody "+
				"ended it, so a commit might be half of one: look into %s, and abort unless it was committed there",
				e.ID, b.Resource, b.Resource)
		}
	}
	if len(e.Resources) == 0 && len(e.Siblings) > 0 {
		return nil // they say that they are all
	}
	if len(e.Resources) == 0 {
		return txn.Refusedf("%v has prepared branches at %s, and nothing there says whether it had more: find "+
			"out which databases the application changes in such a transaction, "+
			"and repeat with all of them, as in --resources %s; if one has no branch, abort", e.ID,
			strings.Join(prepared, ", "), strings.Join(prepared, ","))
	}
	for _, name := range prepared {
		if !slices.Contains(e.Resources, name) {
			return txn.Refusedf("%v has a prepared branch at %s too, which --resources does not name: unless "+
				"that is a mistake, its transaction is not the one that you mean", e.ID, name)
		}
	}
	return nil
}

// resources are those of branches, each once, in their order.
func resources(branches []txn.Branch) (names []string) {
	for _, b := range branches {
		names = append(names, b.Resource)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// inOrder is branches by number, each once.
func inOrder(branches []txn.Branch) []txn.Branch {
	slices.SortFunc(branches, func(a, b txn.Branch) int {
		return cmp.Or(cmp.Compare(a.No, b.No), cmp.Compare(a.Resource, b.Resource))
	})
	return slices.CompactFunc(branches, func(a, b txn.Branch) bool { return a.No == b.No && a.Resource == b.Resource })
}

// listedBranches returns what the last scans saw of a transaction without record.
func (c *Machine) listedBranches(id txn.ID) []txn.Branch {
	var branches []txn.Branch
	for _, b := range c.listed[id] {
		if b.ours {
			branches = append(branches, txn.Branch{No: b.xid.Branch, Resource: b.resource})
		}
	}
	return inOrder(branches)
}

// onSettleAsked gives up a branch that nobody can finish. Its transaction must be decided: what
// is not can be resolved as a whole.
func (c *Machine) onSettleAsked(e SettleAsked) {
	if !c.ready(e.Request) {
		return
	}
	x, known := c.table.Get(e.ID)
	listed := c.listedAt(c.xid(e.ID, e.Branch))
	unfinished := listed
	if l := c.inHand(e.ID); l != nil {
		unfinished = unfinished || l.working(e.Branch)
	}
	refuse := func(err error) { c.reply(Reply{Request: e.Request, Err: err}) }
	switch {
	case !known && c.table.TooOld(e.ID):
		refuse(tooOld(e.ID))
	case !known && listed:
		refuse(txn.Refusedf("%v has no decision: decide it first, with \"concord tx resolve\"", e.ID))
	case !known:
		refuse(notFound(e.ID))
	case slices.ContainsFunc(x.Heuristics, func(h txn.Heuristic) bool { return h.Branch == e.Branch }):
		refuse(txn.Refusedf("branch %d of %v is on record already: see \"concord tx get\"", e.Branch, e.ID))
	case !unfinished && !slices.ContainsFunc(x.Branches, func(b txn.Branch) bool { return b.No == e.Branch }):
		refuse(txn.NotFoundf("%v has no branch %d: see \"concord tx get\"", e.ID, e.Branch))
	case !unfinished:
		refuse(txn.Refusedf("branch %d of %v is finished: there is nothing to give up", e.Branch, e.ID))
	default:
		c.core.Propose(txn.HeuristicRecord{ID: e.ID, Branch: e.Branch, Outcome: txn.HeuristicHazard,
			By: txn.FromOperator, Who: e.Who, Why: e.Why})
		c.core.Await(e.Request)
		c.core.Alarm("%v: %s gives up branch %d: %s", e.ID, e.Who, e.Branch, e.Why)
	}
}

// listedAt reports whether the last scan of some resource saw a branch.
func (c *Machine) listedAt(x txn.XID) bool {
	return slices.ContainsFunc(c.listed[x.ID], func(b *listedBranch) bool { return b.xid == x })
}

// onEndAsked lets an operator end what recovery reports and will never end itself: a branch of another
// cluster, one that is older than the log, one that a commit does not name, one that was given up. Whatever
// has a decision, or can have one, is ended by that.
func (c *Machine) onEndAsked(e EndAsked) {
	if !c.ready(e.Request) {
		return
	}
	x := e.Prepared.XID
	a, ours := c.scans[e.Resource].sightings.Preview(e.Resource, e.Prepared, c.table, c.rules(), c.core.Now())
	refuse := func(format string, args ...any) {
		c.reply(Reply{Request: e.Request, Err: txn.Refusedf(format, args...)})
	}
	switch {
	case ours && (a.Kind == recovery.Commit || a.Kind == recovery.Rollback):
		refuse("branch %d of %v at %s has a decision, and the cluster ends it by that (%s): run \"concord recover "+
			"--apply %[2]v\"", x.Branch, x.ID, e.Resource, a.Why)
	case ours && a.Kind != recovery.Report:
		refuse("branch %d of %v at %s can still be decided with its whole transaction (%s): run \"concord tx resolve "+
			"%[2]v --commit\" or \"--abort\"", x.Branch, x.ID, e.Resource, a.Why)
	default:
		c.core.Alarm("%v at %s: %s has it end with %v: %s", x, e.Resource, e.Who, e.Decision, e.Why)
		c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid()})
	}
}

// AlreadyDecided is the answer to who wants another decision than there is.
func AlreadyDecided(x txn.Txn) error {
	return txn.Decidedf("the decision of %v stands: %v, at zxid %v; see \"concord tx get\"", x.ID, x.Decision,
		x.Decided)
}

func notFound(id txn.ID) error {
	return txn.NotFoundf("transaction %v is not known: no decision, and no resource lists a prepared branch of it; "+
		"compare the gid with \"concord tx ls\"", id)
}

// NoResource is the answer to who asks about a resource that there is not.
func NoResource(name string) error {
	return txn.NotFoundf("there is no resource %q: see \"concord resource ls\"", name)
}

func tooOld(id txn.ID) error {
	return txn.TooOldf("transaction %v is older than what the cluster remembers: look into the databases; if it is "+
		"new, correct the clock of whoever began it", id)
}
