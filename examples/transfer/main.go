// SPDX-License-Identifier: Apache-2.0

// Transfer moves money from a PostgreSQL database to a MySQL or MariaDB one: both
// accounts change, or neither does.
//
//	go run ./examples/transfer -from alice -to bob -cents 500
//
// It expects a table account(id, cents) in both databases and a running cluster whose
// resources are named orders and billing, as docker-compose.yml has them. Its own
// connections come from ORDERS_DSN and BILLING_DSN. CONCORD_CERTS_DIR and CONCORD_USER say who it is, where
// nodes ask.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
)

func main() {
	addrs := flag.String("addr", "127.0.0.1:7420", "API addresses of the cluster, separated by commas")
	from := flag.String("from", "alice", "the account in orders")
	to := flag.String("to", "bob", "the account in billing")
	cents := flag.Int64("cents", 500, "how much")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, strings.Split(*addrs, ","), *from, *to, *cents); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("moved %d cents from %s to %s\n", *cents, *from, *to)
}

func run(ctx context.Context, addrs []string, from, to string, cents int64) error {
	pool, err := pgxpool.New(ctx, os.Getenv("ORDERS_DSN"))
	if err != nil {
		return fmt.Errorf("ORDERS_DSN: %w", err)
	}
	defer pool.Close()
	dsn, err := mysqldriver.ParseDSN(os.Getenv("BILLING_DSN"))
	if err != nil {
		return fmt.Errorf("BILLING_DSN: %w", err)
	}
	connector, err := mysql.NewConnector(dsn)
	if err != nil {
		return fmt.Errorf("BILLING_DSN: %w", err)
	}
	client, err := concord.Dial(ctx, addrs, concord.FromEnvironment())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // always nil
	orders := postgres.New("orders", pool)
	billing := mysql.New("billing", connector)
	defer func() { _ = billing.Close() }() // its sessions; the outcome does not depend on it

	err = client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		tag, err := pg.Exec(ctx, `UPDATE account SET cents = cents - $1 WHERE id = $2 AND cents >= $1`, cents, from)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("%s does not have %d cents", from, cents)
		}
		my, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		result, err := my.ExecContext(ctx, `UPDATE account SET cents = cents + ? WHERE id = ?`, cents, to)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(fmt.Errorf("there is no account %s", to), err)
		}
		return nil
	}, concord.WithLabel(fmt.Sprintf("%s to %s", from, to)))
	return err
}
