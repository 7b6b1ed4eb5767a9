// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func manyWrite(t Target) bool { return !t.OneWriter }

const writers = "two writers at a time"

// lockCases: what a branch keeps others from, and for how long.
var lockCases = []testCase{
	{name: "a prepared branch holds its locks until it commits", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		b.seed(r, key, 1)
		_, branch := b.prepared(r, x, key, 2)
		other := b.open()
		b.requireLocked(other, key)
		require.Equal(b.t, txn.Done, b.finish(other, txn.Commit, x, branch))
		b.requireFree(other, key)
		b.requireValue(key, 2)
	}},
	{name: "a prepared branch holds its locks until it rolls back", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		b.seed(r, key, 1)
		_, branch := b.prepared(r, x, key, 2)
		other := b.open()
		b.requireLocked(other, key)
		require.Equal(b.t, txn.Done, b.finish(other, txn.Abort, x, branch))
		b.requireFree(other, key)
		b.requireValue(key, 1)
	}},
	{name: "a cancelled wait leaves nothing locked", needs: manyWrite, what: writers, run: func(b *bench) {
		r, mine, theirs := b.open(), b.key(), b.key()
		b.seed(r, mine, 1)
		b.seed(r, theirs, 1)
		holder := b.work(r, b.xid(), theirs, 2)
		waiter := b.work(b.open(), b.xid(), mine, 2)
		ctx, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
		defer cancel()
		require.Error(b.t, b.Write(ctx, waiter, theirs, 3))

		// The context of the caller is still over when it gives up.
		_ = waiter.Rollback(ctx)
		b.requireFree(b.open(), mine)
		require.NoError(b.t, holder.Rollback(b.ctx))
		b.requireFree(b.open(), theirs)
		b.requireValue(mine, 1)
		b.requireValue(theirs, 1)
	}},
	{name: "a prepare under a cancelled context leaves nothing locked once it is swept", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s := b.work(r, x, key, 2)
		ctx, cancel := context.WithCancel(b.ctx)
		cancel()
		vote, _, err := s.Prepare(ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.Error(b.t, err)
		_ = s.Rollback(b.ctx)
		other := b.open()
		b.finish(other, txn.Abort, x, txn.Branch{No: x.Branch, Resource: other.Name()})
		b.requireFree(other, key)
		b.requireAbsent(key)
	}},
	{name: "an instance works on after a cancelled call", run: func(b *bench) {
		r, key := b.open(), b.key()
		cancelled, cancel := context.WithCancel(b.ctx)
		cancel()
		for range 3 {
			if s, err := r.Open(cancelled, b.xid()); err == nil {
				_ = b.Write(cancelled, s, key, 1)
				_ = s.Rollback(b.ctx)
			}
		}
		b.requireFree(r, key)
		b.seed(r, key, 7)
		b.requireValue(key, 7)
	}},
}

// requireLocked requires that another branch's write does not get through: it fails
// by itself or waits until its deadline.
func (b *bench) requireLocked(r adapters.Adapter, key string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 300*time.Millisecond)
	defer cancel()
	s := b.begin(r, b.xid())
	require.Error(b.t, b.Write(ctx, s, key, -1))
	_ = s.Rollback(b.ctx) // the session may have ended with the context
}
