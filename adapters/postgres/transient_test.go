// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestWhatPassesIsTransient(t *testing.T) {
	b := newBank(t, WithLockTimeout(50*time.Millisecond))
	holder, x := b.work()
	waiting := b.begin(newXID())
	err := write(b.ctx, waiting, x.ID.String(), 2)
	require.Equal(t, "55P03", sqlState(err), "%v", err)
	require.True(t, b.Transient(fmt.Errorf("transfer: %w", err)))
	vote, _, err := waiting.Prepare(b.ctx)
	require.Equal(t, txn.VoteNo, vote)
	require.True(t, b.Transient(err))

	err = do(b.ctx, holder, "insert into account values ($1, 2)", x.ID.String())
	require.Equal(t, "23505", sqlState(err), "%v", err)
	require.False(t, b.Transient(err))
	require.False(t, b.Transient(b.ctx.Err()))
	require.NoError(t, holder.Rollback(b.ctx))
}

func TestTheVictimOfADeadlockIsTransient(t *testing.T) {
	b := newBank(t)
	one, x := b.work()
	two, y := b.work()
	first := make(chan error, 1)
	go func() { first <- write(b.ctx, one, y.ID.String(), 2) }()
	b.busy(one)
	err := write(b.ctx, two, x.ID.String(), 2)
	if err == nil {
		require.NoError(t, two.Rollback(b.ctx))
		err = <-first
	}
	require.Equal(t, "40P01", sqlState(err), "%v", err)
	require.True(t, b.Transient(err))
	require.NoError(t, two.Rollback(b.ctx))
	require.NoError(t, one.Rollback(b.ctx))
}
