// SPDX-License-Identifier: Apache-2.0

// Retry shows what to do with each answer of a transaction: repeat what was aborted by
// a cause that passes, settle what is unknown, and give up on what cannot succeed.
//
//	go run ./examples/retry -id alice -cents 100
//
// It changes account(id, cents) in the resources orders (PostgreSQL) and billing (MySQL or
// MariaDB), which ORDERS_DSN and BILLING_DSN name.
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
	id := flag.String("id", "alice", "the account")
	cents := flag.Int64("cents", 100, "what is added in orders and taken in billing")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, os.Getenv("ORDERS_DSN"))
	if err != nil {
		log.Fatal("ORDERS_DSN: ", err)
	}
	defer pool.Close()
	config, err := mysqldriver.ParseDSN(os.Getenv("BILLING_DSN"))
	if err != nil {
		log.Fatal("BILLING_DSN: ", err)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		log.Fatal("BILLING_DSN: ", err)
	}
	orders, billing := postgres.New("orders", pool), mysql.New("billing", connector)
	defer func() { _ = billing.Close() }()
	client, err := concord.Dial(ctx, strings.Split(*addrs, ","), concord.FromEnvironment())
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	err = untilSettled(ctx, client, func(ctx context.Context, tx *concord.Tx) error {
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := pg.Exec(ctx, `UPDATE account SET cents = cents + $1 WHERE id = $2`, *cents, *id); err != nil {
			return err
		}
		my, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = my.ExecContext(ctx, `UPDATE account SET cents = cents - ? WHERE id = ?`, *cents, *id)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("done, once")
}

// untilSettled runs work until it is committed, or certainly is not and would fail again. What
// passes Run itself does again; what is left are outcomes that it could not learn.
func untilSettled(ctx context.Context, c *concord.Client, work func(context.Context, *concord.Tx) error) error {
	for {
		err := c.Run(ctx, work, concord.WithRetry(concord.RetryPolicy{}))
		var unknown *concord.UnknownError
		if errors.Is(err, concord.ErrAborted) || !errors.As(err, &unknown) || unknown.GID.IsZero() {
			return err // what an abort wraps may be about a transaction that work has begun
		}
		// It may be committed, so it must not be repeated before that is known.
		outcome, ask := c.Outcome(ctx, unknown.GID)
		switch {
		case ask != nil:
			return errors.Join(err, ask)
		case outcome == concord.Committed:
			return nil
		case outcome != concord.Aborted:
			return fmt.Errorf("it ended as %v, and a person has to look: %w", outcome, err)
		}
		log.Print("once more: ", err)
	}
}
