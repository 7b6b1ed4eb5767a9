// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql/sqltext"
	"github.com/concordtx/concord/txn"
)

// session is the session half of one branch.
//
// What always holds:
//  1. The link is the branch's from its first statement until the branch has ended or is
//     loose; only while the phase is working does a *sql.Tx use it.
//  2. Before a statement that could end the transaction is sent, the transaction has the
//     guard, and its marker where there are markers.
type session struct {
	r    *Resource
	link *link
	xid  txn.XID
	name string // of the branch, as XA statements have it

	// life ends when whoever waits for the branch's statements gives up.
	life context.Context
	cut  context.CancelFunc

	mu      sync.Mutex
	phase   phase
	options TxOptions
	tx      *sql.Tx  // nil if the application has committed the last one
	running int      // statements that the server is asked for now
	results int      // that are open, so that there may be more of them to come
	asked   uint64   // how often running has changed
	doomed  error    // the first failure that was not undone
	final   bool     // and it cannot be undone
	ours    bool     // and it is that of a command of our own
	last    error    // the last failure, as the application was told
	wrote   bool     // some statement was no plain read
	used    bool     // there was a statement
	writes  []string // the texts of the first statements that are no plain reads
	more    bool     // there were more of them
	points  savepoints

	// What follows is owned by whoever uses the link.

	begun    bool           // XA START was sent, or waits to be
	awaited  opening        // what travels with the statement that runs
	guard    string         // the name of the guard if the transaction has it
	marked   bool           // the marker is in already
	siblings []txn.BranchNo // that its transaction has; set before the vote
	tag      txn.LastTag    // of its last resource, in name; zero if it has none
	proven   bool           // the guard was still there when the work was over
	missed   error          // the answer that the guard is not there
	risked   bool           // a statement was sent that could end the transaction
	voted    bool           // XA PREPARE was sent
	undone   bool           // the server has rolled all of it back, and remembers its warnings of that
	torn     error          // why part of the branch may be committed
}

var (
	_ adapters.Counted = (*session)(nil)
	_ adapters.Failing = (*session)(nil)
	_ adapters.Reading = (*session)(nil)
	_ adapters.Waiting = (*session)(nil)
)

type phase uint8

const (
	working phase = iota
	closing       // no statement begins any more; those that have begun may still fail
	voting        // the work is over
	prepared
	loose // the connection is gone, and nobody has seen that the branch is
	ended
)

func newSession(r *Resource, l *link, x txn.XID) *session {
	s := &session{r: r, link: l, xid: x, name: xa(x)}
	s.life, s.cut = context.WithCancel(context.Background())
	l.branch.Store(s)
	return s
}

// work returns the *sql.Tx to work with; a new one if the last was committed.
func (s *session) work(ctx context.Context, o TxOptions) (*sql.Tx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return nil, err
	}
	if o != (TxOptions{}) && o != s.options {
		if s.used || s.options != (TxOptions{}) {
			return nil, errLateOptions
		}
		s.options = o
	}
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
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.openLocked(); err != nil {
		return err
	}
	s.tx = nil
	return nil
}

// openLocked returns nil if the branch takes statements. mu is held.
func (s *session) openLocked() error {
	if s.phase != working {
		return adapters.ErrBranchEnded
	}
	if s.doomed != nil {
		return fmt.Errorf("the branch can only be rolled back: %w", s.doomed)
	}
	return nil
}

// doom notes a failure. One that is final is not undone by a rollback to a savepoint. A statement may
// fail when its result is closed, at the end of the work, and counts all the same.
func (s *session) doom(cause error, final bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doomLocked(cause, final)
}

func (s *session) doomLocked(cause error, final bool) {
	if s.phase > closing {
		return
	}
	s.last = cause
	s.final = s.final || final
	if s.doomed == nil {
		s.doomed = cause
	}
}

// giveUp is doom by the application's own Rollback, not by that with which the work is closed.
func (s *session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase == working {
		s.doomLocked(errRolledBack, true)
	}
}

// Siblings implements adapters.Counted. A marker that had to be written before they were known does not
// name them.
func (s *session) Siblings(nos []txn.BranchNo) { s.siblings = nos }

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
	return s.options.ReadOnly || !s.wrote
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

// endWork closes the *sql.Tx and returns when no statement runs any more, and what is left of their
// results was read: one of them may fail behind its first rows. When ctx ends first, the statements
// are cut off, and their results; at once if nobody needs what they do.
func (s *session) endWork(ctx context.Context, atOnce bool) error {
	s.mu.Lock()
	if s.phase != working {
		s.mu.Unlock()
		return adapters.ErrBranchEnded
	}
	s.phase = closing
	tx, busy := s.tx, s.running+s.results > 0
	s.mu.Unlock()
	if atOnce && busy {
		s.cut()
	}
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	defer s.setPhase(voting)
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
		return txn.VoteNo, b, fmt.Errorf("prepare %s at %s: %w", s.xid, s.r.name, err)
	}
	if vote == txn.VoteYes && !s.r.options.NoMarker {
		b.Evidence = markerEvidence
	}
	return vote, b, nil
}

func (s *session) vote(ctx context.Context) (txn.Vote, error) {
	if err := s.endWork(ctx, false); err != nil {
		return txn.VoteNo, err
	}
	err := s.failure(ctx)
	if err == nil {
		vote, refused := s.voteYes(ctx)
		if refused == nil {
			return vote, nil
		}
		err = advise(refused)
	}
	if ctx.Err() != nil && !s.link.raw.IsValid() {
		return txn.VoteNo, err // nobody waits any longer here; the rollback finds out what is left
	}
	return txn.VoteNo, s.gaveUp(err, s.abort(ctx))
}

// voteYes ends a branch that wrote nothing, and prepares any other.
func (s *session) voteYes(ctx context.Context) (txn.Vote, error) {
	readOnly, err := s.readOnly(ctx)
	switch {
	case err != nil:
		return txn.VoteNo, err
	case readOnly:
		return txn.VoteReadOnly, s.endReadOnly(ctx)
	}
	if err := s.prepare(ctx); err != nil {
		return txn.VoteNo, err
	}
	s.setPhase(prepared)
	return txn.VoteYes, nil
}

// gaveUp is the error of a branch that does not commit for some reason, and that was rolled
// back with some result.
func (s *session) gaveUp(reason, rollback error) error {
	switch {
	case rollback == nil || errors.Is(reason, adapters.ErrTorn) && errors.Is(rollback, adapters.ErrTorn):
		return reason
	case errors.Is(rollback, adapters.ErrTorn):
		return fmt.Errorf("%w (%w)", rollback, reason)
	}
	return fmt.Errorf("%w (and the rollback failed: %w)", reason, rollback)
}

// failure is why the branch cannot go on, if so.
func (s *session) failure(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ours || errors.Is(s.doomed, errRolledBack) {
		return s.doomed
	}
	if s.doomed != nil {
		return fmt.Errorf("the application ignored an error of this branch: %w", s.doomed)
	}
	return ctx.Err()
}

// readOnly reports whether it is certain that the branch wrote nothing.
func (s *session) readOnly(ctx context.Context) (bool, error) {
	s.mu.Lock()
	wrote, used, declared := s.wrote, s.used, s.options.ReadOnly
	s.mu.Unlock()
	if declared || wrote || !used || !s.link.counted {
		return declared || !used, nil
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
	var commands []string
	if !s.r.options.NoMarker && !s.marked {
		commands = append(commands, insertMarker(s.link.table, s.xid, s.link.holder, s.siblings))
	}
	s.voted = true
	err := s.guarded(ctx, append(commands, "XA END "+s.name, "XA PREPARE "+s.name)...)
	s.r.markerDoubted(err)
	return err
}

// endReadOnly ends a branch that wrote nothing. Whether it then counts as committed is all
// the same, so both commands may travel together.
func (s *session) endReadOnly(ctx context.Context) error {
	if s.neverStarted() {
		return nil
	}
	if s.guard != "" || !s.link.wire.able() {
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
	if err := s.endOnePhase(ctx); err != nil {
		return fmt.Errorf("%w: end the work: %w", errNotSent, err)
	}
	if err := s.link.exec(ctx, "XA COMMIT "+s.name+" ONE PHASE"); err != nil {
		return err
	}
	s.end()
	return nil
}

// errNotSent says that the commit was not sent.
var errNotSent = errors.New("the commit was not sent")

// endOnePhase ends the work. The marker of a branch that has no second phase is evidence of
// nothing; whoever may not delete it leaves it.
func (s *session) endOnePhase(ctx context.Context) error {
	if !s.marked {
		return s.guarded(ctx, "XA END "+s.name)
	}
	err := s.guarded(ctx, deleteMarker(s.link.table, s.xid), "XA END "+s.name)
	if isCode(err, codeTableDenied) {
		return nil // and the work has ended
	}
	return err
}

// neverStarted ends a branch that the server has not heard of.
func (s *session) neverStarted() bool {
	if s.begun && !s.link.wire.pending() {
		return false
	}
	if s.link.drop() {
		s.link.lockTimeout = 0
	}
	s.end()
	return true
}

// CommitOnePhase commits a branch that is the only one. It leaves no marker, so
// nobody can tell what became of it when the connection breaks in the middle.
func (s *session) CommitOnePhase(ctx context.Context) error {
	if err := s.endWork(ctx, false); err != nil {
		return fmt.Errorf("commit %s at %s: %w", s.xid, s.r.name, err)
	}
	err := s.failure(ctx)
	if err == nil {
		s.link.counted = false
		if err = s.commitIdle(ctx); err == nil {
			return nil
		}
		if !errors.Is(err, errNotSent) && !refused(err) {
			_ = s.abort(ctx)
			return fmt.Errorf("commit %s at %s: the answer is lost, look at the data: %w", s.xid, s.r.name, err)
		}
		err = advise(err)
	}
	// Either the commit was never sent, or the server refused it. When it then rolls
	// back, or the session ends without being prepared, nothing is committed.
	err = s.gaveUp(err, s.abort(ctx))
	if errors.Is(err, adapters.ErrTorn) || s.phaseNow() != ended {
		return fmt.Errorf("commit %s at %s: %w", s.xid, s.r.name, err)
	}
	return fmt.Errorf("commit %s at %s: %w: %w", s.xid, s.r.name, adapters.ErrNotCommitted, err)
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
		return 0, errors.New("the branch is not prepared: call Prepare first")
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

func (s *session) setPhase(p phase) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = p
}

// end gives the link back.
func (s *session) end() {
	s.setPhase(ended)
	s.letGo()
}

func (s *session) letGo() {
	s.cut()
	if s.link.branch.CompareAndSwap(s, nil) {
		s.r.pool.give(s.link)
	}
}

// savepoints are those that the application has set in the transaction, the oldest first.
type savepoints []string

// set adds a savepoint. One of the same name is replaced.
func (s *savepoints) set(name string) {
	*s = append(slices.DeleteFunc(*s, func(n string) bool { return n == name }), name)
}

// has reports whether a savepoint is certainly there.
func (s savepoints) has(name string) bool { return name != "" && slices.Contains(s, name) }

// release removes a savepoint and those behind it.
func (s *savepoints) release(name string) {
	if i := slices.Index(*s, name); i >= 0 {
		*s = (*s)[:i]
	}
}

// rollback removes those behind a savepoint.
func (s *savepoints) rollback(name string) {
	if i := slices.Index(*s, name); i >= 0 {
		*s = (*s)[:i+1]
	}
}

// note follows a statement that was executed, or has failed.
func (s *savepoints) note(k sqltext.Kind, failed bool) {
	switch {
	case !k.Traced || failed && k.Verb != sqltext.NoVerb:
		*s = nil // nobody knows which there are
	case k.Verb == sqltext.SetVerb:
		s.set(k.Savepoint)
	case k.Verb == sqltext.ReleaseVerb:
		s.release(k.Savepoint)
	case k.Verb == sqltext.RollbackVerb:
		s.rollback(k.Savepoint)
	}
}
