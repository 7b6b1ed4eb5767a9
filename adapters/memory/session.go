// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/txn"
)

// ErrNoKey says that a key is empty.
var ErrNoKey = errors.New("a key must not be empty")

// ErrSessionDied says that Crash or Kill ended the session of a prepared branch: the
// recovery half finishes it.
var ErrSessionDied = errors.New("the session died: finish its branch by Resource.Commit or Resource.Rollback")

// Tx is what the application works with. Its methods are called one at a time. Each
// locks its key for the rest of the branch, reads too; an error dooms the branch.
type Tx struct {
	disk   *Disk
	branch *branch
}

// Get returns a value.
func (tx *Tx) Get(ctx context.Context, key string) (value int64, found bool, err error) {
	err = tx.disk.locked(ctx, tx.branch, key, func() error {
		value, found = tx.disk.data[key]
		return nil
	})
	return value, found, err
}

// Put sets a value.
func (tx *Tx) Put(ctx context.Context, key string, value int64) error {
	return tx.disk.locked(ctx, tx.branch, key, func() error {
		if key == "" {
			return ErrNoKey
		}
		tx.disk.put(tx.branch, key, value)
		return nil
	})
}

// Add adds delta to a value, which is 0 if the key is absent, and returns the sum.
func (tx *Tx) Add(ctx context.Context, key string, delta int64) (sum int64, err error) {
	err = tx.disk.locked(ctx, tx.branch, key, func() error {
		if key == "" {
			return ErrNoKey
		}
		sum = tx.disk.data[key] + delta
		tx.disk.put(tx.branch, key, sum)
		return nil
	})
	return sum, err
}

// session is the session half of one branch.
type session struct {
	resource *Resource
	branch   *branch
}

func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	b := txn.Branch{No: s.branch.xid.Branch, Resource: s.resource.name}
	vote, err := s.resource.disk.prepare(ctx, s.branch)
	if err != nil {
		return vote, b, fmt.Errorf("prepare %s: %w", s.branch.xid, err)
	}
	if vote == txn.VoteYes {
		b.Evidence = diskEvidence
	}
	return vote, b, nil
}

func (s *session) CommitOnePhase(ctx context.Context) error {
	return s.resource.disk.commitOnePhase(ctx, s.branch)
}

func (s *session) Commit(ctx context.Context) (txn.Finish, error) {
	return s.resource.disk.commit(ctx, s.branch)
}

// Siblings implements adapters.Counted.
func (s *session) Siblings(nos []txn.BranchNo) {
	s.resource.disk.mu.Lock()
	defer s.resource.disk.mu.Unlock()
	s.branch.siblings = nos
}

// Failure implements adapters.Failing.
func (s *session) Failures() [2]error {
	s.resource.disk.mu.Lock()
	defer s.resource.disk.mu.Unlock()
	return [2]error{s.branch.failed} // later ones wrap it
}

// OnlyRead implements adapters.Reading.
func (s *session) OnlyRead() bool {
	s.resource.disk.mu.Lock()
	defer s.resource.disk.mu.Unlock()
	return len(s.branch.undo) == 0
}

// Abandon does nothing: a branch here has no connection that somebody could need.
func (s *session) Abandon() {}

// Rollback works under an ended context too: it takes no time.
func (s *session) Rollback(context.Context) error { return s.resource.disk.giveUp(s.branch) }
