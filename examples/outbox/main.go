// SPDX-License-Identifier: Apache-2.0

// Outbox handles a request at most once, however often it is sent: the request's own key
// is a row in the same transaction as its effects, in both databases.
//
//	go run ./examples/outbox -request 7f3a -item book
//	go run ./examples/outbox -request 7f3a -item book     # "was handled before", and nothing changes
//
// The order goes into orders (PostgreSQL), the message about it into the outbox in billing
// (MySQL or MariaDB), from where a sender of yours takes it. ORDERS_DSN and BILLING_DSN name
// them. It makes the tables that it needs.
package main

import (
	"context"
	"database/sql"
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

var errHandled = errors.New("the request was handled before")

func main() {
	addrs := flag.String("addr", "127.0.0.1:7420", "API addresses of the cluster, separated by commas")
	request := flag.String("request", "", "the key of the request, chosen by whoever sends it")
	item := flag.String("item", "book", "what is ordered")
	flag.Parse()
	if *request == "" {
		log.Fatal("-request is missing: give the request a key of its own")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch err := handle(ctx, strings.Split(*addrs, ","), *request, *item); {
	case errors.Is(err, errHandled):
		fmt.Println("was handled before")
	case err != nil:
		// Also for an unknown outcome it is safe to send the same request again: its key decides.
		log.Fatal(err)
	default:
		fmt.Println("handled")
	}
}

func handle(ctx context.Context, addrs []string, request, item string) error {
	pool, err := pgxpool.New(ctx, os.Getenv("ORDERS_DSN"))
	if err != nil {
		return fmt.Errorf("ORDERS_DSN: %w", err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS item_order (request text PRIMARY KEY, item text NOT `+
		`NULL)`); err != nil {
		return fmt.Errorf("make the table in orders: %w", err)
	}
	config, err := mysqldriver.ParseDSN(os.Getenv("BILLING_DSN"))
	if err != nil {
		return fmt.Errorf("BILLING_DSN: %w", err)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return fmt.Errorf("BILLING_DSN: %w", err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS outbox (request varchar(64) PRIMARY KEY, message `+
		`text NOT NULL) ENGINE = InnoDB`); err != nil {
		return fmt.Errorf("make the table in billing: %w", err)
	}
	client, err := concord.Dial(ctx, addrs, concord.FromEnvironment())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	orders, billing := postgres.New("orders", pool), mysql.New("billing", connector)
	defer func() { _ = billing.Close() }()

	return client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		in, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		tag, err := in.Exec(ctx, `INSERT INTO item_order VALUES ($1, $2) ON CONFLICT DO NOTHING`, request, item)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return errHandled
		}
		out, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = out.ExecContext(ctx, `INSERT INTO outbox VALUES (?, ?)`, request, "ordered: "+item)
		return err
	})
}
