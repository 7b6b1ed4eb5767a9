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
	"github.com/concordtx/concord/adapters/postgres/sqltext"
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

// rest is what may be left of a branch that has ended.
type rest uint8

const (
	kept    rest = iota // all of it: it is committed, or nobody knows
	some                // a transaction, or a prepared branch, on a session that could not be asked
	cleared             // nothing
)

// session is one branch. What always holds:
//
//  1. conn is nil exactly when the connection was given back; nobody uses it after.
//  2. while working, the connection is inside the branch's transaction, or broken, or
//     doomed says what became of it, or native is nil and nothing was sent yet.
//  3. once prepared, the branch is durable and conn, if any, is outside a transaction.
//  4. whoever is inside a call of pgx on conn has set use to calling, or ends the branch.
type session struct {
	r        *Resource
	x        txn.XID
	server   server
	pgx      *pgx.Conn      // that of conn
	limits   []string       // what the transaction sets for itself when it opens
	siblings []txn.BranchNo // that its transaction has; set before the vote
	tag      txn.LastTag    // of its last resource; zero if it has none
	earlier  bool           // some member knows only evidence by number; set before the vote
	branch   txn.Branch     // once prepared

	mu       sync.Mutex // guards what follows; never held during a round trip
	conn     *pgxpool.Conn
	lease    *time.Timer // ends keep
	phase    phase
	use      use               // what the application does with conn
	calls    uint64            // of pgx that have begun
	changed  chan struct{}     // closed when phase or use changes
	native   pgx.Tx            // nil until the transaction was opened
	touched  bool              // a statement was sent
	wrote    bool              // surely; false says nothing
	sent     sqltext.Statement // all that was sent, as one
	number   string            // of the transaction, if it was asked for before sent.ends
	torn     bool              // the server said that the application's SQL committed something
	unproven bool              // it may have, and number would not tell
	failed   bool              // the transaction had failed before sent.ends, so it was rolled back
	intact   bool              // it was there when the last statement was sent, which could not end it
	doomed   error             // why the branch must not commit
	told     error             // the last error of a statement, as the application got it
	failure  error             // the first error since the transaction was last healthy
	unsent   bool              // failure is of a statement that the server never got
	aborted  bool              // the transaction has failed, as far as the server said
	failedAt int               // how many savepoints there were
	reader   bool              // declared to be read only
	borrowed bool              // large objects hold on to native
	safe     bool              // nothing of the branch was committed by the application
	stuck    bool              // a call of the application has conn and does not come back
	rest     rest              // once ended
	standard *standard         // nil until a *sql.Tx is asked for
	lastWord error             // what Rollback says for ever, if the fate of the branch is known not to be an abort

	savepoints []string // in the order in which they were set
	nested     int      // how many of them the handles set
}

var (
	_ adapters.Counted  = (*session)(nil)
	_ adapters.Failing  = (*session)(nil)
	_ adapters.Levelled = (*session)(nil)
	_ adapters.Reading  = (*session)(nil)
	_ adapters.Waiting  = (*session)(nil)
)

// Open implements adapters.Opener. The branch gets a connection of the pool; its
// transaction opens with its first statement.
func (r *Resource) Open(ctx context.Context, x txn.XID) (adapters.Session, error) {
	s, err := r.begin(ctx, x)
	if err != nil {
		return nil, r.explain(asking, "begin "+x.String(), err)
	}
	return s, nil
}

func (r *Resource) begin(ctx context.Context, x txn.XID) (*session, error) {
	conn, err := r.acquire(ctx)
	if err != nil {
		return nil, err
	}
	known, err := r.ready(ctx, conn.Conn())
	if err != nil {
		conn.Release() // destroyed if it broke
		return nil, err
	}
	return &session{r: r, x: x, server: known, conn: conn, pgx: conn.Conn(),
		changed: make(chan struct{}), limits: known.limits(r.lockTimeout, r.idleTimeout)}, nil
}

// ready returns the server of a connection on which a branch can begin, and leave its evidence.
func (r *Resource) ready(ctx context.Context, conn *pgx.Conn) (server, error) {
	known, err := serverOf(ctx, conn)
	if err != nil {
		return server{}, err
	}
	if err := r.prepareMarker(ctx, conn); err != nil || !r.markerReady.Load() {
		return known, err
	}
	return known.learnVote(ctx, conn)
}

// configure sets options in a transaction that has done nothing yet. One that is not open
// yet opens with them.
func (s *session) configure(ctx context.Context, o TxOptions) error {
	more, err := optionsTexts(o, s.server.lockTimeout)
	if err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.exit(free)
	s.mu.Lock()
	touched, native := s.touched, s.native
	s.reader = s.reader || o.ReadOnly && !touched
	if native == nil && !touched {
		s.limits, s.touched = append(slices.Clip(s.limits), more...), true // the last word counts
	}
	s.mu.Unlock()
	switch {
	case touched:
		return errors.New("the branch has already run statements: give the options with the first call of TxWith")
	case native == nil:
		return nil
	}
	tag, err := native.Exec(ctx, strings.Join(more, "; "))
	s.note(sqltext.Statement{}, tag, err)
	return err
}

// usable tells whether the application may still work in the branch.
func (s *session) usable() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usableLocked()
}

func (s *session) usableLocked() error {
	if s.phase != working {
		return s.named(fmt.Errorf("%w: %w", pgx.ErrTxClosed, adapters.ErrBranchEnded))
	}
	return s.named(s.doomed)
}

// named puts the resource in front of an error.
func (s *session) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("postgres %q: %w", s.r.name, err)
}

// doom makes sure that the branch never commits.
func (s *session) doom(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.doomed == nil {
		s.doomed = why
	}
}

// note learns from the answer to a statement of the application, or to all of a message
// whose text was st.
func (s *session) note(st sqltext.Statement, tag pgconn.CommandTag, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.told = err
	}
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
	s.aborted = status == 'E'
	if st.Points { // also if it failed: what comes before has been done
		s.savepoints, s.failedAt = nil, 0
	}
	if tag.String() == "COMMIT" || tag.String() == "PREPARE TRANSACTION" && s.number == "" {
		s.torn = true
	}
	if s.torn || status == 'I' && s.native != nil && !pg.IsClosed() {
		s.doomed = errEnded
	}
	switch {
	case err != nil && s.failure == nil:
		s.failure, s.unsent, s.failedAt = err, false, len(s.savepoints)
	case err == nil && status == 'T': // healthy, perhaps again: a savepoint was rolled back
		if !s.unsent {
			s.failure = nil
		}
		s.noteSavepoint(st)
	}
}

// noteSavepoint follows the savepoints, for what the server never got is healed by going
// back to one that is older, and by nothing else. The caller holds mu.
func (s *session) noteSavepoint(st sqltext.Statement) {
	find := func(name string) int {
		for i := len(s.savepoints) - 1; i >= 0; i-- {
			if s.savepoints[i] == name {
				return i
			}
		}
		return -1
	}
	switch {
	case st.SavedAs != "":
		s.savepoints = append(s.savepoints, st.SavedAs)
	case st.Released != "":
		if i := find(st.Released); i >= 0 {
			s.savepoints, s.failedAt = s.savepoints[:i], min(s.failedAt, i)
		}
	case st.BackTo != "":
		if i := find(st.BackTo); i >= 0 {
			s.savepoints = s.savepoints[:i+1]
			if s.failedAt > i {
				s.failure, s.unsent = nil, false
			}
		}
	}
}

// Commit implements adapters.Session.
func (s *session) Commit(ctx context.Context) (txn.Finish, error) { return s.finish(ctx, txn.Commit) }

// Rollback implements adapters.Session.
func (s *session) Rollback(ctx context.Context) error {
	if s.leave(working, ended) {
		_ = s.seize(ctx) // it rolls back what there is
		return s.rolledBack(s.undo(ctx))
	}
	s.mu.Lock()
	now, left, last := s.phase, s.rest, s.lastWord
	s.mu.Unlock()
	switch {
	case last != nil:
		return s.rolledBack(last)
	case now == ended && left == cleared:
		return nil
	case now == ended && left == some:
		ctx, cancel := grace(ctx)
		defer cancel()
		return s.rolledBack(s.clear(ctx))
	}
	found, err := s.finish(ctx, txn.Abort)
	if err == nil && found == txn.Contradicted {
		err = fmt.Errorf("%w: it was committed; \"concord tx get %s\" shows who decided "+
			"that", adapters.ErrTorn, s.x.ID)
		return s.rolledBack(s.settle(kept, err))
	}
	return err
}

// rolledBack puts the operation in front of an error that stands in the way of it.
func (s *session) rolledBack(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("postgres %q: roll back %s: %w", s.r.name, s.x, err)
}

// Siblings implements adapters.Counted.
func (s *session) Siblings(nos []txn.BranchNo) {
	if !s.earlier {
		s.siblings = nos
	}
}

// KnownLevel implements adapters.Levelled. The marker is written in any case; members that do not look
// for it go by the number of the transaction. The name of a branch with siblings they would take for
// somebody else's.
func (s *session) KnownLevel(level txn.FeatureLevel) { s.earlier = level < txn.LevelKeys }

// Failure implements adapters.Failing.
func (s *session) Failures() [2]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return [2]error{s.failure, s.told}
}

// OnlyRead implements adapters.Reading.
func (s *session) OnlyRead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayOnlyHaveRead()
}

// settle notes what is left of a branch that has ended, and what there is to say of it.
func (s *session) settle(left rest, lastWord error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest, s.lastWord = left, lastWord
	return lastWord
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
		tag, err := run(ctx, conn.Conn().PgConn(), finishNamed(s.preparedName(), d))
		if d == txn.Abort && s.sent.Loud { // PREPARE has kept what functions set
			discard(conn)
		} else {
			s.release(conn, true)
		}
		if err == nil && tag == finishTag(d) {
			s.finished(d)
			return txn.Done, nil
		}
	}
	ctx, cancel := grace(ctx)
	defer cancel()
	found, err := s.r.finish(ctx, s.x, s.branch, d)
	if err == nil {
		s.finished(d)
	}
	return found, err
}

func (s *session) finished(d txn.Decision) {
	s.leave(prepared, ended)
	if d == txn.Abort {
		_ = s.settle(cleared, nil)
	}
}

// Abandon implements adapters.Session: a prepared branch does not need its session.
func (s *session) Abandon() {
	if s.leave(prepared, ended) {
		s.giveBack(true)
	}
}

// leave moves from one phase to the next and reports whether it was in the first.
func (s *session) leave(from, to phase) bool {
	s.mu.Lock()
	was := s.phase
	if was == from {
		s.phase = to
		s.wake()
	}
	standard := s.standard
	s.mu.Unlock()
	if was == working && from == working && to != working {
		standard.end()
	}
	return was == from
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
// kept says that what the transaction did to its session stays.
func (s *session) giveBack(kept bool) {
	s.closeNative()
	if conn := s.take(); conn != nil {
		s.release(conn, kept)
	}
}

// release returns a connection to the pool. One that the branch left something in goes to
// nobody else.
func (s *session) release(conn *pgxpool.Conn, kept bool) {
	if s.sent.Leaves == sqltext.Lasting || s.sent.Leaves == sqltext.Revoked && kept {
		discard(conn)
		return
	}
	conn.Release()
}

// discard closes a connection, so that the pool makes another.
func discard(conn *pgxpool.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), graceTime)
	defer cancel()
	_ = conn.Conn().Close(ctx) // it is over for us in any case
	conn.Release()
}

// undo ends the unprepared work. nil says that surely nothing of it is left: no
// transaction, no lock, no prepared branch, and nothing committed.
func (s *session) undo(ctx context.Context) error {
	ctx, cancel := grace(ctx)
	defer cancel()
	s.safe = !s.torn && (!s.sent.Ends || s.failed && !s.unproven || s.whole(ctx))
	_ = s.settle(some, nil)
	switch {
	case s.stuck:
		go s.letGo() // the connection is cut
	case s.rollBack(ctx):
		return s.judge(ctx)
	default:
		discard(s.take())
	}
	return s.clear(ctx)
}

// clear ends a branch whose session is out of hand: PREPARE may still be on its way in it.
func (s *session) clear(ctx context.Context) error {
	err := s.r.endOwn(ctx, s.x, s.server.holder)
	switch {
	case err == nil:
		return s.judge(ctx)
	case s.safe:
		return err
	}
	return chain(adapters.ErrTorn, errCommitted, adapters.ErrNotEnded, err)
}

// judge has the last word on a branch of which nothing is left on the server.
func (s *session) judge(ctx context.Context) error {
	var err error
	if !s.safe {
		err = s.fate(ctx)
	}
	return s.settle(cleared, err)
}

// rollBack rolls back on the session and reports whether that did it.
func (s *session) rollBack(ctx context.Context) bool {
	pg := s.conn.Conn().PgConn()
	if pg.IsClosed() || pg.IsBusy() {
		return false
	}
	if pg.TxStatus() != 'I' { // otherwise the server has ended it
		if tag, err := run(ctx, pg, "rollback"); err != nil || tag != "ROLLBACK" {
			return false
		}
	}
	s.giveBack(s.sent.Ends)
	return true
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
