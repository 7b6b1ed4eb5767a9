// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/txn"
)

func TestConformance(t *testing.T) {
	disk := memory.NewDisk()
	resource := memory.New("ledger", disk)
	in := func(ctx context.Context, s adapters.Session, do func(*memory.Tx) error) error {
		tx, err := resource.Tx(ctx, adaptertest.Enlisted(s))
		if err != nil {
			return err
		}
		return do(tx)
	}
	adaptertest.Run(t, adaptertest.Target{
		Rows: true,
		Last: true,
		Open: func(testing.TB) adapters.Adapter { return memory.New("ledger", disk) },
		Write: func(ctx context.Context, s adapters.Session, key string, value int64) error {
			return in(ctx, s, func(tx *memory.Tx) error { return tx.Put(ctx, key, value) })
		},
		Fail: func(ctx context.Context, s adapters.Session) error {
			return in(ctx, s, func(tx *memory.Tx) error { return tx.Put(ctx, "", 1) })
		},
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			return in(ctx, s, func(tx *memory.Tx) error {
				_, _, err := tx.Get(ctx, "ANY")
				return err
			})
		},
		Read:       func(_ testing.TB, key string) (int64, bool) { return disk.Get(key) },
		EndSession: func(_ testing.TB, s adapters.Session) { disk.Kill(s) },
		Restart:    func(testing.TB) { disk.Crash() },
	})
}

func TestSumSeesCommittedValuesOnly(t *testing.T) {
	ctx := context.Background()
	disk := memory.NewDisk()
	resource := memory.New("ledger", disk)
	begin := func() (adapters.Session, *memory.Tx) {
		s, err := resource.Open(ctx, txn.XID{ID: txn.NewID(time.Now())})
		require.NoError(t, err)
		tx, err := resource.Tx(ctx, adaptertest.Enlisted(s))
		require.NoError(t, err)
		return s, tx
	}
	s, tx := begin()
	sum, err := tx.Add(ctx, "A", 10)
	require.NoError(t, err)
	require.EqualValues(t, 10, sum)
	require.Zero(t, disk.Sum())
	require.NoError(t, s.CommitOnePhase(ctx))
	require.EqualValues(t, 10, disk.Sum())

	s, tx = begin()
	_, err = tx.Add(ctx, "A", -4)
	require.NoError(t, err)
	_, err = tx.Add(ctx, "A", -4)
	require.NoError(t, err)
	_, err = tx.Add(ctx, "B", 8)
	require.NoError(t, err)
	require.EqualValues(t, 10, disk.Sum())
	disk.Crash()
	require.EqualValues(t, 10, disk.Sum())
	require.ErrorIs(t, tx.Put(ctx, "A", 1), adapters.ErrBranchEnded)
	require.NoError(t, s.Rollback(ctx))
}

func TestTheSessionOfAPreparedBranchDiesWithTheServer(t *testing.T) {
	ctx := context.Background()
	disk := memory.NewDisk()
	resource := memory.New("ledger", disk)
	x := txn.XID{ID: txn.NewID(time.Now())}
	s, err := resource.Open(ctx, x)
	require.NoError(t, err)
	tx, err := resource.Tx(ctx, adaptertest.Enlisted(s))
	require.NoError(t, err)
	require.NoError(t, tx.Put(ctx, "A", 1))
	vote, branch, err := s.Prepare(ctx)
	require.NoError(t, err)
	require.Equal(t, txn.VoteYes, vote)
	disk.Crash()
	_, err = s.Commit(ctx)
	require.ErrorIs(t, err, memory.ErrSessionDied)
	require.ErrorIs(t, s.Rollback(ctx), memory.ErrSessionDied)
	got, err := resource.Commit(ctx, x, branch)
	require.NoError(t, err)
	require.Equal(t, txn.Done, got)
	require.EqualValues(t, 1, disk.Sum())
}
