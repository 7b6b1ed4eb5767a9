// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Whatever call of the handle told the application of an error, the session knows it: so the
// global transaction can name the resource.
func TestTheSessionKnowsTheErrorsOfEveryCall(t *testing.T) {
	b := newBank(t)
	const twice = "insert into account values ($1, 1), ($1, 2)"
	for name, call := range map[string]func(pgx.Tx) error{
		"exec":         func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, twice, "k"); return err },
		"exec, simple": func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, "selec"); return err },
		"query":        func(tx pgx.Tx) error { rows, _ := tx.Query(b.ctx, twice, "k"); rows.Close(); return rows.Err() },
		"query row":    func(tx pgx.Tx) error { return tx.QueryRow(b.ctx, "select 1 / $1::int", 0).Scan(new(int)) },
		"scan":         func(tx pgx.Tx) error { return tx.QueryRow(b.ctx, "select 'x'::text").Scan(new(int)) },
		"batch":        func(tx pgx.Tx) error { q := &pgx.Batch{}; q.Queue(twice, "k"); return tx.SendBatch(b.ctx, q).Close() },
		"prepare":      func(tx pgx.Tx) error { _, err := tx.Prepare(b.ctx, "s", "selec"); return err },
		"argument":     func(tx pgx.Tx) error { _, err := tx.Exec(b.ctx, twice, struct{}{}); return err },
		"copy": func(tx pgx.Tx) error {
			_, err := tx.CopyFrom(b.ctx, pgx.Identifier{"nowhere"}, []string{"k"}, pgx.CopyFromRows(nil))
			return err
		},
		"savepoint": func(tx pgx.Tx) error { _, _ = tx.Exec(b.ctx, "selec"); _, err := tx.Begin(b.ctx); return err },
		"in a savepoint": func(tx pgx.Tx) error {
			n, err := tx.Begin(b.ctx)
			require.NoError(t, err)
			_, err = n.Exec(b.ctx, twice, "k")
			return err
		},
		"commit": func(tx pgx.Tx) error { _, _ = tx.Exec(b.ctx, "selec"); return tx.Commit(b.ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			s := b.begin(newXID())
			err := call(handleOf(t, s))
			require.Error(t, err)
			require.ErrorIs(t, fmt.Errorf("place the order: %w", err), s.Failure())
			require.NoError(t, s.Rollback(b.ctx))
			require.ErrorIs(t, err, s.Failure())
		})
	}
}
