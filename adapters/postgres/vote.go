// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// unfit tells why the branch cannot commit, as far as it is known without asking.
func (s *session) unfit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return adapters.ErrBranchEnded
	}
	pg := s.conn.Conn().PgConn()
	switch {
	case s.doomed != nil:
		return s.doomed
	case pg.IsClosed():
		return because("the connection broke", s.failure)
	case pg.IsBusy():
		return errUnread
	case s.unsent:
		return because("a statement was never sent", s.failure)
	case s.native == nil: // nothing was sent
		return nil
	case pg.TxStatus() != 'T':
		return because("a statement failed and PostgreSQL gave up the transaction", s.failure)
	}
	return nil
}

// because adds the error of the application's own statement, which its closure ignored,
// or it would not have come to a vote.
func because(what string, ignored error) error {
	if ignored == nil {
		return errors.New(what)
	}
	return fmt.Errorf("%s; your closure ignored this error: %w", what, ignored)
}

// Prepare implements adapters.Session.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	if !s.leave(working, ended) {
		return txn.VoteNo, txn.Branch{},
			fmt.Errorf("postgres %q: prepare %s: %w", s.r.name, s.x, adapters.ErrBranchEnded)
	}
	if err := s.seize(ctx); err != nil {
		return s.voteNo(ctx, s.vote(err))
	}
	if mutant.RollbackTagIsPrepared {
		if _, err := run(ctx, s.conn.Conn().PgConn(), prepareText(s.x)); err == nil {
			return txn.VoteYes, s.becomePrepared(ending{}), nil
		}
	}
	if err := s.unfit(); err != nil {
		return s.voteNo(ctx, s.vote(err))
	}
	if s.opened() == nil {
		_ = s.settle(cleared, nil)
		s.giveBack(false)
		return txn.VoteReadOnly, txn.Branch{No: s.x.Branch, Resource: s.r.name}, nil
	}
	pg := s.conn.Conn().PgConn()
	if s.mayOnlyHaveRead() {
		number, isolation, err := askReader(ctx, pg, s.server.mark)
		if err != nil {
			return s.voteNo(ctx, s.explainVote(s.replaced(err, true)))
		}
		// Under serializable isolation only a commit says that what was read is true, and a commit
		// may come after the decision alone: views can say more than they show.
		if number == "" && isolation != "serializable" {
			return s.voteReadOnly(ctx, pg)
		}
	}
	end, err := prepareBranch(ctx, pg, s.question(), prepareNamed(s.preparedName()))
	if sqlState(err) == codeNoStatement {
		s.server.forgetVote(pg)
	}
	if end.early {
		err = s.r.markerDoubted(err)
	}
	if err != nil {
		return s.voteNo(ctx, s.explainVote(s.replaced(err, end.early)))
	}
	if end.tag != "PREPARE TRANSACTION" {
		// The server's way to say that there was nothing to prepare: ROLLBACK and no error.
		return s.voteNo(ctx, s.vote(because(fmt.Sprintf("PostgreSQL answered %q", end.tag), s.failure)))
	}
	return txn.VoteYes, s.becomePrepared(end), nil
}

// vote puts the operation in front of an error that is not an answer to concord's own
// commands; explainVote explains one that is.
func (s *session) vote(err error) error {
	return fmt.Errorf("postgres %q: prepare %s: %w", s.r.name, s.x, err)
}

func (s *session) explainVote(err error) error {
	return s.r.explain(preparing, "prepare "+s.x.String(), err)
}

func (s *session) becomePrepared(end ending) txn.Branch {
	s.branch = txn.Branch{No: s.x.Branch, Resource: s.r.name, Holder: s.server.holder.String()}
	if !s.r.noMarker {
		s.branch.Evidence = evidence{marker: !s.reader && !s.earlier, number: end.number, system: s.server.system,
			timeline: s.server.timeline,
			database: s.server.database, role: end.role}.String()
	}
	s.closeNative()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = prepared
	s.wake()
	s.lease = time.AfterFunc(keep, func() {
		if conn := s.take(); conn != nil {
			s.release(conn, true)
		}
	})
	return s.branch
}

// mayOnlyHaveRead reports whether everything that the session has seen is a read.
func (s *session) mayOnlyHaveRead() bool { return !s.wrote && !s.sent.Loud && !s.sent.Writes }

// voteReadOnly ends a branch that only read. It is rolled back, so that nothing of it is
// seen outside however the global transaction ends.
func (s *session) voteReadOnly(ctx context.Context, pg *pgconn.PgConn) (txn.Vote, txn.Branch, error) {
	tag, err := run(ctx, pg, "rollback")
	if err == nil && tag != "ROLLBACK" {
		err = fmt.Errorf("PostgreSQL answered %q", tag)
	}
	if err != nil {
		return s.voteNo(ctx, s.explainVote(err))
	}
	_ = s.settle(cleared, nil)
	s.giveBack(false)
	return txn.VoteReadOnly, txn.Branch{No: s.x.Branch, Resource: s.r.name}, nil
}

// voteNo rolls back, makes sure of it as far as it can, and says why.
func (s *session) voteNo(ctx context.Context, cause error) (txn.Vote, txn.Branch, error) {
	branch := txn.Branch{No: s.x.Branch, Resource: s.r.name}
	err := s.undo(ctx)
	if !adapters.Ended(err) {
		branch.Holder = s.server.holder.String()
	}
	switch {
	case errors.Is(err, adapters.ErrTorn):
		cause = fmt.Errorf("%w: %w", cause, err)
	case err != nil:
		cause = fmt.Errorf("%w; and something of it may be left, which the orphan scan will end: %w",
			cause, err)
	}
	return txn.VoteNo, branch, cause
}

// CommitOnePhase implements adapters.Session.
func (s *session) CommitOnePhase(ctx context.Context) error {
	operation := "commit " + s.x.String() + " in one phase"
	if err := s.takeToCommit(ctx, operation); err != nil {
		return err
	}
	if s.opened() == nil {
		s.giveBack(false)
		return nil
	}
	end, err := commitBranch(ctx, s.conn.Conn().PgConn(), s.server.mark)
	switch {
	case err == nil:
		return s.answered(ctx, operation, end)
	case refused(err) || end.early || pgconn.SafeToRetry(err): // failed, not reached, or never sent
		return s.r.explain(committing, operation, s.notCommitted(ctx, s.replaced(err, end.early)))
	}
	return s.resolve(ctx, operation, end, err)
}

// takeToCommit takes the branch, which its session is to commit by itself. The error says what became of it.
func (s *session) takeToCommit(ctx context.Context, operation string) error {
	if !s.leave(working, ended) {
		return fmt.Errorf("postgres %q: %s: %w", s.r.name, operation, adapters.ErrBranchEnded)
	}
	err := s.seize(ctx)
	if err == nil {
		err = s.unfit()
	}
	if err != nil {
		return s.failedTo(ctx, operation, err)
	}
	return nil
}

// answered says what the answer to a COMMIT means.
func (s *session) answered(ctx context.Context, operation string, end ending) error {
	if end.tag == "COMMIT" {
		s.giveBack(true)
		return nil
	}
	return s.failedTo(ctx, operation, because(fmt.Sprintf("PostgreSQL answered %q", end.tag), s.failure))
}

// failedTo rolls back a branch that was not committed.
func (s *session) failedTo(ctx context.Context, operation string, cause error) error {
	return fmt.Errorf("postgres %q: %s: %w", s.r.name, operation, s.notCommitted(ctx, cause))
}

// notCommitted rolls back a branch that concord did not commit, and says so unless the
// application itself may have.
func (s *session) notCommitted(ctx context.Context, cause error) error {
	err := s.undo(ctx)
	if errors.Is(err, adapters.ErrTorn) {
		return chain(cause, err)
	}
	return chain(adapters.ErrNotCommitted, cause, err)
}

// resolve finds out what became of a COMMIT whose answer was lost.
func (s *session) resolve(ctx context.Context, operation string, end ending, cause error) error {
	if err := s.undo(ctx); err != nil || end.number == "" {
		_ = s.settle(kept, nil)
		return s.r.explain(committing, operation, chain(errInDoubt, cause, err))
	}
	ctx, cancel := grace(ctx)
	defer cancel()
	what := unproven
	err := s.r.with(ctx, func(conn *pgx.Conn) (err error) {
		what, err = statusOf(ctx, conn, evidence{number: end.number, system: s.server.system,
			timeline: s.server.timeline})
		return err
	})
	switch what {
	case committed:
		return s.settle(kept, nil)
	case aborted:
		return s.r.explain(committing, operation, chain(adapters.ErrNotCommitted, cause))
	}
	_ = s.settle(kept, nil)
	return s.r.explain(committing, operation, chain(errInDoubt, cause, err))
}
