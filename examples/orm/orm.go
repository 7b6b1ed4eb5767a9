// SPDX-License-Identifier: Apache-2.0

// Package orm does the same work with five libraries: an order in PostgreSQL and its invoice in MySQL or
// MariaDB, in one transaction. Each of them gets the *sql.Tx of a branch, and, if it can do without, no pool: so it
// cannot work past the transaction by mistake.
//
// It is a module of its own, so that nobody who uses concord gets these libraries along.
package orm

import (
	"context"
	"database/sql"
	"errors"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
)

// Order is a row in PostgreSQL, and Invoice one in MySQL or MariaDB. Both tables have an id, an amount and
// a state.
type Order struct {
	ID    string `db:"id" boil:"id" bun:"id,pk" gorm:"primaryKey"`
	Cents int64  `db:"cents" boil:"cents" bun:"cents"`
	State string `db:"state" boil:"state" bun:"state"`
}

// TableName is for gorm.
func (Order) TableName() string { return "orders" }

// Invoice is the bill of an order.
type Invoice struct {
	ID    string `db:"id" boil:"id" bun:"id,pk" gorm:"primaryKey"`
	Cents int64  `db:"cents" boil:"cents" bun:"cents"`
	State string `db:"state" boil:"state" bun:"state"`
}

// TableName is for gorm.
func (Invoice) TableName() string { return "invoices" }

// Shop is the application: a client, and the databases that it works through.
type Shop struct {
	Client  *concord.Client
	Orders  *postgres.Resource
	Billing *mysql.Resource
}

// errTwice undoes the inner transaction of each work: an order is placed once.
var errTwice = errors.New("placed twice")

// work is what one library does: it creates order and invoice, tries to create the order once more in an
// inner transaction (a savepoint), which fails and takes nothing else along, and marks both as billed.
type work func(ctx context.Context, orders, billing *sql.Tx, o Order) error

// place runs a work in one transaction.
func (s *Shop) place(ctx context.Context, o Order, w work) error {
	return s.Client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		orders, err := s.Orders.SQLTx(ctx, tx)
		if err != nil {
			return err
		}
		billing, err := s.Billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		return w(ctx, orders, billing, o)
	})
}
