// SPDX-License-Identifier: Apache-2.0

package orm

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/concordtest"
)

// libraries are all of them, with a pool for the one that wants one.
func libraries(pool *sql.DB) map[string]work {
	return map[string]work{"gorm": withGorm, "sqlx": withSqlx, "bun": withBun(pool), "ent": withEnt,
		"sqlboiler": withBoil}
}

const columns = "(id varchar(40) primary key, cents bigint not null, state varchar(20) not null)"

func TestEveryLibraryWorksInOneTransactionOnTwoDatabases(t *testing.T) {
	for name, billing := range map[string]*concordtest.MySQLDatabase{"MariaDB": concordtest.MariaDB("billing"),
		"MySQL": concordtest.MySQL("billing")} {
		t.Run(name, func(t *testing.T) {
			orders := concordtest.Postgres("orders")
			c := concordtest.New(t, orders, billing)
			orders.Exec("create table orders " + columns)
			billing.Exec("create table invoices " + columns)
			shop := &Shop{Client: c.Client(), Orders: orders.Resource(), Billing: billing.Resource()}
			rows := func(id string) (all []string) {
				t.Helper()
				var state string
				if orders.Pool().QueryRow(t.Context(), "select state from orders where id = $1",
					id).Scan(&state) == nil {
					all = append(all, "order "+state)
				}
				if billing.DB().QueryRowContext(t.Context(), "select state from invoices where id = ?",
					id).Scan(&state) == nil {
					all = append(all, "invoice "+state)
				}
				return all
			}
			for library, w := range libraries(billing.DB()) {
				t.Run(library, func(t *testing.T) {
					o := Order{ID: library, Cents: 500, State: "new"}
					require.NoError(t, shop.place(t.Context(), o, w))
					require.Equal(t, []string{"order billed", "invoice billed"}, rows(library))

					err := shop.place(t.Context(), o, w)
					require.ErrorIs(t, err, concord.ErrAborted, "the order is there already")
					var aborted *concord.AbortedError
					require.ErrorAs(t, err, &aborted)
					require.Equal(t, "orders", aborted.Resource)

					c.FailVote("billing")
					o.ID += " aborted"
					require.ErrorIs(t, shop.place(t.Context(), o, w), concordtest.ErrVote)
					require.Empty(t, rows(o.ID), "an abort leaves nothing")
				})
			}
		})
	}
}

// How to find work that was handed a pool instead of the branch: let the transaction fail at its end, and see
// what is there all the same.
func TestWorkPastTheBranchIsSeenAfterAnAbort(t *testing.T) {
	orders, billing := concordtest.Postgres("orders"), concordtest.MariaDB("billing")
	c := concordtest.New(t, orders, billing)
	orders.Exec("create table orders " + columns)
	billing.Exec("create table invoices " + columns)
	shop := &Shop{Client: c.Client(), Orders: orders.Resource(), Billing: billing.Resource()}
	atTheEnd := errors.New("the test wants an abort")
	err := shop.place(t.Context(), Order{ID: "7", Cents: 500, State: "new"},
		func(ctx context.Context, orders, _ *sql.Tx, o Order) error {
			if _, err := orders.ExecContext(ctx, "insert into orders values ($1, $2, $3)", o.ID, o.Cents,
				o.State); err != nil {
				return err
			}
			if _, err := billing.DB().ExecContext(ctx, "insert into invoices values (?, ?, 'new')", o.ID,
				o.Cents); err != nil {
				// the mistake
				return err
			}
			return atTheEnd
		})
	require.ErrorIs(t, err, atTheEnd)
	var n int
	require.NoError(t, orders.Pool().QueryRow(t.Context(), "select count(*) from orders").Scan(&n))
	require.Zero(t, n)
	require.NoError(t, billing.DB().QueryRowContext(t.Context(), "select count(*) from invoices").Scan(&n))
	require.Equal(t, 1, n, "it is there, although the transaction was aborted")
}
