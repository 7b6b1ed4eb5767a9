// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
)

// anew replaces the cluster by one that knows nothing.
func (n *nodes) anew() {
	for i, stop := range n.stops {
		stop()
		n.stops[i] = nil
	}
	for i := range n.dirs {
		n.dirs[i] = n.t.TempDir()
		n.start(i)
	}
}

func TestAClusterThatIsMadeAnewIsNotTakenForTheOld(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	transfer := func(ctx context.Context, tx *concord.Tx) error {
		from, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := from.Add(ctx, "A", -1); err != nil {
			return err
		}
		to, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = to.Add(ctx, "A", 1)
		return err
	}
	for range 20 { // the client sees more than the new cluster will soon have
		require.NoError(t, c.Run(t.Context(), transfer))
	}
	begun, err := c.Begin(t.Context(), concord.WithTimeout(time.Minute))
	require.NoError(t, err)
	earlier, err := c.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, earlier.Commit(t.Context()))

	n.anew()
	status, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, status.Close()) }()
	n.leader(status)
	require.NoError(t, transfer(t.Context(), begun))
	started := time.Now()
	err = begun.Commit(t.Context())
	require.Less(t, time.Since(started), 30*time.Second, "it did not wait for its limit")
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, concord.ErrCluster)
	require.ErrorContains(t, err, "concord recover")
	requireUnprepared(t, orders, billing)
	require.EqualValues(t, -20, n.disks[0].Sum())

	err = c.Run(t.Context(), func(context.Context, *concord.Tx) error { t.Error("it began"); return nil })
	require.ErrorIs(t, err, concord.ErrCluster)
	outcome, err := c.Outcome(t.Context(), earlier.ID())
	require.ErrorIs(t, err, concord.ErrCluster, "the new cluster knows nothing of it")
	require.Equal(t, concord.Unknown, outcome)

	again, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	require.NoError(t, again.Run(t.Context(), transfer))
	require.NoError(t, again.Close())
}

func requireUnprepared(t *testing.T, rs ...*memory.Resource) {
	t.Helper()
	for _, r := range rs {
		list, err := r.Recover(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	}
}
