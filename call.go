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

// callBranches is how many branches a call may open in the service that is called.
const callBranches = 8

// Call is a call of another service in a transaction: whoever carries transactions between services makes one before
// each call. concordhttp and concordgrpc do; applications use those. Answered, Failed or NotSent ends it, once.
type Call struct {
	tx    *Tx
	where string
	dial  func(addr string) (Peer, error)
	name  api.CallName
	first txn.BranchNo
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
	errHandedOn = fmt.Errorf("the transaction was begun by another service, and only that one calls others in it: "+
		"let it make this call, or call with a context of concord.NewContext(ctx, nil): %w", api.ErrRefused)
	errCallThree = fmt.Errorf("a transaction of three phases cannot be joined by another service: begin it without "+
		"WithProtocol(ThreePhase): %w", api.ErrRefused)
	errUnanswered = errors.New("a call of another service is under way: wait for its answer before the transaction is " +
		"committed")
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
	switch {
	case tx.part != nil:
		return nil, errHandedOn
	case tx.protocol == txn.ThreePhaseCommit:
		return nil, errCallThree
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
	first, ok := tx.span()
	if !ok {
		return nil, fmt.Errorf("%d calls are under way and there are %d branches, and all numbers of branches are given "+
			"out: make fewer calls at a time: %w", len(tx.outward.pending), len(tx.branches), api.ErrBusy)
	}
	k := &Call{tx: tx, where: where, dial: dial, name: api.NewCallName(), first: first}
	deadline := tx.client.resources.now().Add(time.Until(tx.deadline))
	var err error
	k.text, err = api.Text(api.Propagation{Cluster: tx.cluster, ID: tx.id, Deadline: deadline,
		Capability: tx.outward.secret.Capability(), Call: k.name, First: first, Branches: callBranches}.Message())
	if err != nil {
		return nil, err
	}
	tx.outward.pending = append(tx.outward.pending, k)
	return k, nil
}

// taken reports whether a branch has a number, or may get it.
func (tx *Tx) taken(no txn.BranchNo) bool {
	return tx.branch(no) != nil || slices.ContainsFunc(tx.outward.pending,
		func(k *Call) bool { return no >= k.first && int(no) < int(k.first)+callBranches })
}

// next returns the lowest number that is free, for a branch of our own.
func (tx *Tx) next() (txn.BranchNo, bool) {
	if tx.part != nil {
		return tx.part.next(tx)
	}
	for no := range api.MaxBranches {
		if !tx.taken(txn.BranchNo(no)) {
			return txn.BranchNo(no), true
		}
	}
	return 0, false
}

// span returns the highest numbers that are free, for the branches of a call.
func (tx *Tx) span() (first txn.BranchNo, ok bool) {
	n := 0
	for no := api.MaxBranches - 1; no >= 0; no-- {
		if n++; tx.taken(txn.BranchNo(no)) {
			n = 0
		}
		if n == callBranches {
			return txn.BranchNo(no), true
		}
	}
	return 0, false
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
	k.tx.outward.lost = true
	if !lives {
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
		return api.Participation{}, fmt.Errorf("the answer of %s does not say what was done there in the transaction: let "+
			"the service join (concordhttp.Middleware, concordgrpc.UnaryServerInterceptor), or call one that has no part in "+
			"it by another client", k.where)
	}
	p, err := api.ParseParticipation(header)
	if err != nil {
		return p, fmt.Errorf("the answer of %s is none of a service that joins transactions: %w", k.where, err)
	}
	if p.Call != k.name {
		return p, fmt.Errorf("the answer of %s is that to another call: let no cache be in between: %w", k.where,
			api.ErrInvalid)
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
		return nil, fmt.Errorf("the service at %s cannot be reached at %s, where it says it is: %w", k.where, p.Addr, err)
	}
	where := k.where
	if p.Addr != "" {
		where = p.Addr
	}
	s := joined.New(where, k.tx.id, p.Instance, k.tx.outward.secret, peer,
		func(ctx context.Context) error { return k.tx.askToAbort(ctx, true) })
	if !k.tx.ended {
		k.tx.outward.services = append(known, s)
	}
	return s, nil
}

// open makes what a service has opened branches of the transaction.
func (tx *Tx) open(s *joined.Service, opened []api.OpenedBranch) error {
	for _, o := range opened {
		if tx.branch(o.No) != nil {
			return fmt.Errorf("the service at %s has opened branch %d, which is another one: its version is another one: %w",
				s.Name(), o.No, api.ErrInvalid)
		}
		for _, b := range tx.branches {
			if b.resource == o.Resource {
				return fmt.Errorf("%s is used by two services in one transaction, this one or another and the one at %s, and each "+
					"would wait for the locks of the other: use it in one of them, and let all calls of a transaction reach "+
					"the same process: %w", o.Resource, s.Name(), api.ErrRefused)
			}
		}
		b := s.Branch(o)
		step, over := tx.client.start(tx.life, Step{Kind: StepBranch, GID: tx.id, Label: tx.label,
			Resource: o.Resource, Driver: o.Driver, Attempt: 1})
		tx.add(&branch{no: o.No, resource: o.Resource, opener: b, session: joined.Session{Branch: b}, step: step, over: over})
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

// release tells a service that holds no branch of it how the transaction ended, so that it forgets it. Others hear it in
// the course of events.
func (tx *Tx) release(s *joined.Service, d txn.Decision) {
	tx.client.inBackground(func() { // if not, it ends there at its time limit
		ctx, cancel := context.WithTimeout(tx.client.life, finishPatience)
		defer cancel()
		s.Release(ctx, d)
	})
}

// tellLost makes the cluster decide to abort.
func (tx *Tx) tellLost() {
	tx.client.inBackground(func() { tx.tellAborted(tx.client.life, true) }) // if not, it ends there at its time limit
}

// releaseIdle lets services know that hold nothing, or are not known, how the transaction has ended.
func (tx *Tx) releaseIdle(err error) {
	if tx.outward.lost {
		tx.tellLost()
	}
	d := txn.Abort
	if err == nil {
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
