// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
	"github.com/jmoiron/sqlx/reflectx"
)

// overSqlx is a *sql.Tx with sqlx's names.
func overSqlx(tx *sql.Tx) *sqlx.Tx {
	return &sqlx.Tx{Tx: tx, Mapper: reflectx.NewMapper("db")}
}

func withSqlx(ctx context.Context, orders, billing *sql.Tx, o Order) error {
	pg, my := overSqlx(orders), overSqlx(billing)
	if _, err := pg.ExecContext(ctx, "insert into orders (id, cents, state) values ($1, $2, $3)", o.ID, o.Cents,
		o.State); err != nil {
		return err
	}
	if _, err := my.NamedExecContext(ctx, "insert into invoices (id, cents, state) values (:id, :cents, :state)",
		Invoice{ID: o.ID, Cents: o.Cents, State: "new"}); err != nil {
		return err
	}
	if err := savepoint(ctx, orders, func() error {
		_, err := pg.ExecContext(ctx, "insert into orders (id, cents, state) values ($1, $2, $3)", o.ID, o.Cents,
			o.State)
		return err
	}); !errors.Is(err, errTwice) {
		return err
	}
	var placed Order
	if err := pg.GetContext(ctx, &placed, "update orders set state = 'billed' where id = $1 returning id, cents, state",
		o.ID); err != nil {
		return err
	}
	_, err := my.ExecContext(ctx, "update invoices set state = 'billed' where id = ? and cents = ?", placed.ID,
		placed.Cents)
	return err
}

// savepoint does something that fails, and goes back to where it was before. What has
// transactions of its own inside of transactions, as gorm has, does the same.
func savepoint(ctx context.Context, tx *sql.Tx, do func() error) error {
	if _, err := tx.ExecContext(ctx, "savepoint twice"); err != nil {
		return err
	}
	if err := do(); err == nil {
		return nil
	}
	if _, err := tx.ExecContext(ctx, "rollback to savepoint twice"); err != nil {
		return err
	}
	return errTwice
}
