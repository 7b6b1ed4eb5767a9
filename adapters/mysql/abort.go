// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// Rollback ends the branch, prepared or not. It cuts off a statement that runs, and may be
// called again after an error.
func (s *session) Rollback(ctx context.Context) error {
	_ = s.endWork(ctx, true) // an error if the work is over already
	if err := s.abort(ctx); err != nil {
		return fmt.Errorf("roll back %s at %s: %w", s.xid, s.r.name, advise(err))
	}
	return nil
}

// abort ends a branch in every state that it may be in: nothing of it is left when it
// returns nil, or an error that wraps ErrTorn and not ErrNotEnded. It does not depend on the context to be alive,
// and takes about twice cleanupTime at most.
func (s *session) abort(ctx context.Context) error {
	was := s.phaseNow()
	if was == ended {
		return s.torn
	}
	if was != loose && s.neverStarted() {
		return nil
	}
	if was != loose {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer cancel()
		if s.rolledBack(bounded, was) {
			if s.link.anew == nil { // what its routines have left in the session nobody knows
				s.link.dirty = true
			}
			s.end()
			return s.torn
		}
		s.link.dirty = true
		s.setPhase(loose)
	}
	err := s.nothingLeft(ctx)
	s.letGo()
	if err != nil {
		return s.maybeTorn(err)
	}
	s.mayStay(s.r.askOutsiders(ctx), lostConnection)
	s.setPhase(ended)
	return s.torn
}

// maybeTorn is why a branch could not be ended. If nobody could be asked what a statement did to its
// transaction, then that is to be told now: whoever waits for the answer does not wait for the next attempt.
func (s *session) maybeTorn(left error) error {
	s.mayStay(s.r.knownOutsiders(), lostConnection)
	torn := s.torn
	if torn == nil && s.risked && !s.proven {
		torn = fmt.Errorf("%w: %s", adapters.ErrTorn, unprovenWork)
	}
	if torn == nil {
		return left
	}
	return fmt.Errorf("%w; %w: %w", torn, adapters.ErrNotEnded, left)
}

// rolledBack rolls back on the session itself, and reports whether nothing of the branch can
// be left.
func (s *session) rolledBack(ctx context.Context, was phase) bool {
	if !s.link.raw.IsValid() {
		return false
	}
	var commands []string
	guarded := s.guard != "" && !s.proven && s.missed == nil && was != prepared
	if guarded {
		commands = append(commands, "RELEASE SAVEPOINT "+s.guard)
	}
	if was != prepared {
		commands = append(commands, "XA END "+s.name) // needed by some states, an error in others
	}
	commands = append(commands, "XA ROLLBACK "+s.name)
	undone := s.undone && s.link.warnsOfRest(ctx)               // the server has rolled back already, and said so then
	answers, stayed := s.link.eachAndWarnings(ctx, commands...) // also after what looked like a read
	if guarded {
		_ = s.prove(answers[0].err) // judged below
	}
	s.judge(ctx)
	if !s.link.raw.IsValid() {
		return false
	}
	switch {
	case s.torn != nil:
	case stayed || undone:
		s.torn = fmt.Errorf("%w: it changed tables whose engine does not support transactions", adapters.ErrTorn)
	case s.missed != nil: // the server has rolled back in the middle of a statement, which took no notice of it
		s.mayStay(s.r.askOutsiders(ctx), "the server has rolled it back")
	}
	err := answers[len(answers)-1].err
	// After XAER_NOTA nothing of that name is prepared, or it is somebody else who ends it. A
	// branch that was torn may be anywhere.
	return err == nil || isCode(err, codeRolledBack, codeRolledBackTimeout, codeRolledBackDeadlock) ||
		isCode(err, codeNotA) && s.torn == nil && !s.voted
}

// nothingLeft ends the session, and what it may have left prepared, through another
// connection. It may be called again after an error.
func (s *session) nothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := s.link.discard(ctx); err != nil {
		return err
	}
	if !s.voted && !s.risked {
		return nil // a session that ends takes an unprepared branch with it
	}
	found, err := s.finishOwn(ctx)
	for errors.Is(err, errHidden) && wait(ctx, killEvery) == nil { // the server may still be rolling back
		found, err = s.finishOwn(ctx)
	}
	if err != nil {
		return err
	}
	unproven := s.risked && !s.proven && !s.marked
	if s.torn == nil && (found == txn.Contradicted || unproven) {
		s.torn = fmt.Errorf("%w: its connection is lost, and %s", adapters.ErrTorn, whyTorn(found))
	}
	return nil
}

const lostConnection = "its connection is lost"

// mayStay judges whether a session may have changed tables without transactions, which it alone could have told and
// cannot tell any more.
func (s *session) mayStay(o outsiders, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.torn == nil && s.used && !s.options.ReadOnly && o.reached(s.writes, s.more) {
		s.torn = fmt.Errorf("%w: %s, and it may have changed tables whose engine does not support transactions",
			adapters.ErrTorn, why)
	}
}

func (s *session) finishOwn(ctx context.Context) (found txn.Finish, err error) {
	err = s.r.onServer(ctx, func(c *sql.Conn, on server) (err error) {
		f := finisher{r: s.r, conn: c, server: on, xid: s.xid, decision: txn.Abort, own: true, tag: s.tag,
			holder: holderOf(s.link.server)}
		found, err = f.run(ctx)
		return err
	})
	return found, err
}

func whyTorn(found txn.Finish) string {
	if found == txn.Contradicted {
		return "its marker is committed"
	}
	return unprovenWork
}

const unprovenWork = "nothing proves that a statement of the application did not end its transaction"
