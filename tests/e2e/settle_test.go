// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// A branch whose database does not come back: an operator gives it up, and the rest goes on.
func TestABranchIsGivenUpByAnOperator(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{nodes: 1, resources: b.resources(), grace: 500 * time.Millisecond, scan: 500 * time.Millisecond})
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
	for _, wrong := range []string{h.id.String(), of(h.id, 256), of(h.id, -1), of(h.id, 1) + "x", "x/1", of(h.id, 1) + "/1", h.id.String() + "/01"} {
		require.Equal(t, 2, settle(wrong, full...), wrong)
	}
	require.Equal(t, 2, settle(of(h.id, 1), "--reason", "the disk is lost", "--yes"), "nothing else can be done than --abandon")
	require.Equal(t, 2, settle(of(h.id, 1), "--abandon", "--yes"), "a reason is needed")
	require.Equal(t, 2, settle(of(h.id, 1), "--abandon", "--reason", "the disk is lost"), "nobody confirms without a terminal")
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
