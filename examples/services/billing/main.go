// SPDX-License-Identifier: Apache-2.0

// Billing is a service that puts money into accounts of its own database, of MySQL or MariaDB. It joins the
// transactions of those who call it, as examples/services/orders does; a call without a transaction is one of its own.
//
//	go run ./examples/services/billing -listen 127.0.0.1:8081
//	curl -d '' '127.0.0.1:8081/deposit?to=bob&cents=500'
//
// It expects a table account(id, cents) in the database that BILLING_DSN names, and a running cluster, as
// docker-compose.yml has them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	mysqldriver "github.com/go-sql-driver/mysql"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/concordhttp"
)

func main() {
	addrs := flag.String("addr", "127.0.0.1:7420", "API addresses of the cluster, separated by commas")
	listen := flag.String("listen", "127.0.0.1:8081", "where to serve")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, strings.Split(*addrs, ","), *listen); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, addrs []string, listen string) error {
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
	billing := mysql.New("billing", connector)
	defer func() { _ = billing.Close() }() // its sessions; the outcome does not depend on it

	mux := http.NewServeMux()
	mux.Handle("POST /deposit", &deposits{client, billing})
	web := &http.Server{Handler: concordhttp.Middleware(client)(mux), ReadHeaderTimeout: 10 * time.Second}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = web.Close() }) // Serve says that it has ended
	fmt.Println("billing serves at", l.Addr())
	if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type deposits struct {
	client  *concord.Client
	billing *mysql.Resource
}

var errNoAccount = errors.New("there is no such account")

// ServeHTTP puts money into an account. With the context of the request Run joins the transaction of the caller, if it
// came in one.
func (d *deposits) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := d.client.Run(r.Context(), func(ctx context.Context, tx *concord.Tx) error {
		my, err := d.billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		result, err := my.ExecContext(ctx, `UPDATE account SET cents = cents + ? WHERE id = ?`, r.FormValue("cents"),
			r.FormValue("to"))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errNoAccount, err)
		}
		return nil
	})
	switch {
	case errors.Is(err, errNoAccount):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
