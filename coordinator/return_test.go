// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// realDatabase is a server that a test stops and starts, with a table of one column.
type realDatabase struct {
	*testdb.Server
	open func() adapters.Opener
	// insert works in a branch.
	insert func(ctx context.Context, r adapters.Opener, s adapters.Session) error
}

func realPostgres(t *testing.T) *realDatabase {
	s := testdb.Postgres(t)
	require.NoError(t, s.Exec(t.Context(), "", "create table kv (k int)"))
	return &realDatabase{Server: s, open: func() adapters.Opener {
		r, err := postgres.Open(t.Context(), "orders", s.DSN(""))
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		return r
	}, insert: func(ctx context.Context, r adapters.Opener, s adapters.Session) error {
		tx, err := r.(*postgres.Resource).Tx(ctx, enlisted{s})
		if err == nil {
			_, err = tx.Exec(ctx, "insert into kv values (1)")
		}
		return err
	}}
}

func realMariaDB(t *testing.T) *realDatabase {
	s := testdb.MariaDB(t)
	require.NoError(t, s.Exec(t.Context(), "", "create database bank"))
	require.NoError(t, s.Exec(t.Context(), "bank", "create table kv (k int) engine=innodb"))
	return &realDatabase{Server: s, open: func() adapters.Opener {
		r, err := mysql.Open("orders", s.DSN("bank"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		return r
	}, insert: func(ctx context.Context, r adapters.Opener, s adapters.Session) error {
		tx, err := r.(*mysql.Resource).Tx(ctx, enlisted{s})
		if err == nil {
			_, err = tx.ExecContext(ctx, "insert into kv values (1)")
		}
		return err
	}}
}

// A database is away for so long that nothing would be tried for some time. Its branches are
// finished when it is back, not when that time is over.
func TestBranchesAreFinishedWhenTheirDatabaseIsBack(t *testing.T) {
	for name, start := range map[string]func(*testing.T) *realDatabase{"PostgreSQL": realPostgres, "MariaDB": realMariaDB} {
		t.Run(name, func(t *testing.T) {
			db := start(t)
			c := newCluster(t, 1, func() []adapters.Resource { return []adapters.Resource{db.open()} })
			leader := c.leader()
			require.Eventually(t, func() bool { return leader.Status().Resources[0].OK }, 30*time.Second, 20*time.Millisecond)

			app := db.open()
			id := txn.NewID(time.Now())
			x := txn.XID{Cluster: leader.Status().Cluster, ID: id, Branch: 1}
			s, err := app.Open(t.Context(), x)
			require.NoError(t, err)
			require.NoError(t, db.insert(t.Context(), app, s))
			vote, b, err := s.Prepare(t.Context())
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			require.NoError(t, db.Stop())
			require.Equal(t, txn.Commit, c.commit(id, b).Decision)
			view := func() (commit.BranchView, bool) {
				v, err := leader.View(t.Context(), id)
				require.NoError(t, err)
				return v.Branches[x], v.Txn.Ended
			}
			var waits commit.BranchView
			require.Eventually(t, func() bool {
				waits, _ = view()
				return time.Until(waits.Due) > 10*time.Second
			}, time.Minute, 50*time.Millisecond, "it is tried less and less often")
			require.NotEmpty(t, waits.Err)
			require.False(t, leader.Status().Resources[0].OK, "and the status says that it is down")
			require.NoError(t, db.Start())
			for ended := false; !ended; _, ended = view() {
				require.True(t, time.Now().Before(waits.Due), "it waits as if the database was still away")
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}
