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
