// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/postgres/sqltext"
	"github.com/concordtx/concord/txn"
)

// An application has the whole of SQL in its hands, and with it the transaction of its
// branch: it can end it, and begin another that looks the same. Two things tell:
//
//   - A setting made when the transaction opens ends with it, however that happens. The
//     round trip that votes reads it and fails where it is missing, so that nothing but the
//     transaction which the branch began is ever prepared or committed.
//   - Before a text that may end the transaction, its number is asked for. What became of that
//     number is what became of the work, whatever else was sent.

var (
	errCommitted = errors.New("the application's own statements may have committed what the branch did before: look " +
		"at the data before you run it again")
	errEnded = errors.New("a statement of the application ended the transaction of the branch: leave COMMIT, " +
		"ROLLBACK and PREPARE TRANSACTION to concord")
	errReplaced = errors.New("the transaction is not the one that the branch began: the application ended that one " +
		"(ROLLBACK AND CHAIN does) or reset its settings (RESET ALL does): leave COMMIT, ROLLBACK and PREPARE " +
		"TRANSACTION to concord")
)

// replaced names the error of a vote that did not find the mark of the transaction.
func (s *session) replaced(err error, early bool) error {
	if code := sqlState(err); early && (code == codeInvalidText || code == codeUndefinedObject) {
		return errReplaced
	}
	return err
}

// announce prepares for a statement of the application. The caller has the connection.
func (s *session) announce(ctx context.Context, st sqltext.Statement) error {
	s.mu.Lock()
	suspicious := s.sent.Ends
	s.mu.Unlock()
	if suspicious {
		if err := s.check(ctx); err != nil {
			return err
		}
	}
	if st.Ends {
		if err := s.suspect(ctx, st); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = s.sent.And(st)
	if st.Ends || st.Several {
		s.intact = false
	}
	return nil
}

// suspect learns the number of the transaction before something is sent that may end it.
// The caller has the connection.
func (s *session) suspect(ctx context.Context, st sqltext.Statement) error {
	s.mu.Lock()
	known := s.sent.Ends
	s.unproven = s.unproven || st.MayCommit() || known && st.Keeps
	s.mu.Unlock()
	if known {
		return nil
	}
	if _, err := s.open(ctx); err != nil {
		return err
	}
	if s.pgx.PgConn().TxStatus() == 'E' && !st.Several {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failed = true // whatever ends it now rolls it back
		return nil
	}
	result := s.pgx.PgConn().ExecParams(ctx, "select pg_current_xact_id()::text", nil, nil, nil, nil).Read()
	s.mu.Lock()
	defer s.mu.Unlock()
	if result.Err == nil && len(result.Rows) == 1 && len(result.Rows[0]) == 1 {
		s.number = string(result.Rows[0][0]) // otherwise nothing can be proven
	}
	return nil
}

// check makes sure, once something was sent that may have ended the transaction, that it is
// still there for the next statement. The caller has the connection.
func (s *session) check(ctx context.Context) error {
	pg := s.pgx.PgConn()
	if pg.TxStatus() != 'T' {
		return nil // the server refuses the statement, or note has doomed the branch
	}
	_, _, err := askNumber(ctx, pg, s.server.mark)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intact = err == nil
	if err == nil {
		return nil
	}
	s.doomed = s.replaced(err, true)
	return s.named(s.doomed)
}

// whole reports whether the session is certainly still in the transaction that the branch
// began, although something was sent that may have ended it.
func (s *session) whole(ctx context.Context) bool {
	pg := s.pgx.PgConn()
	if s.stuck || pg.IsClosed() || pg.IsBusy() {
		return false
	}
	switch pg.TxStatus() {
	case 'T':
		_, _, err := askNumber(ctx, pg, s.server.mark)
		return err == nil
	case 'E': // the session answers nothing any more
		return s.intact
	}
	return false
}

// fate tells, once the branch has ended without being prepared, whether the application
// itself may have committed part of it.
func (s *session) fate(ctx context.Context) error {
	// It may have prepared the transaction under the very name of the branch.
	_, err := s.r.finish(ctx, s.x, txn.Branch{}, txn.Abort)
	if err == nil && !s.torn && !s.unproven {
		what := unproven
		err = s.r.with(ctx, func(conn *pgx.Conn) (err error) {
			what, err = statusOf(ctx, conn,
				evidence{number: s.number, system: s.server.system, timeline: s.server.timeline})
			return err
		})
		if what == aborted {
			return nil
		}
	}
	return chain(adapters.ErrTorn, errCommitted, err)
}
