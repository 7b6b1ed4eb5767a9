// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// Database is a resource whose branches take statements. What it opens is a Session of this
// package.
type Database interface {
	adapters.Resource
	// Begin begins a branch on a session of its own.
	Begin(ctx context.Context, x txn.XID) (Session, error)
}

// Session is one open branch that takes statements.
type Session interface {
	adapters.Session
	// Do does one piece of work. An error that wraps ErrRefused has changed nothing; after any
	// other the branch cannot commit, unless a savepoint that is older is rolled back to.
	Do(ctx context.Context, w Work, limits Limits) (Result, error)
}

// database is a Database of an adapter.
type database struct {
	adapters.Adapter
	executor func(adapters.Session) executor
}

// executor is what a dialect does. Its texts have passed refuse.
type executor interface {
	refuse(text string) error
	execute(ctx context.Context, w Work, limits Limits) (Result, error)
	savepoint(ctx context.Context, name string) error
	rollbackTo(ctx context.Context, name string) error
}

func (d database) Begin(ctx context.Context, x txn.XID) (Session, error) {
	s, err := d.Open(ctx, x)
	if err != nil {
		return nil, err
	}
	return &session{Session: s, executor: d.executor(s)}, nil
}

// session keeps what the adapters do not know: that a result was too large to be seen.
type session struct {
	adapters.Session
	executor   executor
	savepoints []string // the oldest first
	unseen     error    // a result that nobody saw
	unseenAt   int      // how many savepoints there were
}

func (s *session) Do(ctx context.Context, w Work, limits Limits) (Result, error) {
	switch w.Verb {
	case Execute:
		return s.execute(ctx, w, limits)
	case Savepoint:
		return Result{}, s.setSavepoint(ctx, w.Text)
	case RollbackTo:
		return Result{}, s.goBack(ctx, w.Text)
	}
	return Result{}, fmt.Errorf("work of kind %v: run the newest version of concord on the agent: %w", w.Verb,
		ErrRefused)
}

func (s *session) execute(ctx context.Context, w Work, limits Limits) (Result, error) {
	if err := s.executor.refuse(w.Text); err != nil {
		return Result{}, err
	}
	if err := s.seen(); err != nil {
		return Result{}, err
	}
	r, err := s.executor.execute(ctx, w, limits.withDefaults())
	if errors.Is(err, ErrTooLarge) {
		s.unseen, s.unseenAt = err, len(s.savepoints)
	}
	if err != nil {
		return Result{}, err
	}
	return r, nil
}

// seen refuses work behind a result that nobody saw.
func (s *session) seen() error {
	if s.unseen == nil {
		return nil
	}
	return fmt.Errorf("the branch can only be rolled back, or go back to an older savepoint: %w", s.unseen)
}

func (s *session) setSavepoint(ctx context.Context, name string) error {
	if err := CheckSavepoint(name); err != nil {
		return err
	}
	if err := s.seen(); err != nil {
		return err
	}
	if err := s.executor.savepoint(ctx, name); err != nil {
		return err
	}
	// One of the same name hides the older one in PostgreSQL and replaces it elsewhere.
	s.savepoints = append(slices.DeleteFunc(s.savepoints, func(n string) bool { return n == name }), name)
	return nil
}

func (s *session) goBack(ctx context.Context, name string) error {
	if err := CheckSavepoint(name); err != nil {
		return err
	}
	i := slices.Index(s.savepoints, name)
	if i < 0 {
		return refusal(fmt.Sprintf("the branch has no savepoint %s: nothing was sent; ask for one before the work "+
			"that may have to be undone", name))
	}
	if err := s.executor.rollbackTo(ctx, name); err != nil {
		return err
	}
	s.savepoints = s.savepoints[:i+1]
	if s.unseenAt > i {
		s.unseen = nil
	}
	return nil
}

// Prepare votes No if there is work whose result nobody saw.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	if s.unseen == nil {
		return s.Session.Prepare(ctx)
	}
	why := fmt.Errorf("the result of a statement was never seen: %w", s.unseen)
	if err := s.Rollback(ctx); err != nil {
		why = fmt.Errorf("%w; and the rollback failed: %w", why, err)
	}
	return txn.VoteNo, txn.Branch{}, why
}

// CommitOnePhase does not commit then.
func (s *session) CommitOnePhase(ctx context.Context) error {
	if s.unseen == nil {
		return s.Session.CommitOnePhase(ctx)
	}
	if err := s.Rollback(ctx); err != nil {
		return err
	}
	return fmt.Errorf("%w: the result of a statement was never seen: %w", adapters.ErrNotCommitted, s.unseen)
}

// enlisted is the global transaction of one branch that is open already, as adapters want it.
type enlisted struct{ session adapters.Session }

func (e enlisted) Enlist(context.Context, adapters.Opener) (adapters.Session, error) {
	return e.session, nil
}
