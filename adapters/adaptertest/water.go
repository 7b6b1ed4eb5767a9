// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"math/rand/v2"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

func water(counter uint64) txn.HighWater {
	return txn.HighWater{At: zab.Zxid{Epoch: 3, Counter: counter}, Floor: zab.Zxid{Epoch: 2, Counter: counter}}
}

// anyCluster is one that nobody else has a row of.
func anyCluster() txn.ClusterID { return txn.ClusterID(rand.Uint32() | 1) }

// marked is what of the target keeps high-water rows.
func (b *bench) marked() adapters.Marked {
	m, ok := b.open().(adapters.Marked)
	require.True(b.t, ok)
	return m
}

// waterCases: how far the cluster had come, as the database tells it.
var waterCases = []testCase{
	{name: "a high-water row only grows, is each cluster's own, and takes the evidence with it", prepares: true,
		run: func(b *bench) {
			r, x, stays := b.open(), b.xid(), b.xid()
			_, branch := b.prepared(r, x, b.key(), 1)
			_, other := b.prepared(r, stays, b.key(), 1)
			m, c := b.marked(), anyCluster()
			none, err := m.HighWater(b.ctx, c)
			require.NoError(b.t, err)
			require.True(b.t, none.IsZero())
			require.Equal(b.t, txn.Done, b.finish(r, txn.Commit, x, branch))
			require.Equal(b.t, txn.Done, b.finish(r, txn.Commit, stays, other))

			now, err := m.Raise(b.ctx, c, water(9), nil)
			require.NoError(b.t, err)
			require.Equal(b.t, water(9), now)
			now, err = b.marked().Raise(b.ctx, c, water(10), []txn.XID{x})
			require.NoError(b.t, err)
			require.Equal(b.t, water(10), now)
			require.Equal(b.t, txn.Lost, b.finish(r, txn.Commit, x, branch), "its evidence is gone")
			require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Commit, stays, other))

			now, err = m.Raise(b.ctx, c, water(8), []txn.XID{stays})
			require.NoError(b.t, err)
			require.Equal(b.t, water(10), now, "a later one stays")
			require.Equal(b.t, txn.Lost, b.finish(r, txn.Commit, stays, other), "which covers the evidence")
			for cluster, want := range map[txn.ClusterID]txn.HighWater{c: water(10), c ^ 1: {}} {
				has, err := b.marked().HighWater(b.ctx, cluster)
				require.NoError(b.t, err)
				require.Equal(b.t, want, has)
			}
			evidence, err := r.Evidence(b.ctx, txn.XID{Cluster: c - 1})
			require.NoError(b.t, err)
			for _, e := range evidence {
				require.NotEqual(b.t, c, e.Cluster, "a row is no evidence of a branch")
			}
			_, err = m.Raise(b.ctx, c^1, water(1), nil)
			require.NoError(b.t, err)
		}, needs: keepsRows, what: "high-water rows"},
	{name: "nothing is ended in a database that is behind, until less is expected", prepares: true,
		run: func(b *bench) {
			r, committed, aborted, ended, key := b.open(), b.xid(), b.xid(), b.xid(), b.key()
			_, first := b.prepared(r, committed, key, 1)
			_, second := b.prepared(r, aborted, b.key(), 2)
			_, third := b.prepared(r, ended, b.key(), 3)
			other, c := b.open(), anyCluster()
			m := other.(adapters.Marked)
			require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, ended, third))
			_, err := m.Raise(b.ctx, c, water(20), nil)
			require.NoError(b.t, err)

			m.Expect(c, water(21).At)
			for _, end := range []func() (txn.Finish, error){
				func() (txn.Finish, error) { return other.Commit(b.ctx, committed, first) },
				func() (txn.Finish, error) { return other.Rollback(b.ctx, aborted, second) },
				func() (txn.Finish, error) { return other.Commit(b.ctx, ended, third) },
			} {
				_, err := end()
				require.ErrorIs(b.t, err, adapters.ErrBehind)
			}
			has, err := m.HighWater(b.ctx, c)
			require.ErrorIs(b.t, err, adapters.ErrBehind)
			require.Equal(b.t, water(20), has)
			_, err = m.Raise(b.ctx, c, water(30), []txn.XID{ended})
			require.ErrorIs(b.t, err, adapters.ErrBehind)
			require.ElementsMatch(b.t, []txn.XID{committed, aborted}, b.listed(r))
			_, err = m.HighWater(b.ctx, c^1)
			require.NoError(b.t, err, "nothing is expected of another cluster")

			m.Expect(c, water(20).At)
			has, err = m.HighWater(b.ctx, c)
			require.NoError(b.t, err)
			require.Equal(b.t, water(20), has)
			require.Equal(b.t, txn.AlreadyDone, b.finish(other, txn.Commit, ended, third))
			require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, committed, first))
			m.Expect(c, zab.Zxid{})
			require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, aborted, second))
			b.requireValue(key, 1)
		}, needs: keepsRows, what: "high-water rows"},
}

func keepsRows(t Target) bool { return t.Rows }
