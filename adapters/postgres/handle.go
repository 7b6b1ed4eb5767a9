// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/concordtx/concord/adapters/postgres/sqltext"
)

// errAsks is said instead of waiting for ever, as the server does.
var errAsks = errors.New("COPY FROM STDIN waits for data that nobody sends: use CopyFrom of the pgx.Tx that " +
	"Resource.Tx returns")

var errRollbackOnly = errors.New("the application rolled back its part of the work")

// handle is the pgx.Tx of the application: the branch, or a savepoint in it. It
// refuses to work when it is closed or the branch has ended, because the connection
// may be somebody else's by then. Several goroutines may use it; their statements wait for
// each other.
type handle struct {
	session   *session
	savepoint pgx.Tx // nil for the branch
	name      string // of the savepoint, for the session
	closed    atomic.Bool
}

var _ pgx.Tx = (*handle)(nil)

func (h *handle) usable() error {
	if h.closed.Load() {
		return pgx.ErrTxClosed
	}
	return h.session.usable()
}

// enter takes the connection for a statement, whose text is read meanwhile. The caller
// exits.
func (h *handle) enter(ctx context.Context, read func(conforming bool) sqltext.Statement) (sqltext.Statement, error) {
	if err := h.usable(); err != nil {
		return sqltext.Statement{}, err
	}
	s := h.session
	if err := s.enter(ctx); err != nil {
		return sqltext.Statement{}, err
	}
	st := read(s.pgx.PgConn().ParameterStatus("standard_conforming_strings") == "on")
	if st.Asks {
		s.exit(free)
		return sqltext.Statement{}, s.refuse(errAsks)
	}
	if err := s.announce(ctx, st); err != nil {
		s.exit(free)
		return sqltext.Statement{}, err
	}
	return st, nil
}

// readText reads one text. A rewriter may make anything of it.
func readText(sql string, args []any) func(bool) sqltext.Statement {
	return func(conforming bool) sqltext.Statement {
		for _, a := range args {
			switch a.(type) {
			case pgx.NamedArgs, pgx.StrictNamedArgs: // they replace names only
			case pgx.QueryRewriter:
				return sqltext.Opaque
			}
		}
		return sqltext.Read(sql, conforming)
	}
}

// silent is what the handle does by itself.
func silent(bool) sqltext.Statement { return sqltext.Statement{} }

// native returns pgx's own transaction or savepoint. A transaction that is not open yet
// is opened. The caller has the connection.
func (h *handle) native(ctx context.Context) (pgx.Tx, error) {
	if h.savepoint != nil {
		return h.savepoint, nil
	}
	return h.session.open(ctx)
}

// first reports whether the next statement is the first of the branch.
func (h *handle) first() bool { return h.savepoint == nil && h.session.opened() == nil }

// Begin sets a savepoint.
func (h *handle) Begin(ctx context.Context) (pgx.Tx, error) {
	if _, err := h.enter(ctx, silent); err != nil {
		return nil, err
	}
	defer h.session.exit(free)
	native, err := h.native(ctx)
	if err != nil {
		return nil, err
	}
	nested, err := native.Begin(ctx)
	name := h.session.newSavepoint()
	h.session.noteDirect(sqltext.Statement{SavedAs: name}, pgconn.CommandTag{}, err)
	if err != nil {
		return nil, err
	}
	return &handle{session: h.session, savepoint: nested, name: name}, nil
}

// Commit releases the savepoint, or says that this part of the work is complete.
func (h *handle) Commit(ctx context.Context) error {
	if _, err := h.enter(ctx, silent); err != nil {
		return err
	}
	defer h.session.exit(free)
	h.closed.Store(true)
	if h.savepoint != nil {
		err := h.savepoint.Commit(ctx)
		h.session.noteDirect(sqltext.Statement{Released: h.name}, pgconn.CommandTag{}, err)
		return err
	}
	if err := h.session.unfit(); err != nil {
		return fmt.Errorf("postgres %q: %w: %w", h.session.r.name, pgx.ErrTxCommitRollback, err)
	}
	return nil
}

// Rollback goes back to the savepoint, or makes the global transaction abort.
func (h *handle) Rollback(ctx context.Context) error {
	if h.closed.Swap(true) {
		return pgx.ErrTxClosed
	}
	if h.savepoint == nil {
		if h.session.leave(working, working) {
			h.session.doom(errRollbackOnly)
			return nil
		}
		return h.session.usable()
	}
	if err := h.session.enter(ctx); err != nil {
		return err
	}
	defer h.session.exit(free)
	err := h.savepoint.Rollback(ctx)
	h.session.noteDirect(sqltext.Statement{BackTo: h.name}, pgconn.CommandTag{}, err)
	return err
}

func (h *handle) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	st, err := h.enter(ctx, readText(sql, args))
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	defer h.session.exit(free)
	// Without arguments pgx takes several statements at once, and a batch does not. A
	// rewriter may leave none.
	if h.first() && len(args) > 0 && travels(args) {
		if _, rewrites := args[0].(pgx.QueryRewriter); !rewrites {
			return h.execFirst(ctx, st, sql, args)
		}
	}
	native, err := h.native(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := native.Exec(ctx, sql, args...)
	h.session.noteDirect(st, tag, err)
	return tag, err
}

func (h *handle) execFirst(ctx context.Context, st sqltext.Statement, sql string, args []any) (pgconn.CommandTag,
	error) {
	answers, err := h.session.openWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args})
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	tag, err := answers.Exec()
	if closing := answers.Close(); err == nil {
		err = closing
	}
	h.session.noteDirect(st, tag, err)
	return tag, err
}

func (h *handle) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return h.query(ctx, reading, sql, args)
}

func (h *handle) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	result, _ := h.query(ctx, scanning, sql, args) // the error stays in the rows
	return row{result}
}

// query leaves the connection in use until the rows are closed.
func (h *handle) query(ctx context.Context, meanwhile use, sql string, args []any) (pgx.Rows, error) {
	s := h.session
	st, err := h.enter(ctx, readText(sql, args))
	if err != nil {
		return brokenRows{err: err}, err
	}
	found := &rows{session: s, st: st, meanwhile: meanwhile, then: free}
	if h.first() && travels(args) {
		if found.answers, err = s.openWith(ctx, &pgx.QueuedQuery{SQL: sql, Arguments: args}); err == nil {
			if found.Rows, err = found.answers.Query(); err != nil {
				_ = found.answers.Close() // the same error
				s.noteDirect(st, pgconn.CommandTag{}, err)
			}
		}
	} else {
		var native pgx.Tx
		if native, err = h.native(ctx); err == nil {
			if found.Rows, err = native.Query(ctx, sql, args...); err != nil {
				s.noteDirect(st, pgconn.CommandTag{}, err)
			}
		}
	}
	if err != nil {
		s.exit(free)
		return brokenRows{err: err}, err
	}
	s.exit(meanwhile)
	return found, nil
}

func (h *handle) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	s := h.session
	st, err := h.enter(ctx, func(conforming bool) sqltext.Statement { return readBatch(b, conforming) })
	if err != nil {
		return brokenBatch{err}
	}
	answers := &batch{session: s, st: st}
	queued := answers.watched(b.QueuedQueries)
	if h.first() && b.Len() > 0 {
		answers.BatchResults, err = s.openWith(ctx, queued...)
	} else {
		var native pgx.Tx
		if native, err = h.native(ctx); err == nil {
			answers.BatchResults = native.SendBatch(ctx, &pgx.Batch{QueuedQueries: queued})
			answers.unsent = !s.pgx.PgConn().IsBusy()
		}
	}
	if err != nil {
		s.exit(free)
		return brokenBatch{err}
	}
	s.exit(reading)
	return answers
}

// readBatch reads all statements of a batch.
func readBatch(b *pgx.Batch, conforming bool) sqltext.Statement {
	var all sqltext.Statement
	for i, q := range b.QueuedQueries {
		st := readText(q.SQL, q.Arguments)(conforming)
		if i == 0 {
			all = st
		} else {
			all = all.And(st)
		}
	}
	return all
}

func (h *handle) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string,
	source pgx.CopyFromSource) (int64, error) {
	if _, err := h.enter(ctx, silent); err != nil {
		return 0, err
	}
	defer h.session.exit(free)
	native, err := h.native(ctx)
	if err != nil {
		return 0, err
	}
	n, err := native.CopyFrom(ctx, table, columns, source)
	h.session.noteDirect(sqltext.Statement{}, pgconn.NewCommandTag(fmt.Sprintf("INSERT 0 %d", n)), err)
	return n, err
}

// Prepare prepares a statement, which runs when its name is sent.
func (h *handle) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if _, err := h.enter(ctx, func(conforming bool) sqltext.Statement {
		st := sqltext.Read(sql, conforming)
		return sqltext.Statement{Ends: st.Ends, Keeps: st.Keeps, Several: st.Ends, Leaves: st.Leaves}
	}); err != nil {
		return nil, err
	}
	defer h.session.exit(free)
	native, err := h.native(ctx)
	if err != nil {
		return nil, err
	}
	description, err := native.Prepare(ctx, name, sql)
	h.session.noteDirect(sqltext.Statement{}, pgconn.CommandTag{}, err)
	return description, err
}

// LargeObjects returns pgx's own type. Its calls fail when the branch has ended. Taken
// after that, it is the zero value, which cannot be used at all.
func (h *handle) LargeObjects() pgx.LargeObjects {
	h.past(sqltext.Statement{Loud: true})
	h.session.mu.Lock()
	defer h.session.mu.Unlock()
	if h.session.phase != working || h.closed.Load() || h.session.native == nil {
		return pgx.LargeObjects{}
	}
	h.session.borrowed = true
	return h.session.native.LargeObjects()
}

// Conn returns the connection. It must not be used after the branch has ended, nor beside
// the handle by another goroutine. Whoever takes it may do anything, so it is closed when
// the branch has ended.
func (h *handle) Conn() *pgx.Conn {
	h.past(sqltext.Opaque)
	return h.session.pgx
}

// past opens the transaction for what the application does past the handle.
func (h *handle) past(what sqltext.Statement) {
	ctx, cancel := context.WithTimeout(context.Background(), openingTime)
	defer cancel()
	s := h.session
	if s.pastReading(what) {
		return
	}
	if _, err := h.enter(ctx, func(bool) sqltext.Statement { return what }); err == nil {
		s.openNow(ctx)
		s.exit(free)
	}
}

// rows tells the session how the query ended.
type rows struct {
	pgx.Rows
	session   *session
	st        sqltext.Statement
	answers   pgx.BatchResults // that of the opening, which end with the rows
	of        *batch           // which the rows are part of, and end with
	meanwhile use              // of the connection between two calls
	then      use              // and afterwards
	closing   error
	noted     bool
}

// call runs a call of pgx, and reports false if there is none to run any more.
func (r *rows) call(do func() (over bool)) bool {
	if r.noted || r.of != nil && r.of.over != nil {
		return false
	}
	if !r.session.resume() {
		r.noted, r.closing = true, r.session.usable()
		return false
	}
	if do() {
		r.note()
		r.session.exit(r.then)
	} else {
		r.session.exit(r.meanwhile)
	}
	return true
}

func (r *rows) Next() (more bool) {
	r.call(func() bool {
		more = r.Rows.Next()
		return !more
	})
	return more
}

func (r *rows) Close() {
	r.call(func() bool {
		r.Rows.Close()
		return true
	})
}

// Scan closes the rows if it fails, as pgx does.
func (r *rows) Scan(dest ...any) (err error) {
	if !r.call(func() bool { err = r.Rows.Scan(dest...); return err != nil }) {
		return r.Err()
	}
	return err
}

func (r *rows) Values() (values []any, err error) {
	if !r.call(func() bool { values, err = r.Rows.Values(); return err != nil }) {
		return nil, r.Err()
	}
	return values, err
}

func (r *rows) RawValues() (values [][]byte) {
	r.call(func() bool { values = r.Rows.RawValues(); return false })
	return values
}

// Conn is that of handle.
func (r *rows) Conn() *pgx.Conn {
	r.session.pastReading(sqltext.Opaque)
	return r.session.pgx
}

func (r *rows) note() {
	r.noted = true
	r.Rows.Close()
	if r.answers != nil {
		r.closing = r.answers.Close()
	}
	r.session.note(r.st, r.CommandTag(), r.Err())
}

func (r *rows) Err() error {
	if r.closing != nil {
		return r.closing
	}
	return r.Rows.Err()
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

// brokenRows is what a handle that is over returns.
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
