// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"fmt"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/pebble/journal"
	"github.com/concordtx/concord/txn"
)

// Tx is what the application works with: the branch of one global transaction in
// this store. Like an sql.Tx it is used by one goroutine at a time, and it is over
// when its global transaction commits or rolls back.
type Tx struct {
	store  *store
	branch *branch
}

// Get locks a key and returns a copy of its value.
func (tx *Tx) Get(ctx context.Context, key []byte) (value []byte, found bool, err error) {
	err = tx.store.locked(ctx, tx.branch, key, func() (err error) {
		value, found, err = tx.store.read(key)
		return err
	})
	return value, found, err
}

// Set locks a key and gives it a value.
func (tx *Tx) Set(ctx context.Context, key, value []byte) error {
	return tx.change(ctx, key, journal.Image{Present: true, Value: value})
}

// Delete locks a key and removes it. It need not be there.
func (tx *Tx) Delete(ctx context.Context, key []byte) error {
	return tx.change(ctx, key, journal.Image{})
}

func (tx *Tx) change(ctx context.Context, key []byte, redo journal.Image) error {
	return tx.store.locked(ctx, tx.branch, key, func() error {
		return tx.store.change(tx.branch, key, redo)
	})
}

// session is the session half of one branch.
type session struct {
	store    *store
	branch   *branch
	resource string
}

// enter locks the branch in an open store.
func (s *session) enter() (leave func(), err error) {
	release, err := s.store.use()
	if err != nil {
		return nil, err
	}
	s.branch.mu.Lock()
	return func() {
		s.branch.mu.Unlock()
		release()
	}, nil
}

// Prepare votes. Yes is said after the branch was synced.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	b := txn.Branch{No: s.branch.journal.XID.Branch, Resource: s.resource}
	vote, err := s.prepare(ctx)
	if err != nil {
		return txn.VoteNo, b, fmt.Errorf("prepare %s: %w", s.branch.journal.XID, err)
	}
	if vote == txn.VoteYes {
		b.Evidence = markerEvidence
	}
	return vote, b, nil
}

func (s *session) prepare(ctx context.Context) (txn.Vote, error) {
	leave, err := s.enter()
	if err != nil {
		return txn.VoteNo, err
	}
	defer leave()
	if s.branch.state != active {
		return txn.VoteNo, adapters.ErrBranchEnded
	}
	if err := s.fit(ctx); err != nil {
		return txn.VoteNo, err
	}
	if s.branch.journal.Updates == 0 {
		s.store.end(s.branch)
		return txn.VoteReadOnly, nil
	}
	if err := s.store.journal.Prepare(&s.branch.journal, time.Now()); err != nil {
		return txn.VoteNo, s.undone(err)
	}
	s.branch.state = prepared
	return txn.VoteYes, nil
}

// CommitOnePhase commits durably, or rolls back and wraps ErrNotCommitted.
func (s *session) CommitOnePhase(ctx context.Context) error {
	if err := s.commitOnePhase(ctx); err != nil {
		return fmt.Errorf("commit %s: %w", s.branch.journal.XID, err)
	}
	return nil
}

func (s *session) commitOnePhase(ctx context.Context) error {
	leave, err := s.enterFit(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if s.branch.journal.Updates == 0 {
		s.store.end(s.branch)
		return nil
	}
	if err := s.store.commit(s.branch); err != nil {
		return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, s.undone(err))
	}
	return nil
}

// enterFit is enter for an active branch that is to be committed and may be.
func (s *session) enterFit(ctx context.Context) (leave func(), err error) {
	if leave, err = s.enter(); err != nil {
		return nil, s.undoneLater(err)
	}
	if s.branch.state != active {
		err = adapters.ErrBranchEnded // and how it ended is not said here
	} else if err = s.fit(ctx); err != nil {
		err = fmt.Errorf("%w: %w", adapters.ErrNotCommitted, err)
	}
	if err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// undoneLater says of a branch that was not prepared when its store was closed that it is undone when that is opened.
func (s *session) undoneLater(closed error) error {
	s.branch.mu.Lock()
	defer s.branch.mu.Unlock()
	if s.branch.state != active {
		return closed
	}
	return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, closed)
}

// fit tells whether an active branch may end well, and rolls it back if it may not.
func (s *session) fit(ctx context.Context) error {
	switch {
	case s.branch.failed != nil:
		return s.undone(fmt.Errorf("a statement failed: %w", s.branch.failed))
	case ctx.Err() != nil:
		return s.undone(ctx.Err())
	default:
		return nil
	}
}

// undone rolls back because of err.
func (s *session) undone(err error) error {
	if undo := s.store.rollback(s.branch); undo != nil {
		return fmt.Errorf("%w; and the rollback failed: %w", err, undo)
	}
	return err
}

// Commit finishes the prepared branch. In this store it is the same as the recovery
// half's.
func (s *session) Commit(ctx context.Context) (txn.Finish, error) {
	return s.store.finish(ctx, s.branch.journal.XID, txn.Commit)
}

// Failure implements adapters.Failing.
func (s *session) Failures() [2]error {
	s.branch.mu.Lock()
	defer s.branch.mu.Unlock()
	return [2]error{s.branch.failed} // later ones wrap it
}

// OnlyRead implements adapters.Reading.
func (s *session) OnlyRead() bool {
	s.branch.mu.Lock()
	defer s.branch.mu.Unlock()
	return s.branch.journal.Updates == 0
}

// Abandon does nothing: a branch of this store has no session that somebody could need.
func (s *session) Abandon() {}

// Rollback ends the branch, even when ctx has ended: it waits for nobody.
func (s *session) Rollback(context.Context) error {
	leave, err := s.enter()
	if err != nil {
		return fmt.Errorf("roll back %s: %w", s.branch.journal.XID, err)
	}
	defer leave()
	if s.branch.state == ended {
		return nil
	}
	if err := s.store.rollback(s.branch); err != nil {
		return fmt.Errorf("roll back %s: %w", s.branch.journal.XID, err)
	}
	return nil
}
