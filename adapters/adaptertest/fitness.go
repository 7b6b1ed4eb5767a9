// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// fitnessCases: what a resource says about itself, and misuse of a branch.
var fitnessCases = []testCase{
	{name: "two instances of one database have one identity", run: func(b *bench) {
		one, err := b.open().Identity(b.ctx)
		require.NoError(b.t, err)
		two, err := b.open().Identity(b.ctx)
		require.NoError(b.t, err)
		require.NotEmpty(b.t, one)
		require.Equal(b.t, one, two)
	}},
	{name: "the identity survives a restart", needs: hasRestart, what: server, run: func(b *bench) {
		before, err := b.open().Identity(b.ctx)
		require.NoError(b.t, err)
		b.Restart(b.t)
		after, err := b.open().Identity(b.ctx)
		require.NoError(b.t, err)
		require.Equal(b.t, before, after)
	}},
	{name: "a fit database passes the check", run: func(b *bench) {
		r := b.open()
		report, err := r.Check(b.ctx)
		require.NoError(b.t, err)
		require.True(b.t, report.OK(), "%+v", report.Findings)
		require.NotEmpty(b.t, report.Version)
		require.NotEmpty(b.t, r.Name())
		require.NotEmpty(b.t, r.Driver())
	}},
	{name: "a record is valid as its session wrote it and in no other form", prepares: true, run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		_, branch := b.prepared(r, x, key, 7)
		require.NoError(b.t, r.Validate(branch))
		require.NoError(b.t, r.Validate(txn.Branch{No: x.Branch, Resource: r.Name()}), "what is not known is left out")
		for _, other := range []string{"poison", branch.Evidence + " ", branch.Holder + "+", "x" + branch.Evidence,
			"'; drop table kv; --", strings.Repeat("a", 1<<16)} {
			require.Error(b.t, r.Validate(txn.Branch{No: branch.No, Resource: branch.Resource, Evidence: other,
				Holder: branch.Holder}), "evidence %.40q", other)
			require.Error(b.t, r.Validate(txn.Branch{No: branch.No, Resource: branch.Resource,
				Evidence: branch.Evidence, Holder: other}), "holder %.40q", other)
		}
		require.Equal(b.t, txn.Done, b.finish(r, txn.Commit, x, branch))
	}},
	{name: "an ended branch takes no more orders", run: func(b *bench) {
		r, key := b.open(), b.key()
		s := b.work(r, b.xid(), key, 7)
		require.NoError(b.t, s.CommitOnePhase(b.ctx))
		require.Error(b.t, b.Write(b.ctx, s, key, 8))
		vote, _, err := s.Prepare(b.ctx)
		require.Equal(b.t, txn.VoteNo, vote)
		require.ErrorIs(b.t, err, adapters.ErrBranchEnded)
		require.ErrorIs(b.t, s.CommitOnePhase(b.ctx), adapters.ErrBranchEnded)
		b.requireValue(key, 7)
	}},
	{name: "a prepared branch takes no more work", prepares: true, run: func(b *bench) {
		r, x, key, late := b.open(), b.xid(), b.key(), b.key()
		s, branch := b.prepared(r, x, key, 7)
		require.Error(b.t, b.Write(b.ctx, s, late, 8))
		require.Equal(b.t, txn.Done, b.finish(r, txn.Commit, x, branch))
		b.requireValue(key, 7)
		b.requireAbsent(late)
	}},
	{name: "an unprepared branch cannot be committed in two phases", run: func(b *bench) {
		r, x, key := b.open(), b.xid(), b.key()
		s := b.work(r, x, key, 7)
		_, err := s.Commit(b.ctx)
		require.Error(b.t, err)
		b.requireAbsent(key)
		require.NoError(b.t, s.Rollback(b.ctx))
		b.requireFree(r, key)
	}},
}
