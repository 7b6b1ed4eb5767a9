// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// finishCases: what the second, the late, the wrong and the concurrent finisher hear.
var finishCases = []testCase{
	{name: "commit twice is done and then already done", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Commit, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "rollback twice is done and then already done", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(other, txn.Abort, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Abort, x, branch))
		b.requireAbsent(key)
	}},
	{name: "a rollback that knows only the number and the resource ends the branch", prepares: true,
		run: func(b *bench) {
			r, x, key := b.open(), b.xid(), b.key()
			_, branch := b.prepared(r, x, key, 7)
			bare := txn.Branch{No: branch.No, Resource: branch.Resource}
			require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Abort, x, bare))
			require.Empty(b.t, b.listed(r))
			b.requireAbsent(key)
		}},
	{name: "rollback after commit is contradicted and changes nothing", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.Contradicted, b.finish(other, txn.Abort, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "commit after rollback is never done", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, x, branch))
		require.Contains(b.t, []txn.Finish{txn.Contradicted, txn.Lost}, b.finish(other, txn.Commit, x, branch))
		b.requireAbsent(key)
	}},
	{name: "an unknown branch is lost to commit and already done to rollback", run: func(b *bench) {
		r, x := b.open(), b.xid()
		branch := txn.Branch{No: x.Branch, Resource: r.Name()}
		require.Equal(b.t, txn.Lost, b.finish(r, txn.Commit, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Abort, x, branch))
	}},
	{name: "a rollback that comes before the prepare leaves nothing, at the latest with the next one",
		run: func(b *bench) {
			r, x, key := b.open(), b.xid(), b.key()
			s := b.work(r, x, key, 7)
			other := b.open()
			require.Contains(b.t, []txn.Finish{txn.Done, txn.AlreadyDone},
				b.finish(other, txn.Abort, x, txn.Branch{No: x.Branch, Resource: r.Name()}))
			vote, branch, err := s.Prepare(b.ctx)
			if vote == txn.VoteYes { // a late prepare: real, and the reason for the sweep
				require.NoError(b.t, err)
				require.Equal(b.t, []txn.XID{x}, b.listed(other))
				require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, x, branch))
			} else {
				require.Error(b.t, err)
			}
			require.Empty(b.t, b.listed(other))
			b.requireAbsent(key)
			b.requireFree(other, key)
		}},
	{name: "another instance takes over while the session lives", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Commit, x, branch))
		b.requireValue(key, 7)
		if got, err := s.Commit(b.ctx); err == nil {
			require.Equal(b.t, txn.AlreadyDone, got)
		}
		b.requireFree(r, key)
	}},
	{name: "an abandoned branch stays prepared for another instance", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		s.Abandon()
		s.Abandon()
		require.Equal(b.t, []txn.XID{x}, b.listed(r))
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Commit, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "concurrent commits by the session and three instances have one effect", prepares: true,
		run: func(b *bench) {
			const instances, rounds = 3, 5
			r := b.open()
			finishers := make([]func(x txn.XID, branch txn.Branch) txn.Finish, 0, instances)
			for range instances {
				other := b.open()
				finishers = append(finishers, func(x txn.XID, branch txn.Branch) txn.Finish {
					return b.finish(other, txn.Commit, x, branch)
				})
			}
			for range rounds {
				x, key := b.xid(), b.key()
				s, branch := b.prepared(r, x, key, 7)
				answers := make([]txn.Finish, instances)
				var group sync.WaitGroup
				for i, finish := range finishers {
					group.Go(func() { answers[i] = finish(x, branch) })
				}
				own, err := s.Commit(b.ctx)
				group.Wait()
				if err == nil {
					answers = append(answers, own)
				}
				for _, answer := range answers {
					require.Contains(b.t, []txn.Finish{txn.Done, txn.AlreadyDone}, answer)
				}
				b.requireValue(key, 7)
				// A commit that works twice would bring the old value back here.
				b.seed(r, key, 8)
				for _, finish := range finishers {
					require.Equal(b.t, txn.AlreadyDone, finish(x, branch))
				}
				b.requireValue(key, 8)
			}
		}},
	{name: "forgetting finished branches harms neither them nor prepared ones", prepares: true, run: func(b *bench) {
		r, finished, held := b.open(), b.xid(), b.xid()
		first, second := b.key(), b.key()
		s, _ := b.prepared(r, finished, first, 7)
		got, err := s.Commit(b.ctx)
		require.NoError(b.t, err)
		require.Equal(b.t, txn.Done, got)
		_, branch := b.prepared(r, held, second, 8)

		other := b.open()
		require.NoError(b.t, other.Forget(b.ctx, []txn.XID{finished, held}))
		require.NoError(b.t, other.Forget(b.ctx, []txn.XID{finished}))
		require.NoError(b.t, other.Forget(b.ctx, nil))
		b.requireValue(first, 7)
		require.Equal(b.t, []txn.XID{held}, b.listed(r))
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, held, branch))
		b.requireValue(second, 8)
	}},
	{name: "evidence is listed until it is forgotten, page after page", prepares: true, run: func(b *bench) {
		r := b.open()
		kept := func(r adapters.Resource, after txn.XID) (mine []txn.XID) {
			page, err := r.Evidence(b.ctx, after)
			require.NoError(b.t, err)
			for _, x := range page {
				if x.Cluster == b.cluster {
					mine = append(mine, x)
				}
			}
			return mine
		}
		before := txn.XID{Cluster: b.cluster}
		var xs []txn.XID
		for range 3 {
			x := b.xid()
			s, _ := b.prepared(r, x, b.key(), 7)
			_, err := s.Commit(b.ctx)
			require.NoError(b.t, err)
			xs = append(xs, x)
		}
		slices.SortFunc(xs, txn.XID.Compare) // two of one millisecond are in any order
		one, aborted := b.work(r, b.xid(), b.key(), 7), b.work(r, b.xid(), b.key(), 7)
		require.NoError(b.t, one.CommitOnePhase(b.ctx))
		require.NoError(b.t, aborted.Rollback(b.ctx))
		other := b.open()
		if len(kept(other, before)) == 0 {
			return // the database keeps its evidence itself
		}
		require.Equal(b.t, xs, kept(other, before), "one phase leaves nothing")
		require.Equal(b.t, xs[1:], kept(other, xs[0]))
		require.NoError(b.t, other.Forget(b.ctx, xs[:2]))
		require.Equal(b.t, xs[2:], kept(other, before))
		require.Empty(b.t, kept(other, xs[2]))
	}},
}
