// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/concordtx/concord"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// The outcomes of TransactionServiceCommitResponse that a commit can have.
const (
	outcomeCommitted = "committed"
	outcomeAborted   = "aborted"
	outcomeTorn      = "torn"
	outcomeUnknown   = "unknown"
)

func (e ended) message(id txn.ID) *concordv1.TransactionServiceCommitResponse {
	return &concordv1.TransactionServiceCommitResponse{Outcome: e.outcome, Gid: id.String(), Reason: e.reason,
		Resource: e.resource}
}

// commit ends the transaction under a number.
func (s *session) commit(ctx context.Context,
	r *concordv1.TransactionServiceCommitRequest) (*concordv1.TransactionServiceCommitResponse, error) {
	if how, err := s.wait(ctx); how != nil || err != nil {
		return s.told(ctx, how, err)
	}
	_, err := s.do(ctx, r.GetNumber(), r, func() proto.Message { s.decide(); return nil })
	how, waited := s.wait(ctx)
	if how == nil && waited == nil { // it was refused, and nobody else ends the transaction
		return nil, err
	}
	return s.told(ctx, how, waited)
}

// wait waits while the transaction is being ended. It returns nil if nobody does that.
func (s *session) wait(ctx context.Context) (*ended, error) {
	s.mu.Lock()
	ending := s.ending
	s.mu.Unlock()
	if ending == nil {
		return nil, nil
	}
	select {
	case <-ending:
	case <-ctx.Done():
		return nil, fmt.Errorf("transaction %v is being ended: ask again to hear what became of it: %w", s.id,
			context.Cause(ctx))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over, nil
}

// told is how the transaction ended; of one that was left unknown the cluster may know more by now.
func (s *session) told(ctx context.Context, how *ended, err error) (*concordv1.TransactionServiceCommitResponse,
	error) {
	if err != nil {
		return nil, err
	}
	if how.outcome == outcomeUnknown {
		if known, err := s.gateway.settle(ctx, s.id, how.reason); err == nil {
			return known, nil
		}
	}
	return how.message(s.id), nil
}

// decide commits, unless somebody else ends the transaction.
func (s *session) decide() {
	if ending, mine := s.end(); mine {
		s.ended(ending, s.result(s.tx.Commit(s.gateway.last)))
	}
}

// end takes the right to end the transaction, unless somebody else has it.
func (s *session) end() (ending chan struct{}, mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return nil, false
	}
	return s.endLocked(), true
}

func (s *session) result(err error) ended {
	var (
		aborted *concord.AbortedError
		torn    *concord.TornError
	)
	switch {
	case err == nil:
		return ended{outcome: outcomeCommitted}
	case errors.As(err, &torn):
		return ended{outcome: outcomeTorn, reason: torn.Error(), resource: torn.Resource}
	case errors.As(err, &aborted):
		return ended{outcome: outcomeAborted, reason: aborted.Err.Error(), resource: aborted.Resource}
	}
	s.gateway.log.Warn("the outcome of a transaction is not known yet", "gid", s.id.String(), "err", err)
	return ended{outcome: outcomeUnknown, reason: err.Error()}
}

// rollback ends the transaction, whatever it is doing, unless it is being committed.
func (s *session) rollback(ctx context.Context) (*concordv1.TransactionServiceCommitResponse, error) {
	if ending, mine := s.end(); mine {
		s.abort(ending, "its program asked for it")
	}
	how, err := s.wait(ctx)
	return s.told(ctx, how, err)
}

// abort has the transaction rolled back, for whoever has the right to.
func (s *session) abort(ending chan struct{}, why string) {
	if !s.gateway.work(func() { s.rollBack(ending, why) }) {
		s.ended(ending, ended{outcome: outcomeAborted, reason: why}) // the end of the node rolls it back
	}
}

// rollBack ends the transaction. A branch that cannot be asked is ended by
// the client's further attempts, its agent or the cluster.
func (s *session) rollBack(ending chan struct{}, why string) {
	how := ended{outcome: outcomeAborted, reason: why}
	err := s.tx.Rollback(s.gateway.last)
	if torn := (*concord.TornError)(nil); errors.As(err, &torn) {
		how = ended{outcome: outcomeTorn, reason: torn.Error(), resource: torn.Resource}
	} else if err != nil {
		s.gateway.log.Warn("a rollback left branches behind, which will be ended "+
			"later", "gid", s.id.String(), "err", err)
	}
	s.ended(ending, how)
}

// settle asks the cluster for the outcome of a transaction that no session here can end.
func (g *Gateway) settle(ctx context.Context, id txn.ID, why string) (*concordv1.TransactionServiceCommitResponse,
	error) {
	client, err := g.cluster(ctx)
	if err != nil {
		return nil, err
	}
	outcome, err := client.Outcome(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%s; and what became of transaction %v could not be learned: ask again: %w", why, id,
			err)
	}
	m := &concordv1.TransactionServiceCommitResponse{Outcome: outcome.String(), Gid: id.String()}
	if outcome != concord.Committed {
		m.Reason = why
	}
	return m, nil
}

// lost is why a session that this node does not hold has ended.
func (g *Gateway) lost() string {
	return "this node no longer holds the transaction: it has restarted since, or the transaction ended long ago"
}

var errNoSession = txn.NotFoundf("this node does not hold the transaction: it has restarted since, or the " +
	"transaction ended long ago; ask Commit or Rollback what became of it, and begin a new one")
