// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/concordtx/concord/adapters"
	remote "github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
)

// The resources. The SQL databases are reached by the sessions of clients, the others through the agent, which
// alone reaches them. Everybody uses them in this order, except for those who look for a deadlock.
const (
	orders  = "orders"  // PostgreSQL
	billing = "billing" // MariaDB
	stock   = "stock"   // MySQL
	desk    = "desk"    // another database of the PostgreSQL server, behind the agent
	ledger  = "ledger"  // an embedded store, behind the agent
)

var (
	sqlNames   = []string{orders, billing, stock}
	agentNames = []string{desk, ledger}
	allNames   = []string{orders, billing, stock, desk, ledger}
)

const (
	accounts = 50
	opening  = 1000 // the balance of each account at the beginning; in the ledger 0
	lists    = 18   // list k is in SQL database k mod 3
	mostOpen = 12   // sessions of one client process in one database
)

// place is one resource as a client works with it. Statements have ? for their arguments.
type place interface {
	name() string
	exec(ctx context.Context, g adapters.Global, statement string, args ...any) error
	// first returns the first column of all rows.
	first(ctx context.Context, g adapters.Global, statement string, args ...any) ([]string, error)
	opener() adapters.Opener
}

type postgresPlace struct{ *postgres.Resource }

func openPostgres(name, dsn string) (place, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	config.MaxConns = mostOpen
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return nil, err
	}
	return postgresPlace{postgres.New(name, pool)}, nil
}

// dollars makes $1, $2 of ?, ?.
func dollars(statement string) string {
	var b strings.Builder
	n := 0
	for _, c := range statement {
		if c == '?' {
			n++
			b.WriteString("$" + strconv.Itoa(n))
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (p postgresPlace) name() string            { return p.Name() }
func (p postgresPlace) opener() adapters.Opener { return p.Resource }

func (p postgresPlace) exec(ctx context.Context, g adapters.Global, statement string, args ...any) error {
	tx, err := p.Tx(ctx, g)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, dollars(statement), args...)
	return err
}

func (p postgresPlace) first(ctx context.Context, g adapters.Global, statement string, args ...any) ([]string, error) {
	tx, err := p.Tx(ctx, g)
	if err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, dollars(statement), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return nil, err
		}
		all = append(all, fmt.Sprint(values[0]))
	}
	return all, rows.Err()
}

type mysqlPlace struct{ *mysql.Resource }

func openMySQL(name, dsn string) (place, error) {
	config, err := sqldriver.ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	config.Logger = &sqldriver.NopLogger{} // servers are killed here
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return mysqlPlace{mysql.New(name, connector)}, nil
}

func (p mysqlPlace) name() string            { return p.Name() }
func (p mysqlPlace) opener() adapters.Opener { return p.Resource }

func (p mysqlPlace) exec(ctx context.Context, g adapters.Global, statement string, args ...any) error {
	tx, err := p.Tx(ctx, g)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, statement, args...)
	return err
}

func (p mysqlPlace) first(ctx context.Context, g adapters.Global, statement string, args ...any) ([]string, error) {
	tx, err := p.Tx(ctx, g)
	if err != nil {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// agentPlace is a resource behind the agent: SQL of PostgreSQL, or commands of the embedded store.
type agentPlace struct{ *remote.Resource }

func openAgent(name, addr string) (place, error) {
	caller, err := remote.Dial(addr)
	if err != nil {
		return nil, err
	}
	return agentPlace{remote.New(name, caller)}, nil
}

func (p agentPlace) name() string            { return p.Name() }
func (p agentPlace) opener() adapters.Opener { return p.Resource }

func (p agentPlace) exec(ctx context.Context, g adapters.Global, statement string, args ...any) error {
	_, err := p.first(ctx, g, statement, args...)
	return err
}

func (p agentPlace) first(ctx context.Context, g adapters.Global, statement string, args ...any) ([]string, error) {
	tx, err := p.Tx(ctx, g)
	if err != nil {
		return nil, err
	}
	if p.Name() == desk {
		statement = dollars(statement)
	}
	r, err := tx.Execute(ctx, remote.Statement{Text: statement, Args: args})
	if err != nil {
		return nil, err
	}
	var all []string
	for _, row := range r.Rows {
		if b, ok := row[0].([]byte); ok {
			all = append(all, string(b))
			continue
		}
		all = append(all, fmt.Sprint(row[0]))
	}
	return all, nil
}
