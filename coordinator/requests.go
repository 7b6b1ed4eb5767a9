// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api/member"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// The requests below fail with what their comments say, and all of them also with these errors, which
// wrap one of the sentinels of package txn: *txn.NotLeaderError where the leader has to answer,
// txn.ErrBusy if the queue of the loop is full (nothing was done), txn.ErrUnavailable if the node cannot
// answer now or is closed, and the error of ctx if that ends first. After the last two a request may have been
// carried out all the same; asking again with the same gid is safe.

// Commit asks for the decision to commit: the only request on the path of a
// transaction. All branches have voted Yes. A repeated request gets the same answer.
// The error is txn.ErrTooOld if the log no longer remembers as far back as the gid, txn.ErrInvalid if the gid
// is dated ahead of all clocks, and txn.ErrRefused if the transaction belongs to another cluster or its class
// is not decided here.
func (n *Node) Commit(ctx context.Context, r txn.CommitRequest) (commit.Reply, error) {
	span := n.config.Spans.Under(r.Trace, "concord.decide", spans.Server)
	reply, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.CommitAsked{Request: request,
			CommitRequest: r}
	})
	n.decided(span, r.ID, reply, err)
	return reply, err
}

// CommitLater is Commit for many requests at a time: done takes the answer, on a
// goroutine of the node, and must not wait. It is not called if the node closes first.
func (n *Node) CommitLater(r txn.CommitRequest, done func(commit.Reply)) {
	if span := n.config.Spans.Under(r.Trace, "concord.decide", spans.Server); span != nil {
		answer := done
		done = func(reply commit.Reply) {
			n.decided(span, r.ID, reply, reply.Err)
			answer(reply)
		}
	}
	n.submit(func(request uint64) replica.Event { return commit.CommitAsked{Request: request, CommitRequest: r} }, done)
}

// Outcome settles what became of a transaction: one without decision is aborted, as far as the
// cluster would have decided it.
// Errors are those of Commit.
func (n *Node) Outcome(ctx context.Context, q txn.Inquiry) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event { return commit.OutcomeAsked{Request: request, Inquiry: q} })
}

// KeyUse says which transaction was committed under an idempotency key; Reply.Key is nil if none was. Then the claim
// is taken, unless Reply.Claimed says that somebody else has it.
// It has no errors of its own.
func (n *Node) KeyUse(ctx context.Context, key string, k commit.KeyClaim) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event {
		return commit.KeyAsked{Request: request, Key: key, Claim: k}
	})
}

// Waiting hears which transactions of a client have waited for longer than a second, and says which of
// them have to end because of a deadlock.
// It has no errors of its own.
func (n *Node) Waiting(ctx context.Context, heard uint64, waiters []deadlock.Waiter) (commit.Reply, error) {
	return n.ask(ctx, func(request uint64) replica.Event {
		return commit.WaitsAsked{Request: request, Heard: heard, Waiters: waiters}
	})
}

// actEndTime bounds how long the log is asked to take how an act ended, and actEndPause is how long a queue that is
// full is given.
const (
	actEndTime  = 5 * time.Second
	actEndPause = 100 * time.Millisecond
)

// Act has what a person asks for in the log before do does it, and how it ended after that; says is what came of
// it, for people. If this node does not lead any more then, the next leader has to say.
// Errors are those of do and, of the log, those that all requests have; then do was not called.
func (n *Node) Act(ctx context.Context, act txn.ActRecord, do func() (says string, err error)) (err error) {
	var key [8]byte
	_, _ = rand.Read(key[:]) // it ends the process if it fails
	act.Key = binary.BigEndian.Uint64(key[:])
	span := n.config.Spans.After("", "concord.act", spans.Server)
	span.Say("concord.act", act.Kind.String())
	if !act.ID.IsZero() {
		span.Say("concord.gid", act.ID.String())
	}
	defer func() {
		if other := (*txn.NotLeaderError)(nil); !errors.As(err, &other) {
			span.End(failure(err))
		}
	}()
	if _, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.ActAsked{Request: request, ActRecord: act}
	}); err != nil {
		return err
	}
	says, err := do()
	end := actEnd(act.Key, says, err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actEndTime)
	defer cancel()
	for {
		_, lost := n.ask(ctx, func(request uint64) replica.Event {
			return commit.ActEnded{Request: request, ActEndRecord: end}
		})
		switch other := (*txn.NotLeaderError)(nil); {
		case errors.Is(lost, txn.ErrBusy):
			select {
			case <-time.After(actEndPause):
				continue
			case <-ctx.Done():
			}
		case lost != nil && !errors.As(lost, &other):
			n.log.Warn("the log did not take how an operator's act ended: the next leader writes that nobody knows",
				"act", act.Kind.String(), "outcome", end.Outcome.String(), "err", lost)
		}
		return err
	}
}

// actEnd says how an act ended that returned err.
func actEnd(key uint64, says string, err error) txn.ActEndRecord {
	r := txn.ActEndRecord{Key: key, Outcome: txn.ActDone, Says: says}
	if err != nil {
		r.Outcome, r.Says = txn.ActUnknown, err.Error()
	}
	for _, kind := range []error{txn.ErrRefused, txn.ErrDecided, txn.ErrNotFound, txn.ErrTooOld, txn.ErrInvalid} {
		if errors.Is(err, kind) {
			r.Outcome = txn.ActRefused
		}
	}
	r.Says = strings.ToValidUTF8(r.Says[:min(len(r.Says), txn.MaxSays)], "")
	return r
}

// Acts returns what people did that is kept, the oldest first. It must not be changed. It has no errors of its own.
func (n *Node) Acts(ctx context.Context) ([]*txn.Act, error) {
	r, err := n.ask(ctx, func(request uint64) replica.Event { return commit.ActsAsked{Request: request} })
	return r.Acts, err
}

// Resolve is an operator's decision for a transaction that has none. For a commit, and for an abort of
// what no scan has seen, all databases are asked first which branches there are. The error is
// txn.ErrDecided if another decision was first, txn.ErrNotFound if nobody knows the transaction,
// txn.ErrRefused if the decision cannot be taken as asked, and says why.
func (n *Node) Resolve(ctx context.Context, asked txn.Resolution) (commit.Reply, error) {
	e := commit.ResolveAsked{Resolution: asked}
	ask := func() (commit.Reply, error) {
		return n.ask(ctx, func(request uint64) replica.Event {
			e.Request = request
			return e
		})
	}
	look := func() {
		bounded, cancel := context.WithTimeout(ctx, censusTimeout)
		defer cancel()
		e.Census = n.census(bounded, asked.ID)
	}
	if asked.Decision == txn.Commit {
		look()
	}
	r, err := ask()
	if asked.Decision == txn.Abort && errors.Is(err, txn.ErrNotFound) {
		look()
		r, err = ask()
	}
	if err == nil && r.Txn.Decision != asked.Decision { // somebody else's decision was first
		return r, commit.AlreadyDecided(r.Txn)
	}
	return r, err
}

// settleTime is less than what a client gives a node for it, who would hear from the next try that the
// branch is gone.
const settleTime = 12 * time.Second

// Settled is what became of a branch that an operator has ended.
type Settled struct {
	Resource string
	Finish   txn.Finish
}

// Settle is an operator's word about one branch that nothing else ends: it is given up, or ended in its
// database, whoever it belongs to. Only what recovery reports is ended so.
// The error is txn.ErrNotFound if there is no such branch, and txn.ErrRefused if the transaction has no
// decision yet, if the branch is finished or on record already, or if its database says otherwise.
func (n *Node) Settle(ctx context.Context, s txn.Settlement) (Settled, error) {
	if s.Decision == txn.Undecided {
		_, err := n.ask(ctx, func(request uint64) replica.Event {
			return commit.SettleAsked{Request: request, ID: s.ID, Branch: s.Branch, Who: s.Who, Why: s.Why}
		})
		return Settled{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	// Also with nothing to end: only a leader may say so.
	asked := func(request uint64) replica.Event { return commit.PlanAsked{Request: request} }
	if _, err := n.ask(ctx, asked); err != nil {
		return Settled{}, err
	}
	resource, p, err := n.listedOnce(ctx, s)
	if err != nil {
		return Settled{}, err
	}
	if _, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.EndAsked{Request: request, Resource: resource, Prepared: p, Decision: s.Decision, Who: s.Who,
			Why: s.Why}
	}); err != nil {
		return Settled{}, err
	}
	switch e := n.workers[resource].finish(ctx, commit.Task{XID: p.XID, Decision: s.Decision,
		Branch: txn.Branch{No: s.Branch, Resource: resource}}).(type) {
	case commit.Finished:
		n.post(ctx, e)
		if e.Finish != txn.Done && e.Finish != txn.AlreadyDone {
			return Settled{}, txn.Refusedf("branch %d of %v at %s is %v: %s; look into that database", s.Branch,
				s.ID, resource, e.Finish, e.Why)
		}
		return Settled{Resource: resource, Finish: e.Finish}, nil
	case commit.Failed:
		return Settled{}, txn.Unavailablef("%s", e.Why)
	}
	return Settled{}, nil
}

// listedOnce returns the prepared branch that an operator means, and where it is.
func (n *Node) listedOnce(ctx context.Context, s txn.Settlement) (resource string, p adapters.Prepared, err error) {
	if s.Resource != "" && n.workers[s.Resource] == nil {
		return "", p, commit.NoResource(s.Resource)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime/2)
	defer cancel()
	listings, unlisted := n.listAll(ctx, s.ID)
	var at []string
	for name, listing := range listings {
		i := slices.IndexFunc(listing, func(p adapters.Prepared) bool { return p.XID.Branch == s.Branch })
		if i >= 0 && (s.Resource == "" || s.Resource == name) {
			at, p = append(at, name), listing[i]
		}
	}
	slices.Sort(at)
	switch {
	case len(at) > 1:
		return "", p, txn.Refusedf("branch %d of %v is prepared at %s: say which one you mean, with --resource",
			s.Branch, s.ID, strings.Join(at, " and "))
	case len(at) == 1:
		return at[0], p, nil
	case unlisted != nil:
		return "", p, unlisted
	}
	return "", p, txn.NotFoundf("no resource lists a prepared branch %d of %v: see \"concord recover %v\"",
		s.Branch, s.ID, s.ID)
}

// ErrDropped says that a resource was taken out of the configuration that has branches to finish.
var ErrDropped = errors.New("a resource that has branches to finish is not in the configuration")

// maxDropped branches are named.
const maxDropped = 10

// checkDropped refuses to run without a resource that the log has branches of.
func (n *Node) checkDropped() error {
	known := slices.Clone(n.config.Abandoned)
	for name := range n.workers {
		known = append(known, name)
	}
	return n.dropped(func(resource string) bool { return !slices.Contains(known, resource) })
}

// MayDrop returns why these resources must not be taken out of the configuration, or nil.
func (n *Node) MayDrop(resources ...string) error {
	if err := n.dropped(func(name string) bool { return slices.Contains(resources, name) }); err != nil {
		return err
	}
	if f := n.Status().Figures; f != nil {
		for _, r := range f.Resources {
			if slices.Contains(resources, r.Name) && r.InDoubt > 0 {
				return fmt.Errorf("%w: %s has %d without a decision: see \"concord tx ls --state in-doubt "+
					"--resource %[2]s\", and wait, or decide them", ErrDropped, r.Name, r.InDoubt)
			}
		}
	}
	return nil
}

// dropped returns an error that names the unfinished branches of resources, if there are any.
func (n *Node) dropped(gone func(resource string) bool) error {
	var names, branches []string
	left := 0
	err := n.eachUnfinished(gone, func(x txn.Txn, b txn.Branch) {
		if !slices.Contains(names, b.Resource) {
			names = append(names, b.Resource)
		}
		if len(branches) < maxDropped {
			branches = append(branches, fmt.Sprintf("%v/%d", x.ID, b.No))
		} else {
			left++
		}
	})
	switch {
	case err != nil:
		return err
	case len(names) == 0:
		return nil
	case left > 0:
		branches = append(branches, fmt.Sprintf("and %d more", left))
	}
	slices.Sort(names)
	return fmt.Errorf("%w: %s has %s. Put it back until \"concord tx ls --state in-doubt --resource %[2]s\" shows "+
		"nothing; or, if that database is lost for good, start with --abandon %[2]s, and they count as heuristic "+
		"hazards", ErrDropped,
		strings.Join(names, ","), strings.Join(branches, ", "))
}

// eachUnfinished visits the branches that the log, as far as it is applied here, wants finished at some
// resources.
func (n *Node) eachUnfinished(at func(resource string) bool, visit func(txn.Txn, txn.Branch)) error {
	return n.archive.eachOpen(txn.ID{}, func(x txn.Txn) bool {
		for _, b := range x.Branches {
			onRecord := slices.ContainsFunc(x.Heuristics, func(h txn.Heuristic) bool { return h.Branch == b.No })
			if x.Decision == txn.Commit && !x.Ended && !onRecord && at(b.Resource) {
				visit(x, b)
			}
		}
		return true
	})
}

// abandonEvery is how often a node looks whether it leads and has branches of abandoned resources.
const abandonEvery = time.Second

// abandon gives up, while this node leads, what nobody will finish.
func (n *Node) abandon(ctx context.Context) {
	ticker := time.NewTicker(abandonEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if s := n.Status(); s.Leader != n.config.Node {
			continue
		}
		var up []txn.Settlement
		err := n.eachUnfinished(func(name string) bool { return slices.Contains(n.config.Abandoned, name) },
			func(x txn.Txn, b txn.Branch) {
				up = append(up, txn.Settlement{ID: x.ID, Branch: b.No, Who: fmt.Sprintf("node %d", n.config.Node),
					Why: "started with --abandon " + b.Resource})
			})
		for _, s := range up {
			if err == nil {
				_, err = n.Settle(ctx, s)
			}
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("branches of abandoned resources are not given up yet, will try again", "err", err)
		}
	}
}

// Retry has the branches of a transaction, or one of them unless no is nil, tried now that wait to be tried again,
// and returns how many.
// The error is txn.ErrNotFound if nobody knows the transaction, and txn.ErrRefused if the cluster has nothing to do
// for it.
func (n *Node) Retry(ctx context.Context, id txn.ID, no *txn.BranchNo) (branches int, err error) {
	r, err := n.ask(ctx, func(request uint64) replica.Event {
		e := commit.RetryAsked{Request: request, ID: id, One: no != nil}
		if no != nil {
			e.Branch = *no
		}
		return e
	})
	return r.Retried, err
}

// Forget is an operator's word that a heuristic outcome was dealt with.
// The error is txn.ErrNotFound if the log has no such transaction, and txn.ErrRefused if it has nothing to
// forget.
func (n *Node) Forget(ctx context.Context, id txn.ID, who, why string) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event {
		return commit.ForgetAsked{Request: request, ID: id, Who: who, Why: why}
	})
	return err
}

// EachFinished visits finished transactions, newest first, beginning before the given
// one if it is not zero, until visit returns false. It is never older than a View that
// was taken before.
// An error is one of the store.
func (n *Node) EachFinished(before txn.ID, visit func(txn.Txn) bool) error {
	return n.archive.eachFinished(before, visit)
}

// Finished reports branches that the sessions of a client have finished. A report
// that does not fit into the queue is dropped: the cluster finishes the branch again,
// which is harmless.
func (n *Node) Finished(id txn.ID, no txn.BranchNo, f txn.Finish, by commit.Reporter) {
	e := commit.Finished{XID: txn.XID{Cluster: txn.ClusterID(n.cluster.Load()), ID: id, Branch: no}, Finish: f,
		By: txn.FromClient, Reporter: by,
		Who: "client", Why: "reported by the client that prepared the branch"}
	select {
	case n.posted <- e:
	default:
	}
}

// LastDecided hears that a last resource has committed. What does not fit into the queue is dropped: the cluster
// finds out by itself.
func (n *Node) LastDecided(d txn.LastDecision, by commit.Reporter) {
	select {
	case n.posted <- commit.LastDecided{LastDecision: d, Reporter: by}:
	default:
	}
}

// Deliver hears members of three-phase transactions. What does not fit into the queue is lost: whoever
// needs an answer says it again.
func (n *Node) Deliver(envelopes []member.Envelope) {
	for _, e := range envelopes {
		if !e.To.IsWitness() {
			continue // it is for an agent, which is found elsewhere
		}
		select {
		case n.posted <- commit.Said{ID: e.ID, From: e.From, Message: e.Message}:
		default:
			return
		}
	}
}

// Check runs the preflight of one resource, or of all if name is empty.
// The error is txn.ErrNotFound if there is no such resource; what a database says is in the result.
func (n *Node) Check(ctx context.Context, name string) (map[string]CheckResult, error) {
	if name != "" && n.workers[name] == nil {
		return nil, commit.NoResource(name)
	}
	ctx, cancel := context.WithTimeout(ctx, preflightTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := map[string]CheckResult{}
	for _, r := range n.config.Resources {
		if name == "" || name == r.Name() {
			wg.Go(func() {
				report, err := r.Check(ctx)
				mu.Lock()
				defer mu.Unlock()
				results[r.Name()] = CheckResult{Driver: r.Driver(), Report: report, Err: err}
			})
		}
	}
	wg.Wait()
	return results, nil
}

// CheckResult is the preflight of one resource.
type CheckResult struct {
	Driver string
	Report adapters.Report
	Err    error
}

// FeatureLevel returns what every member knows, as far as this node has heard.
func (n *Node) FeatureLevel() txn.FeatureLevel { return txn.FeatureLevel(n.level.Load()) }

// MaxTransaction returns how long a transaction may take before its prepared branches
// count as orphans.
func (n *Node) MaxTransaction() time.Duration { return n.config.Rules.MaxTransaction }

// APIAddress returns the API address of a member; empty if there is no such member.
func (n *Node) APIAddress(id uint64) string {
	m, _ := n.list.Load().Find(zab.NodeID(id))
	return m.API
}

// maxBranchesAsked transactions are asked about in one BranchesAsked.
const maxBranchesAsked = 128

// View is a linearizable look at one transaction, or, if id is zero, at everything that is not
// finished: each transaction as it is at some moment from the question on. What is open is read
// from the applied state, while the loop goes on.
// It has no errors of its own: of a transaction that nobody knows the View says that.
func (n *Node) View(ctx context.Context, id txn.ID) (*commit.View, error) {
	r, err := n.ask(ctx, func(request uint64) replica.Event { return commit.ViewAsked{Request: request, ID: id} })
	if err != nil || !id.IsZero() {
		return r.View, err
	}
	v := r.View
	err = n.archive.eachOpen(txn.ID{}, func(x txn.Txn) bool {
		v.Open = append(v.Open, x)
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.Reverse(v.Open) // oldest first
	for some := range slices.Chunk(v.Open, maxBranchesAsked) {
		ids := make([]txn.ID, len(some))
		for i, x := range some {
			ids[i] = x.ID
		}
		r, err := n.ask(ctx, func(request uint64) replica.Event {
			return commit.BranchesAsked{Request: request,
				IDs: ids}
		})
		if err != nil {
			return nil, err
		}
		for x, b := range r.View.Branches {
			v.Branches[x] = b
		}
	}
	return v, nil
}
