// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// finishCases: what the second, the late, the wrong and the concurrent finisher hear.
var finishCases = []testCase{
	{name: "commit twice is done and then already done", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Commit, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "rollback twice is done and then already done", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(other, txn.Abort, x, branch))
		require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Abort, x, branch))
		b.requireAbsent(key)
	}},
	{name: "a rollback that knows only the number and the resource ends the branch", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		bare := txn.Branch{No: branch.No, Resource: branch.Resource}
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Abort, x, bare))
		require.Empty(b.t, b.listed(r))
		b.requireAbsent(key)
	}},
	{name: "rollback after commit is contradicted and changes nothing", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		other := b.open()
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, x, branch))
		require.Equal(b.t, txn.Contradicted, b.finish(other, txn.Abort, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "commit after rollback is never done", run: func(b *bench) {
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
	{name: "another instance takes over while the session lives", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Commit, x, branch))
		b.requireValue(key, 7)
		if got, err := s.Commit(b.ctx); err == nil {
			require.Equal(b.t, txn.AlreadyDone, got)
		}
		b.requireFree(r, key)
	}},
	{name: "an abandoned branch stays prepared for another instance", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		s.Abandon()
		s.Abandon()
		require.Equal(b.t, []txn.XID{x}, b.listed(r))
		require.Equal(b.t, txn.Done, b.finish(b.open(), txn.Commit, x, branch))
		b.requireValue(key, 7)
	}},
	{name: "concurrent commits by the session and three instances have one effect", run: func(b *bench) {
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
	{name: "forgetting finished branches harms neither them nor prepared ones", run: func(b *bench) {
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
	{name: "evidence is listed until it is forgotten, page after page", run: func(b *bench) {
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
	{name: "many branches are finished together, each as was decided", needs: batches, what: "FinishAll",
		run: func(b *bench) {
			const many = 12
			r, other := b.open(), b.open()
			var all []adapters.Decided
			var keys []string
			decided := func(x txn.XID, branch txn.Branch, d txn.Decision) {
				all = append(all, adapters.Decided{XID: x, Branch: branch, Decision: d})
			}
			for i := range many {
				x, key := b.xid(), b.key()
				s, branch := b.prepared(r, x, key, 7)
				b.EndSession(b.t, s)
				decided(x, branch, txn.Commit+txn.Decision(i%2))
				keys = append(keys, key)
			}
			b.listed(other) // as a scan does, before anything is finished
			left := all
			b.eventually("finish all", func(context.Context) error { // sessions end in the server's own time
				var rest []adapters.Decided
				for i, f := range b.finishAll(other, left) {
					require.Contains(b.t, []txn.Finish{0, txn.Done}, f)
					if f == 0 {
						rest = append(rest, left[i])
					}
				}
				if left = rest; len(left) > 0 {
					return errors.New("some are left to Commit and Rollback")
				}
				return nil
			})
			require.Empty(b.t, b.listed(r))
			for i, key := range keys {
				if all[i].Decision == txn.Commit {
					b.requireValue(key, 7)
				} else {
					b.requireAbsent(key)
					b.requireFree(r, key)
				}
			}
			// What has ended is never done once more, whatever is said of it now.
			for i := range all {
				all[i].Decision = txn.Commit
			}
			decided(b.xid(), txn.Branch{No: 1, Resource: r.Name()}, txn.Commit)
			for i, f := range b.finishAll(other, all) {
				if i%2 == 0 && i < many {
					require.Contains(b.t, []txn.Finish{0, txn.AlreadyDone}, f)
				} else {
					require.Contains(b.t, []txn.Finish{0, txn.Lost, txn.Contradicted}, f)
				}
			}
		}},
	{name: "a branch whose session lives and one that is not there hold up no other", needs: batches, what: "FinishAll",
		run: func(b *bench) {
			r, other, key := b.open(), b.open(), b.key()
			living, gone, unknown := b.xid(), b.xid(), b.xid()
			_, one := b.prepared(r, living, b.key(), 7)
			s, two := b.prepared(r, gone, key, 8)
			b.EndSession(b.t, s)
			b.listed(other)
			all := []adapters.Decided{{XID: living, Branch: one, Decision: txn.Commit},
				{XID: unknown, Branch: txn.Branch{No: 1, Resource: r.Name()}, Decision: txn.Commit},
				{XID: gone, Branch: two, Decision: txn.Commit}}
			b.eventually("finish the other", func(context.Context) error {
				found := b.finishAll(other, all)
				require.Contains(b.t, []txn.Finish{0, txn.Done, txn.AlreadyDone}, found[0])
				require.Contains(b.t, []txn.Finish{0, txn.Lost}, found[1])
				if found[2] == 0 {
					return errors.New("it is left to Commit")
				}
				return nil
			})
			b.requireValue(key, 8)
			require.Contains(b.t, []txn.Finish{txn.Done, txn.AlreadyDone}, b.finish(other, txn.Commit, living, one))
		}},
}

func batches(t Target) bool { return t.Batches && t.EndSession != nil }

func (b *bench) finishAll(r adapters.Resource, all []adapters.Decided) []txn.Finish {
	together, able := r.(adapters.Batching)
	require.True(b.t, able)
	found, err := together.FinishAll(b.ctx, all)
	require.NoError(b.t, err)
	require.Len(b.t, found, len(all))
	return found
}
