// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
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

// A branch whose database does not come back: an operator gives it up, and the rest goes on.
func TestABranchIsGivenUpByAnOperator(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{nodes: 1, resources: b.resources(), grace: 500 * time.Millisecond,
		scan: 500 * time.Millisecond})
	h, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)

	// What no session of the adapter wrote is refused before it is decided.
	poison := h.request()
	poison.Gid = txn.NewID(time.Now()).String()
	poison.Branches[1].Evidence = "poison"
	res, err := c.caller().Commit(ctx, poison)
	require.NoError(t, err)
	require.Equal(t, "abort", res.GetDecision())
	require.Contains(t, res.GetReason(), `branch 1: resource "billing": evidence`)

	require.NoError(t, b.right.server.Kill())
	res, err = c.caller().Commit(ctx, h.request())
	require.NoError(t, err)
	require.Equal(t, "commit", res.GetDecision())
	eventually(t, "one branch is finished, and the other says why it is not", func() bool {
		x := c.get(h.id)
		return x.Branches[0].State == "committed" && x.Branches[1].Error != ""
	})
	settle := func(branch string, more ...string) int {
		r := c.command(append([]string{"tx", "settle", branch}, more...)...)
		t.Logf("settle %s %v: %v", branch, more, r)
		return r.code
	}
	of := func(id txn.ID, no int) string { return fmt.Sprintf("%v/%d", id, no) }
	full := []string{"--abandon", "--reason", "the disk is lost", "--yes"}
	for _, wrong := range []string{h.id.String(), of(h.id, 256), of(h.id, -1), of(h.id, 1) + "x", "x/1",
		of(h.id, 1) + "/1", h.id.String() + "/01"} {
		require.Equal(t, 2, settle(wrong, full...), wrong)
	}
	require.Equal(t, 2, settle(of(h.id, 1), "--reason", "the disk is lost", "--yes"),
		"nothing else can be done than --abandon")
	require.Equal(t, 2, settle(of(h.id, 1), "--abandon", "--yes"), "a reason is needed")
	require.Equal(t, 2, settle(of(h.id, 1), "--abandon", "--reason", "the disk is lost"),
		"nobody confirms without a terminal")
	require.Equal(t, 3, settle(of(txn.NewID(time.Now()), 1), full...))
	require.Equal(t, 3, settle(of(h.id, 2), full...))
	require.Equal(t, 5, settle(of(h.id, 0), full...), "it is finished")
	require.Empty(t, c.get(h.id).Heuristics, "nothing was done")

	require.Equal(t, 0, settle(of(h.id, 1), full...))
	require.Equal(t, 5, settle(of(h.id, 1), full...), "it is on record")
	x := c.get(h.id)
	require.Equal(t, "heuristic", x.State)
	require.Equal(t, "heuristic-hazard", x.Branches[1].State)
	require.Equal(t, "operator", x.Heuristics[0].By)
	require.Equal(t, "the disk is lost", x.Heuristics[0].Why)
	require.NotEmpty(t, x.Heuristics[0].Who)
	r := c.command("tx", "wait", h.id.String())
	require.Equal(t, 6, r.code, "%v", r)
	r = c.command("tx", "forget", h.id.String(), "--reason", "booked by hand", "--yes")
	require.Equal(t, 0, r.code, "%v", r)

	// When it comes back after all, the branch is his who gave it up.
	require.NoError(t, b.right.server.Start())
	eventually(t, "the branch is reported", func() bool {
		r := c.command("recover", h.id.String(), "--apply")
		return r.code == 6 && strings.Contains(r.stdout, "report") && strings.Contains(r.stdout, "the disk is lost")
	})
}
