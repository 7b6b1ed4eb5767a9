// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/concordtx/concord/adapters/postgres/sqltext"
)

// use is what the application does with the connection of a branch at the moment. A
// connection takes one statement at a time, while a branch may be in the hands of several
// goroutines: their statements wait for each other. What cannot be waited for is a
// result that somebody reads, for he may be who wants to send the next statement.
type use uint8

const (
	free     use = iota
	calling      // a goroutine is inside a call of pgx
	scanning     // QueryRow was called, and Scan is about to be
	reading      // Rows or BatchResults are open
)

const (
	// scanTime bounds how long a statement waits for somebody's Scan, which may never come.
	scanTime = 10 * time.Second
	// cancelEvery is the time after which a statement that did not end is cancelled again: the
	// first time it may not have reached the server yet.
	cancelEvery = 200 * time.Millisecond
)

var errReading = errors.New("a result is still open: close Rows, BatchResults and the like before the next " +
	"statement, and scan each Row")

// enter takes the connection for a call of pgx, and waits for its turn.
func (s *session) enter(ctx context.Context) error {
	var overdue <-chan time.Time
	for {
		s.mu.Lock()
		changed, now, err := s.changed, s.use, s.usableLocked()
		if err == nil && now == free {
			s.call()
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case now == free:
			return nil
		case now == reading:
			return s.refuse(errReading)
		case now == scanning && overdue == nil:
			timer := time.NewTimer(scanTime)
			defer timer.Stop()
			overdue = timer.C
		}
		select {
		case <-changed:
		case <-overdue:
			return s.refuse(errReading)
		case <-ctx.Done():
			return s.refuse(fmt.Errorf("wait for another statement of the branch: %w", ctx.Err()))
		}
	}
}

// resume takes the connection for the next call on an open result, and reports false if
// the branch has ended meanwhile: the connection may be somebody else's.
func (s *session) resume() bool {
	for {
		s.mu.Lock()
		changed, over := s.changed, s.phase != working
		wait := s.use == calling
		if !over && !wait {
			s.call()
		}
		s.mu.Unlock()
		switch {
		case over:
			return false
		case !wait:
			return true
		}
		<-changed // the call of another goroutine, which ends with its context or the branch
	}
}

// call notes that a call of pgx begins. The caller holds mu.
func (s *session) call() {
	s.use = calling
	s.calls++
}

// Asked implements adapters.Waiting.
func (s *session) Asked() (number uint64, waits bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.use == calling
}

// SessionName implements adapters.Waiting.
func (s *session) SessionName() string { return s.server.holder.String() }

// exit gives the connection back after a call.
func (s *session) exit(to use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.use = to
	s.wake()
}

// wake tells those who wait that use or phase has changed. The caller holds mu.
func (s *session) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

var (
	errRunning = errors.New("a statement of the application was still running: wait for all goroutines that work in " +
		"the branch before you return")
	errUnread = errors.New("a result is still open: close Rows, BatchResults and the like before the commit")
	// errStuck: the call waits for the application itself, such as the source of a COPY.
	errStuck = errors.New("a call of the application does not return: end whatever it waits for, such as the " +
		"source of a COPY")
)

// seize makes the connection that of whoever ends the branch, which is not working any
// more, so that no new call begins. A call that has begun is ended: its statement is
// cancelled, and if that does not help, its connection is cut. The error says that the
// application was not done. If stuck is set then the connection must not be touched.
func (s *session) seize(ctx context.Context) error {
	s.mu.Lock()
	now := s.use
	s.mu.Unlock()
	if now == free {
		return nil
	}
	pg := s.pgx.PgConn()
	limit, cut := time.NewTimer(graceTime), false
	defer func() { limit.Stop() }()
	var was error
	for {
		s.mu.Lock()
		changed, now := s.changed, s.use
		s.mu.Unlock()
		switch {
		case now == free:
			return was
		case now != calling:
			return errUnread
		}
		was = errRunning
		if !cut {
			_ = s.cancel(ctx, pg) // it is repeated
		}
		again := time.NewTimer(cancelEvery)
		select {
		case <-changed:
		case <-again.C:
		case <-limit.C:
			if cut {
				s.stuck = true
				return errStuck
			}
			cut = true
			_ = pg.Conn().Close() // what reads or writes there fails, and the server sees it
			limit = time.NewTimer(graceTime)
		}
		again.Stop()
	}
}

func (s *session) cancel(ctx context.Context, pg *pgconn.PgConn) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer stop()
	return pg.CancelRequest(ctx)
}

// letGo gives the connection back once a stuck call has ended.
func (s *session) letGo() {
	conn := s.take()
	for {
		s.mu.Lock()
		changed, now := s.changed, s.use
		s.mu.Unlock()
		if now != calling {
			discard(conn)
			return
		}
		<-changed
	}
}

// refuse answers a statement that does not get its turn.
func (s *session) refuse(why error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	told := s.named(why)
	if s.phase != working {
		return s.usableLocked()
	}
	s.neverSent(why, told)
	return told
}

// neverSent notes a statement that the application wanted and the server never got. The
// branch must not commit without it, even if the application takes no notice of what it
// was told. The caller holds mu.
func (s *session) neverSent(why, told error) {
	if s.failure == nil || !s.unsent && !s.aborted {
		s.failure, s.unsent, s.failedAt = why, true, len(s.savepoints)
	}
	s.told = told
}

// noteDirect is note for the answer of a call that sends its statement itself. An error
// that left the transaction as it was came before anything was sent.
func (s *session) noteDirect(st sqltext.Statement, tag pgconn.CommandTag, err error) {
	pg := s.pgx.PgConn()
	if err != nil && sqlState(err) == "" && !pg.IsClosed() && !pg.IsBusy() && pg.TxStatus() != 'E' {
		s.mu.Lock()
		s.neverSent(err, err)
		s.mu.Unlock()
		return
	}
	s.note(st, tag, err)
}

// newSavepoint is a name for a savepoint that no application's can have.
func (s *session) newSavepoint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nested++
	return fmt.Sprintf("\x00%d", s.nested)
}

// pastReading notes what may happen past the handle while a result is open, and reports
// whether one is.
func (s *session) pastReading(what sqltext.Statement) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.use != reading && s.use != scanning {
		return false
	}
	s.sent = s.sent.And(what)
	return true
}

// past notes what the application may do past the handle within a call of its own.
func (s *session) past(what sqltext.Statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = s.sent.And(what)
}

// A branch opens its transaction together with the first statement of the application, so
// that opening it costs no round trip and a branch without statements costs nothing.
// What is not a plain statement, such as COPY, waits for an opening of its own.

// opened returns the transaction, or nil if nothing was sent yet.
func (s *session) opened() pgx.Tx {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.native
}

func (s *session) setOpened(native pgx.Tx) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.native = native
}

// open returns the transaction, and opens it in a round trip of its own if nothing has.
func (s *session) open(ctx context.Context) (pgx.Tx, error) {
	if native := s.opened(); native != nil {
		return native, nil
	}
	native, err := s.pgx.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginText(s.server.mark, s.limits)})
	if err != nil {
		return nil, s.notOpened(err)
	}
	s.setOpened(native)
	return native, nil
}

// openWith opens the transaction and runs statements in it, in one round trip. The answers
// to the opening are read; those to the statements are the caller's, who closes them.
func (s *session) openWith(ctx context.Context, statements ...*pgx.QueuedQuery) (pgx.BatchResults, error) {
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{BeginQuery: "begin"})
	b.Queue(s.server.mark.setText())
	for _, limit := range s.limits {
		b.Queue(limit)
	}
	own := b.Len()
	b.QueuedQueries = append(b.QueuedQueries, statements...)
	answers := s.pgx.SendBatch(ctx, b)
	for range own {
		if _, err := answers.Exec(); err != nil {
			_ = answers.Close() // the same error; it brings the connection back in step
			if s.pgx.PgConn().TxStatus() != 'I' {
				s.setOpened(answers.Tx())
			}
			return nil, s.notOpened(err)
		}
	}
	s.setOpened(answers.Tx())
	return answers, nil
}

// notOpened tells the session of an opening that failed, with a statement perhaps. If the
// server has refused something the branch is lost: outside of a transaction a later
// statement would be, too. What was never sent has left the branch as it was.
func (s *session) notOpened(err error) error {
	var early pgx.ErrPreprocessingBatch // names a batch that the application knows nothing of
	if errors.As(err, &early) {
		err = early.Unwrap()
	}
	s.noteDirect(sqltext.Statement{}, pgconn.CommandTag{}, err)
	if sqlState(err) != "" || s.pgx.IsClosed() {
		s.doom(fmt.Errorf("%w: %w", errNotOpened, err))
	}
	return err
}

var errNotOpened = errors.New("the first statement failed")

// openNow is for what the application does past the handle, and has neither a context nor
// an error: if the transaction cannot be opened the connection is closed, so that
// nothing happens outside of it. The caller has the connection.
func (s *session) openNow(ctx context.Context) {
	if _, err := s.open(ctx); err != nil {
		s.doom(err)
		_ = s.pgx.Close(ctx)
	}
}

// openingTime bounds an opening for which nobody gave a context.
const openingTime = 10 * time.Second

// travels reports whether a statement with these arguments may go with the opening:
// options of pgx among them are not for batches.
func travels(args []any) bool {
	for _, a := range args {
		switch a.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return false
		}
	}
	return true
}
