// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func canBeLast(t Target) bool { return t.Last }

// lastXID mints a branch of a transaction with a last resource.
func (b *bench) lastXID() txn.XID {
	return b.branch(txn.NewID(time.Now()).WithClass(txn.LastResource), 1)
}

// last opens a branch that is that of the last resource. Its marker goes with the other evidence.
func (b *bench) last(r adapters.Adapter, x txn.XID) (adapters.Session, adapters.Last) {
	s := b.begin(r, x)
	last, ok := s.(adapters.Last)
	require.True(b.t, ok)
	require.NoError(b.t, last.BeLast(b.ctx))
	b.made = append(b.made, txn.LastXID(x.Cluster, x.ID))
	return s, last
}

func (b *bench) lastWork(r adapters.Adapter, x txn.XID, key string, value int64) (adapters.Session, adapters.Last) {
	s, last := b.last(r, x)
	require.NoError(b.t, b.Write(b.ctx, s, key, value))
	return s, last
}

// settle asks until the answer is not "try again".
func (b *bench) settle(r adapters.Adapter, x txn.XID) (m txn.LastMarker) {
	settler, ok := r.(adapters.Settler)
	require.True(b.t, ok)
	require.Eventually(b.t, func() bool {
		var err error
		m, err = settler.Settle(b.ctx, x.Cluster, x.ID)
		if err != nil {
			require.ErrorIs(b.t, err, adapters.ErrLastHeld)
		}
		return err == nil
	}, Patience, 10*time.Millisecond)
	return m
}

var (
	aMarker = txn.LastMarker{Decision: txn.Commit, Label: "order 'O''Neill' 4711", Branches: []txn.Branch{
		{No: 2, Resource: "orders", Evidence: "marker", Holder: "pid=1;start=2"}, {No: 7, Resource: "stock"}}}
	anAbort = txn.LastMarker{Decision: txn.Abort}
)

// lastCases: the database decides, as the last resource of a transaction.
var lastCases = []testCase{
	{name: "a last resource commits its work and its marker in one", run: func(b *bench) {
		r, other, x, key := b.open(), b.open(), b.lastXID(), b.key()
		_, last := b.lastWork(r, x, key, 7)
		b.requireAbsent(key)
		require.NoError(b.t, last.CommitLast(b.ctx, aMarker))
		b.requireValue(key, 7)
		require.Equal(b.t, aMarker, b.settle(other, x))
		require.Equal(b.t, aMarker, b.settle(other, x), "it stays")
		kept, err := other.Evidence(b.ctx, txn.XID{Cluster: x.Cluster})
		require.NoError(b.t, err)
		require.Equal(b.t, []txn.XID{txn.LastXID(x.Cluster, x.ID)}, kept)
		require.Empty(b.t, b.listed(other))
		b.requireFree(r, key)

		require.NoError(b.t, other.Forget(b.ctx, kept))
		kept, err = other.Evidence(b.ctx, txn.XID{Cluster: x.Cluster})
		require.NoError(b.t, err)
		require.Empty(b.t, kept)
	}, needs: canBeLast, what: "last resources"},
	{name: "behind a marker to abort a last resource never commits", run: func(b *bench) {
		r, other, x, key := b.open(), b.open(), b.lastXID(), b.key()
		if b.OneWriter { // nobody settles what is at work
			require.Equal(b.t, anAbort, b.settle(other, x))
		}
		_, last := b.lastWork(r, x, key, 7)
		if !b.OneWriter {
			require.Equal(b.t, anAbort, b.settle(other, x))
			require.Equal(b.t, anAbort, b.settle(b.open(), x))
		}
		err := last.CommitLast(b.ctx, aMarker)
		require.ErrorIs(b.t, err, adapters.ErrNotCommitted)
		require.ErrorIs(b.t, err, adapters.ErrSettled)
		b.requireAbsent(key)
		b.requireFree(r, key)
		require.Equal(b.t, anAbort, b.settle(other, x))

		again := b.branch(x.ID, 3) // of the same transaction, by a client that was stopped for a while
		_, last = b.lastWork(r, again, key, 8)
		require.ErrorIs(b.t, last.CommitLast(b.ctx, aMarker), adapters.ErrNotCommitted)
		b.requireAbsent(key)
	}, needs: canBeLast, what: "last resources"},
	{name: "a last resource without work commits its marker alone", run: func(b *bench) {
		for _, read := range []bool{false, true} {
			r, x := b.open(), b.lastXID()
			s, last := b.last(r, x)
			if read {
				require.NoError(b.t, b.ReadOnly(b.ctx, s))
			}
			require.NoError(b.t, last.CommitLast(b.ctx, aMarker))
			require.Equal(b.t, aMarker, b.settle(b.open(), x))
		}
	}, needs: canBeLast, what: "last resources"},
	{name: "a last resource that rolls back leaves no marker", run: func(b *bench) {
		r, x, key := b.open(), b.lastXID(), b.key()
		s, _ := b.lastWork(r, x, key, 7)
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireAbsent(key)
		b.requireFree(r, key)
		require.Equal(b.t, anAbort, b.settle(b.open(), x))
	}, needs: canBeLast, what: "last resources"},
	{name: "a last resource in which a statement failed is not committed", run: func(b *bench) {
		r, x, key := b.open(), b.lastXID(), b.key()
		s, last := b.lastWork(r, x, key, 7)
		require.Error(b.t, b.Fail(b.ctx, s))
		require.ErrorIs(b.t, last.CommitLast(b.ctx, aMarker), adapters.ErrNotCommitted)
		b.requireAbsent(key)
		b.requireFree(r, key)
		require.Equal(b.t, anAbort, b.settle(b.open(), x))
		require.ErrorIs(b.t, last.CommitLast(b.ctx, aMarker), adapters.ErrBranchEnded)
	}, needs: canBeLast, what: "last resources"},
	{name: "the session of a last resource dies before its commit", run: func(b *bench) {
		r, x, key := b.open(), b.lastXID(), b.key()
		s, last := b.lastWork(r, x, key, 7)
		b.EndSession(b.t, s)
		require.Error(b.t, last.CommitLast(b.ctx, aMarker))
		require.Equal(b.t, anAbort, b.settle(b.open(), x))
		b.requireAbsent(key)
	}, needs: func(t Target) bool { return t.Last && t.EndSession != nil }, what: "session to end"},
	{name: "a commit and somebody who settles agree, whoever is first", run: func(b *bench) {
		r, other := b.open(), b.open()
		for range 20 {
			x, key := b.lastXID(), b.key()
			_, last := b.lastWork(r, x, key, 7)
			var wg sync.WaitGroup
			var err error
			wg.Go(func() { err = last.CommitLast(b.ctx, aMarker) })
			found := b.settle(other, x)
			wg.Wait()
			if found.Decision == txn.Commit {
				require.NoError(b.t, err)
				b.requireValue(key, 7)
			} else {
				require.ErrorIs(b.t, err, adapters.ErrNotCommitted)
				b.requireAbsent(key)
			}
		}
	}, needs: canBeLast, what: "last resources"},
	{name: "markers of a last resource survive its server", run: func(b *bench) {
		r, committed, aborted, key := b.open(), b.lastXID(), b.lastXID(), b.key()
		_, last := b.lastWork(r, committed, key, 7)
		require.NoError(b.t, last.CommitLast(b.ctx, aMarker))
		require.Equal(b.t, anAbort, b.settle(r, aborted))
		b.Restart(b.t)
		b.requireValue(key, 7)
		after := b.open()
		kept, err := after.Evidence(b.ctx, txn.XID{Cluster: committed.Cluster})
		require.NoError(b.t, err)
		require.ElementsMatch(b.t, []txn.XID{txn.LastXID(committed.Cluster, committed.ID),
			txn.LastXID(aborted.Cluster, aborted.ID)}, kept)
		require.Equal(b.t, aMarker, b.settle(after, committed))
		require.Equal(b.t, anAbort, b.settle(after, aborted))
	}, needs: func(t Target) bool { return t.Last && t.Restart != nil }, what: "server to restart"},
	{name: "nothing is settled in a database that is behind", run: func(b *bench) {
		r, x, c := b.open(), b.lastXID(), anyCluster()
		b.made = append(b.made, txn.LastXID(x.Cluster, x.ID))
		_, last := b.last(b.open(), b.lastXID())
		require.NoError(b.t, last.CommitLast(b.ctx, aMarker))
		m := r.(adapters.Marked)
		_, err := m.Raise(b.ctx, c, water(20), nil)
		require.NoError(b.t, err)
		m.Expect(c, water(21).At)
		_, err = r.(adapters.Settler).Settle(b.ctx, x.Cluster, x.ID)
		require.ErrorIs(b.t, err, adapters.ErrBehind)
		m.Expect(c, water(20).At)
		require.Equal(b.t, anAbort, b.settle(r, x))
	}, needs: func(t Target) bool { return t.Last && t.Rows }, what: "high-water rows"},
}

// tagCases: a branch that is prepared beside a last resource.
var tagCases = []testCase{
	{name: "a prepared branch names the last resource, and is ended by its own name", prepares: true,
		run: func(b *bench) {
			tag := txn.TagOf("billing")
			for _, d := range []txn.Decision{txn.Commit, txn.Abort} {
				for _, own := range []bool{true, false} {
					r, other, x, key := b.open(), b.open(), b.lastXID(), b.key()
					s := b.begin(r, x)
					s.(adapters.Tagged).SetTag(tag)
					require.NoError(b.t, b.Write(b.ctx, s, key, 7))
					if counted, ok := s.(adapters.Counted); ok {
						counted.Siblings([]txn.BranchNo{1, 2})
					}
					branch := b.prepare(r, s, x)
					list, err := other.Recover(b.ctx)
					require.NoError(b.t, err)
					for _, p := range list {
						if p.XID == x {
							require.Equal(b.t, tag, p.Last)
						}
					}
					require.Contains(b.t, b.listed(other), x)
					switch {
					case own && d == txn.Commit:
						got, err := s.Commit(b.ctx)
						require.NoError(b.t, err)
						require.Equal(b.t, txn.Done, got)
					case own:
						require.NoError(b.t, s.Rollback(b.ctx))
					default:
						s.Abandon()
						require.Equal(b.t, txn.Done, b.finish(other, d, x, branch))
					}
					require.Equal(b.t, txn.AlreadyDone, b.finish(other, d, x, branch))
					require.NotContains(b.t, b.listed(other), x)
					if d == txn.Commit {
						b.requireValue(key, 7)
					} else {
						b.requireAbsent(key)
					}
				}
			}
		}, needs: canBeLast, what: "last resources"},
	{name: "a branch beside a last resource that may be prepared can be rolled back", prepares: true,
		run: func(b *bench) {
			r, x, key := b.open(), b.lastXID(), b.key()
			s := b.begin(r, x)
			s.(adapters.Tagged).SetTag(txn.TagOf("billing"))
			require.NoError(b.t, b.Write(b.ctx, s, key, 7))
			require.NoError(b.t, s.Rollback(b.ctx))
			require.Equal(b.t, txn.AlreadyDone, b.finish(b.open(), txn.Abort, x, txn.Branch{No: 1, Resource: r.Name()}))
			b.requireAbsent(key)
			b.requireFree(r, key)
		}, needs: canBeLast, what: "last resources"},
}
