// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/ncruces/go-sqlite3"
	sqlitedriver "github.com/ncruces/go-sqlite3/driver"
)

// connector makes links.
type connector struct{ driver.Connector }

func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	raw, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{raw: raw.(sqlitedriver.Conn)}
	if err := l.raw.Raw().SetAuthorizer(l.authorize); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	l.raw.Raw().CommitHook(func() bool { return l.ours })
	return l, nil
}

// link is one connection as database/sql sees it. It has at most one branch at a time. Every statement of the
// application passes here, so that its error dooms the branch and what it does is known. What BeginTx returns is the
// branch. It is used by one goroutine at a time: that which database/sql lets in, and at the end of the branch its
// session.
type link struct {
	raw    sqlitedriver.Conn
	branch *session   // nil between branches
	ours   bool       // it executes a statement of our own
	dirty  bool       // its state is not what a new connection's would be; it is not used again
	kind   *statement // that is being compiled; nil: of our own, or compiled again
}

var (
	_ driver.ExecerContext      = (*link)(nil)
	_ driver.ConnPrepareContext = (*link)(nil)
	_ driver.ConnBeginTx        = (*link)(nil)
	_ driver.SessionResetter    = (*link)(nil)
	_ driver.Validator          = (*link)(nil)
	_ driver.NamedValueChecker  = (*link)(nil)
)

var errNoBranch = errors.New("the connection has no branch: statements go through Tx of the resource")

// BeginTx returns the open branch.
func (l *link) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	if l.branch == nil {
		return nil, errNoBranch
	}
	return &handle{l.branch}, nil
}

// Begin is not called where BeginTx is.
func (l *link) Begin() (driver.Tx, error) { return l.BeginTx(context.Background(), driver.TxOptions{}) }

// Close ends the connection.
func (l *link) Close() error { return l.raw.Close() }

// ResetSession does nothing: a connection that is not as new is not used again.
func (l *link) ResetSession(context.Context) error { return nil }

// IsValid reports whether the connection may be used again.
func (l *link) IsValid() bool { return !l.dirty }

// CheckNamedValue takes everything: arguments are looked at by the statement that gets them.
func (l *link) CheckNamedValue(*driver.NamedValue) error { return nil }

// exec runs a statement of our own. Arguments are bound in order.
func (l *link) exec(ctx context.Context, text string, args ...any) error {
	l.ours = true
	defer func() { l.ours = false }()
	conn := l.raw.Raw()
	defer conn.SetInterrupt(conn.SetInterrupt(ctx))
	if len(args) == 0 {
		return conn.Exec(text)
	}
	st, _, err := conn.Prepare(text)
	if err != nil {
		return err
	}
	for i, arg := range args {
		switch arg := arg.(type) {
		case int64:
			err = errors.Join(err, st.BindInt64(i+1, arg))
		case string:
			err = errors.Join(err, st.BindText(i+1, arg))
		}
	}
	if err == nil {
		err = st.Exec()
	}
	return errors.Join(err, st.Close())
}

// inTransaction reports whether there is one.
func (l *link) inTransaction() bool { return !l.raw.Raw().GetAutocommit() }

// compile reads what a statement does.
func (l *link) compile(do func() error) (*statement, error) {
	k := &statement{}
	l.kind = k
	err := do()
	l.kind = nil
	if k.refused != nil {
		err = fmt.Errorf("%w: %w", k.refused, err)
	}
	return k, err
}

// ExecContext runs a text without arguments, which may have several statements.
func (l *link) ExecContext(ctx context.Context, text string, args []driver.NamedValue) (driver.Result, error) {
	if l.branch == nil {
		return nil, errNoBranch
	}
	if len(args) > 0 {
		return nil, driver.ErrSkip
	}
	conn := l.raw.Raw()
	before := conn.TotalChanges()
	err := l.branch.during(ctx, func(ctx context.Context) error {
		defer conn.SetInterrupt(conn.SetInterrupt(ctx))
		for text != "" {
			if err := l.execFirst(&text); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if conn.TotalChanges() == before {
		return result{}, nil
	}
	return result{conn.LastInsertRowID(), conn.Changes()}, nil
}

// execFirst runs the first statement of a text, and takes it off.
func (l *link) execFirst(text *string) error {
	var st *sqlite3.Stmt
	k, err := l.compile(func() (err error) {
		st, *text, err = l.raw.Raw().Prepare(*text)
		return err
	})
	if err == nil && st != nil { // nil: a comment
		l.branch.sends(k)
		err = errors.Join(st.Exec(), st.Close())
	}
	return l.branch.note(k, err)
}

type result struct{ id, rows int64 }

func (r result) LastInsertId() (int64, error) { return r.id, nil }
func (r result) RowsAffected() (int64, error) { return r.rows, nil }

// Prepare is not called where PrepareContext is.
func (l *link) Prepare(text string) (driver.Stmt, error) {
	return l.PrepareContext(context.Background(), text)
}

// PrepareContext prepares one statement, which does nothing yet.
func (l *link) PrepareContext(ctx context.Context, text string) (st driver.Stmt, err error) {
	if l.branch == nil {
		return nil, errNoBranch
	}
	err = l.branch.during(ctx, func(ctx context.Context) error {
		var raw driver.Stmt
		k, err := l.compile(func() (err error) {
			raw, err = l.raw.PrepareContext(ctx, text)
			return err
		})
		if err != nil {
			return l.branch.note(k, err)
		}
		st = &prepared{rawStmt: raw.(rawStmt), link: l, kind: k}
		return nil
	})
	return st, err
}

type rawStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
}

// prepared is a statement of the application.
type prepared struct {
	rawStmt
	link *link
	kind *statement
}

var errWrongCount = errors.New("the statement has another number of arguments than it was given: give it all of them")

// NumInput leaves counting to us, so that a wrong number is an error that passes here.
func (*prepared) NumInput() int { return -1 }

// CheckNamedValue converts an argument as database/sql does, so that an error passes here.
func (p *prepared) CheckNamedValue(v *driver.NamedValue) error {
	err := p.rawStmt.CheckNamedValue(v)
	if errors.Is(err, driver.ErrSkip) {
		v.Value, err = driver.DefaultParameterConverter.ConvertValue(v.Value)
	}
	if s := p.link.branch; err != nil && s != nil {
		return s.note(p.kind, err)
	}
	return err
}

// ready begins a call of a statement.
func (p *prepared) ready(args []driver.NamedValue) error {
	if n := p.rawStmt.NumInput(); n >= 0 && n != len(args) {
		return errWrongCount
	}
	p.link.branch.sends(p.kind)
	return nil
}

func (p *prepared) ExecContext(ctx context.Context, args []driver.NamedValue) (r driver.Result, err error) {
	if p.link.branch == nil {
		return nil, errNoBranch
	}
	err = p.link.branch.during(ctx, func(ctx context.Context) error {
		err := p.ready(args)
		if err == nil {
			r, err = p.rawStmt.ExecContext(ctx, args)
		}
		return p.link.branch.note(p.kind, err)
	})
	return r, err
}

func (p *prepared) QueryContext(ctx context.Context, args []driver.NamedValue) (list driver.Rows, err error) {
	if p.link.branch == nil {
		return nil, errNoBranch
	}
	err = p.link.branch.during(ctx, func(context.Context) error {
		ctx, stop := p.link.branch.within(ctx) // it goes on until the rows are closed
		err := p.ready(args)
		var raw driver.Rows
		if err == nil {
			raw, err = p.rawStmt.QueryContext(ctx, args)
		}
		if err != nil {
			stop()
			return p.link.branch.note(p.kind, err)
		}
		list = &rows{rawRows: raw.(rawRows), prepared: p, stop: stop}
		return nil
	})
	return list, err
}

type rawRows interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeNullable
	ColumnTypeScanType(index int) reflect.Type
}

// rows are those of a statement, which runs while they are read.
type rows struct {
	rawRows
	prepared *prepared
	stop     func()
	begun    bool
}

func (r *rows) Next(dest []driver.Value) error {
	s, first := r.prepared.link.branch, !r.begun
	if s == nil {
		return errNoBranch
	}
	r.begun = true
	err := s.readable()
	if err == nil {
		err = r.rawRows.Next(dest)
	}
	switch {
	case err == nil || errors.Is(err, io.EOF):
		if first { // with its first row it has done all that it does
			if failed := s.note(r.prepared.kind, nil); failed != nil {
				return failed
			}
		}
		return err
	}
	return s.note(r.prepared.kind, err)
}

// Close runs a statement of which nobody has asked for a row.
func (r *rows) Close() error {
	defer r.stop()
	var err error
	if !r.begun {
		err = r.Next(make([]driver.Value, len(r.Columns())))
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	_ = r.rawRows.Close() // it repeats what Next has said
	return err
}

// handle is the branch as the transaction of a *sql.Tx.
type handle struct{ session *session }

// Commit says that this piece of work is done.
func (h *handle) Commit() error { return h.session.pieceDone() }

// Rollback dooms the branch.
func (h *handle) Rollback() error {
	h.session.giveUp()
	return nil
}
