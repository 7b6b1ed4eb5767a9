// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
)

// bunOrder and bunInvoice are the rows with the tables' names, as bun wants them.
type bunOrder struct {
	bun.BaseModel `bun:"table:orders"`
	Order         `bun:",extend"`
}

type bunInvoice struct {
	bun.BaseModel `bun:"table:invoices"`
	Invoice       `bun:",extend"`
}

// withBun returns the work of two *bun.DB. The one for PostgreSQL has no connections; the one for MySQL has to be
// given some, for it asks the server's version. Conn says where a query runs, and must not be forgotten.
func withBun(pool *sql.DB) work {
	pg, my := bun.NewDB(nil, pgdialect.New()), bun.NewDB(pool, mysqldialect.New())
	return func(ctx context.Context, orders, billing *sql.Tx, o Order) error {
		return placeWithBun(ctx, pg, my, orders, billing, o)
	}
}

func placeWithBun(ctx context.Context, pg, my *bun.DB, orders, billing *sql.Tx, o Order) error {
	if _, err := pg.NewInsert().Conn(orders).Model(&bunOrder{Order: o}).Exec(ctx); err != nil {
		return err
	}
	if _, err := my.NewInsert().Conn(billing).Model(&bunInvoice{Invoice: Invoice{ID: o.ID, Cents: o.Cents,
		State: "new"}}).Exec(ctx); err != nil {
		return err
	}
	if err := savepoint(ctx, orders, func() error {
		_, err := pg.NewInsert().Conn(orders).Model(&bunOrder{Order: o}).Exec(ctx)
		return err
	}); !errors.Is(err, errTwice) {
		return err
	}
	if _, err := pg.NewUpdate().Conn(orders).Model((*bunOrder)(nil)).Set("state = ?", "billed").Where("id = ?",
		o.ID).Exec(ctx); err != nil {
		return err
	}
	_, err := my.NewUpdate().Conn(billing).Model((*bunInvoice)(nil)).Set("state = ?", "billed").Where("id = ?",
		o.ID).Exec(ctx)
	return err
}
