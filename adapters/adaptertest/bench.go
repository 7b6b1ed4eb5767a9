// SPDX-License-Identifier: Apache-2.0

package adaptertest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// bench is the workplace of one case: its own cluster id, the branches that it
// made, and a deadline.
type bench struct {
	Target
	t       *testing.T
	ctx     context.Context
	cluster txn.ClusterID
	made    []txn.XID
	sweeper adapters.Adapter // nil: one of its own
}

func newBench(t *testing.T, target Target) *bench {
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	var random [4]byte
	_, err := rand.Read(random[:])
	require.NoError(t, err)
	b := &bench{Target: target, t: t, ctx: ctx, cluster: txn.ClusterID(binary.BigEndian.Uint32(random[:]))}
	t.Cleanup(cancel)
	t.Cleanup(b.sweep)
	return b
}

// sweep ends what a failed case left behind, and holds a case that passed to the rule
// that nothing of it is still prepared.
func (b *bench) sweep() {
	r := b.sweeper
	if r == nil {
		r = b.open()
	}
	if !b.t.Failed() {
		require.Empty(b.t, b.listed(r), "still prepared at the end of the case")
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for _, x := range b.made {
		if _, err := r.Rollback(ctx, x, txn.Branch{No: x.Branch, Resource: r.Name()}); err != nil {
			b.t.Logf("sweep %s: %v", x, err)
		}
	}
	require.NoError(b.t, r.Forget(ctx, b.made))
}

// open opens another instance.
func (b *bench) open() adapters.Adapter {
	r := b.Target.Open(b.t)
	b.t.Cleanup(func() { require.NoError(b.t, r.Close()) })
	return r
}

// xid mints the first branch of a new global transaction.
func (b *bench) xid() txn.XID { return b.branch(txn.NewID(time.Now()), 1) }

func (b *bench) branch(id txn.ID, no txn.BranchNo) txn.XID {
	x := txn.XID{Cluster: b.cluster, ID: id, Branch: no}
	b.made = append(b.made, x)
	return x
}

// key is a name that nobody has used before.
func (b *bench) key() string { return txn.NewID(time.Now()).String() }

// begin opens a branch. Whatever happens to it, its session is given back in the end.
func (b *bench) begin(r adapters.Adapter, x txn.XID) adapters.Session {
	s, err := r.Open(b.ctx, x)
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		_ = s.Rollback(ctx) // the branch may have ended long ago
	})
	return s
}

// work opens a branch and writes one key in it.
func (b *bench) work(r adapters.Adapter, x txn.XID, key string, value int64) adapters.Session {
	s := b.begin(r, x)
	require.NoError(b.t, b.Write(b.ctx, s, key, value))
	return s
}

// prepare requires a yes.
func (b *bench) prepare(r adapters.Adapter, s adapters.Session, x txn.XID) txn.Branch {
	vote, branch, err := s.Prepare(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, txn.VoteYes, vote)
	require.Equal(b.t, x.Branch, branch.No)
	require.Equal(b.t, r.Name(), branch.Resource)
	return branch
}

// prepared opens a branch, writes one key in it and prepares it.
func (b *bench) prepared(r adapters.Adapter, x txn.XID, key string, value int64) (adapters.Session, txn.Branch) {
	s := b.work(r, x, key, value)
	return s, b.prepare(r, s, x)
}

// seed commits a value in one phase.
func (b *bench) seed(r adapters.Adapter, key string, value int64) {
	require.NoError(b.t, b.work(r, b.xid(), key, value).CommitOnePhase(b.ctx))
}

// finish asks until the answer is not "try again".
func (b *bench) finish(r adapters.Resource, d txn.Decision, x txn.XID, branch txn.Branch) txn.Finish {
	var answer txn.Finish
	b.eventually("finish "+x.String(), func(ctx context.Context) (err error) {
		if d == txn.Commit {
			answer, err = r.Commit(ctx, x, branch)
		} else {
			answer, err = r.Rollback(ctx, x, branch)
		}
		return err
	})
	return answer
}

// eventually repeats do until it returns nil. It is for what the contract calls "try
// again" and for effects of a death that the server sees in its own time.
func (b *bench) eventually(what string, do func(ctx context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, Patience)
	defer cancel()
	for {
		err := do(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			require.NoError(b.t, err, what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// listed returns this case's part of what Recover lists.
func (b *bench) listed(r adapters.Resource) []txn.XID {
	var mine []txn.XID
	b.eventually("recover", func(ctx context.Context) error {
		mine = nil
		all, err := r.Recover(ctx)
		for _, p := range all {
			if p.XID.Cluster == b.cluster {
				mine = append(mine, p.XID)
			}
		}
		return err
	})
	return mine
}

func (b *bench) requireValue(key string, want int64) {
	b.t.Helper()
	got, found := b.Read(b.t, key)
	require.True(b.t, found, "key is absent")
	require.Equal(b.t, want, got)
}

func (b *bench) requireAbsent(key string) {
	b.t.Helper()
	_, found := b.Read(b.t, key)
	require.False(b.t, found, "key is there")
}

// requireFree requires that somebody else can write key, soon: the server may need a
// moment to see that a session has died.
func (b *bench) requireFree(r adapters.Adapter, key string) {
	b.t.Helper()
	b.eventually("key is locked", func(context.Context) error {
		ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
		defer cancel()
		s := b.begin(r, b.xid())
		err := b.Write(ctx, s, key, -1)
		if rollback := s.Rollback(b.ctx); err == nil {
			err = rollback
		}
		return err
	})
}
