// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/concordtx/concord/adapters/mysql/sqltext"
)

// conn is a link as database/sql sees it. Every statement passes here, so that its
// error dooms the branch and its kind is known at the vote. What BeginTx returns is
// the branch that was begun already.
type conn struct{ link *link }

var (
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.SessionResetter    = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
)

// BeginTx returns the open branch.
func (c *conn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	s := c.link.current()
	if s == nil {
		return nil, errSessionGone
	}
	return &handle{s}, nil
}

// Begin is not called where BeginTx is.
func (c *conn) Begin() (driver.Tx, error) { return c.BeginTx(context.Background(), driver.TxOptions{}) }

// Close leaves the connection to the link, which outlives this *sql.DB.
func (c *conn) Close() error { return nil }

// ResetSession does nothing: the branch goes on.
func (c *conn) ResetSession(context.Context) error { return nil }

// IsValid reports whether the connection still works.
func (c *conn) IsValid() bool { return c.link.raw.IsValid() }

// CheckNamedValue leaves arguments to the driver. One that it refuses is a failed
// statement.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	checker, ok := c.link.raw.(driver.NamedValueChecker)
	if !ok {
		return driver.ErrSkip
	}
	err := checker.CheckNamedValue(v)
	if err == nil || errors.Is(err, driver.ErrSkip) || errors.Is(err, driver.ErrRemoveArgument) {
		return err
	}
	if s := c.link.current(); s != nil {
		s.doom(err, false)
	}
	return err
}

// ExecContext runs a statement.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	return c.exec(ctx, query, func(ctx context.Context) (driver.Result, error) {
		return c.link.raw.ExecContext(ctx, query, args)
	})
}

// QueryContext runs a query.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	return c.query(ctx, query, func(ctx context.Context) (driver.Rows, error) {
		return c.link.raw.QueryContext(ctx, query, args)
	})
}

// exec runs one statement of the branch.
func (c *conn) exec(ctx context.Context, query string, do func(context.Context) (driver.Result, error)) (driver.Result,
	error) {
	s := c.link.current()
	if s == nil {
		return nil, errSessionGone
	}
	k := sqltext.Read(query)
	ctx, stop, err := s.enter(ctx, k, query)
	if err != nil {
		return nil, err
	}
	defer stop()
	result, err := do(ctx)
	s.waits(-1)
	return result, s.note(ctx, k, err)
}

// query runs one query of the branch.
func (c *conn) query(ctx context.Context, query string, do func(context.Context) (driver.Rows, error)) (driver.Rows,
	error) {
	s := c.link.current()
	if s == nil {
		return nil, errSessionGone
	}
	k := sqltext.Read(query)
	ctx, stop, err := s.enter(ctx, k, query)
	if err != nil {
		return nil, err
	}
	raw, err := do(ctx)
	s.waits(-1)
	if err := s.note(ctx, k, err); err != nil {
		stop()
		if raw != nil {
			_ = raw.Close() // of a session that is gone
		}
		return nil, err
	}
	s.opened(1)
	return &rows{Rows: raw, ctx: ctx, stop: stop, session: s}, nil
}

// Prepare is not called where PrepareContext is.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext prepares a statement of the branch, which does nothing yet.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s := c.link.current()
	if s == nil {
		return nil, errSessionGone
	}
	if err := s.admit(sqltext.Read(query)); err != nil {
		return nil, err
	}
	ctx, stop := s.within(ctx)
	defer stop()
	raw, err := c.link.raw.PrepareContext(ctx, query)
	s.waits(-1)
	if err := s.note(ctx, prepares, err); err != nil {
		if raw != nil {
			_ = raw.Close() // of a session that is gone
		}
		return nil, err
	}
	able, ok := raw.(rawStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's %T does not accept contexts: use a connector of "+
			"go-sql-driver/mysql",
			raw), raw.Close())
	}
	return &stmt{rawStmt: able, conn: c, query: query}, nil
}

// prepares is the kind of what executes nothing.
var prepares = sqltext.Kind{Reads: true, Plain: true, Steady: true, Traced: true}

type rawStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	rawStmt
	conn  *conn
	query string
}

// NumInput leaves counting the arguments to the driver, so that a wrong number is an
// error that passes here.
func (*stmt) NumInput() int { return -1 }

func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.conn.exec(ctx, st.query, func(ctx context.Context) (driver.Result, error) {
		return st.rawStmt.ExecContext(ctx, args)
	})
}

func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.conn.query(ctx, st.query, func(ctx context.Context) (driver.Rows, error) {
		return st.rawStmt.QueryContext(ctx, args)
	})
}

// rows are the driver's, with their errors noted.
type rows struct {
	driver.Rows
	ctx     context.Context // of the query, which goes on until the rows are closed
	stop    func()
	session *session
}

func (r *rows) Next(dest []driver.Value) error {
	return r.wait(func() error { return r.Rows.Next(dest) })
}

// Close reads what is left, which may end with an error of the statement. The driver would read it, too, but
// without a look at the context.
func (r *rows) Close() error {
	defer r.stop()
	defer r.session.opened(-1)
	err := r.wait(r.drain)
	if closed := r.wait(r.Rows.Close); err == nil {
		err = closed
	}
	return err
}

func (r *rows) drain() error {
	row := make([]driver.Value, len(r.Columns()))
	for {
		err := r.Rows.Next(row)
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			if _, answered := codeOf(err); answered || !r.session.link.raw.IsValid() {
				return err
			}
			return nil // of a value that the driver cannot read, and nobody wants
		}
		if !r.HasNextResultSet() {
			return nil
		}
		if err := r.Rows.(driver.RowsNextResultSet).NextResultSet(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		row = make([]driver.Value, len(r.Columns()))
	}
}

// wait runs what may have to wait for the server.
func (r *rows) wait(do func() error) error {
	r.session.waits(1)
	err := do()
	r.session.waits(-1)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return r.session.note(r.ctx, prepares, err)
}

func (r *rows) HasNextResultSet() bool {
	n, ok := r.Rows.(driver.RowsNextResultSet)
	return ok && n.HasNextResultSet()
}

func (r *rows) NextResultSet() error {
	n, ok := r.Rows.(driver.RowsNextResultSet)
	if !ok {
		return io.EOF
	}
	return r.wait(n.NextResultSet)
}

func (r *rows) ColumnTypeDatabaseTypeName(i int) string {
	if t, ok := r.Rows.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return t.ColumnTypeDatabaseTypeName(i)
	}
	return ""
}

func (r *rows) ColumnTypeNullable(i int) (nullable, ok bool) {
	if t, is := r.Rows.(driver.RowsColumnTypeNullable); is {
		return t.ColumnTypeNullable(i)
	}
	return false, false
}

func (r *rows) ColumnTypePrecisionScale(i int) (precision, scale int64, ok bool) {
	if t, is := r.Rows.(driver.RowsColumnTypePrecisionScale); is {
		return t.ColumnTypePrecisionScale(i)
	}
	return 0, 0, false
}

func (r *rows) ColumnTypeScanType(i int) reflect.Type {
	if t, is := r.Rows.(driver.RowsColumnTypeScanType); is {
		return t.ColumnTypeScanType(i)
	}
	return reflect.TypeFor[any]()
}

// handle is the branch as the transaction of a *sql.Tx.
type handle struct{ session *session }

// Commit says that this piece of work is done.
func (h *handle) Commit() error { return h.session.pieceDone() }

var errRolledBack = errors.New("the application rolled the branch back")

// Rollback dooms the branch.
func (h *handle) Rollback() error {
	h.session.giveUp()
	return nil
}
