// SPDX-License-Identifier: Apache-2.0

package joined

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/txn"
)

// Branch is a branch that a service has opened, as the resource that it belongs to: it ends the branch when
// its session has failed to, which is no other way.
type Branch struct {
	service *Service
	opened  api.OpenedBranch
}

// Session is the same branch as a session.
type Session struct{ Branch }

var (
	_ adapters.Opener    = Branch{}
	_ adapters.Session   = Session{}
	_ adapters.Reading   = Session{}
	_ adapters.Undecided = Session{}
)

// Branch returns a branch of the service.
func (s *Service) Branch(b api.OpenedBranch) Branch { return Branch{s, b} }

// Service returns the service that has opened the branch.
func (b Branch) Service() *Service { return b.service }

// Name implements adapters.Database.
func (b Branch) Name() string { return b.opened.Resource }

// Driver implements adapters.Database.
func (b Branch) Driver() string { return b.opened.Driver }

var errElsewhere = errors.New("another service has the sessions of this resource in the transaction")

// Identity implements adapters.Database. Nobody asks: the service has compared it with what the cluster says.
func (b Branch) Identity(context.Context) (string, error) { return "", errElsewhere }

// Open implements adapters.Opener. Nobody calls it: a branch comes with the answer to a call.
func (b Branch) Open(context.Context, txn.XID) (adapters.Session, error) { return nil, errElsewhere }

// Transient implements adapters.Opener: the service knows.
func (b Branch) Transient(err error) bool {
	var no *VoteError
	return errors.As(err, &no) && no.Passing
}

// Commit implements adapters.Finisher.
func (b Branch) Commit(ctx context.Context, _ txn.XID, _ txn.Branch) (txn.Finish, error) {
	return b.service.committed(ctx, b.opened.No)
}

// Rollback implements adapters.Finisher.
func (b Branch) Rollback(ctx context.Context, _ txn.XID, _ txn.Branch) (txn.Finish, error) {
	return txn.Done, b.service.aborted(ctx)
}

// VoteError is why a service voted No, or why a call of it failed.
type VoteError struct {
	Resource string // which is to blame; empty if none is
	Passing  bool   // it may well be a Yes when all is done again
	Text     string
	torn     bool
}

// Error says what the service said.
func (e *VoteError) Error() string { return e.Text }

// Unwrap returns adapters.ErrTorn if a part of the branch may be committed.
func (e *VoteError) Unwrap() error {
	if e.torn {
		return adapters.ErrTorn
	}
	return nil
}

// Prepare implements adapters.Session.
func (s Session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	none := txn.Branch{No: s.opened.No, Resource: s.opened.Resource}
	v, err := s.service.vote(ctx, s.opened.No)
	switch {
	case err != nil:
		return txn.VoteNo, none, err
	case v.Vote == txn.VoteNo:
		return txn.VoteNo, none, &VoteError{Resource: v.Resource, Passing: v.Passing, torn: v.Torn,
			Text: fmt.Sprintf("the service at %s votes no: %s", s.service.name, v.Reason)}
	case v.Vote == txn.VoteReadOnly:
		return txn.VoteReadOnly, none, nil
	case v.Branch.Resource != s.opened.Resource:
		return txn.VoteNo, none, s.service.failure("votes for %s, and branch %d was opened in %s", v.Branch.Resource,
			v.No, s.opened.Resource)
	}
	return txn.VoteYes, v.Branch, nil
}

// CommitOnePhase implements adapters.Session; nobody calls it, because of NeedsDecision.
func (s Session) CommitOnePhase(context.Context) error {
	return fmt.Errorf("%w: a branch of another service is committed by a decision of the cluster only",
		adapters.ErrNotCommitted)
}

// Commit implements adapters.Session.
func (s Session) Commit(ctx context.Context) (txn.Finish, error) {
	return s.service.committed(ctx, s.opened.No)
}

// Rollback implements adapters.Session.
func (s Session) Rollback(ctx context.Context) error { return s.service.aborted(ctx) }

// Abandon implements adapters.Session: the service keeps what it voted for, whoever goes away.
func (s Session) Abandon() {}

// NeedsDecision implements adapters.Undecided.
func (s Session) NeedsDecision() bool { return true }

// OnlyRead implements adapters.Reading, as the service said last.
func (s Session) OnlyRead() bool {
	s.service.mu.Lock()
	defer s.service.mu.Unlock()
	i := s.service.find(s.opened.No)
	return i >= 0 && s.service.branches[i].OnlyRead
}
