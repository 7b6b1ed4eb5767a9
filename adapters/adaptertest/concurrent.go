// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

func hasHang(t Target) bool { return t.Hang != nil && t.Busy != nil }

const hanging = "statement that hangs"

// concurrentCases: several goroutines on one branch, and a global transaction whose time
// is up while the application still works.
var concurrentCases = []testCase{
	{name: "several goroutines write in one branch and all of it commits, or nothing", run: func(b *bench) {
		r := b.open()
		for range 5 {
			s, keys, failed := b.begin(r, b.xid()), b.keys(8), atomic.Bool{}
			var group sync.WaitGroup
			for _, key := range keys {
				group.Go(func() {
					if b.Write(b.ctx, s, key, 1) != nil { // the application takes no notice
						failed.Store(true)
					}
				})
			}
			group.Wait()
			if !b.commits(s) {
				b.requireAllAbsent(keys)
				continue
			}
			require.False(b.t, failed.Load(), "a write was answered with an error")
			for _, key := range keys {
				b.requireValue(key, 1)
			}
		}
	}},
	{name: "rollback while several goroutines write leaves nothing", run: func(b *bench) {
		r := b.open()
		for range 5 {
			s, keys := b.begin(r, b.xid()), b.keys(8)
			require.NoError(b.t, b.Write(b.ctx, s, keys[0], 1))
			var group sync.WaitGroup
			for _, key := range keys[1:] {
				group.Go(func() { _ = b.Write(b.ctx, s, key, 1) })
			}
			require.NoError(b.t, s.Rollback(b.ctx))
			group.Wait()
			require.ErrorIs(b.t, b.Write(b.ctx, s, keys[0], 2), adapters.ErrBranchEnded)
			b.requireAllAbsent(keys)
			for _, key := range keys {
				b.requireFree(b.open(), key)
			}
		}
	}},
	{name: "rollback between two statements refuses the second", run: func(b *bench) {
		r, key, late := b.open(), b.key(), b.key()
		s := b.work(r, b.xid(), key, 1)
		rolled := make(chan error, 1)
		go func() { rolled <- s.Rollback(b.ctx) }()
		require.NoError(b.t, <-rolled)
		require.ErrorIs(b.t, b.Write(b.ctx, s, late, 2), adapters.ErrBranchEnded)
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.ErrorIs(b.t, err, adapters.ErrBranchEnded)
		b.requireAllAbsent([]string{key, late})
		b.requireFree(b.open(), key)
	}},
	{name: "rollback while a statement runs ends it and frees the locks", needs: hasHang, what: hanging,
		run: func(b *bench) {
			b.stops(func(ctx context.Context, s adapters.Session) error { return b.Hang(ctx, s) })
		}},
	{name: "rollback while a statement waits for a lock ends it and frees the locks",
		needs: func(t Target) bool { return hasHang(t) && manyWrite(t) }, what: hanging + " for a lock",
		run: func(b *bench) {
			theirs := b.key()
			holder := b.work(b.open(), b.xid(), theirs, 1)
			b.stops(func(ctx context.Context, s adapters.Session) error { return b.Write(ctx, s, theirs, 2) })
			require.NoError(b.t, holder.CommitOnePhase(b.ctx))
			b.requireValue(theirs, 1)
		}},
}

// commits ends a branch and reports whether it committed: in two phases, if it can.
func (b *bench) commits(s adapters.Session) bool {
	if b.NoPrepare {
		err := s.CommitOnePhase(b.ctx)
		if err != nil {
			require.ErrorIs(b.t, err, adapters.ErrNotCommitted)
		}
		return err == nil
	}
	vote, _, err := s.Prepare(b.ctx)
	if vote == txn.VoteNo {
		require.Error(b.t, err)
		return false
	}
	require.Equal(b.t, txn.VoteYes, vote)
	got, err := s.Commit(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, txn.Done, got)
	return true
}

// stops rolls a branch back while hang, the application's statement, hangs. The context
// of the statement goes on: nobody but the rollback can end it.
func (b *bench) stops(hang func(context.Context, adapters.Session) error) {
	r, x, key := b.open(), b.xid(), b.key()
	s := b.work(r, x, key, 1)
	hung := make(chan error, 1)
	go func() { hung <- hang(b.ctx, s) }()
	b.Busy(b.t, s)

	ctx, cancel := context.WithTimeout(b.ctx, Patience)
	defer cancel()
	require.NoError(b.t, s.Rollback(ctx))
	b.requireFree(b.open(), key)
	select {
	case err := <-hung:
		require.Error(b.t, err)
	case <-time.After(Patience):
		b.t.Fatal("the statement is still running")
	}
	require.ErrorIs(b.t, b.Write(b.ctx, s, key, 2), adapters.ErrBranchEnded)
	require.Empty(b.t, b.listed(r))
	b.requireAbsent(key)
	b.seed(r, key, 3) // the instance works on
	b.requireValue(key, 3)
}

func (b *bench) keys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = b.key()
	}
	return keys
}

func (b *bench) requireAllAbsent(keys []string) {
	b.t.Helper()
	for _, key := range keys {
		b.requireAbsent(key)
	}
}
