// SPDX-License-Identifier: Apache-2.0

// Command try starts the databases of the tests for a trial by hand: a PostgreSQL and a
// MariaDB (or, with -mysql, a MySQL) in a temporary folder. It writes a file that
// "concord demo --config" and "concord-bench transfer --config" take, and stops the
// servers when it is interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/concordtx/concord/internal/testdb"
)

func main() {
	file := flag.String("config", "try.yaml", "where to write the resources")
	mysql := flag.Bool("mysql", false, "MySQL instead of MariaDB")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *file, *mysql); err != nil {
		fmt.Fprintln(os.Stderr, "try:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, file string, mysql bool) (err error) {
	orders, err := testdb.Start(testdb.FlavorPostgres, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, orders.Close()) }()
	flavor := testdb.FlavorMariaDB
	if mysql {
		flavor = testdb.FlavorMySQL
	}
	billing, err := testdb.Start(flavor, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, billing.Close()) }()
	if err := orders.Exec(ctx, "", "CREATE DATABASE orders"); err != nil {
		return err
	}
	if err := billing.Exec(ctx, "", "CREATE DATABASE billing"); err != nil {
		return err
	}
	text := fmt.Sprintf("resources:\n  - {name: orders, driver: postgres, dsn: %q}\n  - {name: billing, driver: "+
		"mysql, dsn: %q}\n",
		orders.DSN("orders"), billing.DSN("billing"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	fmt.Printf("%s %s and %s %s run; their resources are in %s; interrupt to stop them\n", orders.Flavor(),
		orders.Version(), billing.Flavor(), billing.Version(), file)
	<-ctx.Done()
	return nil
}
