// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// session is the session half of one branch.
//
// What always holds: the link is the branch's from XA START until the branch has
// ended; only while the phase is working does a *sql.Tx use it.
type session struct {
	r    *Resource
	link *link
	xid  txn.XID
	name string // of the branch, as XA statements have it

	// life ends when whoever waits for the branch's statements gives up.
	life context.Context
	cut  context.CancelFunc

	mu     sync.Mutex
	phase  phase
	tx     *sql.Tx // nil if the application has committed the last one
	doomed error   // the first failure
	wrote  bool    // some statement was no plain read
	used   bool    // there was a statement
}

type phase uint8

const (
	working phase = iota
	voting        // the work is over
	prepared
	ended
)

func newSession(r *Resource, l *link, x txn.XID) *session {
	s := &session{r: r, link: l, xid: x, name: xa(x)}
	s.life, s.cut = context.WithCancel(context.Background())
	l.branch.Store(s)
	return s
}

// work returns the *sql.Tx to work with; a new one if the last was committed.
func (s *session) work(ctx context.Context) (*sql.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tx != nil {
		return s.tx, nil
	}
	tx, err := s.link.db.BeginTx(s.life, nil)
	if err != nil {
		return nil, fmt.Errorf("work in %s: %w", s.xid, err)
	}
	s.tx = tx
	return tx, nil
}

// pieceDone lets the next call of work begin anew.
func (s *session) pieceDone() error {
	if err := s.open(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tx = nil
	return nil
}

// open returns nil if the branch takes statements.
func (s *session) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != working {
		return adapters.ErrBranchEnded
	}
	if s.doomed != nil {
		return fmt.Errorf("the branch can only be rolled back: %w", s.doomed)
	}
	return nil
}

func (s *session) doom(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doomed == nil && s.phase == working {
		s.doomed = cause
	}
}

// admit notes what a statement will do, before it does it.
func (s *session) admit(ctx context.Context, k kind) error {
	if !k.plain {
		s.link.dirty = true
	}
	s.mu.Lock()
	first := !s.used
	s.used = true
	if !k.reads {
		s.wrote = true
	}
	s.mu.Unlock()
	if !k.reads {
		s.link.counted = false
	}
	if !first || !k.reads || s.link.counted {
		return nil
	}
	changes, err := s.link.countChanges(ctx)
	if err != nil {
		return s.note(ctx, err)
	}
	s.link.changes, s.link.counted = changes, true
	return nil
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

// note dooms the branch if its statement failed. If the connection broke, the
// statement may still run and hold locks: the session is ended.
func (s *session) note(ctx context.Context, err error) error {
	if refused := s.link.wire.refused(); refused != nil {
		return s.notStarted(ctx, refused)
	}
	if err == nil || errors.Is(err, driver.ErrSkip) {
		return err
	}
	s.doom(err)
	if !s.link.raw.IsValid() {
		_ = s.link.discard(ctx) // the rollback tries again and says so
	}
	return err
}

// notStarted ends the session of a branch that the server refused to open: a statement may
// have run outside of it, and whose branch that name is must not be asked to roll back.
func (s *session) notStarted(ctx context.Context, refused error) error {
	err := fmt.Errorf("begin %s at %s: %w", s.xid, s.r.name, advise(refused))
	s.doom(err)
	return errors.Join(err, s.link.discard(ctx))
}

// endWork closes the *sql.Tx and returns when no statement runs any more. When ctx
// ends first, the statements are cut off.
func (s *session) endWork(ctx context.Context) error {
	s.mu.Lock()
	if s.phase != working {
		s.mu.Unlock()
		return adapters.ErrBranchEnded
	}
	s.phase = voting
	tx := s.tx
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	if tx != nil {
		_ = tx.Rollback() // of the handle only; sql.ErrTxDone if the application has ended it
	}
	// The only connection of this *sql.DB is free when nobody uses it any more.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if c, err := s.link.db.Conn(bounded); err == nil {
		_ = c.Close()
	}
	return nil
}

// Prepare ends the work and votes.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	b := txn.Branch{No: s.xid.Branch, Resource: s.r.name, Holder: s.link.holder}
	vote, err := s.vote(ctx)
	if err != nil {
		return txn.VoteNo, b, fmt.Errorf("prepare %s at %s: %w", s.xid, s.r.name, advise(err))
	}
	if vote == txn.VoteYes && !s.r.options.NoMarker {
		b.Evidence = markerEvidence
	}
	return vote, b, nil
}

func (s *session) vote(ctx context.Context) (txn.Vote, error) {
	if err := s.endWork(ctx); err != nil {
		return txn.VoteNo, err
	}
	readOnly, err := s.readOnly(ctx)
	switch {
	case err != nil:
	case readOnly:
		if err = s.endReadOnly(ctx); err == nil {
			return txn.VoteReadOnly, nil
		}
	default:
		if err = s.prepare(ctx); err == nil {
			s.mu.Lock()
			s.phase = prepared
			s.mu.Unlock()
			return txn.VoteYes, nil
		}
	}
	if rollback := s.abort(ctx); rollback != nil {
		err = fmt.Errorf("%w (and the rollback failed: %w)", err, rollback)
	}
	return txn.VoteNo, err
}

// failure is why the branch cannot go on, if so.
func (s *session) failure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.doomed, errRolledBack) {
		return s.doomed
	}
	if s.doomed != nil {
		return fmt.Errorf("a statement failed: %w", s.doomed)
	}
	return ctx.Err()
}

// readOnly reports whether it is certain that the branch wrote nothing.
func (s *session) readOnly(ctx context.Context) (bool, error) {
	if err := s.failure(ctx); err != nil {
		return false, err
	}
	s.mu.Lock()
	wrote, used := s.wrote, s.used
	s.mu.Unlock()
	if wrote || !used || !s.link.counted {
		return !used, nil
	}
	changes, err := s.link.countChanges(ctx)
	if err != nil {
		return false, err
	}
	s.link.counted = changes == s.link.changes
	return s.link.counted, nil
}

// prepare leaves the evidence and prepares the branch.
func (s *session) prepare(ctx context.Context) error {
	s.link.counted = false
	commands := make([]string, 0, 3)
	if !s.r.options.NoMarker {
		commands = append(commands, insertMarker(s.link.table, s.xid, s.link.holder))
	}
	err := s.link.inOrder(ctx, append(commands, "XA END "+s.name, "XA PREPARE "+s.name)...)
	s.r.markerDoubted(err)
	return err
}

// endReadOnly ends a branch that wrote nothing. Whether it then counts as committed is all
// the same, so both commands may travel together.
func (s *session) endReadOnly(ctx context.Context) error {
	if !s.link.wire.able() || s.link.wire.pending() {
		return s.commitIdle(ctx)
	}
	err := s.link.inOrder(ctx, "XA END "+s.name, "XA COMMIT "+s.name+" ONE PHASE")
	if err == nil {
		s.end()
	}
	return err
}

// commitIdle commits without prepare, and ends the branch if that worked.
func (s *session) commitIdle(ctx context.Context) error {
	if s.neverStarted() {
		return nil
	}
	if err := s.link.exec(ctx, "XA END "+s.name); err != nil {
		return fmt.Errorf("%w: end the work: %w", adapters.ErrNotCommitted, err)
	}
	if err := s.link.exec(ctx, "XA COMMIT "+s.name+" ONE PHASE"); err != nil {
		return err
	}
	s.end()
	return nil
}

// neverStarted ends a branch that the server has not heard of.
func (s *session) neverStarted() bool {
	if !s.link.wire.pending() {
		return false
	}
	s.link.wire.drop()
	s.end()
	return true
}

// CommitOnePhase commits a branch that is the only one. It leaves no marker, so
// nobody can tell what became of it when the connection breaks in the middle.
func (s *session) CommitOnePhase(ctx context.Context) error {
	if err := s.endWork(ctx); err != nil {
		return fmt.Errorf("commit %s at %s: %w", s.xid, s.r.name, err)
	}
	err := s.failure(ctx)
	if err == nil {
		s.link.counted = false
		if err = s.commitIdle(ctx); err == nil {
			return nil
		}
		if !errors.Is(err, adapters.ErrNotCommitted) && !refused(err) {
			_ = s.abort(ctx)
			return fmt.Errorf("commit %s at %s: the answer is lost, look at the data: %w", s.xid, s.r.name, err)
		}
	}
	// Either the commit was never sent, or the server refused it. When it then rolls
	// back, or the session ends without being prepared, nothing is committed.
	if rollback := s.abort(ctx); rollback != nil {
		return fmt.Errorf("commit %s at %s: %w (and the rollback failed: %w)", s.xid, s.r.name, advise(err), rollback)
	}
	return fmt.Errorf("commit %s at %s: %w: %w", s.xid, s.r.name, adapters.ErrNotCommitted, advise(err))
}

// refused reports whether err is an answer after which a commit has certainly not
// happened. XAER_RMERR is none.
func refused(err error) bool {
	return isCode(err, codeRolledBack, codeRolledBackTimeout, codeRolledBackDeadlock, codeDeadlock, codeLockWaitTimeout,
		codeReadOnly, codeReadOnlyMode, codeWrongState, codeNotA)
}

// Commit finishes the prepared branch on this session.
func (s *session) Commit(ctx context.Context) (txn.Finish, error) {
	answer, err := s.commit(ctx)
	if err != nil {
		return 0, fmt.Errorf("commit %s at %s: %w", s.xid, s.r.name, advise(err))
	}
	return answer, nil
}

func (s *session) commit(ctx context.Context) (txn.Finish, error) {
	if p := s.phaseNow(); p != prepared {
		if p == ended {
			return 0, adapters.ErrBranchEnded
		}
		return 0, errors.New("the branch is not prepared")
	}
	err := s.link.exec(ctx, "XA COMMIT "+s.name)
	if err == nil {
		s.end()
		return txn.Done, nil
	}
	// The branch may still be prepared, and a session that lives would keep others from it.
	_ = s.link.discard(ctx)
	s.end()
	if s.committedByOthers(ctx) {
		return txn.AlreadyDone, nil
	}
	return 0, err
}

// committedByOthers looks for the marker: a detached branch is everybody's.
func (s *session) committedByOthers(ctx context.Context) bool {
	found := absent
	err := s.r.onServer(ctx, func(c *sql.Conn, on server) (err error) {
		found, _, err = s.r.marker(ctx, c, on, s.xid)
		return err
	})
	return err == nil && found == committed
}

// Rollback ends the branch, prepared or not.
func (s *session) Rollback(ctx context.Context) error {
	_ = s.endWork(ctx) // an error if the work is over already
	if err := s.abort(ctx); err != nil {
		return fmt.Errorf("roll back %s at %s: %w", s.xid, s.r.name, advise(err))
	}
	return nil
}

// abort is the sequence that ends a branch in every state that it may be in. It does
// not depend on the context to be alive.
func (s *session) abort(ctx context.Context) error {
	was := s.phaseNow()
	if was == ended || s.neverStarted() {
		return nil
	}
	defer s.end()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := errSessionGone
	if s.link.raw.IsValid() {
		if was != prepared {
			_ = s.link.exec(bounded, "XA END "+s.name) // needed by some states, an error in others
		}
		err = s.link.exec(bounded, "XA ROLLBACK "+s.name)
		if err == nil || isCode(err, codeNotA, codeRolledBack, codeRolledBackTimeout, codeRolledBackDeadlock) {
			return nil
		}
	}
	s.link.dirty = true
	gone := s.link.discard(ctx)
	if was == prepared {
		return errors.Join(err, gone)
	}
	return gone // a session that ends takes an unprepared branch with it
}

// Abandon implements adapters.Session. It closes the connection, which makes the server
// let go of the branch, so that a recovery worker can finish it.
func (s *session) Abandon() {
	if s.phaseNow() == prepared {
		s.link.dirty = true // not to be reused
		s.end()
	}
}

func (s *session) phaseNow() phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase
}

// end gives the link back.
func (s *session) end() {
	s.mu.Lock()
	s.phase = ended
	s.mu.Unlock()
	s.cut()
	if s.link.branch.CompareAndSwap(s, nil) {
		s.link.release()
	}
}
