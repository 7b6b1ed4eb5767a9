// SPDX-License-Identifier: Apache-2.0

// Three books one order in three databases: PostgreSQL, MySQL and MariaDB.
//
//	go run ./examples/three -order 4711 -cents 1999
//
// It makes the tables that it needs. The databases and the cluster are those of
// docker-compose.yml; ORDERS_DSN, BILLING_DSN and LEDGER_DSN name them.
package main

import (
	"context"
	"database/sql"
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
	order := flag.Int64("order", time.Now().Unix(), "the number of the order")
	cents := flag.Int64("cents", 1999, "what it costs")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	id, err := book(ctx, strings.Split(*addrs, ","), *order, *cents)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("order %d is booked everywhere, by transaction %s\n", *order, id)
}

func book(ctx context.Context, addrs []string, order, cents int64) (id concord.ID, err error) {
	pool, err := pgxpool.New(ctx, os.Getenv("ORDERS_DSN"))
	if err != nil {
		return id, fmt.Errorf("ORDERS_DSN: %w", err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS booked (id bigint PRIMARY `+
		`KEY, cents bigint NOT NULL)`); err != nil {
		return id, fmt.Errorf("make the table in orders: %w", err)
	}
	billing, err := open(ctx, "billing", os.Getenv("BILLING_DSN"))
	if err != nil {
		return id, err
	}
	defer func() { _ = billing.Close() }()
	ledger, err := open(ctx, "ledger", os.Getenv("LEDGER_DSN"))
	if err != nil {
		return id, err
	}
	defer func() { _ = ledger.Close() }()
	client, err := concord.Dial(ctx, addrs, concord.FromEnvironment())
	if err != nil {
		return id, err
	}
	defer func() { _ = client.Close() }()
	orders := postgres.New("orders", pool)

	err = client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := pg.Exec(ctx, `INSERT INTO booked VALUES ($1, $2)`, order, cents); err != nil {
			return err
		}
		// One order of databases everywhere: two transactions that wait for each other's rows in
		// two databases are a deadlock that neither database sees.
		for _, r := range []*mysql.Resource{billing, ledger} {
			my, err := r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := my.ExecContext(ctx, `INSERT INTO booked VALUES (?, ?)`, order, cents); err != nil {
				return err
			}
		}
		return nil
	}, concord.WithLabel(fmt.Sprintf("order %d", order)))
	return id, err
}

// open makes the table, outside of any transaction, and the resource.
func open(ctx context.Context, name, dsn string) (*mysql.Resource, error) {
	config, err := mysqldriver.ParseDSN(dsn)
	if err != nil {
		return nil, fmt.Errorf("the DSN of %s: %w", name, err)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, fmt.Errorf("the DSN of %s: %w", name, err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS booked (id bigint PRIMARY KEY, cents bigint NOT `+
		`NULL) ENGINE = InnoDB`); err != nil {
		return nil, fmt.Errorf("make the table in %s: %w", name, err)
	}
	return mysql.New(name, connector), nil
}
