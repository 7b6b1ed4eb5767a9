// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

const (
	// keep is how long a prepared branch keeps its connection for phase two. Given back at
	// once, it could go to a transaction that waits for a row of this very branch; with a
	// hot row and a small pool all connections would wait for a commit that has none.
	// Given back never, a coordinator that is away would use up the pool.
	keep = 2 * time.Second
	// graceTime is how long a call works on after its context has ended, to undo things.
	graceTime = 3 * time.Second
)

var errInDoubt = errors.New("nobody can tell whether it is committed")

type phase uint8

const (
	working phase = iota
	prepared
	ended
)

// session is one branch. What always holds:
//
//  1. conn is nil exactly when the connection was given back; nobody uses it after.
//  2. while working, the connection is inside the branch's transaction, or broken, or
//     doomed says what became of it, or native is nil and nothing was sent yet.
//  3. once prepared, the branch is durable and conn, if any, is outside a transaction.
type session struct {
	r      *Resource
	x      txn.XID
	server server
	pgx    *pgx.Conn  // that of conn
	limits []string   // what the transaction sets for itself when it opens
	branch txn.Branch // once prepared

	mu       sync.Mutex // guards what follows; never held during a round trip
	conn     *pgxpool.Conn
	lease    *time.Timer // ends keep
	phase    phase
	native   pgx.Tx // nil until the transaction was opened
	touched  bool   // a statement was sent
	wrote    bool   // surely; false says nothing
	doomed   error  // why the branch must not commit
	failure  error  // the first error since the transaction was last healthy
	borrowed bool   // large objects hold on to native
}

// Open implements adapters.Opener. The branch gets a connection of the pool; its
// transaction opens with its first statement.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	s, err := r.begin(ctx, x)
	if err != nil {
		return nil, r.explain("begin "+x.String(), err)
	}
	return s, nil
}

func (r *Resource) begin(ctx context.Context, x txn.XID) (*session, error) {
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	known, err := serverOf(ctx, conn.Conn())
	if err != nil {
		conn.Release() // destroyed if it broke
		return nil, err
	}
	return &session{r: r, x: x, server: known, conn: conn, pgx: conn.Conn(), limits: known.limits(r.lockTimeout, r.idleTimeout)}, nil
}

// configure sets options in a transaction that has done nothing yet. One that is not open
// yet opens with them.
func (s *session) configure(ctx context.Context, o TxOptions) error {
	more, err := optionsTexts(o)
	if err != nil {
		return err
	}
	s.mu.Lock()
	touched, native := s.touched, s.native
	if native == nil && !touched {
		s.limits, s.touched = append(slices.Clip(s.limits), more...), true // the last word counts
	}
	s.mu.Unlock()
	switch {
	case touched:
		return errors.New("the branch has run statements already: give the options with the first call of TxWith")
	case native == nil:
		return nil
	}
	tag, err := native.Exec(ctx, strings.Join(more, "; "))
	s.note(tag, err)
	return err
}

// usable tells whether the application may still work in the branch.
func (s *session) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != working {
		return fmt.Errorf("postgres %q: %w: %w", s.r.name, pgx.ErrTxClosed, adapters.ErrBranchEnded)
	}
	return s.doomed
}

// doom makes sure that the branch never commits.
func (s *session) doom(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doomed == nil {
		s.doomed = why
	}
}

// note learns from the answer to a statement of the application.
func (s *session) note(tag pgconn.CommandTag, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != working || s.conn == nil {
		return
	}
	s.touched = s.touched || s.native != nil
	if (tag.Insert() || tag.Update() || tag.Delete()) && tag.RowsAffected() > 0 {
		s.wrote = true
	}
	pg := s.conn.Conn().PgConn()
	status := pg.TxStatus()
	if pg.IsBusy() { // the server has not said yet how it is after this
		status = 0
	}
	if tag.String() == "COMMIT" || tag.String() == "PREPARE TRANSACTION" || err == nil && status == 'I' && s.native != nil {
		s.doomed = fmt.Errorf("postgres %q: a statement of the application ended the transaction of the branch; what it did before may be committed: leave COMMIT, ROLLBACK and PREPARE TRANSACTION to concord", s.r.name)
	}
	switch {
	case err != nil && s.failure == nil:
		s.failure = err
	case err == nil && status == 'T': // healthy, perhaps again: a savepoint was rolled back
		s.failure = nil
	}
}

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
		return errors.New("a result is still open: close Rows, BatchResults and the like before the commit")
	case s.native == nil: // nothing was sent
		return nil
	case pg.TxStatus() != 'T':
		return because("a statement failed and PostgreSQL gave up the transaction", s.failure)
	}
	return nil
}

func because(what string, cause error) error {
	if cause == nil {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %w", what, cause)
}

// Prepare implements adapters.Session.
func (s *session) Prepare(ctx context.Context) (txn.Vote, txn.Branch, error) {
	if !s.leave(working, ended) {
		return txn.VoteNo, txn.Branch{}, fmt.Errorf("postgres %q: prepare %s: %w", s.r.name, s.x, adapters.ErrBranchEnded)
	}
	if mutant.RollbackTagIsPrepared {
		if _, err := run(ctx, s.conn.Conn().PgConn(), prepareText(s.x)); err == nil {
			return txn.VoteYes, s.becomePrepared(ending{}), nil
		}
	}
	if err := s.unfit(); err != nil {
		return s.voteNo(ctx, err)
	}
	if s.opened() == nil {
		s.giveBack()
		return txn.VoteReadOnly, txn.Branch{No: s.x.Branch, Resource: s.r.name}, nil
	}
	pg := s.conn.Conn().PgConn()
	if !s.wrote {
		number, _, err := askNumber(ctx, pg)
		if err != nil {
			return s.voteNo(ctx, err)
		}
		if number == "" {
			return s.voteReadOnly(ctx, pg)
		}
	}
	end, err := prepareBranch(ctx, pg, s.server.number, prepareText(s.x))
	if sqlState(err) == codeNoStatement {
		s.server.forgetNumber(pg)
	}
	if err != nil {
		return s.voteNo(ctx, err)
	}
	if end.tag != "PREPARE TRANSACTION" {
		// The server's way to say that there was nothing to prepare: ROLLBACK and no error.
		return s.voteNo(ctx, because(fmt.Sprintf("PostgreSQL answered %q", end.tag), s.failure))
	}
	return txn.VoteYes, s.becomePrepared(end), nil
}

func (s *session) becomePrepared(end ending) txn.Branch {
	s.branch = txn.Branch{
		No: s.x.Branch, Resource: s.r.name,
		Evidence: evidence{number: end.number, system: s.server.system, timeline: s.server.timeline, database: s.server.database, role: end.role}.String(),
		Holder:   s.server.holder.String(),
	}
	s.closeNative()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.phase = prepared
	s.lease = time.AfterFunc(keep, func() {
		if conn := s.take(); conn != nil {
			conn.Release()
		}
	})
	return s.branch
}

func (s *session) voteReadOnly(ctx context.Context, pg *pgconn.PgConn) (txn.Vote, txn.Branch, error) {
	tag, err := run(ctx, pg, "commit")
	if err == nil && tag != "COMMIT" {
		err = because(fmt.Sprintf("PostgreSQL answered %q", tag), s.failure)
	}
	if err != nil {
		return s.voteNo(ctx, err)
	}
	s.giveBack()
	return txn.VoteReadOnly, txn.Branch{No: s.x.Branch, Resource: s.r.name}, nil
}

// voteNo rolls back, makes sure of it as far as it can, and says why.
func (s *session) voteNo(ctx context.Context, cause error) (txn.Vote, txn.Branch, error) {
	branch := txn.Branch{No: s.x.Branch, Resource: s.r.name}
	cause = s.r.explain("prepare "+s.x.String(), cause)
	if err := s.undo(ctx); err != nil {
		branch.Holder = s.server.holder.String()
		cause = fmt.Errorf("%w; and it is not sure that nothing is left of it, which the orphan scan will see to: %w", cause, err)
	}
	return txn.VoteNo, branch, cause
}

// CommitOnePhase implements adapters.Session.
func (s *session) CommitOnePhase(ctx context.Context) error {
	operation := "commit " + s.x.String() + " in one phase"
	if !s.leave(working, ended) {
		return fmt.Errorf("postgres %q: %s: %w", s.r.name, operation, adapters.ErrBranchEnded)
	}
	if err := s.unfit(); err != nil {
		return s.r.explain(operation, chain(s.notCommitted(), err, s.undo(ctx)))
	}
	if s.opened() == nil {
		s.giveBack()
		return nil
	}
	end, err := commitBranch(ctx, s.conn.Conn().PgConn())
	switch {
	case err == nil && end.tag == "COMMIT":
		s.giveBack()
		return nil
	case err == nil:
		err = because(fmt.Sprintf("PostgreSQL answered %q", end.tag), s.failure)
		return s.r.explain(operation, chain(adapters.ErrNotCommitted, err, s.undo(ctx)))
	case refused(err) || end.early || pgconn.SafeToRetry(err): // failed, not reached, or never sent
		return s.r.explain(operation, chain(adapters.ErrNotCommitted, err, s.undo(ctx)))
	}
	return s.resolve(ctx, operation, end, err)
}

// notCommitted is ErrNotCommitted unless the application itself ended the transaction.
func (s *session) notCommitted() error {
	if !errors.Is(s.doomed, errRollbackOnly) && !errors.Is(s.doomed, errNotOpened) && s.doomed != nil {
		return nil
	}
	return adapters.ErrNotCommitted
}

// resolve finds out what became of a COMMIT whose answer was lost.
func (s *session) resolve(ctx context.Context, operation string, end ending, cause error) error {
	if err := s.undo(ctx); err != nil || end.number == "" {
		return s.r.explain(operation, chain(errInDoubt, cause, err))
	}
	ctx, cancel := grace(ctx)
	defer cancel()
	what := unproven
	err := s.r.with(ctx, func(conn *pgx.Conn) (err error) {
		what, err = statusOf(ctx, conn, evidence{number: end.number, system: s.server.system, timeline: s.server.timeline})
		return err
	})
	switch what {
	case committed:
		return nil
	case aborted:
		return s.r.explain(operation, chain(adapters.ErrNotCommitted, cause))
	}
	return s.r.explain(operation, chain(errInDoubt, cause, err))
}

// Commit implements adapters.Session.
func (s *session) Commit(ctx context.Context) (txn.Finish, error) { return s.finish(ctx, txn.Commit) }

// Rollback implements adapters.Session.
func (s *session) Rollback(ctx context.Context) error {
	if s.leave(working, ended) {
		return s.undo(ctx)
	}
	found, err := s.finish(ctx, txn.Abort)
	if err == nil && found == txn.Contradicted {
		err = fmt.Errorf("postgres %q: roll back %s: it is committed; ask \"concord tx get %s\" who decided so", s.r.name, s.x, s.x.ID)
	}
	return err
}

// finish ends the prepared branch: on its own connection if it still has it and that
// works, else on any.
func (s *session) finish(ctx context.Context, d txn.Decision) (txn.Finish, error) {
	s.mu.Lock()
	now := s.phase
	s.mu.Unlock()
	if now != prepared {
		err := adapters.ErrBranchEnded
		if now == working {
			err = errors.New("it is not prepared: call Prepare first")
		}
		return 0, fmt.Errorf("postgres %q: %s %s: %w", s.r.name, d, s.x, err)
	}
	if conn := s.take(); conn != nil {
		tag, err := run(ctx, conn.Conn().PgConn(), finishText(s.x, d))
		conn.Release()
		if err == nil && tag == finishTag(d) {
			s.leave(prepared, ended)
			return txn.Done, nil
		}
	}
	ctx, cancel := grace(ctx)
	defer cancel()
	found, err := s.r.finish(ctx, s.x, s.branch, d)
	if err == nil {
		s.leave(prepared, ended)
	}
	return found, err
}

// Abandon implements adapters.Session: a prepared branch does not need its session.
func (s *session) Abandon() {
	if s.leave(prepared, ended) {
		s.giveBack()
	}
}

// leave moves from one phase to the next and reports whether it was in the first.
func (s *session) leave(from, to phase) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.phase != from {
		return false
	}
	s.phase = to
	return true
}

// take hands the connection to the caller, or nil if it is given back already.
func (s *session) take() *pgxpool.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := s.conn
	s.conn = nil
	if s.lease != nil {
		s.lease.Stop()
	}
	return conn
}

// giveBack ends the handles of a transaction that has ended, and returns its connection.
func (s *session) giveBack() {
	s.closeNative()
	if conn := s.take(); conn != nil {
		conn.Release()
	}
}

// undo ends the unprepared work. nil says that surely nothing of it is left: no
// transaction, no lock, no prepared branch.
func (s *session) undo(ctx context.Context) error {
	ctx, cancel := grace(ctx)
	defer cancel()
	if pg := s.conn.Conn().PgConn(); !pg.IsClosed() && !pg.IsBusy() {
		if pg.TxStatus() == 'I' { // the server has ended it
			s.giveBack()
			return nil
		}
		if tag, err := run(ctx, pg, "rollback"); err == nil && tag == "ROLLBACK" {
			s.giveBack()
			return nil
		}
	}
	conn := s.take()
	_ = conn.Conn().Close(ctx) // so that the pool destroys it
	conn.Release()
	if s.server.holder.pid == 0 {
		return fmt.Errorf("postgres %q: roll back %s: the connection broke, and behind a pooler its session cannot be named; the orphan scan will look for the branch", s.r.name, s.x)
	}
	// PREPARE may still be on its way in a session that nobody listens to.
	_, err := s.r.finish(ctx, s.x, txn.Branch{Holder: s.server.holder.String()}, txn.Abort)
	return err
}

// closeNative makes handles that pgx itself gave out refuse to work on a connection
// that will soon be somebody else's. pgx closes a transaction at Commit, and with a
// context that has ended it does so without a word to the server.
func (s *session) closeNative() {
	if !s.borrowed {
		return
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.native.Commit(over)
}

// grace returns a context that outlives ctx a little: undoing is not cut short.
func grace(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(graceTime, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}
