// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/joined"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

const (
	// Whoever takes part asks the cluster so soon, and then so often, whether who began the transaction lives.
	firstLook, nextLook = 100 * time.Millisecond, time.Second
	// After the vote it asks for the decision after firstAsk, and then ever more rarely.
	firstAsk, longestAsk = 250 * time.Millisecond, 5 * time.Second
)

// part is this client's part in a transaction that another service has begun. Its branches are driven like those of a
// transaction of its own, but for the decision: it asks nobody to commit, it votes and waits.
//
// It may call other services in the transaction: their branches are branches of tx, and vote and end with the others.
// They are asked and told with the proofs that this part was.
//
// What always holds:
//  1. It votes once, and not before all calls that it has answered are known to whoever asks, and none is
//     under way, here or from here.
//  2. After a Yes its branches end by a decision only: what it is told by who can prove to have begun the
//     transaction, or what the cluster says.
//  3. Before its vote they are rolled back if the transaction is decided without it, or if the lease that it was begun
//     under has ended, or at its time limit.
type part struct {
	joins      *joins
	capability txn.Capability
	path       []string // instances that the transaction came through
	tx         *Tx
	gone       context.CancelCauseFunc // ends the transaction before it has voted

	decision chan txn.Decision // has room for the only one
	voted    chan struct{}     // closed when the votes are known
	ended    chan struct{}     // closed when nothing is left to do

	mu       sync.Mutex
	calls    joined.Calls
	running  []*inCall
	proofs   map[txn.Decision]txn.Proof // that were shown here; with Undecided, of whoever asked for the votes
	siblings []txn.BranchNo
	votes    []api.JoinedVote
	found    []*concordv1.ConcludedBranch
	end      *concluded
}

// inCall is a call that was made here.
type inCall struct {
	name     api.CallName
	first    txn.BranchNo
	branches int
}

// has reports whether a branch of the call may have a number.
func (k *inCall) has(no txn.BranchNo) bool { return no >= k.first && int(no) < int(k.first)+k.branches }

// inCallKey is that of a call in the context of its handler.
type inCallKey struct{}

// concluded is how a part has ended.
type concluded struct {
	answer *concordv1.ConcludeResponse
	err    error // it was left to the cluster
}

// newPart opens a part, in a transaction that is counted as one in flight.
func newPart(ctx context.Context, j *joins, p api.Propagation, until time.Time) *part {
	c := j.client
	life, gone := context.WithCancelCause(context.WithoutCancel(ctx))
	life, end := c.start(life, Step{Kind: StepTransaction, GID: p.ID, Attempt: 1})
	limit := &limitError{after: time.Until(until), caller: context.DeadlineExceeded}
	t := &part{joins: j, capability: p.Capability, path: p.Path, gone: gone, decision: make(chan txn.Decision, 1),
		voted: make(chan struct{}), ended: make(chan struct{}), proofs: map[txn.Decision]txn.Proof{}}
	t.tx = newTx(life, c, p.ID, p.Cluster, txn.TwoPhase, limit, until)
	t.tx.part, t.tx.end = t, end
	t.tx.watch = context.AfterFunc(t.tx.life, t.tx.expire)
	c.inBackground(t.look) // not after Close, which waits for the transaction
	return t
}

// enter begins a call.
func (t *part) enter(p api.Propagation) (*inCall, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tx.life.Err() != nil {
		return nil, errLate
	}
	if err := t.calls.Enter(p.Call); err != nil {
		return nil, err
	}
	k := &inCall{name: p.Call, first: p.First, branches: p.Branches}
	t.running = append(t.running, k)
	return k, nil
}

// grants reports whether a branch may get a number: from the call that ctx is of, or if it is of none from any that is
// under way.
func (t *part) grants(ctx context.Context, no txn.BranchNo) bool {
	of, _ := ctx.Value(inCallKey{}).(*inCall)
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.Contains(t.running, of) {
		return of.has(no)
	}
	return slices.ContainsFunc(t.running, func(k *inCall) bool { return k.has(no) })
}

// leave ends a call, and says what was done so far.
func (t *part) leave(k *inCall, failure error, addr string) api.Participation {
	if failure != nil {
		t.tx.doom(failure)
	}
	p := api.Participation{Call: k.name, Addr: addr}
	<-t.tx.turn // an Enlist may be on its way, of a goroutine that the handler has left behind
	defer t.tx.give()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls.Leave(k.name)
	t.running = slices.DeleteFunc(t.running, func(other *inCall) bool { return other == k })
	if slices.ContainsFunc(t.tx.outward.pending, func(out *Call) bool { return k.has(out.first) }) {
		t.tx.doom(errLeftBehind) // its numbers are another call's from now on
	}
	switch doomed := t.tx.doomed.Load(); {
	case t.tx.expired != nil:
		p.Failed = t.tx.expired.Error()
	case t.tx.ended:
		p.Failed = errLate.Error()
	case doomed != nil:
		p.Failed = (*doomed).Error()
		if no := (*joined.VoteError)(nil); errors.As(*doomed, &no) { // of a service that was called from here
			p.Resource, p.Passing = no.Resource, no.Passing
		}
	}
	if t.tx.ended {
		return p
	}
	for _, b := range t.tx.branches {
		reading, ok := b.session.(adapters.Reading)
		p.Branches = append(p.Branches, api.OpenedBranch{No: b.no, Resource: b.resource, Driver: b.opener.Driver(),
			OnlyRead: ok && reading.OnlyRead()})
		if failing, ok := b.session.(adapters.Failing); ok && p.Failed != "" {
			for _, err := range failing.Failures() {
				if err != nil && p.Resource == "" {
					p.Resource, p.Passing = b.resource, b.opener.Transient(err)
				}
			}
		}
	}
	return p
}

// look asks the cluster whether who began the transaction lives, and has not ended it, until the votes are asked for.
func (t *part) look() {
	life := t.tx.client.life
	for pause := firstLook; ; pause = nextLook {
		select {
		case <-time.After(pause):
		case <-t.voted:
			return
		case <-t.ended:
			return
		case <-life.Done():
			return
		}
		decision, ended, err := t.follow(life)
		switch {
		case err != nil:
			t.tx.client.logger.Debug("could not ask whether who began a transaction lives", "gid", t.tx.id, "error",
				err)
		case decision != txn.Undecided:
			t.gone(fmt.Errorf("%w: the decision is to %v, without this service", errGone, decision))
		case ended:
			t.gone(errGone)
		}
	}
}

// follow asks the cluster.
func (t *part) follow(ctx context.Context) (d txn.Decision, leaseEnded bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	m, err := t.tx.client.api.Follow(ctx, &concordv1.FollowRequest{Gid: t.tx.id.String(),
		Cluster: t.tx.cluster.String()})
	if err != nil {
		return txn.Undecided, false, err
	}
	if m.GetDecision() != txn.Undecided.String() {
		d, err = api.ParseDecision("decision", m.GetDecision())
	}
	return d, m.GetLeaseEnded(), err
}

// vote ends the work, unless that was done before, and returns the votes.
func (t *part) vote(ctx context.Context, r *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	branches, err := api.ParseNumbers("branches", r.GetBranches())
	if err != nil {
		return nil, err
	}
	siblings, err := api.ParseNumbers("siblings", r.GetSiblings())
	if err != nil {
		return nil, err
	}
	heard, err := api.ParseHeard("sum", r.GetSum())
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.calls.Ask() {
		t.proofs[txn.Undecided], t.siblings = r.GetProof(), siblings
		// Nobody adds a branch behind the comparison unless a call is under way, and then it fails.
		if err := t.calls.Differ(joined.Heard{Calls: r.GetCalls(), Sum: heard}, branches, t.opened()); err != nil {
			t.tx.doom(err)
		}
		if !t.tx.client.inBackground(func() { t.commit(branches) }) {
			t.publishLocked(t.refusal(branches, ErrClosed))
		}
	}
	t.mu.Unlock()
	select {
	case <-t.voted:
		t.mu.Lock()
		defer t.mu.Unlock()
		return &concordv1.VoteResponse{Votes: api.VoteMessages(t.votes)}, nil
	case <-ctx.Done():
		return nil, txn.Unavailablef("the branches of transaction %s have not voted yet: ask again", t.tx.id)
	}
}

// opened are the branches that are open.
func (t *part) opened() (opened []api.OpenedBranch) {
	for _, b := range t.tx.branches {
		opened = append(opened, api.OpenedBranch{No: b.no, Resource: b.resource})
	}
	return opened
}

// prove is the proof that was shown here. Without one it is the capability, after which the cluster is asked.
func (t *part) prove(d txn.Decision) txn.Proof {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p, ok := t.proofs[d]; ok {
		return p
	}
	return txn.Proof(t.capability[:])
}

// told reports whether who began the transaction has told this decision.
func (t *part) told(d txn.Decision) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proofs[d] != nil
}

// writers are the branches of the whole transaction that may have written.
func (t *part) writers() []txn.BranchNo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.siblings
}

// commit drives the branches, to their votes and from the decision.
func (t *part) commit(branches []txn.BranchNo) {
	err := t.tx.commit(context.Background())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.publishLocked(t.refusal(branches, err))
}

// refusal is a No of each branch. It is what becomes of a transaction that has ended without asking for a decision.
func (t *part) refusal(branches []txn.BranchNo, why error) (votes []api.JoinedVote) {
	no := api.JoinedVote{Vote: txn.VoteNo, Passing: Retryable(why), Torn: errors.Is(why, ErrTorn)}
	if why == nil {
		why = ErrTxEnded
	}
	var aborted *AbortedError
	var torn *TornError
	switch {
	case errors.As(why, &aborted):
		no.Resource, why = aborted.Resource, aborted.Err
	case errors.As(why, &torn):
		no.Resource, why = torn.Resource, torn.Err
	}
	no.Reason = why.Error()
	for _, b := range branches {
		no.No = b
		votes = append(votes, no)
	}
	return votes
}

// publishLocked makes the votes known, once.
func (t *part) publishLocked(votes []api.JoinedVote) {
	select {
	case <-t.voted:
	default:
		t.votes = votes
		close(t.voted)
	}
}

// decide votes Yes, and waits for the decision: its driver asks for that.
func (t *part) decide(ctx context.Context, yes []txn.Branch) word {
	votes := make([]api.JoinedVote, 0, len(t.tx.branches))
	for _, b := range t.tx.branches {
		v := api.JoinedVote{No: b.no, Vote: txn.VoteReadOnly}
		if i := slices.IndexFunc(yes, func(y txn.Branch) bool { return y.No == b.no }); i >= 0 {
			v.Vote, v.Branch = txn.VoteYes, yes[i]
		}
		votes = append(votes, v)
	}
	t.mu.Lock()
	t.publishLocked(votes)
	t.mu.Unlock()
	if len(yes) == 0 {
		return decided(txn.Commit, errOnlyRead)
	}
	ctx, cancel := context.WithTimeout(ctx, settlePatience)
	defer cancel()
	for pause := firstAsk; ; pause = min(2*pause, longestAsk) {
		select {
		case d := <-t.decision:
			return decided(d, errTold)
		case <-time.After(pause):
		case <-ctx.Done():
			return word{err: fmt.Errorf("nobody has told the decision: %w", ctx.Err())}
		}
		switch d, _, err := t.follow(ctx); {
		case err != nil:
			t.tx.client.logger.Debug("could not ask the cluster for a decision", "gid", t.tx.id, "error", err)
		case d != txn.Undecided:
			return decided(d, errAsked)
		}
	}
}

var (
	errOnlyRead = errors.New("its part in this service has only read")
	errTold     = errors.New("who began the transaction has said so")
	errAsked    = errors.New("the cluster has said so")
)

// report notes what became of a branch that was committed.
func (t *part) report(f protocol.Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.found = append(t.found, &concordv1.ConcludedBranch{No: uint32(f.No), Finish: f.Finish.String()})
}

// over is called when the driver of the transaction has ended. It is clean if nothing is left.
func (t *part) over(clean bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = &concluded{answer: &concordv1.ConcludeResponse{Branches: t.found}}
	if torn := (*TornError)(nil); errors.As(t.tx.torn(), &torn) {
		t.end.answer.Torn = api.Readable(fmt.Sprintf("%s: %v", torn.Resource, torn.Err), txn.MaxReason)
	}
	if !clean {
		t.end.err = txn.Unavailablef("%w", errAbandoned)
	}
	t.joins.over(t.tx.id, t.end)
	close(t.ended)
}

// conclude ends the branches as was decided.
func (t *part) conclude(ctx context.Context, d txn.Decision, proof txn.Proof) (*concluded, error) {
	t.mu.Lock()
	if t.capability.Proves(proof, d) {
		t.proofs[d] = proof
	}
	first := t.calls.Ask()
	t.mu.Unlock()
	if first { // it has opened nothing that is known there, or its work is given up
		t.tx.client.logRollback(t.tx, t.tx.rollback(ctx, errConcluded))
	}
	select {
	case t.decision <- d:
	default: // it was told before
	}
	select {
	case <-t.ended:
		return t.end, nil
	case <-ctx.Done():
		return nil, txn.Unavailablef("branches of transaction %s have not ended yet: ask again", t.tx.id)
	}
}

// confirm asks the cluster whether a decision is what who has handed the transaction on says that it is. Where nothing
// was opened it is all the same.
func (t *part) confirm(ctx context.Context, d txn.Decision) error {
	select {
	case <-t.tx.turn:
	case <-ctx.Done():
		return txn.Unavailablef("transaction %s is in the hands of another call: ask again: %w", t.tx.id, ctx.Err())
	}
	t.mu.Lock()
	idle := len(t.tx.branches)+len(t.running) == 0
	t.mu.Unlock()
	if t.tx.give(); idle {
		return nil
	}
	switch known, _, err := t.follow(ctx); {
	case err != nil:
		return txn.Unavailablef("the cluster could not be asked how transaction %s was decided: ask again: %w",
			t.tx.id, err)
	case known != d:
		return errProof
	}
	return nil
}

var errConcluded = errors.New("who began the transaction has ended it")

// JoinService serves what those who began transactions ask this client, which takes part in them. Its errors have the
// status codes of connectrpc.com/connect.
func (c *Client) JoinService() Peer { return joinService{c.joins} }

type joinService struct{ joins *joins }

// Vote implements Peer.
func (s joinService) Vote(ctx context.Context, r *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	known, err := s.find(r.GetGid(), r.GetInstance())
	switch {
	case err != nil:
	case !known.capability.Proves(r.GetProof(), txn.Undecided):
		err = errProof
	case known.part == nil:
		err = txn.Refusedf("transaction %s has ended here: begin another one", r.GetGid())
	}
	if err != nil {
		return nil, api.ToStatus(err)
	}
	m, err := known.part.vote(ctx, r)
	return m, api.ToStatus(err)
}

// Conclude implements Peer.
func (s joinService) Conclude(ctx context.Context, r *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error) {
	decision, err := api.ParseDecision("decision", r.GetDecision())
	if err != nil {
		return nil, api.ToStatus(err)
	}
	known, err := s.find(r.GetGid(), r.GetInstance())
	if err == nil {
		err = known.believe(ctx, r.GetProof(), decision)
	}
	if err != nil {
		return nil, api.ToStatus(err)
	}
	end := known.end
	if known.part != nil {
		if end, err = known.part.conclude(ctx, decision, r.GetProof()); err != nil {
			return nil, api.ToStatus(err)
		}
	}
	if end.err != nil {
		return nil, api.ToStatus(end.err)
	}
	return end.answer, nil
}

// believe returns nil if a decision is told by who began the transaction, or by who takes part in it and the cluster
// says the same.
func (k joining) believe(ctx context.Context, proof txn.Proof, d txn.Decision) error {
	switch {
	case k.capability.Proves(proof, d):
		return nil
	case !bytes.Equal(proof, k.capability[:]):
		return errProof
	case k.part == nil: // nothing is left to do
		return nil
	}
	return k.part.confirm(ctx, d)
}

// find returns a transaction that this process takes part in.
func (s joinService) find(gid, instance string) (joining, error) {
	id, err := api.ParseID("gid", gid)
	if err != nil {
		return joining{}, err
	}
	s.joins.mu.Lock()
	known, ok := s.joins.of[id]
	s.joins.mu.Unlock()
	if instance != s.joins.instance || !ok {
		return joining{}, txn.NotFoundf("this process takes no part in transaction %s: it has started since, or "+
			"another one is meant", id)
	}
	return known, nil
}
