// SPDX-License-Identifier: Apache-2.0

package mysql

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestMoreTransactionsThanTheServerHasConnectionsWaitForOneAnother(t *testing.T) {
	for name, start := range map[string]func(testing.TB, ...testdb.Option) *testdb.Server{"MariaDB": testdb.MariaDB,
		"MySQL": testdb.MySQL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t, testdb.WithSetting("max-connections", "40")))
			for _, o := range []Options{{}, {MaxOpen: 200}} { // the bound of the resource, and that of the server
				r := w.openAs(w.DSN(database), o)
				var group sync.WaitGroup
				failed := make(chan error, 120)
				for i := range 120 {
					group.Go(func() { failed <- w.transact(r, fmt.Sprint(o.MaxOpen, "-", i)) })
				}
				group.Wait()
				for range 120 {
					require.NoError(t, <-failed)
				}
				r.pool.mu.Lock()
				kept := len(r.pool.links)
				r.pool.mu.Unlock()
				require.LessOrEqual(t, kept, r.options.MaxOpen)
				require.NoError(t, r.Close())
			}
			var n int
			require.NoError(t, w.admin.QueryRowContext(w.ctx, "SELECT COUNT(*) FROM kv").Scan(&n))
			require.Equal(t, 240, n)
		})
	}
}

func (w *world) transact(r *Resource, key string) error {
	s, err := r.Open(w.ctx, newXID())
	if err != nil {
		return err
	}
	if err := write(w.ctx, s, key, 1); err != nil {
		return err
	}
	if _, _, err := s.Prepare(w.ctx); err != nil {
		return err
	}
	_, err = s.Commit(w.ctx)
	return err
}

func TestAPoolThatIsTheBottleneckIsNamed(t *testing.T) {
	w := newWorld(t, testdb.MariaDB(t))
	r := w.openAs(w.DSN(database), Options{MaxOpen: 1})
	outer := w.work(r, newXID(), "outer")
	ctx, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	_, err := r.Open(ctx, newXID()) // a transaction within another
	require.ErrorIs(t, err, ErrPoolBusy)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "all 1 sessions of db")
	require.ErrorContains(t, err, "MaxOpen")
	require.NotContains(t, err.Error(), "check that the server runs")

	// However a branch ends, its place is free again, and free once.
	require.NoError(t, outer.Rollback(w.ctx))
	ends := []func(*session){
		func(s *session) { require.NoError(t, s.CommitOnePhase(w.ctx)) },
		func(s *session) { require.NoError(t, s.Rollback(w.ctx)); require.NoError(t, s.Rollback(w.ctx)) },
		func(s *session) { w.kill(s); require.NoError(t, s.Rollback(w.ctx)) },
		func(s *session) {
			_, b, err := s.Prepare(w.ctx)
			require.NoError(t, err)
			s.Abandon()
			s.Abandon()
			require.Equal(t, txn.Done, w.finish(w.open(), txn.Abort, s.xid, b))
		},
	}
	for _, end := range ends {
		end(w.work(r, newXID(), "place"))
		require.Len(t, r.pool.slots, 1)
	}
	_, err = w.openAs("root@tcp(127.0.0.1:1)/"+database, Options{MaxOpen: 1}).Open(w.ctx, newXID())
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrPoolBusy)
}
