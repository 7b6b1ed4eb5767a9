// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/txn"
)

func TestMain(m *testing.M) {
	adaptertest.ServeChild(
		func(dir string) (adapters.Adapter, error) { return Open("ledger", dir) },
		write,
	)
	os.Exit(m.Run())
}

// tx finds the Tx of a session.
func tx(s adapters.Session) *Tx {
	return &Tx{store: s.(*session).store, branch: s.(*session).branch}
}

func write(ctx context.Context, s adapters.Session, key string, v int64) error {
	return tx(s).Set(ctx, []byte(key), number(v))
}

func TestConformance(t *testing.T) {
	w, crashes := newWorld(t), uint64(0)
	adaptertest.Run(t, adaptertest.Target{
		Last:  true,
		Open:  func(testing.TB) adapters.Adapter { return w.resource.Share() },
		Write: write,
		Read: func(t testing.TB, key string) (int64, bool) {
			v, found, err := w.resource.Get([]byte(key))
			require.NoError(t, err)
			if !found {
				return 0, false
			}
			return value(v), true
		},
		Fail: func(ctx context.Context, s adapters.Session) error {
			return tx(s).Set(ctx, []byte(Reserved+"x"), nil)
		},
		ReadOnly: func(ctx context.Context, s adapters.Session) error {
			_, _, err := tx(s).Get(ctx, []byte("ANY"))
			return err
		},
		Restart: func(testing.TB) {
			crashes++
			// The outer t: the store outlives the case that crashed the one before.
			w = w.crash(t, []int{0, 50, 100}[crashes%3], crashes)
		},
	})
}

// The process that embeds the store is killed with -9, on a real disk. What it
// prepared is there for the next one, what it did not is gone.
func TestKilledProcessLeavesItsPreparedBranchOnly(t *testing.T) {
	ctx := context.Background()
	for _, prepare := range []bool{true, false} {
		for _, decision := range []txn.Decision{txn.Commit, txn.Abort} {
			t.Run(fmt.Sprintf("prepared %v, then %s", prepare, decision), func(t *testing.T) {
				dir := t.TempDir()
				x := txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 1}
				branch := adaptertest.KillClient(t,
					adaptertest.Order{Arg: dir, XID: x, Key: "k", Value: 5, Prepare: prepare})

				r, err := Open("ledger", dir)
				require.NoError(t, err)
				_, found, err := r.Get([]byte("k"))
				require.NoError(t, err)
				require.False(t, found)
				list, err := r.Recover(ctx)
				require.NoError(t, err)
				if !prepare {
					require.Empty(t, list)
					require.Empty(t, contents(t, r.store.db))
					require.NoError(t, r.Close())
					return
				}
				require.Len(t, list, 1)
				require.Equal(t, x, list[0].XID)
				finish := r.Commit
				if decision == txn.Abort {
					finish = r.Rollback
				}
				got, err := finish(ctx, x, branch)
				require.NoError(t, err)
				require.Equal(t, txn.Done, got)
				_, found, err = r.Get([]byte("k"))
				require.NoError(t, err)
				require.Equal(t, decision == txn.Commit, found)
				require.NoError(t, r.Close())
			})
		}
	}
}
