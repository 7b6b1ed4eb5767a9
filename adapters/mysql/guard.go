// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"crypto/rand"
	"database/sql/driver"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql/sqltext"
)

// The guard is a savepoint. It proves that the transaction which is prepared is the one
// that the branch began.
//
// Inside a branch the servers refuse what ends other transactions: COMMIT, DDL, autocommit,
// also in procedures. But XA END and XA COMMIT, sent by hand or by a procedure, get through,
// and so does an XA START of the same name behind them: what is then prepared under the name
// of the branch is another transaction, and the first is committed. A savepoint dies with its
// transaction and with nothing else, because what makes a savepoint go is a rollback to an
// older one, and none is older than the guard; and its name cannot be guessed. So the guard is
// set before the first statement that is no plain INSERT, UPDATE, DELETE, REPLACE or SELECT
// (those cannot end a transaction, and functions and triggers that they call may not), and
// released in the round trip that prepares. Where that fails, the counters of the session say
// whether somebody has sent it XA statements, or the server itself has rolled back.
//
// A branch of plain statements, which most are, has no guard and pays nothing.
//
// When the connection breaks nobody can ask for the guard. So the marker is inserted
// together with it: if it is committed, the application has committed the transaction; if it
// is not, then the transaction that has the marker was rolled back with the session.

// opening is what a statement needs to have before it.
type opening struct {
	commands []string
	starts   bool // XA START is among them
	marks    bool // the marker is
}

func newGuard() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // ends the process rather than fail
	return "concord_" + hex.EncodeToString(random[:])
}

// opening returns what has to come before a statement. What waits on the wire is part of it.
func (s *session) opening(k sqltext.Kind) opening {
	o := s.awaited
	if !s.begun {
		s.begun, o.starts = true, true
		if l := s.r.lockTimeout(s.options); l != s.link.lockTimeout {
			o.commands = append(o.commands, "SET SESSION "+s.link.server.lockLimit(l))
			s.link.lockTimeout = l
		}
		if level := s.options.level(); level != "" {
			o.commands = append(o.commands, level)
		}
		o.commands = append(o.commands, "XA START "+s.name)
	}
	if s.guard == "" && (!k.Steady || k.Verb != sqltext.NoVerb) {
		s.guard = newGuard()
		o.commands = append(o.commands, "SAVEPOINT "+s.guard)
		if !s.r.options.NoMarker && !s.options.ReadOnly {
			s.marked, o.marks = true, true
			o.commands = append(o.commands, insertMarker(s.link.table, s.xid, s.link.holder, nil))
		}
	}
	return o
}

// open makes sure that a statement has before it what it needs: by the same write, if no
// harm is done should the server refuse that and execute the statement all the same.
func (s *session) open(ctx context.Context, k sqltext.Kind) error {
	s.link.drop() // it waits for a statement that was never sent
	o := s.opening(k)
	s.awaited = opening{}
	if len(o.commands) == 0 {
		return nil
	}
	if k.Plain && s.link.wire.able() {
		s.link.ahead(o.commands)
		s.awaited = o
		return nil
	}
	if err := s.link.inOrder(ctx, o.commands...); err != nil {
		return s.notOpened(ctx, o, err)
	}
	return nil
}

// heard looks at the answers to what travelled with a statement that was sent.
func (s *session) heard(ctx context.Context) error {
	if s.link.wire.pending() {
		return nil
	}
	o := s.awaited
	s.awaited = opening{}
	for _, a := range s.link.heard() {
		if a.err != nil {
			return s.notOpened(ctx, o, a.err)
		}
	}
	return nil
}

// notOpened gives the branch up. If the server refused to begin it, a statement may have run
// outside of it, and whose branch that name is must not be asked to roll back: the session is
// ended.
func (s *session) notOpened(ctx context.Context, o opening, refused error) error {
	err := fmt.Errorf("begin %s at %s: %w", s.xid, s.r.name, advise(refused))
	s.mu.Lock()
	s.ours = s.ours || s.doomed == nil
	s.mu.Unlock()
	s.doom(err, true)
	if o.marks {
		s.r.markerDoubted(refused)
	}
	if o.starts || !s.link.raw.IsValid() {
		return errors.Join(err, s.link.discard(ctx))
	}
	return err
}

// guarded executes commands that end the work, the release of the guard before them. When
// that was refused the others may have been executed, and the branch is to be rolled back.
func (s *session) guarded(ctx context.Context, commands ...string) error {
	if s.guard == "" || s.proven {
		return s.link.inOrder(ctx, commands...)
	}
	answers := s.link.each(ctx, append([]string{"RELEASE SAVEPOINT " + s.guard}, commands...)...)
	if err := s.prove(answers[0].err); err != nil {
		return err
	}
	for _, a := range answers[1:] {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// prove judges the answer to the release of the guard.
func (s *session) prove(released error) error {
	if released == nil {
		s.proven = true
	} else if _, answered := codeOf(released); answered {
		s.missed = released
	}
	return released
}

// judge finds out who has ended the transaction of a guard that is missed, once the session
// has rolled back: before that the server may refuse to say anything. If nobody answers, the
// marker has to tell.
func (s *session) judge(ctx context.Context) {
	if s.missed == nil || s.torn != nil {
		return
	}
	others, err := s.link.endedByOthers(ctx)
	if _, answered := codeOf(err); err == nil && !others || err != nil && !answered {
		return // the server has rolled back: a deadlock, or a lock wait
	}
	s.torn = fmt.Errorf("%w: the application's SQL, or a procedure that it called, ended the transaction of the "+
		"branch: %w",
		adapters.ErrTorn, errors.Join(s.missed, err))
}

// enter admits a statement to the branch, with a context that ends with it. leave must be
// called once the server has answered.
func (s *session) enter(ctx context.Context, k sqltext.Kind, text string) (within context.Context, leave func(),
	err error) {
	if err := s.admit(k); err != nil {
		return nil, nil, err
	}
	ctx, stop := s.within(ctx)
	err = k.Refused
	if err == nil {
		err = s.before(ctx, k, text)
	}
	if err != nil {
		s.waits(-1)
		stop()
		return nil, nil, s.note(ctx, k, err)
	}
	return ctx, stop, nil
}

// admit lets a statement in. A branch that has failed takes only what undoes the failure.
func (s *session) admit(k sqltext.Kind) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	heals := s.doomed != nil && !s.final && k.Verb == sqltext.RollbackVerb && s.points.has(k.Savepoint)
	if err := s.openLocked(); err != nil && (s.phase != working || !heals) {
		return err
	}
	s.running++
	s.asked++
	return nil
}

// waits notes that n more statements wait for the server, or fewer.
func (s *session) waits(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running += n
	s.asked++
}

// Asked implements adapters.Waiting.
func (s *session) Asked() (number uint64, waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.running > 0
}

// SessionName implements adapters.Waiting.
func (s *session) SessionName() string { return s.link.server.sessionName(s.link.server.connection) }

// opened notes that n more results are open, or fewer.
func (s *session) opened(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results += n
}

// maxWrites bounds the texts that are kept, which are looked at if the session dies.
const maxWrites = 64

// before prepares the branch for a statement, and notes what the statement will do before it
// does it.
func (s *session) before(ctx context.Context, k sqltext.Kind, text string) error {
	if err := s.open(ctx, k); err != nil {
		return err
	}
	s.link.worked = true
	if !k.Plain {
		s.link.dirty = true
	}
	s.risked = s.risked || !k.Steady
	s.mu.Lock()
	first := !s.used
	s.used = true
	if !k.Reads {
		s.wrote = true
		if s.more = len(s.writes) == maxWrites; !s.more {
			s.writes = append(s.writes, text)
		}
	}
	s.mu.Unlock()
	if !k.Reads {
		s.link.counted = false
	}
	if !first || !k.Reads || s.link.counted {
		return nil
	}
	changes, err := s.link.countChanges(ctx)
	if err != nil {
		return err
	}
	s.link.changes, s.link.counted = changes, true
	return s.heard(ctx)
}

// note dooms the branch if its statement failed, and heals it if the statement has undone
// that. If the connection broke, the statement may still run and hold locks: the session is
// ended; where that was done by whoever ends the branch, he ends the session.
func (s *session) note(ctx context.Context, k sqltext.Kind, err error) error {
	if refused := s.heard(ctx); refused != nil {
		return refused
	}
	if errors.Is(err, driver.ErrSkip) {
		return err
	}
	s.mu.Lock()
	s.points.note(k, err != nil)
	if err == nil && k.Verb == sqltext.RollbackVerb {
		s.doomed = nil
	}
	s.mu.Unlock()
	if err == nil {
		return nil
	}
	if k.Ends && isCode(err, codeWrongState) {
		err = fmt.Errorf("%w: %w", errEnds, err)
	}
	broken, undid := !s.link.raw.IsValid(), s.undid(err)
	s.undone = s.undone || undid
	s.doom(err, broken || undid)
	if broken && s.life.Err() == nil {
		_ = s.link.discard(ctx) // the rollback tries again and says so
	}
	return err
}

// undid reports whether the server has rolled the whole transaction back for this error. The
// savepoints went with it.
func (s *session) undid(err error) bool {
	if isCode(err, codeLockWaitTimeout) {
		return s.link.server.variables["innodb_rollback_on_timeout"] == "ON"
	}
	return isCode(err, codeDeadlock, codeRolledBack, codeRolledBackTimeout, codeRolledBackDeadlock)
}

var errEnds = errors.New("DDL, BEGIN, COMMIT, ROLLBACK and LOCK TABLES are not allowed inside a branch: run them " +
	"outside, and let the global transaction end the branch")
