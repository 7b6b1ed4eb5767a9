// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"

	"github.com/aarondl/sqlboiler/v4/boil"
	"github.com/aarondl/sqlboiler/v4/queries"
)

// withBoil works with sqlboiler's executor, which every method of a generated model takes.
func withBoil(ctx context.Context, orders, billing *sql.Tx, o Order) error {
	var pg, my boil.ContextExecutor = orders, billing
	create := func() error {
		_, err := queries.Raw("insert into orders (id, cents, state) values ($1, $2, $3)", o.ID, o.Cents,
			o.State).ExecContext(ctx, pg)
		return err
	}
	if err := create(); err != nil {
		return err
	}
	if _, err := queries.Raw("insert into invoices (id, cents, state) values (?, ?, 'new')", o.ID,
		o.Cents).ExecContext(ctx, my); err != nil {
		return err
	}
	if err := savepoint(ctx, orders, create); !errors.Is(err, errTwice) {
		return err
	}
	var placed Order
	if err := queries.Raw("update orders set state = 'billed' where id = $1 returning id, cents, state", o.ID).Bind(ctx,
		pg, &placed); err != nil {
		return err
	}
	_, err := queries.Raw("update invoices set state = 'billed' where id = ? and cents = ?", placed.ID,
		placed.Cents).ExecContext(ctx, my)
	return err
}
