// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

var errRollbackOnly = errors.New("the application rolled back its part of the work")

// handle is the pgx.Tx of the application: the branch, or a savepoint in it. It
// refuses to work when it is closed or the branch has ended, because the connection
// may be somebody else's by then.
type handle struct {
	session   *session
	savepoint pgx.Tx // nil for the branch
	closed    bool
}

var _ pgx.Tx = (*handle)(nil)

func (h *handle) usable() error {
	if h.closed {
		return pgx.ErrTxClosed
	}
	return h.session.usable()
}

// native returns pgx's own transaction or savepoint. A transaction that is not open yet
// is opened.
func (h *handle) native(ctx context.Context) (pgx.Tx, error) {
	if err := h.usable(); err != nil {
		return nil, err
	}
	if h.savepoint != nil {
		return h.savepoint, nil
	}
	return h.session.open(ctx)
}

// first reports whether the next statement is the first of the branch.
func (h *handle) first() bool { return h.savepoint == nil && h.session.opened() == nil }

// Begin sets a savepoint.
func (h *handle) Begin(ctx context.Context) (pgx.Tx, error) {
	native, err := h.native(ctx)
	if err != nil {
		return nil, err
	}
	nested, err := native.Begin(ctx)
	h.session.note(pgconn.CommandTag{}, err)
	if err != nil {
		return nil, err
	}
	return &handle{session: h.session, savepoint: nested}, nil
}

// Commit releases the savepoint, or says that this part of the work is complete.
func (h *handle) Commit(ctx context.Context) error {
	if err := h.usable(); err != nil {
		return err
	}
	h.closed = true
	if h.savepoint != nil {
		err := h.savepoint.Commit(ctx)
		h.session.note(pgconn.CommandTag{}, err)
		return err
	}
	if err := h.session.unfit(); err != nil {
		return fmt.Errorf("postgres %q: %w: %w", h.session.r.name, pgx.ErrTxCommitRollback, err)
	}
	return nil
}

// Rollback goes back to the savepoint, or makes the global transaction abort.
func (h *handle) Rollback(ctx context.Context) error {
	if h.closed {
		return pgx.ErrTxClosed
	}
	h.closed = true
	if h.savepoint != nil {
		if err := h.session.usable(); err != nil {
			return err
		}
		err := h.savepoint.Rollback(ctx)
		h.session.note(pgconn.CommandTag{}, err)
		return err
	}
	if h.session.leave(working, working) {
		h.session.doom(fmt.Errorf("postgres %q: %w", h.session.r.name, errRollbackOnly))
		return nil
	}
	return h.session.usable()
}

func (h *handle) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := h.usable(); err != nil {
		return pgconn.CommandTag{}, err
	}
	// Without arguments pgx takes several statements at once, and a batch does not. A
	// rewriter may leave none.
	if h.first() && len(args) > 0 && travels(args) {
		if _, rewrites := args[0].(pgx.QueryRewriter); !rewrites {
			return h.execFirst(ctx, sql, args)
		}
	}
	native, err := h.native(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := native.Exec(ctx, sql, args...)
	h.session.note(tag, err)
	return tag, err
}

func (h *handle) execFirst(ctx context.Context, sql string, args []any) (pgconn.CommandTag, error) {
	answers, err := h.session.openWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := answers.Exec()
	if closing := answers.Close(); err == nil {
		err = closing
	}
	h.session.note(tag, err)
	return tag, err
}

func (h *handle) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := h.usable(); err != nil {
		return brokenRows{err: err}, err
	}
	if h.first() && travels(args) {
		return h.queryFirst(ctx, sql, args)
	}
	native, err := h.native(ctx)
	if err != nil {
		return brokenRows{err: err}, err
	}
	found, err := native.Query(ctx, sql, args...)
	if err != nil {
		h.session.note(pgconn.CommandTag{}, err)
		return found, err
	}
	return &rows{Rows: found, session: h.session}, nil
}

func (h *handle) queryFirst(ctx context.Context, sql string, args []any) (pgx.Rows, error) {
	answers, err := h.session.openWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return brokenRows{err: err}, err
	}
	found, err := answers.Query()
	if err != nil {
		_ = answers.Close() // the same error
		h.session.note(pgconn.CommandTag{}, err)
		return found, err
	}
	return &rows{Rows: found, session: h.session, answers: answers}, nil
}

func (h *handle) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	result, _ := h.Query(ctx, sql, args...) // the error stays in the rows
	return row{result}
}

func (h *handle) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := h.usable(); err != nil {
		return brokenBatch{err}
	}
	if h.first() && b.Len() > 0 {
		answers, err := h.session.openWith(ctx, b.QueuedQueries...)
		if err != nil {
			return brokenBatch{err}
		}
		return &batch{BatchResults: answers, session: h.session, opened: true}
	}
	native, err := h.native(ctx)
	if err != nil {
		return brokenBatch{err}
	}
	return &batch{BatchResults: native.SendBatch(ctx, b), session: h.session}
}

func (h *handle) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, source pgx.CopyFromSource) (int64, error) {
	native, err := h.native(ctx)
	if err != nil {
		return 0, err
	}
	n, err := native.CopyFrom(ctx, table, columns, source)
	h.session.note(pgconn.NewCommandTag(fmt.Sprintf("INSERT 0 %d", n)), err)
	return n, err
}

func (h *handle) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	native, err := h.native(ctx)
	if err != nil {
		return nil, err
	}
	description, err := native.Prepare(ctx, name, sql)
	h.session.note(pgconn.CommandTag{}, err)
	return description, err
}

// LargeObjects returns pgx's own type. Its calls fail when the branch has ended. Taken
// after that, it is the zero value, which cannot be used at all.
func (h *handle) LargeObjects() pgx.LargeObjects {
	if h.usable() == nil {
		h.session.openNow()
	}
	h.session.mu.Lock()
	defer h.session.mu.Unlock()
	if h.session.phase != working || h.closed || h.session.native == nil {
		return pgx.LargeObjects{}
	}
	h.session.borrowed = true
	return h.session.native.LargeObjects()
}

// Conn returns the connection. It must not be used after the branch has ended.
func (h *handle) Conn() *pgx.Conn {
	if h.usable() == nil {
		h.session.openNow()
	}
	return h.session.pgx
}

// rows tells the session how the query ended.
type rows struct {
	pgx.Rows
	session *session
	answers pgx.BatchResults // that of the opening, which end with the rows
	closing error
	noted   bool
}

func (r *rows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.note()
	}
	return more
}

func (r *rows) Close() {
	r.Rows.Close()
	r.note()
}

func (r *rows) note() {
	if !r.noted {
		r.noted = true
		if r.answers != nil {
			r.closing = r.answers.Close()
		}
		r.session.note(r.CommandTag(), r.Err())
	}
}

func (r *rows) Err() error {
	if err := r.Rows.Err(); err != nil {
		return err
	}
	return r.closing
}

type row struct{ pgx.Rows }

func (r row) Scan(dest ...any) error {
	defer r.Close()
	for _, d := range dest {
		if _, ok := d.(*pgtype.DriverBytes); ok { // it would outlive its buffer
			return errors.New("cannot scan into *pgtype.DriverBytes from QueryRow")
		}
	}
	if !r.Next() {
		if err := r.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.Rows.Scan(dest...); err != nil {
		return err
	}
	r.Close()
	return r.Err()
}

// batch tells the session how the statements of a batch ended.
type batch struct {
	pgx.BatchResults
	session *session
	opened  bool // the batch opened the branch
}

// Tx is not for a batch that opened the branch: the transaction is concord's to end.
func (b *batch) Tx() pgx.Tx {
	if b.opened {
		return nil
	}
	return b.BatchResults.Tx()
}

func (b *batch) Exec() (pgconn.CommandTag, error) {
	tag, err := b.BatchResults.Exec()
	b.session.note(tag, err)
	return tag, err
}

func (b *batch) Query() (pgx.Rows, error) {
	native, err := b.BatchResults.Query()
	if err != nil {
		b.session.note(pgconn.CommandTag{}, err)
		return native, err
	}
	return &rows{Rows: native, session: b.session}, nil
}

func (b *batch) QueryRow() pgx.Row {
	result, _ := b.Query() // the error stays in the rows
	return row{result}
}

func (b *batch) Close() error {
	err := b.BatchResults.Close()
	b.session.note(pgconn.CommandTag{}, err)
	return err
}

// brokenRows and brokenBatch are what a handle that is over returns.
type brokenRows struct {
	pgx.Rows
	err error
}

func (r brokenRows) Next() bool                                   { return false }
func (r brokenRows) Close()                                       {}
func (r brokenRows) Err() error                                   { return r.err }
func (r brokenRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r brokenRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r brokenRows) Scan(...any) error                            { return r.err }
func (r brokenRows) Values() ([]any, error)                       { return nil, r.err }
func (r brokenRows) RawValues() [][]byte                          { return nil }
func (r brokenRows) Conn() *pgx.Conn                              { return nil }
func (r brokenRows) TypeMap() *pgtype.Map                         { return nil }

type brokenBatch struct{ err error }

func (b brokenBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, b.err }
func (b brokenBatch) Query() (pgx.Rows, error)         { return brokenRows{err: b.err}, b.err }
func (b brokenBatch) QueryRow() pgx.Row                { return row{brokenRows{err: b.err}} }
func (b brokenBatch) Close() error                     { return b.err }
func (b brokenBatch) Tx() pgx.Tx                       { return nil }
