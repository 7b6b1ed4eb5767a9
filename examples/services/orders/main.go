// SPDX-License-Identifier: Apache-2.0

// Orders takes money from an account in its own database, of PostgreSQL, and lets another service,
// examples/services/billing, put it into one of that service's: both happen, or neither does.
//
//	go run ./examples/services/orders -from alice -to bob -cents 500 -billing http://127.0.0.1:8081
//
// It expects a table account(id, cents) in the database that ORDERS_DSN names, and a running cluster, as
// docker-compose.yml has them.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/concordhttp"
)

func main() {
	addrs := flag.String("addr", "127.0.0.1:7420", "API addresses of the cluster, separated by commas")
	from := flag.String("from", "alice", "the account in orders")
	to := flag.String("to", "bob", "the account in billing")
	cents := flag.Int("cents", 500, "how much")
	billing := flag.String("billing", "http://127.0.0.1:8081", "where the other service is")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, strings.Split(*addrs, ","), *billing, *from, *to, *cents); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("moved %d cents from %s to %s\n", *cents, *from, *to)
}

func run(ctx context.Context, addrs []string, billing, from, to string, cents int) error {
	pool, err := pgxpool.New(ctx, os.Getenv("ORDERS_DSN"))
	if err != nil {
		return fmt.Errorf("ORDERS_DSN: %w", err)
	}
	defer pool.Close()
	client, err := concord.Dial(ctx, addrs, concord.FromEnvironment())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // always nil
	orders := postgres.New("orders", pool)
	web := &http.Client{Transport: concordhttp.Transport(nil)}

	return client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
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
		return deposit(ctx, web, billing, to, cents)
	})
}

// deposit calls the other service: the context carries the transaction.
func deposit(ctx context.Context, web *http.Client, billing, to string, cents int) error {
	query := url.Values{"to": {to}, "cents": {strconv.Itoa(cents)}}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, billing+"/deposit?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	res, err := web.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // it has been read
	text, err := io.ReadAll(io.LimitReader(res.Body, 1024))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("billing: %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return err
}
