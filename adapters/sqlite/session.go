// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/ncruces/go-sqlite3"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// session is one branch. What always holds:
//
//  1. The link is the branch's until it has ended; only while it is working does a *sql.Tx use it.
//  2. No statement of the application is executed outside of the branch's transaction, and none ends it with a commit.
type session struct {
	r    *Resource
	xid  txn.XID
	conn *sql.Conn
	link *link // that of conn

	// life ends when whoever waits for the branch's statements gives up.
	life context.Context
	cut  context.CancelFunc

	mu       sync.Mutex
	phase    phase
	tx       *sql.Tx // nil if the application has committed the last one
	begun    bool    // there is, or was, a transaction
	wrote    bool    // some statement was no plain read
	doomed   error   // the first failure that was not undone
	final    bool    // and it cannot be undone
	last     error   // the last failure, as the application was told
	failedAt int     // how many savepoints there were at the first failure
	points   []string
}

var (
	_ adapters.Session = (*session)(nil)
	_ adapters.Failing = (*session)(nil)
	_ adapters.Last    = (*session)(nil)
	_ adapters.Reading = (*session)(nil)
)

type phase uint8

const (
	working phase = iota
	closing       // no statement begins any more; those that have begun may still fail
	ended
)

var (
	errRolledBack = errors.New("the application rolled the branch back")
	errCannotVote = errors.New("a SQLite file cannot prepare, so it takes part as the last resource or alone: name " +
		"it in WithLastResource")
	errLostTx = errors.New("SQLite has rolled the transaction back")
)

// Open implements adapters.Opener. The branch gets a connection; its transaction begins with its first statement.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	operation := "begin " + x.String()
	if x.ID.Class() == txn.Recorded || x.ID.Class() == txn.ThreePhase {
		return nil, r.explain(operation, errCannotVote)
	}
	if err := r.inPlace(); err != nil {
		return nil, r.explain(operation, err)
	}
	conn, err := r.branches.Conn(ctx)
	if err != nil {
		return nil, r.explain(operation, err)
	}
	s := &session{r: r, xid: x, conn: conn}
	s.life, s.cut = context.WithCancel(context.Background())
	err = conn.Raw(func(c any) error {
		s.link = c.(*link)
		s.link.branch = s
		return nil
	})
	if err != nil {
		return nil, r.explain(operation, errors.Join(err, conn.Close()))
	}
	return s, nil
}

// work returns the *sql.Tx to work with; a new one if the last was committed.
func (s *session) work(ctx context.Context) (*sql.Tx, error) {
	if err := errors.Join(ctx.Err(), s.usable()); err != nil {
		return nil, err
	}
	s.mu.Lock()
	tx := s.tx
	s.mu.Unlock()
	if tx != nil {
		return tx, nil
	}
	tx, err := s.conn.BeginTx(s.life, nil)
	if err != nil {
		return nil, s.r.explain("work in "+s.xid.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = tx
	return tx, nil
}

// usable tells why the branch takes no more statements.
func (s *session) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usableLocked()
}

// readable tells why no more of a result is read: nobody does it in a transaction that is not there.
func (s *session) readable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == ended || s.final {
		return adapters.ErrBranchEnded
	}
	return nil
}

func (s *session) usableLocked() error {
	switch {
	case s.phase != working:
		return adapters.ErrBranchEnded
	case s.doomed != nil:
		return fmt.Errorf("the branch can only be rolled back: %w", s.doomed)
	}
	return nil
}

// pieceDone lets the next call of work begin anew.
func (s *session) pieceDone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return err
	}
	s.tx = nil
	return nil
}

// giveUp is the application's own Rollback, not that with which the work is closed.
func (s *session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == working {
		s.doomLocked(errRolledBack, true)
	}
}

func (s *session) doomLocked(cause error, final bool) {
	s.last = cause
	s.final = s.final || final
	if s.doomed == nil {
		s.doomed, s.failedAt = cause, len(s.points)
	}
}

// within limits a statement to the life of the branch.
func (s *session) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// during lets a statement in. The transaction begins with the first one, as a writer: one that becomes a writer later
// may find that it has read too early.
func (s *session) during(ctx context.Context, do func(context.Context) error) error {
	s.mu.Lock()
	err := s.usableLocked()
	if s.phase == working && s.doomed != nil && !s.final && len(s.points) > 0 {
		err = nil // it may go back to a savepoint
	}
	begun := s.begun
	s.mu.Unlock()
	if err != nil {
		return err
	}
	ctx, stop := s.within(ctx)
	defer stop()
	if !begun {
		if err := s.begin(ctx); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.doomLocked(err, true)
			return err
		}
	}
	return do(ctx)
}

func (s *session) begin(ctx context.Context) error {
	if err := s.link.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return s.r.explain("begin "+s.xid.String(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	return nil
}

// sends notes what a statement is about to do.
func (s *session) sends(k *statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = s.wrote || k.writes
	s.link.dirty = s.link.dirty || k.lasting
}

// note dooms the branch if its statement failed, and heals it if the statement has undone that. A transaction that is
// not there any more took everything with it.
func (s *session) note(k *statement, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.begun && !s.link.inTransaction()
	if err == nil && gone {
		err = errLostTx
	}
	if i := s.pointLocked(k.point); err == nil && s.doomed != nil && (k.save != goesBack || i < 0 || s.failedAt <= i) {
		err = fmt.Errorf("the branch can only be rolled back: %w", s.doomed)
	}
	if err != nil {
		s.doomLocked(err, gone)
		return err
	}
	switch i := s.pointLocked(k.point); {
	case k.save == saves:
		s.points = append(s.points, k.point)
	case i < 0:
	case k.save == releases:
		s.points = s.points[:i]
	case k.save == goesBack:
		s.points, s.doomed = s.points[:i+1], nil
	}
	return nil
}

// pointLocked is the index of the youngest savepoint of a name, or -1.
func (s *session) pointLocked(name string) int {
	for i, p := range slices.Backward(s.points) {
		if p == name {
			return i
		}
	}
	return -1
}

// Failures implements adapters.Failing.
func (s *session) Failures() [2]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return [2]error{s.doomed, s.last}
}

// OnlyRead implements adapters.Reading.
func (s *session) OnlyRead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.wrote
}

// endWork closes the *sql.Tx and returns when no statement runs any more. When ctx ends first the statements are cut
// off; at once if nobody needs what they do.
func (s *session) endWork(ctx context.Context, atOnce bool) error {
	s.mu.Lock()
	if s.phase != working {
		s.mu.Unlock()
		return adapters.ErrBranchEnded
	}
	s.phase = closing
	tx := s.tx
	s.mu.Unlock()
	if atOnce {
		s.cut()
	}
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	if tx != nil {
		_ = tx.Rollback() // of the handle only; sql.ErrTxDone if the application has ended it
	}
	// The connection is free when nobody uses it any more.
	return s.conn.Raw(func(any) error { return nil })
}

// end rolls back what there is, and gives the connection back. A connection that is closed has rolled back, too.
func (s *session) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer cancel()
	if s.link.inTransaction() && s.link.exec(ctx, "ROLLBACK") != nil {
		s.link.dirty = true
	}
	s.link.branch = nil
	s.mu.Lock()
	s.phase = ended
	s.mu.Unlock()
	s.cut()
	_ = s.conn.Close() // it says that it was closed before
}

// failure is why the branch cannot go on, if so.
func (s *session) failure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case errors.Is(s.doomed, errRolledBack):
		return s.doomed
	case s.doomed != nil:
		return fmt.Errorf("the application ignored an error of this branch: %w", s.doomed)
	}
	return ctx.Err()
}

// Prepare votes no, except for a branch that wrote nothing.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	b := txn.Branch{No: s.xid.Branch, Resource: s.r.name}
	operation := "prepare " + s.xid.String()
	if err := s.endWork(ctx, false); err != nil {
		return txn.VoteNo, b, s.r.explain(operation, err)
	}
	defer s.end(ctx)
	err := s.failure(ctx)
	if err == nil && !s.OnlyRead() {
		err = errCannotVote
	}
	if err != nil {
		return txn.VoteNo, b, s.r.explain(operation, err)
	}
	return txn.VoteReadOnly, b, nil
}

// CommitOnePhase implements adapters.Session.
func (s *session) CommitOnePhase(ctx context.Context) error {
	return s.commit(ctx, "commit "+s.xid.String(), func() error { return nil })
}

// BeLast implements adapters.Last: every file has room for markers.
func (s *session) BeLast(context.Context) error { return nil }

// CommitLast implements adapters.Last.
func (s *session) CommitLast(ctx context.Context, m txn.LastMarker) error {
	return s.commit(ctx, "commit "+s.xid.String()+" as the last resource", func() error {
		if !s.begun { // it may have done nothing
			if err := s.begin(ctx); err != nil {
				return err
			}
		}
		err := s.link.exec(ctx, insertText, append(markerKey(txn.LastXID(s.xid.Cluster, s.xid.ID)), m.Text())...)
		if isDuplicate(err) {
			return adapters.ErrSettled
		}
		return err
	})
}

// commit commits the work and what comes with it.
func (s *session) commit(ctx context.Context, operation string, with func() error) error {
	if err := s.endWork(ctx, false); err != nil {
		return s.r.explain(operation, err)
	}
	defer s.end(ctx)
	err := s.failure(ctx)
	if err == nil {
		err = with()
	}
	if err == nil {
		err = s.r.inPlace()
	}
	if err == nil && s.begun {
		if err = s.link.exec(ctx, "COMMIT"); err != nil && !refused(err) {
			s.link.dirty = true
			return s.r.explain(operation, fmt.Errorf("nobody can tell whether it is committed: %w", err))
		}
	}
	if err != nil {
		return s.r.explain(operation, fmt.Errorf("%w: %w", adapters.ErrNotCommitted, err))
	}
	return nil
}

// refused reports whether err is an answer to a COMMIT after which that has certainly not happened. After an error of
// the disk nobody knows what it has.
func refused(err error) bool {
	return slices.ContainsFunc([]sqlite3.ErrorCode{sqlite3.BUSY, sqlite3.CONSTRAINT, sqlite3.FULL, sqlite3.INTERRUPT,
		sqlite3.READONLY, sqlite3.ERROR}, func(code sqlite3.ErrorCode) bool { return errors.Is(err, code) })
}

// Commit implements adapters.Session: nothing is prepared here.
func (s *session) Commit(context.Context) (txn.Finish, error) {
	err := errCannotVote
	if s.usable() != nil {
		err = adapters.ErrBranchEnded
	}
	return 0, s.r.explain("commit "+s.xid.String(), err)
}

// Rollback implements adapters.Session. A branch that has ended left nothing.
func (s *session) Rollback(ctx context.Context) error {
	if s.endWork(ctx, true) == nil {
		s.end(ctx)
	}
	return nil
}

// Abandon does nothing: no branch is prepared here.
func (s *session) Abandon() {}
