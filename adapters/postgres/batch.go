// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"cmp"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/concordtx/concord/adapters/postgres/sqltext"
)

// batch tells the session how the statements of a batch ended.
type batch struct {
	pgx.BatchResults
	session *session
	st      sqltext.Statement
	unsent  bool  // the server has not got it
	over    error // once it is closed
	failed  error // what a callback of the application returned
}

// watched is the queries of a batch, of which Close reads whatever the application has not read: the
// answer to each statement may be that it ended the transaction. A callback that fails is the last
// one, and not the last answer.
func (b *batch) watched(queued []*pgx.QueuedQuery) []*pgx.QueuedQuery {
	all := make([]*pgx.QueuedQuery, len(queued))
	for i, q := range queued {
		all[i] = &pgx.QueuedQuery{SQL: q.SQL, Arguments: q.Arguments, Fn: func(answers pgx.BatchResults) error {
			watched := watchedBatch{answers, b.session}
			if q.Fn == nil || b.failed != nil {
				_, _ = watched.Exec() // its error is that of Close
				return nil
			}
			b.failed = q.Fn(watched)
			return nil
		}}
	}
	return all
}

// call runs a call of pgx.
func (b *batch) call(do func() error, then use) error {
	if b.over != nil {
		return b.over
	}
	if !b.session.resume() {
		b.over = b.session.usable()
		return b.over
	}
	defer b.session.exit(then)
	return do()
}

// Tx is nil: the transaction is concord's to end.
func (b *batch) Tx() pgx.Tx { return nil }

func (b *batch) Exec() (tag pgconn.CommandTag, err error) {
	err = b.call(func() (err error) {
		tag, err = b.BatchResults.Exec()
		b.note(sqltext.Statement{}, tag, err)
		return err
	}, reading)
	return tag, err
}

func (b *batch) Query() (pgx.Rows, error) {
	var found pgx.Rows
	if err := b.call(func() (err error) {
		if found, err = b.BatchResults.Query(); err != nil {
			b.note(sqltext.Statement{}, pgconn.CommandTag{}, err)
		}
		return err
	}, reading); err != nil {
		return brokenRows{err: err}, err
	}
	return &rows{Rows: found, session: b.session, of: b, meanwhile: reading, then: reading}, nil
}

func (b *batch) QueryRow() pgx.Row {
	result, _ := b.Query() // the error stays in the rows
	return row{result}
}

func (b *batch) Close() error {
	err := b.call(func() error {
		closing := b.BatchResults.Close()
		err := cmp.Or(b.failed, closing)
		b.note(b.st, pgconn.CommandTag{}, err)
		return err
	}, free)
	if b.over == nil {
		b.over = errBatchClosed
		return err
	}
	if errors.Is(b.over, errBatchClosed) {
		return nil
	}
	return err
}

// note is that of the session.
func (b *batch) note(st sqltext.Statement, tag pgconn.CommandTag, err error) {
	if b.unsent {
		b.session.noteDirect(st, tag, err)
	} else {
		b.session.note(st, tag, err)
	}
}

var errBatchClosed = errors.New("the batch is closed already")

// watchedBatch is the answers that a callback of the application reads, within a call of Close.
type watchedBatch struct {
	pgx.BatchResults
	session *session
}

func (w watchedBatch) Tx() pgx.Tx { return nil }

func (w watchedBatch) Exec() (pgconn.CommandTag, error) {
	tag, err := w.BatchResults.Exec()
	w.session.note(sqltext.Statement{}, tag, err)
	return tag, err
}

func (w watchedBatch) Query() (pgx.Rows, error) {
	found, err := w.BatchResults.Query()
	if err != nil {
		w.session.note(sqltext.Statement{}, pgconn.CommandTag{}, err)
		return found, err
	}
	return &watchedRows{Rows: found, session: w.session}, nil
}

func (w watchedBatch) QueryRow() pgx.Row {
	result, _ := w.Query() // the error stays in the rows
	return row{result}
}

// watchedRows tells the session how a query ended that a callback reads.
type watchedRows struct {
	pgx.Rows
	session *session
	noted   bool
}

func (r *watchedRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *watchedRows) Close() {
	r.Rows.Close()
	if !r.noted {
		r.noted = true
		r.session.note(sqltext.Statement{}, r.CommandTag(), r.Err())
	}
}

// Conn is that of handle.
func (r *watchedRows) Conn() *pgx.Conn {
	r.session.past(sqltext.Opaque)
	return r.session.pgx
}

type brokenBatch struct{ err error }

func (b brokenBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b brokenBatch) Query() (pgx.Rows, error)         { return brokenRows{err: b.err}, b.err }
func (b brokenBatch) QueryRow() pgx.Row                { return row{brokenRows{err: b.err}} }
func (b brokenBatch) Close() error                     { return b.err }
func (b brokenBatch) Tx() pgx.Tx                       { return nil }
