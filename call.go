// SPDX-License-Identifier: Apache-2.0

package concord

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/concordtx/concord/adapters/joined"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// PropagationHeader is the header, or the key of metadata, that goes with a call in a transaction, and
// ParticipationHeader that of its answer.
const (
	PropagationHeader   = api.PropagationHeader
	ParticipationHeader = api.ParticipationHeader
)

// Peer is how a service that has joined a transaction is asked for its votes and told the decision. Its errors
// have the status codes of connectrpc.com/connect.
type Peer = joined.Peer

// callShare is the part of the numbers of branches that are free, one in so many, that goes with a call of a service:
// for what it opens, and hands on.
const callShare = 8

// Call is a call of another service in a transaction: whoever carries transactions between services makes one before
// each call. concordhttp and concordgrpc do; applications use those. Answered, Failed or NotSent ends it, once.
type Call struct {
	tx    *Tx
	where string
	dial  func(addr string) (Peer, error)
	name  api.CallName
	first txn.BranchNo // of so many numbers that branches may have
	n     int
	text  string
}

// outward is what a transaction knows of the services that it has called.
type outward struct {
	secret   txn.Secret
	pending  []*Call
	services []*joined.Service
	lost     bool // an answer was: some service may hold branches, and is not known
}

var (
	errTooFar = txn.Refusedf("the transaction has come through %d services, and no more may hand it on: let one of "+
		"them make this call, or call with a context of concord.NewContext(ctx, nil)", api.MaxPath)
	errCallThree = txn.Refusedf("a transaction of three phases cannot be joined by another service: begin it without " +
		"WithProtocol(ThreePhase)")
	errUnanswered = errors.New("a call of another service is under way: wait for its answer before the transaction " +
		"is committed")
	errLeftBehind = errors.New("a call of another service is under way: wait for its answer before the handler returns")
)

// Call begins a call of a service, which is at where, for people. dial reaches it for votes and decisions: at addr,
// or with an empty one where the call goes.
func (tx *Tx) Call(ctx context.Context, where string, dial func(addr string) (Peer, error)) (*Call, error) {
	k, err := tx.newCall(ctx, where, dial)
	if err != nil {
		return nil, fmt.Errorf("call %s in transaction %s: %w", where, tx.id, err)
	}
	return k, nil
}

func (tx *Tx) newCall(ctx context.Context, where string, dial func(addr string) (Peer, error)) (*Call, error) {
	path, capability := tx.origin()
	switch {
	case len(path) > api.MaxPath:
		return nil, errTooFar
	case tx.protocol == txn.ThreePhaseCommit:
		return nil, errCallThree
	case tx.last != "":
		return nil, errCallLast
	}
	ctx, cancel := context.WithDeadlineCause(ctx, tx.deadline, tx.limit)
	defer cancel()
	if err := tx.take(ctx); err != nil {
		return nil, err
	}
	defer tx.give()
	if tx.life.Err() != nil { // and nobody has rolled it back yet
		return nil, tx.because(tx.life)
	}
	first, n := tx.span(ctx)
	if n == 0 {
		return nil, txn.Busyf("%d calls are under way and there are %d branches, and all numbers of branches are "+
			"given out: make fewer calls at a time, or hand the transaction on to fewer services",
			len(tx.outward.pending), len(tx.branches))
	}
	k := &Call{tx: tx, where: where, dial: dial, name: api.NewCallName(), first: first, n: n}
	deadline := tx.client.resources.now().Add(time.Until(tx.deadline))
	var err error
	k.text, err = api.Text(api.Propagation{Cluster: tx.cluster, ID: tx.id, Deadline: deadline,
		Capability: capability, Call: k.name, First: first, Branches: n, Path: path}.Message())
	if err != nil {
		return nil, err
	}
	tx.outward.pending = append(tx.outward.pending, k)
	return k, nil
}

// origin returns what goes with each call of the transaction: the instances that it has come through, this one last,
// and the capability.
func (tx *Tx) origin() (path []string, c txn.Capability) {
	if tx.part != nil {
		path, c = slices.Clone(tx.part.path), tx.part.capability
	} else {
		c = tx.outward.secret.Capability()
	}
	return append(path, tx.client.joins.instance), c
}

// prove is the proof that who began the transaction shows to those whom it calls, or what this client has of it.
func (tx *Tx) prove(d txn.Decision) txn.Proof {
	if tx.part != nil {
		return tx.part.prove(d)
	}
	return tx.outward.secret.Proof(d)
}

// free reports whether a number is this client's to give, no branch has it, and none may get it.
func (tx *Tx) free(ctx context.Context, no txn.BranchNo) bool {
	return tx.branch(no) == nil && (tx.part == nil || tx.part.grants(ctx, no)) &&
		!slices.ContainsFunc(tx.outward.pending, func(k *Call) bool {
			return no >= k.first && int(no) < int(k.first)+k.n
		})
}

// next returns the lowest number that is free, for a branch of our own.
func (tx *Tx) next(ctx context.Context) (txn.BranchNo, bool) {
	most := txn.MaxBranches
	if tx.last != "" {
		most = int(txn.LastBranch) // which its marker has
	}
	for no := range most {
		if tx.free(ctx, txn.BranchNo(no)) {
			return txn.BranchNo(no), true
		}
	}
	return 0, false
}

// span returns n numbers for the branches of a call, the highest of the longest row of free ones, of which one is left
// at least; zero: there are none.
func (tx *Tx) span(ctx context.Context) (first txn.BranchNo, n int) {
	longest, end, row := 0, 0, 0
	for no := range txn.MaxBranches + 1 {
		if no < txn.MaxBranches && tx.free(ctx, txn.BranchNo(no)) {
			row++
			continue
		}
		if row >= longest {
			longest, end = row, no
		}
		row = 0
	}
	if longest < 2 {
		return 0, 0
	}
	n = max(1, longest/callShare)
	return txn.BranchNo(end - n), n
}

// unanswered reports whether a call is under way. The transaction must have been claimed: no other begins.
func (tx *Tx) unanswered() bool {
	<-tx.turn // whoever ends a call gives it back
	defer tx.give()
	return len(tx.outward.pending) > 0
}

// Header is what goes with the call, as PropagationHeader.
func (k *Call) Header() string { return k.text }

// own takes the turn of the transaction, and reports whether that has not ended. The call is over then.
func (k *Call) own() bool {
	<-k.tx.turn // whoever ends the transaction gives it back
	k.tx.outward.pending = slices.DeleteFunc(k.tx.outward.pending, func(other *Call) bool { return other == k })
	return !k.tx.ended
}

// NotSent says that the call was not made, so nothing was done.
func (k *Call) NotSent() {
	k.own()
	k.tx.give()
}

// Failed says that no answer came: what the service did is not known, so the transaction will not commit.
func (k *Call) Failed(why error) {
	k.lost(fmt.Errorf("no answer came from the service at %s: %w", k.where, why))
}

// lost dooms the transaction. The service, which nobody can name, hears from the cluster that it was aborted.
func (k *Call) lost(why error) {
	k.tx.doom(why)
	lives := k.own()
	defer k.tx.give()
	if lives {
		k.tx.outward.lost = true // for whoever ends the transaction
	} else {
		k.tx.tellLost()
	}
}

// Answered takes the ParticipationHeader of the answer, which may be missing. An error says why the transaction
// will not commit.
func (k *Call) Answered(header string) error {
	p, err := k.parse(header)
	if err != nil {
		k.lost(err)
		return err
	}
	lives := k.own()
	defer k.tx.give()
	service, err := k.service(p)
	switch {
	case err != nil:
	case !lives:
		k.tx.release(service, txn.Abort)
		return ErrTxEnded
	default:
		err = k.tx.open(service, service.Heard(k.name, p.Branches))
	}
	if p.Failed != "" {
		err = &joined.VoteError{Resource: p.Resource, Passing: p.Passing,
			Text: fmt.Sprintf("the service at %s failed: %s", k.where, p.Failed)}
	}
	if err != nil {
		k.tx.doom(err)
	}
	return err
}

func (k *Call) parse(header string) (api.Participation, error) {
	if header == "" {
		return api.Participation{}, fmt.Errorf("the answer of %s does not say what was done there in the "+
			"transaction: let the service join (concordhttp.Middleware, concordgrpc.UnaryServerInterceptor), or "+
			"call one that has no part in it by another client", k.where)
	}
	p, err := api.ParseParticipation(header)
	if err != nil {
		return p, fmt.Errorf("the answer of %s is none of a service that joins transactions: %w", k.where, err)
	}
	if p.Call != k.name {
		return p, txn.Invalidf("the answer of %s is that to another call: let no cache be in between", k.where)
	}
	return p, nil
}

// service returns the service that has answered.
func (k *Call) service(p api.Participation) (*joined.Service, error) {
	known := k.tx.outward.services
	if i := slices.IndexFunc(known, func(s *joined.Service) bool { return s.Instance() == p.Instance }); i >= 0 {
		return known[i], nil
	}
	peer, err := k.dial(p.Addr)
	if err != nil {
		return nil, fmt.Errorf("the service at %s cannot be reached at %s, where it says it is: %w", k.where, p.Addr,
			err)
	}
	where := k.where
	if p.Addr != "" {
		where = p.Addr
	}
	// Not for sure: what the application's own SQL did in a service that cannot be asked, nobody knows.
	s := joined.New(where, k.tx.id, p.Instance, k.tx.prove, peer,
		func(ctx context.Context) error { return k.tx.askToAbort(ctx, false) })
	if !k.tx.ended {
		k.tx.outward.services = append(known, s)
	}
	return s, nil
}

// open makes what a service has opened branches of the transaction.
func (tx *Tx) open(s *joined.Service, opened []api.OpenedBranch) error {
	for _, o := range opened {
		if tx.branch(o.No) != nil {
			return fmt.Errorf("the service at %s has opened branch %d, which is another one: %w: run releases of "+
				"concord there and here that fit together", s.Name(), o.No, txn.ErrInvalid)
		}
		for _, b := range tx.branches {
			if b.resource == o.Resource {
				return txn.Refusedf("%s is used by two services in one transaction, this one or another and the one "+
					"at %s, and each would wait for the locks of the other: use it in one of them, and let all "+
					"calls of a transaction reach the same process", o.Resource, s.Name())
			}
		}
		b := s.Branch(o)
		step, over := tx.client.start(tx.life, Step{Kind: StepBranch, GID: tx.id, Label: tx.label,
			Resource: o.Resource, Driver: o.Driver, Attempt: 1})
		tx.add(&branch{no: o.No, resource: o.Resource, opener: b, session: joined.Session{Branch: b}, step: step,
			over: over})
	}
	return nil
}

// add takes a branch that has no other's number.
func (tx *Tx) add(b *branch) {
	tx.branches = append(tx.branches, b)
	slices.SortFunc(tx.branches, func(a, b *branch) int { return int(a.no) - int(b.no) })
	tx.core.Step(twopc.Enlisted{No: b.no})
}

// branch returns the branch of a number, or nil.
func (tx *Tx) branch(no txn.BranchNo) *branch {
	for _, b := range tx.branches {
		if b.no == no {
			return b
		}
	}
	return nil
}

// release tells a service that holds no branch of it how the transaction ended, so that it forgets it. Others hear it
// in the course of events.
func (tx *Tx) release(s *joined.Service, d txn.Decision) {
	tx.client.inBackground(func() { // if not, it ends there at its time limit
		ctx, cancel := context.WithTimeout(tx.client.life, finishPatience)
		defer cancel()
		s.Release(ctx, d)
	})
}

// tellLost makes the cluster decide to abort. Nobody knows what the application's own SQL did in the service.
func (tx *Tx) tellLost() {
	tx.client.inBackground(func() { tx.tellAborted(tx.client.life, false) }) // if not, it ends there at its time limit
}

// releaseIdle lets services know that hold nothing, or are not known, how the transaction has ended.
func (tx *Tx) releaseIdle(err error) {
	if tx.outward.lost {
		tx.tellLost()
	}
	d := txn.Abort
	if err == nil || tx.part != nil && tx.part.told(txn.Commit) {
		d = txn.Commit
	}
	for _, s := range tx.outward.services {
		holds := slices.ContainsFunc(tx.branches, func(b *branch) bool {
			there, ok := b.opener.(joined.Branch)
			return ok && there.Service() == s
		})
		if !holds && !errors.Is(err, ErrUnknownOutcome) {
			tx.release(s, d)
		}
	}
}
