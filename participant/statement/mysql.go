// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
)

// MySQL makes the branches of a MySQL or MariaDB database take statements.
func MySQL(r *mysql.Resource) Database {
	return database{r, func(s adapters.Session) executor { return &mysqlExecutor{r: r, s: s} }}
}

type mysqlExecutor struct {
	r    *mysql.Resource
	s    adapters.Session
	open *sql.Tx // once it was used: a branch that failed hands out none, and this one takes what heals it
}

func (e *mysqlExecutor) refuse(text string) error { return refuseMySQL(text) }

func (e *mysqlExecutor) tx(ctx context.Context) (*sql.Tx, error) {
	if e.open != nil {
		return e.open, nil
	}
	tx, err := e.r.Tx(ctx, enlisted{e.s})
	e.open = tx
	return tx, err
}

func (e *mysqlExecutor) execute(ctx context.Context, w Work, limits Limits) (Result, error) {
	tx, err := e.tx(ctx)
	if err != nil {
		return Result{}, err
	}
	var args []any
	for _, v := range w.Args {
		args = append(args, mysqlArgument(v))
	}
	if !mysqlHasRows(w.Text) {
		done, err := tx.ExecContext(ctx, w.Text, args...)
		if err != nil {
			return Result{}, err
		}
		n, err := done.RowsAffected()
		return Result{Affected: n}, err
	}
	rows, err := tx.QueryContext(ctx, w.Text, args...)
	if err != nil {
		return Result{}, err
	}
	r, err := readMySQL(rows, limits)
	if closing := rows.Close(); err == nil {
		err = closing
	}
	return r, err
}

// mysqlHasRows reports whether a text may answer with rows. Of one that may not, the server says
// how many rows it changed.
func mysqlHasRows(text string) bool {
	words, _ := mysqlDialect.read(text)
	switch words[0] { // refuse has seen that there is one
	case "SELECT", "WITH", "VALUES", "TABLE", "SHOW", "EXPLAIN", "DESCRIBE", "DESC", "CALL", "CHECK", "EXECUTE":
		return true
	}
	return strings.Contains(strings.ToUpper(text), "RETURNING") // of MariaDB
}

func (e *mysqlExecutor) savepoint(ctx context.Context, name string) error {
	return e.command(ctx, "SAVEPOINT "+pointPrefix+name)
}

func (e *mysqlExecutor) rollbackTo(ctx context.Context, name string) error {
	return e.command(ctx, "ROLLBACK TO SAVEPOINT "+pointPrefix+name)
}

func (e *mysqlExecutor) command(ctx context.Context, text string) error {
	tx, err := e.tx(ctx)
	if err == nil {
		_, err = tx.ExecContext(ctx, text)
	}
	return err
}

// mysqlArgument makes an argument that the driver sends without loss.
func mysqlArgument(v Value) any {
	switch v.Kind {
	case Null:
		return nil
	case Bool:
		return v.Text == "true"
	case Int:
		n, _ := strconv.ParseInt(v.Text, 10, 64) // Check has seen it
		return n
	case Uint:
		n, _ := strconv.ParseUint(v.Text, 10, 64)
		return n
	case Float:
		f, _ := strconv.ParseFloat(v.Text, 64)
		return f
	case Bytes:
		return []byte(v.Text)
	case Time:
		return strings.TrimSuffix(strings.Replace(v.Text, "T", " ", 1), "Z")
	}
	return v.Text
}

func readMySQL(rows *sql.Rows, limits Limits) (r Result, err error) {
	types, err := rows.ColumnTypes()
	if err != nil {
		return r, err
	}
	r.Affected = -1
	for _, t := range types {
		r.Columns = append(r.Columns, Column{Name: t.Name(), Type: strings.ToLower(t.DatabaseTypeName())})
	}
	fields, into := make([]any, len(types)), make([]any, len(types))
	for i := range fields {
		into[i] = &fields[i]
	}
	left := limits
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return r, err
		}
		row := make([]Value, len(types))
		for i, f := range fields {
			if row[i], err = mysqlValue(r.Columns[i].Type, f); err != nil {
				return r, fmt.Errorf("column %s: %w", r.Columns[i].Name, err)
			}
		}
		if err := r.add(row, &left); err != nil {
			return r, err
		}
	}
	return r, rows.Err()
}

func mysqlValue(kind string, field any) (Value, error) {
	switch f := field.(type) {
	case nil:
		return Value{}, nil
	case int64:
		return OfInt(f), nil
	case uint64:
		return ofNumber(strconv.FormatUint(f, 10)), nil
	case float64:
		return OfFloat(f), nil
	case float32: // the shortest text that is this number
		return Value{Float, strconv.FormatFloat(float64(f), 'g', -1, 32)}, nil
	case time.Time:
		return mysqlTime(kind, f.Format("2006-01-02 15:04:05.999999")), nil
	case []byte:
		return mysqlText(kind, string(f)), nil
	case string:
		return mysqlText(kind, f), nil
	}
	return Value{}, fmt.Errorf("a %T of type %s is not known to this version: cast it to char", field, kind)
}

func mysqlText(kind, text string) Value {
	switch {
	case kind == "decimal":
		return Value{Decimal, text}
	case strings.HasSuffix(kind, "int") || kind == "year":
		return ofNumber(text)
	case kind == "float" || kind == "double":
		return Value{Float, text}
	case kind == "json":
		return Value{JSON, text}
	case kind == "date" || kind == "datetime" || kind == "timestamp" || kind == "time":
		return mysqlTime(kind, text)
	case strings.HasSuffix(kind, "blob") || strings.HasSuffix(kind, "binary") || kind == "bit" || kind == "geometry":
		return Value{Bytes, text}
	}
	if v := OfText(text); v.Check() == nil {
		return v
	}
	return Value{Bytes, text}
}

// mysqlTime takes a date, a time or both. What no calendar has, such as 0000-00-00 or a time of 800
// hours, is text.
func mysqlTime(kind, text string) Value {
	if kind == "date" {
		text, _, _ = strings.Cut(text, " ")
	}
	v := Value{Time, strings.Replace(text, " ", "T", 1)}
	if v.Check() != nil || strings.HasPrefix(text, "0000-") {
		return Value{Text, text}
	}
	return v
}
