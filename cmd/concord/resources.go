// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
)

// openResources opens the recovery half of every configured database. Nothing is
// connected yet: a database that is down must not keep a node from starting.
func openResources(ctx context.Context, configs []resourceConfig) (out []adapters.Resource, err error) {
	defer func() {
		if err != nil {
			closeResources(out)
		}
	}()
	for _, c := range configs {
		r, err := openResource(ctx, c)
		if err != nil {
			return out, fmt.Errorf("resource %s: %w", c.Name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func openResource(ctx context.Context, c resourceConfig) (adapters.Resource, error) {
	if c.Driver == agent.Driver {
		client, err := agent.Dial(c.Addr)
		if err != nil {
			return nil, err
		}
		return agent.New(c.Name, client), nil
	}
	dsn, err := c.secret()
	if err != nil {
		return nil, err
	}
	if c.Driver == "mysql" {
		return mysql.Open(c.Name, dsn)
	}
	return postgres.Open(ctx, c.Name, dsn)
}

func closeResources(resources []adapters.Resource) error {
	var errs []error
	for _, r := range resources {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}
