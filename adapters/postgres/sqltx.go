// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/concordtx/concord/adapters"
)

// SQLTx is Tx for what wants a *sql.Tx: gorm, sqlx, bun, ent, sqlboiler, and code that was written
// for another driver. It is the same branch, so what is done through either is seen through
// both, and Commit and Rollback mean the same. Every call returns a *sql.Tx of its own. Arguments
// and errors are those of pgx: an error of the server is a *pgconn.PgError.
func (r *Resource) SQLTx(ctx context.Context, g adapters.Global) (*sql.Tx, error) {
	return r.SQLTxWith(ctx, g, TxOptions{})
}

// SQLTxWith is SQLTx with options, as TxWith takes them.
func (r *Resource) SQLTxWith(ctx context.Context, g adapters.Global, options TxOptions) (*sql.Tx, error) {
	s, err := r.branchOf(ctx, g, options)
	if err != nil {
		return nil, err
	}
	db, life, err := s.database()
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(life, nil)
	if err != nil {
		return nil, fmt.Errorf("postgres %q: work in %s: %w", r.name, s.x, err)
	}
	return tx, nil
}

// standard is the branch as database/sql sees it. Each "connection" of the *sql.DB is one more
// handle on the branch, so they are not limited; idle ones are kept for the next *sql.Tx.
type standard struct {
	db   *sql.DB
	life context.Context // of every *sql.Tx
	over context.CancelFunc
}

// database returns what hands out *sql.Tx, and how long they last.
func (s *session) database() (*sql.DB, context.Context, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(); err != nil {
		return nil, nil, err
	}
	if s.standard == nil {
		s.standard = &standard{db: sql.OpenDB(connector{s})}
		s.standard.life, s.standard.over = context.WithCancel(context.Background())
	}
	return s.standard.db, s.standard.life, nil
}

// end lets go of every *sql.Tx. The branch is not working any more, so that their rollback has no
// effect on it.
func (d *standard) end() {
	if d == nil {
		return
	}
	d.over()
	_ = d.db.Close() // has nothing to close but handles
}

// connector makes handles on one branch.
type connector struct{ session *session }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	return &standardConn{session: c.session, handle: &handle{session: c.session}}, nil
}

func (c connector) Driver() driver.Driver { return c }

// Open implements driver.Driver, which database/sql does not use.
func (c connector) Open(string) (driver.Conn, error) { return c.Connect(context.Background()) }

// standardConn is a handle as a connection of database/sql.
type standardConn struct {
	session *session
	handle  *handle // of the *sql.Tx that has the connection
}

var (
	_ driver.ExecerContext      = (*standardConn)(nil)
	_ driver.QueryerContext     = (*standardConn)(nil)
	_ driver.ConnPrepareContext = (*standardConn)(nil)
	_ driver.ConnBeginTx        = (*standardConn)(nil)
	_ driver.NamedValueChecker  = (*standardConn)(nil)
)

// BeginTx takes a new handle for the next *sql.Tx: the last one has ended.
func (c *standardConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	c.handle = &handle{session: c.session}
	return standardTx{c.handle}, nil
}

// Begin is not called where BeginTx is.
func (c *standardConn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// Close leaves the branch as it is.
func (c *standardConn) Close() error { return nil }

// CheckNamedValue leaves all arguments to pgx. A statement that it refuses was wanted and never sent.
func (c *standardConn) CheckNamedValue(v *driver.NamedValue) error {
	if v.Name != "" {
		return c.session.refuse(fmt.Errorf("argument %q is named, but PostgreSQL numbers its arguments: write "+
			"$%d", v.Name,
			v.Ordinal))
	}
	return nil
}

func (c *standardConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	tag, err := c.handle.Exec(ctx, query, values(nil, args)...)
	if err != nil {
		return nil, err
	}
	return driver.RowsAffected(tag.RowsAffected()), nil
}

func (c *standardConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	found, err := c.handle.Query(ctx, query, values([]any{resultFormats}, args)...)
	if err != nil {
		return nil, err
	}
	// The columns are known with the first row, and database/sql asks for them before it.
	r := &standardRows{rows: found, types: c.session.pgx.TypeMap(), ahead: true}
	r.more = found.Next()
	if err := found.Err(); err != nil {
		found.Close()
		return nil, err
	}
	r.fields = found.FieldDescriptions()
	return r, nil
}

// PrepareContext asks the server nothing: pgx prepares what is executed again and again by itself.
func (c *standardConn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	if err := c.handle.usable(); err != nil {
		return nil, err
	}
	return &standardStmt{conn: c, query: query}, nil
}

// Prepare is not called where PrepareContext is.
func (c *standardConn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func values(all []any, args []driver.NamedValue) []any {
	for _, a := range args {
		all = append(all, a.Value)
	}
	return all
}

type standardTx struct{ handle *handle }

// Commit says that this piece of work is done.
func (tx standardTx) Commit() error {
	ctx, cancel := context.WithTimeout(context.Background(), openingTime)
	defer cancel()
	return tx.handle.Commit(ctx)
}

// Rollback dooms the branch, as long as that is working.
func (tx standardTx) Rollback() error {
	err := tx.handle.Rollback(context.Background()) // of a branch, which asks nobody
	if errors.Is(err, adapters.ErrBranchEnded) {
		return nil
	}
	return err
}

type standardStmt struct {
	conn  *standardConn
	query string
}

func (st *standardStmt) Close() error { return nil }

// NumInput leaves counting the arguments to the server.
func (st *standardStmt) NumInput() int { return -1 }

func (st *standardStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return st.conn.ExecContext(ctx, st.query, args)
}

func (st *standardStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return st.conn.QueryContext(ctx, st.query, args)
}

var errNoContext = errors.New("this driver must be called with a context")

// Exec is not called where ExecContext is.
func (st *standardStmt) Exec([]driver.Value) (driver.Result, error) { return nil, errNoContext }

// Query is not called where QueryContext is.
func (st *standardStmt) Query([]driver.Value) (driver.Rows, error) { return nil, errNoContext }

// resultFormats asks for text, but for what database/sql has types of its own.
var resultFormats = pgx.QueryResultFormatsByOID{
	pgtype.BoolOID: pgx.BinaryFormatCode, pgtype.ByteaOID: pgx.BinaryFormatCode,
	pgtype.Float4OID: pgx.BinaryFormatCode, pgtype.Float8OID: pgx.BinaryFormatCode,
	pgtype.Int2OID: pgx.BinaryFormatCode, pgtype.Int4OID: pgx.BinaryFormatCode, pgtype.Int8OID: pgx.BinaryFormatCode,
	pgtype.DateOID: pgx.BinaryFormatCode, pgtype.TimestampOID: pgx.BinaryFormatCode,
	pgtype.TimestamptzOID: pgx.BinaryFormatCode,
}

// standardRows are rows with values as database/sql knows them.
type standardRows struct {
	rows   pgx.Rows
	types  *pgtype.Map
	fields []pgconn.FieldDescription
	ahead  bool // the first row was asked for already
	more   bool // and is there
}

func (r *standardRows) Columns() []string {
	names := make([]string, len(r.fields))
	for i, f := range r.fields {
		names[i] = f.Name
	}
	return names
}

func (r *standardRows) Close() error {
	r.rows.Close()
	return r.rows.Err()
}

func (r *standardRows) Next(dest []driver.Value) error {
	more := r.more
	if !r.ahead {
		more = r.rows.Next()
	}
	r.ahead = false
	if !more {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	raw := r.rows.RawValues()
	if len(raw) != len(dest) { // the branch has ended meanwhile
		return adapters.ErrBranchEnded
	}
	for i, f := range r.fields {
		var err error
		if dest[i], err = value(r.types, f, raw[i]); err != nil {
			return fmt.Errorf("column %q: %w", f.Name, err)
		}
	}
	return nil
}

// value reads a value. What database/sql has no type for stays text.
func value(types *pgtype.Map, f pgconn.FieldDescription, raw []byte) (driver.Value, error) {
	if raw == nil {
		return nil, nil
	}
	switch f.DataTypeOID {
	case pgtype.BoolOID:
		return scanned[bool](types, f, raw)
	case pgtype.ByteaOID:
		return scanned[[]byte](types, f, raw)
	case pgtype.Float4OID, pgtype.Float8OID:
		return scanned[float64](types, f, raw)
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		return scanned[int64](types, f, raw)
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID:
		return scanned[time.Time](types, f, raw)
	case pgtype.JSONOID, pgtype.JSONBOID: // json.RawMessage takes bytes only
		return []byte(string(raw)), nil
	}
	return string(raw), nil
}

func scanned[T any](types *pgtype.Map, f pgconn.FieldDescription, raw []byte) (driver.Value, error) {
	var v T
	err := types.Scan(f.DataTypeOID, f.Format, raw, &v)
	return v, err
}

// ColumnTypeDatabaseTypeName is the name of the type in upper case, and its number if it is none of
// PostgreSQL's own.
func (r *standardRows) ColumnTypeDatabaseTypeName(i int) string {
	if t, ok := r.types.TypeForOID(r.fields[i].DataTypeOID); ok {
		return strings.ToUpper(t.Name)
	}
	return fmt.Sprint(r.fields[i].DataTypeOID)
}

// ColumnTypeScanType is what Next makes of a value that is not null.
func (r *standardRows) ColumnTypeScanType(i int) reflect.Type {
	switch r.fields[i].DataTypeOID {
	case pgtype.BoolOID:
		return reflect.TypeFor[bool]()
	case pgtype.ByteaOID, pgtype.JSONOID, pgtype.JSONBOID:
		return reflect.TypeFor[[]byte]()
	case pgtype.Float4OID, pgtype.Float8OID:
		return reflect.TypeFor[float64]()
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		return reflect.TypeFor[int64]()
	case pgtype.DateOID, pgtype.TimestampOID, pgtype.TimestamptzOID:
		return reflect.TypeFor[time.Time]()
	}
	return reflect.TypeFor[string]()
}
