// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
)

// withEnt works with ent's driver, which is what a generated client is given:
// ent.NewClient(ent.Driver(entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: tx}))).
func withEnt(ctx context.Context, orders, billing *sql.Tx, o Order) error {
	pg := entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: orders})
	my := entsql.NewDriver(dialect.MySQL, entsql.Conn{ExecQuerier: billing})
	create := func(d *entsql.Driver, table, state string) error {
		query, args := entsql.Dialect(d.Dialect()).Insert(table).Columns("id", "cents", "state").Values(o.ID, o.Cents,
			state).Query()
		return d.Exec(ctx, query, args, nil)
	}
	bill := func(d *entsql.Driver, table string) error {
		query, args := entsql.Dialect(d.Dialect()).Update(table).Set("state",
			"billed").Where(entsql.EQ("id", o.ID)).Query()
		return d.Exec(ctx, query, args, nil)
	}
	if err := errors.Join(create(pg, "orders", o.State), create(my, "invoices", "new")); err != nil {
		return err
	}
	if err := savepoint(ctx, orders, func() error { return create(pg, "orders", o.State) }); !errors.Is(err, errTwice) {
		return err
	}
	return errors.Join(bill(pg, "orders"), bill(my, "invoices"))
}
