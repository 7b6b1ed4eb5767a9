// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func hasEndSession(t Target) bool { return t.EndSession != nil }
func hasRestart(t Target) bool    { return t.Restart != nil }
func hasChild(t Target) bool      { return t.Child != "" }

const (
	sessions = "sessions that a server can end"
	server   = "server to restart"
	client   = "client process to kill"
)

// surviveCases: a death, and what of the branch is there afterwards.
var surviveCases = []testCase{
	{name: "a prepared branch survives a killed session and commits", prepares: true,
		needs: hasEndSession, what: sessions,
		run: func(b *bench) { b.survives(txn.Commit, b.dieBySession) }},
	{name: "a prepared branch survives a killed session and rolls back", prepares: true,
		needs: hasEndSession, what: sessions,
		run: func(b *bench) { b.survives(txn.Abort, b.dieBySession) }},
	{name: "a prepared branch survives a killed server and commits", prepares: true, needs: hasRestart, what: server,
		run: func(b *bench) { b.survives(txn.Commit, b.dieByServer) }},
	{name: "a prepared branch survives a killed server and rolls back", prepares: true, needs: hasRestart, what: server,
		run: func(b *bench) { b.survives(txn.Abort, b.dieByServer) }},
	{name: "a prepared branch survives a killed client and commits", prepares: true, needs: hasChild, what: client,
		run: func(b *bench) { b.survives(txn.Commit, b.dieByClient) }},
	{name: "a prepared branch survives a killed client and rolls back", prepares: true, needs: hasChild, what: client,
		run: func(b *bench) { b.survives(txn.Abort, b.dieByClient) }},

	{name: "a killed session leaves nothing of an unprepared branch", needs: hasEndSession, what: sessions,
		run: func(b *bench) {
			r, key := b.open(), b.key()
			b.EndSession(b.t, b.work(r, b.xid(), key, 7))
			b.requireNothing(key)
		}},
	{name: "a killed session votes no", needs: hasEndSession, what: sessions,
		run: func(b *bench) {
			r, key := b.open(), b.key()
			s := b.work(r, b.xid(), key, 7)
			b.EndSession(b.t, s)
			vote, _, err := s.Prepare(b.ctx)
			require.Equal(b.t, txn.VoteNo, vote)
			require.Error(b.t, err)
			b.requireNothing(key)
		}},
	{name: "a killed server leaves nothing of an unprepared branch", needs: hasRestart, what: server,
		run: func(b *bench) {
			key := b.key()
			b.work(b.open(), b.xid(), key, 7)
			b.Restart(b.t)
			b.requireNothing(key)
		}},
	{name: "a killed client leaves nothing of an unprepared branch", needs: hasChild, what: client,
		run: func(b *bench) {
			key := b.key()
			KillClient(b.t, Order{Arg: b.Child, XID: b.xid(), Key: key, Value: 7})
			b.requireNothing(key)
		}},
	{name: "a commit survives a killed server", prepares: true, needs: hasRestart, what: server,
		run: func(b *bench) {
			r, x, key := b.open(), b.xid(), b.key()
			s, branch := b.prepared(r, x, key, 7)
			got, err := s.Commit(b.ctx)
			require.NoError(b.t, err)
			require.Equal(b.t, txn.Done, got)
			b.Restart(b.t)
			b.requireValue(key, 7)
			r = b.open()
			require.Equal(b.t, txn.AlreadyDone, b.finish(r, txn.Commit, x, branch))
			require.Equal(b.t, txn.Contradicted, b.finish(r, txn.Abort, x, branch))
		}},
}

// survives prepares a branch that changes one key and creates another, lets die
// happen, and finishes it through an instance that knew nothing of it.
func (b *bench) survives(d txn.Decision, die func(x txn.XID, key string) txn.Branch) {
	key, x := b.key(), b.xid()
	b.seed(b.open(), key, 1)
	branch := die(x, key)

	r := b.open()
	require.Equal(b.t, []txn.XID{x}, b.listed(r))
	b.requireValue(key, 1)
	b.requireLocked(r, key)
	require.Equal(b.t, txn.Done, b.finish(r, d, x, branch))
	if d == txn.Commit {
		b.requireValue(key, 2)
	} else {
		b.requireValue(key, 1)
	}
	require.Empty(b.t, b.listed(r))
	b.requireFree(r, key)
	require.Equal(b.t, txn.AlreadyDone, b.finish(b.open(), d, x, branch))
}

func (b *bench) dieBySession(x txn.XID, key string) txn.Branch {
	s, branch := b.prepared(b.open(), x, key, 2)
	b.EndSession(b.t, s)
	return branch
}

func (b *bench) dieByServer(x txn.XID, key string) txn.Branch {
	_, branch := b.prepared(b.open(), x, key, 2)
	b.Restart(b.t)
	return branch
}

func (b *bench) dieByClient(x txn.XID, key string) txn.Branch {
	return KillClient(b.t, Order{Arg: b.Child, XID: x, Key: key, Value: 2, Prepare: true})
}

// requireNothing requires that a branch that created key has left no trace.
func (b *bench) requireNothing(key string) {
	b.t.Helper()
	r := b.open()
	b.requireFree(r, key)
	b.requireAbsent(key)
	require.Empty(b.t, b.listed(r))
}
