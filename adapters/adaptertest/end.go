// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"errors"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// endCases: one branch, one session, no accidents.
var endCases = []testCase{
	{name: "commit on the session makes the work visible", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		b.requireAbsent(key)
		got, err := s.Commit(b.ctx)
		require.NoError(b.t, err)
		require.Equal(b.t, txn.Done, got)
		b.requireValue(key, 7)
		require.Equal(b.t, txn.AlreadyDone, b.finish(b.open(), txn.Commit, x, branch))
	}},
	{name: "rollback of a prepared branch on the session leaves nothing", prepares: true, run: func(b *bench) {
		r, x, old, absent := b.open(), b.xid(), b.key(), b.key()
		b.seed(r, old, 1)
		s := b.work(r, x, old, 2)
		require.NoError(b.t, b.Write(b.ctx, s, absent, 3))
		branch := b.prepare(r, s, x)
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireValue(old, 1)
		b.requireAbsent(absent)
		require.Equal(b.t, txn.AlreadyDone, b.finish(b.open(), txn.Abort, x, branch))
		b.requireFree(r, old)
	}},
	{name: "rollback of an unprepared branch leaves nothing", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireAbsent(key)
		b.requireFree(r, key)
	}},
	{name: "one-phase commit makes the work visible and lists nothing", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.NoError(b.t, s.CommitOnePhase(b.ctx))
		b.requireValue(key, 7)
		require.Empty(b.t, b.listed(r))
		b.requireFree(r, key)
	}},
	{name: "one-phase commit after a failed statement is not committed", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.Error(b.t, b.Fail(b.ctx, s))
		require.ErrorIs(b.t, s.CommitOnePhase(b.ctx), adapters.ErrNotCommitted)
		b.requireAbsent(key)
		b.requireFree(r, key)
	}},
	{name: "a failed statement votes no and leaves nothing", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.Error(b.t, b.Fail(b.ctx, s))
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.Error(b.t, err)
		require.Empty(b.t, b.listed(r))
		b.requireAbsent(key)
		b.requireFree(r, key)
	}},
	{name: "rollback after a no, and again after a rollback, says that nothing is left", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.Error(b.t, b.Fail(b.ctx, s))
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.Error(b.t, err)
		require.NoError(b.t, s.Rollback(b.ctx))
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireFree(r, key)
		s = b.work(r, b.xid(), key, 8)
		require.NoError(b.t, s.Rollback(b.ctx))
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireAbsent(key)
	}},
	{name: "a session that remembers what its application was told names the error", run: func(b *bench) {
		r := b.open()
		s := b.work(r, b.xid(), b.key(), 7)
		remembers, ok := s.(adapters.Failing)
		require.True(b.t, ok, "%T", s)
		require.Equal(b.t, [2]error{}, remembers.Failures())
		first := b.Fail(b.ctx, s)
		require.Error(b.t, first)
		knows := func(err error) bool {
			all := remembers.Failures()
			return slices.ContainsFunc(all[:], func(failure error) bool {
				return failure != nil && errors.Is(err, failure)
			})
		}
		require.True(b.t, knows(first))
		last := b.Fail(b.ctx, s) // which may be told that there was one before
		require.Error(b.t, last)
		require.True(b.t, knows(first))
		require.True(b.t, knows(last))
		require.False(b.t, knows(errors.New("something else")))
		require.NoError(b.t, s.Rollback(b.ctx))
		require.True(b.t, knows(first))
	}},
	{name: "a write after a failed statement does not heal the branch", run: func(b *bench) {
		r, first, second := b.open(), b.key(), b.key()
		s := b.work(r, b.xid(), first, 7)
		require.Error(b.t, b.Fail(b.ctx, s))
		_ = b.Write(b.ctx, s, second, 8) // a resource may refuse it or not
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.Error(b.t, err)
		b.requireAbsent(first)
		b.requireAbsent(second)
	}},
	{name: "a branch that only read votes read-only and is not listed", run: func(b *bench) {
		r := b.open()
		s := b.begin(r, b.xid())
		require.NoError(b.t, b.ReadOnly(b.ctx, s))
		b.requireOnlyRead(s, true)
		b.requireReadOnlyVote(r, s)
	}},
	{name: "a branch that did nothing votes read-only and is not listed", run: func(b *bench) {
		r := b.open()
		b.requireReadOnlyVote(r, b.begin(r, b.xid()))
	}},
	{name: "a branch that read and then wrote votes yes", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s := b.begin(r, x)
		require.NoError(b.t, b.ReadOnly(b.ctx, s))
		require.NoError(b.t, b.Write(b.ctx, s, key, 7))
		b.requireOnlyRead(s, false)
		b.prepare(r, s, x)
		require.Equal(b.t, []txn.XID{x}, b.listed(r))
		got, err := s.Commit(b.ctx)
		require.NoError(b.t, err)
		require.Equal(b.t, txn.Done, got)
		b.requireValue(key, 7)
	}},
}

// requireOnlyRead asks a session that can tell whether its branch only read. Whoever needs a decision
// in any case has no use for that.
func (b *bench) requireOnlyRead(s adapters.Session, want bool) {
	if u, ok := s.(adapters.Undecided); ok && u.NeedsDecision() {
		return
	}
	knows, ok := s.(adapters.Reading)
	require.True(b.t, ok, "%T", s)
	require.Equal(b.t, want, knows.OnlyRead())
}

func (b *bench) requireReadOnlyVote(r adapters.Adapter, s adapters.Session) {
	vote, _, err := s.Prepare(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, txn.VoteReadOnly, vote)
	require.Empty(b.t, b.listed(r))
}
