// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// listCases: what Recover lists.
var listCases = []testCase{
	{name: "recover lists the prepared and neither the open nor the finished", prepares: true, run: func(b *bench) {
		r := b.open()
		open, prepared, committed, aborted := b.xid(), b.xid(), b.xid(), b.xid()
		b.work(r, open, b.key(), 1)
		_, branch := b.prepared(r, prepared, b.key(), 2)
		s, _ := b.prepared(r, committed, b.key(), 3)
		_, err := s.Commit(b.ctx)
		require.NoError(b.t, err)
		s, _ = b.prepared(r, aborted, b.key(), 4)
		require.NoError(b.t, s.Rollback(b.ctx))

		other := b.open()
		require.Equal(b.t, []txn.XID{prepared}, b.listed(other))
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, prepared, branch))
		require.Empty(b.t, b.listed(other))
	}},
	{name: "recover lists the branches of every cluster", prepares: true, run: func(b *bench) {
		r, x := b.open(), b.xid()
		_, branch := b.prepared(r, x, b.key(), 1)
		stranger := x
		stranger.Cluster ^= 1
		b.made = append(b.made, stranger)
		s := b.work(r, stranger, b.key(), 2)
		theirs := b.prepare(r, s, stranger)

		all, err := b.open().Recover(b.ctx)
		require.NoError(b.t, err)
		var xids []txn.XID
		for _, p := range all {
			xids = append(xids, p.XID)
		}
		require.Contains(b.t, xids, x)
		require.Contains(b.t, xids, stranger)
		require.Equal(b.t, txn.Done, b.finish(r, txn.Abort, x, branch))
		require.Equal(b.t, txn.Done, b.finish(r, txn.Commit, stranger, theirs))
	}},
	{name: "branches of different transactions are prepared at once and end differently", prepares: true,
		run: func(b *bench) {
			r, one, two, first, second := b.open(), b.xid(), b.xid(), b.key(), b.key()
			s1, s2 := b.work(r, one, first, 1), b.work(r, two, second, 2)
			b1, b2 := b.prepare(r, s1, one), b.prepare(r, s2, two)
			other := b.open()
			require.ElementsMatch(b.t, []txn.XID{one, two}, b.listed(other))
			require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, one, b1))
			require.Equal(b.t, []txn.XID{two}, b.listed(other))
			require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, two, b2))
			b.requireValue(first, 1)
			b.requireAbsent(second)
		}},
	{name: "branches 0 and 255 of one transaction are told apart", prepares: true, run: func(b *bench) {
		r, id, first, last := b.open(), txn.NewID(time.Now()), b.key(), b.key()
		low, high := b.branch(id, 0), b.branch(id, 255)
		s1, s2 := b.work(r, low, first, 1), b.work(r, high, last, 2)
		b1, b2 := b.prepare(r, s1, low), b.prepare(r, s2, high)
		other := b.open()
		require.ElementsMatch(b.t, []txn.XID{low, high}, b.listed(other))
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, high, b2))
		require.Equal(b.t, []txn.XID{low}, b.listed(other))
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, low, b1))
		b.requireAbsent(first)
		b.requireValue(last, 2)
	}},
	{name: "foreign branches are not listed and not touched", prepares: true, run: func(b *bench) {
		r := b.open()
		before, err := r.Recover(b.ctx)
		require.NoError(b.t, err)
		untouched := b.Foreign(b.t)
		after, err := r.Recover(b.ctx)
		require.NoError(b.t, err)
		require.ElementsMatch(b.t, before, after)

		x, key := b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 1)
		require.Equal(b.t, []txn.XID{x}, b.listed(r))
		_, err = r.Check(b.ctx)
		require.NoError(b.t, err)
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Commit, x, branch))
		require.NoError(b.t, r.Forget(b.ctx, []txn.XID{x}))
		untouched(b.t)
	}, needs: func(t Target) bool { return t.Foreign != nil }, what: "branches that are not ours"},
}
