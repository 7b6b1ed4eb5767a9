// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

// ready answers a request with an error unless this node may decide.
func (c *Machine) ready(request uint64) bool {
	err := c.core.Ready()
	if err != nil {
		c.reply(Reply{Request: request, Err: err})
	}
	return err == nil
}

// SameCluster returns why a cluster knows nothing of a transaction that is said to belong to
// another one, or nil. The error wraps txn.ErrInvalid.
func SameCluster(own, named txn.ClusterID) error {
	if named == 0 || named == own {
		return nil
	}
	return txn.Invalidf("the transaction belongs to cluster %v, but this is cluster %v: connect to the right "+
		"nodes; if cluster %v was set up anew, restart the application", named, own, named)
}

// ofAnother answers a request about another cluster's transaction. Before the cluster is formed
// nothing is decided, and nobody knows of anything decided.
func (c *Machine) ofAnother(request uint64, named txn.ClusterID) bool {
	own := c.table.Cluster()
	if own == 0 {
		return false
	}
	err := SameCluster(own, named)
	if err != nil {
		c.reply(Reply{Request: request, Err: err})
	}
	return err != nil
}

// answerKnown answers a request about a transaction that is decided, or too old to
// be judged. seen says that the request tells of a prepared branch, or of several.
func (c *Machine) answerKnown(request uint64, id txn.ID, seen bool) bool {
	if x, ok := c.table.Get(id); ok && !mutant.LastDecisionWins {
		if seen {
			c.see(&x)
		}
		c.reply(Reply{Request: request, Zxid: c.core.Zxid(), Txn: x})
		return true
	}
	if c.table.TooOld(id) {
		c.reply(Reply{Request: request, Err: tooOld(id)})
		return true
	}
	return false
}

// see records of an abort that it is no mere lack of knowledge, once that is known.
func (c *Machine) see(x *txn.Txn) {
	if x.Outcome() != txn.Unrecorded {
		return
	}
	x.Seen = true
	if c.core.Leading() {
		c.core.Propose(txn.AbortRecord{ID: x.ID, Reason: x.Reason, Seen: true})
	}
}

const (
	// maxAhead is how far ahead of the clocks of all nodes a transaction may be born. Clocks that
	// anybody looks after differ by less than a second, and a client corrects its own by that of
	// a node; a gid that is further ahead was made up, or mistyped. Its record would stand before
	// all others in a list, and stay until its time has come and gone.
	maxAhead = 10 * time.Minute
	// maxAheadListed is that for a transaction of which a database lists a branch. Somebody
	// with a very wrong clock has begun it and holds locks, and there is no other way to free
	// them than to abort it in the log first.
	maxAheadListed = 24 * time.Hour
)

// undecidable answers a request about a transaction without record that this cluster must not
// decide, whatever is asked.
func (c *Machine) undecidable(request uint64, id txn.ID) bool {
	return c.notSwitchedOn(request, id) || c.inFuture(request, id)
}

// notSwitchedOn refuses a transaction that is decided in a way that this version does not know:
// that the log has no record of it says nothing about it.
func (c *Machine) notSwitchedOn(request uint64, id txn.ID) bool {
	if class := id.Class(); !c.decides(class) {
		c.reply(Reply{Request: request, Err: txn.Refusedf("transaction %v is of the class %v, which is not "+
			"switched on in this cluster, so it can neither decide it nor tell its outcome: look into the databases",
			id, class)})
		return true
	}
	return false
}

// inFuture refuses a transaction that is dated further ahead than may be.
func (c *Machine) inFuture(request uint64, id txn.ID) bool {
	ahead := maxAhead
	if !c.isAhead(id, ahead) {
		return false
	}
	if len(c.listedBranches(id)) > 0 {
		ahead = maxAheadListed
	}
	if !c.isAhead(id, ahead) {
		return false
	}
	c.reply(Reply{Request: request, Err: txn.Invalidf("transaction %v is dated %s, but here it is %s: unless the gid "+
		"is mistyped, correct the clock of whoever began it, or those of the nodes",
		id, id.Time().UTC().Format(time.RFC3339), c.latest().UTC().Format(time.RFC3339))})
	return true
}

// isAhead reports whether a transaction is dated too far ahead. Its time is that of a client, so it
// is compared with whatever clock is ahead here: one that is wrong must not stop all work.
func (c *Machine) isAhead(id txn.ID, ahead time.Duration) bool {
	return id.Time().After(c.latest().Add(ahead))
}

// latest is the latest time that this node knows of: by the clocks of the nodes, or because the
// log has come so far that its watermark stands a retention behind it.
func (c *Machine) latest() time.Time {
	latest := c.core.Clock()
	if mark := c.table.Meta().Watermark; !mark.IsZero() && mark.Add(c.config.Rules.Retention).After(latest) {
		latest = mark.Add(c.config.Rules.Retention)
	}
	return latest
}

func (c *Machine) onCommitAsked(e CommitAsked) {
	if !c.ready(e.Request) || c.ofAnother(e.Request, e.Cluster) {
		return
	}
	c.hear(e.ID.Lease())
	if c.answerKnown(e.Request, e.ID, len(e.Branches) > 0) || c.undecidable(e.Request, e.ID) {
		return
	}
	if e.ID.Class() == txn.LastResource {
		c.reply(Reply{Request: e.Request, Err: txn.Refusedf("%v is decided by its last resource, and no request "+
			"commits it: ask for its outcome", e.ID)})
		return
	}
	if c.disk.Full && c.live[e.ID] == nil {
		// not a decision: another leader may take it
		c.reply(Reply{Request: e.Request, Err: txn.Unavailablef("%s", c.disk.Why)})
		return
	}
	if c.overloaded(e.Request, e.ID) {
		return
	}
	l := c.wait(e.Request, e.ID)
	l.seen, l.trace = l.seen || len(e.Branches) > 0, cmp.Or(e.Trace, l.trace)
	// From here on the answer must be a decision, not a mere refusal: an earlier try of the
	// same request may be on its way into the log through another leader.
	err := c.leaseEnded(e.ID)
	if err != nil {
		l.record.By = txn.FromCluster
	} else {
		err = cmp.Or(c.acceptable(e), c.agentsAcceptable(e.Agents), c.keyAcceptable(e.Key))
	}
	if err != nil {
		c.carry(l, l.core.Step(protocol.RollbackAsked{Reason: err.Error()}))
		return
	}
	l.record = e.Record()
	if l.council == nil {
		c.carry(l, l.core.Step(protocol.Asked{Branches: e.Branches}))
		return
	}
	l.seen = true
	if l.council.voteBy.IsZero() && !l.proposed {
		l.council.voteBy, l.council.again = c.core.Now().Add(voteTime), c.core.Now().Add(askAgain)
	}
	l.council.lives = nil
	for _, a := range e.Agents {
		l.council.seat([]txn.Party{a.Party})
		l.council.lives = append(l.council.lives, txn.AgentRecord{PartyID: a.PartyID, Epoch: a.Epoch})
	}
	c.carry(l, l.core.Step(threepc.Asked{Agents: e.Agents, Label: e.Label}))
}

// overloaded answers "busy" to a request for one more transaction when the log does
// not keep up, and to one more about the same transaction when too many wait for it. That is no
// decision: asking again is safe.
func (c *Machine) overloaded(request uint64, id txn.ID) bool {
	if l := c.live[id]; l != nil && len(l.requests) < maxWaiters || l == nil && c.core.Waiting() < replica.MaxWaiting {
		return false
	}
	c.reply(Reply{Request: request, Err: replica.ErrBusy})
	return true
}

// acceptable returns why a transaction with these branches could never be finished, or nil.
func (c *Machine) acceptable(e CommitAsked) error {
	branches := e.Branches
	for _, a := range e.Agents {
		branches = append(slices.Clip(branches), a.Branches...)
	}
	if len(branches) > txn.MaxBranches {
		return fmt.Errorf("%d branches: a transaction has at most %d: split it", len(branches), txn.MaxBranches)
	}
	for i, b := range branches {
		if !slices.Contains(c.config.Resources, b.Resource) {
			return fmt.Errorf("branch %d: the coordinator has no resource %q: add it to \"resources\" on all nodes",
				b.No, b.Resource)
		}
		if c.table.Quarantined(b.Resource) {
			return errors.New(txn.Quarantined(b.Resource))
		}
		if why, unfit := c.unfit[b.Resource]; unfit {
			return fmt.Errorf("branch %d: resource %q: %s", b.No, b.Resource, why)
		}
		if slices.ContainsFunc(branches[:i], func(o txn.Branch) bool { return o.No == b.No }) {
			return fmt.Errorf("two branches have the number %d: give each its own", b.No)
		}
		if e.Agents != nil && (c.config.Hosted == nil || !c.config.Hosted(b.Resource)) {
			return fmt.Errorf("branch %d: resource %q is not held by an agent, and only agents can decide in three "+
				"phases: give it \"driver: agent\", or use two_phase", b.No, b.Resource)
		}
		if c.config.Validate != nil && e.Agents == nil {
			if err := c.config.Validate(b); err != nil {
				return fmt.Errorf("branch %d: resource %q: %w", b.No, b.Resource, err)
			}
		}
	}
	return nil
}

// settle answers for good: what is not decided is aborted, by the leader.
func (c *Machine) settle(e OutcomeAsked) {
	if c.ofAnother(e.Request, e.Cluster) || c.answerKnown(e.Request, e.ID, e.Several) || !c.ready(e.Request) ||
		c.undecidable(e.Request, e.ID) || c.overloaded(e.Request, e.ID) {
		return
	}
	if mutant.ForgetTombstones {
		c.reply(Reply{Request: e.Request, Txn: txn.Txn{ID: e.ID, Decision: txn.Abort}})
		return
	}
	last := ""
	if e.ID.Class() == txn.LastResource {
		var ok bool
		if last, ok = c.settleable(e.Request, e.ID, e.Last); !ok {
			return
		}
	}
	l := c.wait(e.Request, e.ID)
	l.seen = l.seen || e.Several || len(c.listedBranches(e.ID)) > 0
	if last != "" {
		c.settleLast(l, last, protocol.RollbackAsked{Reason: "asked for its outcome"})
		return
	}
	c.carry(l, l.core.Step(protocol.RollbackAsked{Reason: "asked for its outcome before it was decided"}))
}

func (c *Machine) onForgetAsked(e ForgetAsked) {
	if !c.ready(e.Request) {
		return
	}
	x, ok := c.table.Get(e.ID)
	switch {
	case !ok:
		c.reply(Reply{Request: e.Request,
			Err: txn.NotFoundf("the log has no decision about %v, so it has no heuristic outcome to forget: see "+
				"\"concord tx ls --state heuristic\"", e.ID)})
	case !x.Alarming():
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("%v has no heuristic outcome to forget: see \"concord tx get\"", e.ID)})
	default:
		c.core.Propose(txn.ForgetRecord{ID: e.ID, Who: e.Who, Why: e.Why})
		c.core.Await(e.Request)
		c.core.Alarm("%v: %s forgets its heuristic outcome: %s", e.ID, e.Who, e.Why)
	}
}

// onVerdict tells a decision to everybody who waits for it.
func (c *Machine) onVerdict(v txn.Verdict) {
	if v.First && v.Decision == txn.Commit {
		c.committed++
	}
	if v.First && v.Decision == txn.Abort {
		c.aborted++
	}
	if !c.core.Leading() {
		return
	}
	if v.TooOld {
		if l := c.live[v.ID]; l != nil && l.council != nil {
			c.carry(l, l.core.Step(threepc.Forgotten{}))
		}
		c.giveUp(v.ID, tooOld(v.ID))
		return
	}
	if w, open := c.table.Witness(v.ID); open {
		c.convene(w)
		return
	}
	if !v.Open && v.Decision == txn.Undecided {
		return // a record about a gid that nobody has opened
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
		c.carry(l, l.core.Step(protocol.Delivered{Txn: x}))
		c.putDownFinished(l)
		c.tell(l, x)
		if x.Decision == txn.Abort || x.Ended {
			c.letGo(v.ID) // nothing is left that phase two would do
		}
	}
	if v.First && v.Decision == txn.Abort {
		c.rescan(v.ID)
	}
}

func (c *Machine) onViewAsked(e ViewAsked) error {
	if !c.ready(e.Request) {
		return nil
	}
	return c.core.Read(e.Request, e)
}

// whyUnfinished says what keeps a branch, for people.
func (c *Machine) whyUnfinished(b *branch) string {
	if c.scans[b.Resource] == nil {
		return fmt.Sprintf("it waits: resource %q has left the configuration; add it to \"resources\" again on all "+
			"nodes", b.Resource)
	}
	if c.table.Quarantined(b.Resource) {
		return txn.Quarantined(b.Resource)
	}
	return c.orDown(b.Resource, b.err)
}

// orDown is what keeps a branch: what its last attempt said or, while the first one takes its time, that its
// resource is down.
func (c *Machine) orDown(resource, why string) string {
	if why == "" && c.down[resource] {
		return fmt.Sprintf("resource %s cannot be used at the moment: see \"concord resource check %s\"", resource,
			resource)
	}
	return why
}

func (c *Machine) xid(id txn.ID, no txn.BranchNo) txn.XID {
	return txn.XID{Cluster: c.table.Cluster(), ID: id, Branch: no}
}

// errKeysOff is why nothing is done about keys while a member runs a program that cannot read them.
var errKeysOff = errors.New("idempotency keys are not switched on: every member of the cluster must run a release " +
	"that knows them; see \"Upgrades\" in docs/operations.md")

// keyAcceptable returns why a request with an idempotency key cannot be decided as it asks, or nil.
func (c *Machine) keyAcceptable(key string) error {
	if key != "" && c.table.Level() < txn.LevelKeys {
		return errKeysOff
	}
	return nil
}

// answerKey answers from a state that was confirmed. Whoever got an answer may send keys from then on:
// a node that does not know them, and would take no notice, leads never again.
func (c *Machine) answerKey(e KeyAsked) {
	r := Reply{Request: e.Request, Zxid: c.core.Zxid()}
	if err := c.keyAcceptable(e.Key); err != nil {
		r.Err = txn.Refusedf("%v", err)
	} else if use, ok := c.table.Key(e.Key); ok {
		r.Key = &use
		r.Txn, _ = c.table.Get(use.ID)
	} else {
		r.Claimed = c.claimKey(e.Key, e.Claim)
	}
	c.reply(r)
}
