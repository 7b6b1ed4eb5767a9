// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

// One database changed and its row is there. The cluster never heard of it, and must not say
// "aborted" by any of its commands, before somebody asked for the outcome and ever after.
func TestOneDatabaseDecidesAlone(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources()})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	client := c.dial()

	insert := func(resource string, options ...concord.TxOption) concord.ID {
		var id concord.ID
		require.NoError(t, client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
			id = tx.ID()
			return b.insert(ctx, tx, resource)
		}, options...))
		return id
	}
	rows := func(d *database, id concord.ID) int {
		return d.number(t, "SELECT count(*) FROM transfer WHERE gid = '"+id.String()+"'")
	}
	for i, d := range []*database{b.left, b.right} {
		resource := []string{"orders", "billing"}[i]
		id := insert(resource)
		require.Equal(t, 1, rows(d, id))
		r := c.command("tx", "get", id.String())
		require.Equal(t, 3, r.code, "%v", r)
		r = c.command("tx", "wait", id.String(), "--timeout", "1s")
		require.Equal(t, 4, r.code, "%v", r)
		require.NotContains(t, r.stdout+r.stderr, "aborted")
		looked, err := client.Lookup(ctx, id)
		require.NoError(t, err)
		require.Equal(t, concord.Pending, looked)
		for range 2 {
			outcome, err := client.Outcome(ctx, id)
			require.NoError(t, err)
			require.Equal(t, concord.Unrecorded, outcome)
			for _, n := range c.nodes {
				res, err := n.raw().Outcome(ctx, &concordv1.OutcomeRequest{Gid: id.String()})
				require.NoError(t, err)
				require.Equal(t, "unrecorded", res.GetOutcome())
			}
			require.Equal(t, "unrecorded", c.get(id).State)
			r = c.command("tx", "wait", id.String())
			require.Equal(t, 6, r.code, "%v", r)
			require.NotContains(t, r.stdout+r.stderr, "aborted")
			require.Contains(t, r.stderr, "look at the data")
			require.Empty(t, c.list("--state", "aborted"))
			require.Len(t, c.list("--state", "unrecorded"), i+1)
			leader := c.leader() // the next one says the same
			c.kill(leader)
			c.start(leader)
			c.ready()
		}

		id = insert(resource, concord.Recorded())
		require.Equal(t, 1, rows(d, id))
		outcome, err := client.Outcome(ctx, id)
		require.NoError(t, err)
		require.Equal(t, concord.Committed, outcome)
		r = c.command("tx", "wait", id.String(), "--timeout", "50s")
		require.Equal(t, 0, r.code, "%v", r)
	}
}

// insert notes the gid in one database.
func (b *bank) insert(ctx context.Context, g adapters.Global, resource string) error {
	id := g.(*concord.Tx).ID().String()
	if resource == "orders" {
		pg, err := b.orders.Tx(ctx, g)
		if err == nil {
			_, err = pg.Exec(ctx, "INSERT INTO transfer VALUES ($1, 0)", id)
		}
		return err
	}
	my, err := b.billing.Tx(ctx, g)
	if err == nil {
		_, err = my.ExecContext(ctx, "INSERT INTO transfer VALUES (?, 0)", id)
	}
	return err
}
