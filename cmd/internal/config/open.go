// SPDX-License-Identifier: Apache-2.0

package config

import (
	"context"
	"errors"
	"fmt"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/security"
)

// Open opens the recovery half of every configured database. Nothing is
// connected yet: a database that is down must not keep a node from starting. who calls agents; nil: in plain.
func Open(ctx context.Context, configs []Resource, who *security.Credentials) (out []adapters.Resource, err error) {
	defer func() {
		if err != nil {
			_ = Close(out) // the error that is returned matters more
		}
	}()
	for _, c := range configs {
		r, err := openOne(ctx, c, who)
		if err != nil {
			return out, fmt.Errorf("resource %s: %w", c.Name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func openOne(ctx context.Context, c Resource, who *security.Credentials) (adapters.Resource, error) {
	d, err := ofNode.driver(c)
	if err != nil {
		return nil, err
	}
	return d.node(ctx, c, who)
}

func openAgent(_ context.Context, c Resource, who *security.Credentials) (adapters.Resource, error) {
	client, err := agent.Dial(c.Addr, agent.WithCredentials(who))
	if err != nil {
		return nil, err
	}
	return agent.New(c.Name, client), nil
}

func openMySQL(_ context.Context, c Resource, _ *security.Credentials) (adapters.Resource, error) {
	dsn, err := c.Secret()
	if err != nil {
		return nil, err
	}
	return mysql.OpenWithOptions(c.Name, dsn.Reveal(), mysql.Options{Trust: c.Trust()})
}

func openPostgres(ctx context.Context, c Resource, _ *security.Credentials) (adapters.Resource, error) {
	dsn, err := c.Secret()
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, c.Name, dsn.Reveal(), postgres.WithTrust(c.Trust()))
}

func Close(resources []adapters.Resource) error {
	var errs []error
	for _, r := range resources {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}
