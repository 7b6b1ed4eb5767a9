// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"fmt"
	"strings"

	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/participant/statement"
)

// OpenHosted opens the databases of an agent. Nothing is connected yet, but an embedded store is
// opened, and what a crash left unprepared in it undone. What was opened is returned in any case.
func OpenHosted(ctx context.Context, configs []Resource, sessions int) (list []statement.Database, err error) {
	for _, c := range configs {
		driver, err := ofAgent.driver(c)
		if err != nil {
			return list, fmt.Errorf("resource %s: %w", c.Name, err)
		}
		d, err := driver.agent(ctx, c, sessions)
		if err != nil {
			return list, err
		}
		list = append(list, d)
	}
	return list, nil
}

func hostPebble(_ context.Context, c Resource, _ int) (statement.Database, error) {
	r, err := pebble.Open(c.Name, c.Dir)
	if err != nil {
		return nil, err
	}
	return statement.Pebble(r), nil
}

func hostMySQL(_ context.Context, c Resource, sessions int) (statement.Database, error) {
	dsn, err := c.Secret()
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", c.Name, err)
	}
	r, err := mysql.OpenWithOptions(c.Name, dsn.Reveal(), mysql.Options{MaxOpen: sessions, Trust: c.Trust()})
	if err != nil {
		return nil, err
	}
	return statement.MySQL(r), nil
}

func hostPostgres(ctx context.Context, c Resource, sessions int) (statement.Database, error) {
	dsn, err := c.Secret()
	if err != nil {
		return nil, fmt.Errorf("resource %s: %w", c.Name, err)
	}
	r, err := postgres.Open(ctx, c.Name, withPool(dsn.Reveal(), sessions+spareConns), postgres.WithTrust(c.Trust()))
	if err != nil {
		return nil, err
	}
	return statement.Postgres(r), nil
}

// spareConns are connections beside those of branches, for what ends others and lists.
const spareConns = 4

// withPool gives a pool the room for all branches that may be open, unless the data source name
// says otherwise.
func withPool(dsn string, conns int) string {
	setting := fmt.Sprintf("pool_max_conns=%d", conns)
	switch {
	case strings.Contains(dsn, "pool_max_conns"):
		return dsn
	case !strings.Contains(dsn, "://"):
		return dsn + " " + setting
	case strings.Contains(dsn, "?"):
		return dsn + "&" + setting
	}
	return dsn + "?" + setting
}
