// SPDX-License-Identifier: Apache-2.0

package statement

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/postgres"
)

// Postgres makes the branches of a PostgreSQL database take statements.
func Postgres(r *postgres.Resource) Database {
	return database{r, func(s adapters.Session) executor { return &postgresExecutor{r, s} }}
}

type postgresExecutor struct {
	r *postgres.Resource
	s adapters.Session
}

func (e *postgresExecutor) refuse(text string) error { return refusePostgres(text) }

func (e *postgresExecutor) tx(ctx context.Context) (pgx.Tx, error) {
	return e.r.Tx(ctx, enlisted{e.s})
}

// postgresFormats asks for text, which every type has and which is exact, except where a setting of
// the session changes how the text looks.
var postgresFormats = pgx.QueryResultFormatsByOID{
	pgtype.ByteaOID:       pgx.BinaryFormatCode,
	pgtype.DateOID:        pgx.BinaryFormatCode,
	pgtype.TimestampOID:   pgx.BinaryFormatCode,
	pgtype.TimestamptzOID: pgx.BinaryFormatCode,
}

func (e *postgresExecutor) execute(ctx context.Context, w Work, limits Limits) (Result, error) {
	tx, err := e.tx(ctx)
	if err != nil {
		return Result{}, err
	}
	var args []any
	if hasRows(w.Text) { // wishes of the format cost the first statement of a branch a round trip
		args = append(args, postgresFormats)
	}
	for _, v := range w.Args {
		args = append(args, postgresArgument(v))
	}
	// Query, not Exec: that would take several statements when there are no arguments.
	rows, err := tx.Query(ctx, w.Text, args...)
	if err != nil {
		return Result{}, postgresError(err)
	}
	r, err := readPostgres(rows, limits)
	rows.Close()
	if err == nil {
		err = rows.Err()
	}
	if err != nil {
		return Result{}, postgresError(err)
	}
	r.Affected = rows.CommandTag().RowsAffected()
	return r, nil
}

// hasRows reports whether a text may answer with rows.
func hasRows(text string) bool {
	words, _ := postgresDialect.read(text)
	switch words[0] { // refuse has seen that there is one
	case "INSERT", "UPDATE", "DELETE", "MERGE":
		return strings.Contains(strings.ToUpper(text), "RETURNING")
	}
	return true
}

func (e *postgresExecutor) savepoint(ctx context.Context, name string) error {
	return e.command(ctx, "savepoint "+pointPrefix+name)
}

func (e *postgresExecutor) rollbackTo(ctx context.Context, name string) error {
	return e.command(ctx, "rollback to savepoint "+pointPrefix+name)
}

func (e *postgresExecutor) command(ctx context.Context, text string) error {
	tx, err := e.tx(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, text)
	}
	return postgresError(err)
}

// postgresError leaves away what pgx puts before the words of the server.
func postgresError(err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := err.(*pgconn.PgError); ok {
		if pg.Hint != "" {
			return fmt.Errorf("%w; %s", err, pg.Hint)
		}
	}
	return err
}

// postgresArgument sends text, which the server reads as what the place wants: so it is the server
// that says that a value does not fit.
func postgresArgument(v Value) any {
	switch v.Kind {
	case Null:
		return nil
	case Bytes:
		return []byte(v.Text)
	}
	return v.Text
}

func readPostgres(rows pgx.Rows, limits Limits) (r Result, err error) {
	fields := rows.FieldDescriptions()
	for _, f := range fields {
		r.Columns = append(r.Columns, Column{Name: f.Name, Type: postgresType(f.DataTypeOID)})
	}
	left := limits
	for rows.Next() {
		raw := rows.RawValues()
		row := make([]Value, len(raw))
		for i := range raw {
			if row[i], err = postgresValue(fields[i], raw[i]); err != nil {
				return r, fmt.Errorf("column %s: %w", fields[i].Name, err)
			}
		}
		if err := r.add(row, &left); err != nil {
			return r, err
		}
	}
	return r, nil
}

var postgresTypes = map[uint32]string{
	pgtype.BoolOID: "boolean", pgtype.Int2OID: "smallint", pgtype.Int4OID: "integer", pgtype.Int8OID: "bigint",
	pgtype.Float4OID: "real", pgtype.Float8OID: "double precision", pgtype.NumericOID: "numeric",
	pgtype.TextOID:    "text",
	pgtype.VarcharOID: "character varying", pgtype.BPCharOID: "character", pgtype.ByteaOID: "bytea",
	pgtype.DateOID: "date",
	pgtype.TimeOID: "time", pgtype.TimetzOID: "time with time zone", pgtype.TimestampOID: "timestamp",
	pgtype.TimestamptzOID: "timestamp with time zone", pgtype.IntervalOID: "interval", pgtype.UUIDOID: "uuid",
	pgtype.JSONOID: "json", pgtype.JSONBOID: "jsonb", pgtype.OIDOID: "oid", pgtype.NameOID: "name",
}

func postgresType(oid uint32) string {
	if name, ok := postgresTypes[oid]; ok {
		return name
	}
	return fmt.Sprintf("oid %d", oid)
}

func postgresValue(f pgconn.FieldDescription, raw []byte) (Value, error) {
	if raw == nil {
		return Value{}, nil
	}
	text := string(raw)
	if f.Format == pgx.BinaryFormatCode {
		return postgresBinary(f.DataTypeOID, raw)
	}
	switch f.DataTypeOID {
	case pgtype.BoolOID:
		return OfBool(text == "t"), nil
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID, pgtype.OIDOID:
		return Value{Int, text}, nil
	case pgtype.Float4OID, pgtype.Float8OID:
		f, err := strconv.ParseFloat(text, 64)
		return OfFloat(f), err
	case pgtype.NumericOID:
		if text == "NaN" || strings.HasSuffix(text, "Infinity") {
			return Value{Text, text}, nil
		}
		return Value{Decimal, text}, nil
	case pgtype.TimeOID, pgtype.TimetzOID:
		return Value{Time, postgresZone(text)}, nil
	case pgtype.JSONOID, pgtype.JSONBOID:
		return Value{JSON, text}, nil
	}
	return Value{Text, text}, nil
}

// postgresZone completes an offset of hours alone: RFC 3339 wants minutes.
func postgresZone(text string) string {
	if i := strings.LastIndexAny(text, "+-"); i > 0 && len(text)-i == 3 {
		return text + ":00"
	}
	return text
}

// postgresEpoch is where dates and times of PostgreSQL count from.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// postgresBinary reads what postgresFormats asks for.
func postgresBinary(oid uint32, raw []byte) (Value, error) {
	infinite := func(up bool) (Value, error) {
		if up {
			return Value{Text, "infinity"}, nil
		}
		return Value{Text, "-infinity"}, nil
	}
	switch {
	case oid == pgtype.ByteaOID:
		return OfBytes(raw), nil
	case oid == pgtype.DateOID && len(raw) == 4:
		days := int32(binary.BigEndian.Uint32(raw))
		if days == math.MaxInt32 || days == math.MinInt32 {
			return infinite(days > 0)
		}
		return Value{Time, postgresEpoch.AddDate(0, 0, int(days)).Format(time.DateOnly)}, nil
	case (oid == pgtype.TimestampOID || oid == pgtype.TimestamptzOID) && len(raw) == 8:
		micros := int64(binary.BigEndian.Uint64(raw))
		if micros == math.MaxInt64 || micros == math.MinInt64 {
			return infinite(micros > 0)
		}
		layout := "2006-01-02T15:04:05.999999"
		if oid == pgtype.TimestamptzOID {
			layout += "Z"
		}
		at := time.UnixMicro(postgresEpoch.UnixMicro() + micros).UTC()
		return Value{Time, at.Format(layout)}, nil
	}
	return Value{}, fmt.Errorf("a value of type %d came in a form that was not asked for: cast it to text", oid)
}
