// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/txn"
)

// scripted is a memory resource whose sessions lose answers, or find out that the
// application has torn their branch.
type scripted struct {
	*memory.Resource

	mu        sync.Mutex
	lost      map[call]int  // so many answers to come are lost, after the call did its work
	dropped   map[call]int  // so many calls to come are lost, before they did anything
	torn      error         // what Prepare, CommitOnePhase and Rollback find
	left      int           // so many rollbacks to come find that, and end nothing
	hangs     chan struct{} // a vote waits until it is closed
	hanging   bool          // it does
	rollbacks int
	statement error // what the application got
	passing   error // is transient

	waits      bool          // the application waits for an answer
	preparing  chan struct{} // if it is not nil, Prepare takes until it is closed
	committing chan struct{} // if it is not nil, Commit takes until it is closed
}

type call string

const (
	callPrepare  call = "prepare"
	callCommit   call = "commit"
	callRollback call = "rollback"
	callRecovery call = "recovery"
	callOnePhase call = "one phase"
)

var errBroke = errors.New("the connection broke")

func newScripted(name string, d *memory.Disk) *scripted {
	return &scripted{Resource: memory.New(name, d), lost: map[call]int{}, dropped: map[call]int{}}
}

// set changes what happens from now on.
func (r *scripted) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *scripted) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	s, err := r.Resource.Open(ctx, x)
	if err != nil {
		return nil, err
	}
	return &scriptedSession{Session: s, r: r}, nil
}

// Commit is the recovery half's.
func (r *scripted) Commit(ctx context.Context, x txn.XID, b txn.Branch) (finish txn.Finish, err error) {
	err = r.through(callRecovery, func() error { finish, err = r.Resource.Commit(ctx, x, b); return err })
	return finish, err
}

// fails is an error that a statement told the application.
func (r *scripted) fails(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statement = err
	return err
}

func (r *scripted) Transient(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passing != nil && errors.Is(err, r.passing)
}

// add works in the branch of g.
func (r *scripted) add(ctx context.Context, g adapters.Global, key string, delta int64) error {
	enlisted, err := g.Enlist(ctx, r)
	if err != nil {
		return err
	}
	tx, err := r.Resource.Tx(ctx, adaptertest.Enlisted(enlisted.(*scriptedSession).Session))
	if err != nil {
		return err
	}
	_, err = tx.Add(ctx, key, delta)
	return err
}

// through makes a call over a network that may lose it or its answer.
func (r *scripted) through(c call, do func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dropped[c] > 0 {
		r.dropped[c]--
		return errBroke
	}
	err := do()
	if r.lost[c] > 0 {
		r.lost[c]--
		return errBroke
	}
	return err
}

// tears adds what the session knows of its branch.
func (r *scripted) tears(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.torn == nil {
		return err
	}
	return fmt.Errorf("%w: %w", adapters.ErrTorn, r.torn)
}

// leaves is what a rollback says that ended nothing.
func (r *scripted) leaves() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		return nil
	}
	r.left--
	return fmt.Errorf("%w: %w: %w", adapters.ErrTorn, adapters.ErrNotEnded, r.torn)
}

type scriptedSession struct {
	adapters.Session
	r *scripted
}

var _ adapters.Failing = (*scriptedSession)(nil)

func (s *scriptedSession) Failures() [2]error {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return [2]error{s.r.statement}
}

var _ adapters.Waiting = (*scriptedSession)(nil)

func (s *scriptedSession) Asked() (number uint64, waits bool) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return 1, s.r.waits
}

func (s *scriptedSession) SessionName() string { return "session 7" }

func (s *scriptedSession) Prepare(ctx context.Context) (vote txn.Vote, b txn.Branch, err error) {
	s.r.mu.Lock()
	preparing, hangs := s.r.preparing, s.r.hangs
	s.r.hanging = hangs != nil
	s.r.mu.Unlock()
	if preparing != nil {
		<-preparing
	}
	if hangs != nil {
		<-hangs
	}
	if err := s.r.tears(nil); err != nil {
		return txn.VoteNo, b, errors.Join(err, s.Session.Rollback(ctx))
	}
	if err := s.r.through(callPrepare, func() error { vote, b, err = s.Session.Prepare(ctx); return err }); err != nil {
		return txn.VoteNo, b, err
	}
	return vote, b, nil
}

func (s *scriptedSession) CommitOnePhase(ctx context.Context) error {
	return s.r.tears(s.r.through(callOnePhase, func() error { return s.Session.CommitOnePhase(ctx) }))
}

func (s *scriptedSession) Commit(ctx context.Context) (finish txn.Finish, err error) {
	s.r.mu.Lock()
	committing := s.r.committing
	s.r.mu.Unlock()
	if committing != nil {
		<-committing
	}
	err = s.r.through(callCommit, func() error { finish, err = s.Session.Commit(ctx); return err })
	return finish, err
}

func (s *scriptedSession) Rollback(ctx context.Context) error {
	if err := s.r.leaves(); err != nil {
		return err
	}
	return s.r.tears(s.r.through(callRollback, func() error {
		s.r.rollbacks++
		return s.Session.Rollback(ctx)
	}))
}

// shaky is a bank whose billing is scripted.
type shaky struct {
	*bank
	billing *scripted
}

// transfer moves 5 from orders to billing.
func (b *shaky) transfer(ctx context.Context, tx *concord.Tx) error {
	m, err := b.orders.Tx(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := m.Add(ctx, "A", -5); err != nil {
		return err
	}
	return b.billing.add(ctx, tx, "A", 5)
}
