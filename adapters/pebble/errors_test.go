// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

// branchOf is a branch that a row can meet its error in.
type branchOf struct {
	r  *Resource
	x  txn.XID
	s  adapters.Session
	tx *Tx
}

// closed is what a closed store says to that.
func closed(do func(context.Context, *branchOf) error) func(context.Context, *branchOf) error {
	return func(ctx context.Context, b *branchOf) error {
		if err := b.r.Close(); err != nil {
			return err
		}
		return do(ctx, b)
	}
}

// failed is what a branch says to that after a statement of it failed.
func failed(do func(context.Context, *branchOf) error) func(context.Context, *branchOf) error {
	return func(ctx context.Context, b *branchOf) error {
		_ = b.tx.Set(ctx, []byte(Reserved), nil)
		return do(ctx, b)
	}
}

var messages = []struct {
	name string
	meet func(context.Context, *branchOf) error
	says string
}{
	{"a branch of another store", func(ctx context.Context, b *branchOf) error {
		_, err := b.r.Tx(ctx, adaptertest.Enlisted(nil))
		return err
	},
		"enlist ledger: the transaction has a branch of another store under this name: give each its own"},
	{"a name that is in use", func(ctx context.Context, b *branchOf) error { _, err := b.r.Open(ctx, b.x); return err },
		"begin XID: the name XID is in use: begin a new transaction"},
	{"a last resource that was settled", func(ctx context.Context, b *branchOf) error {
		if _, err := b.r.Settle(ctx, b.x.Cluster, b.x.ID); err != nil {
			return err
		}
		return b.s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit})
	}, "commit XID as the last resource: not committed: the cluster was asked for the outcome before the commit, and " +
		"has aborted it in its last resource: run it again"},
	{"settling in a closed store", closed(func(ctx context.Context, b *branchOf) error {
		_, err := b.r.Settle(ctx, b.x.Cluster, b.x.ID)
		return err
	}), "settle XID: " + ErrClosed.Error()},
	{"a key of concord", func(ctx context.Context, b *branchOf) error { return b.tx.Set(ctx, []byte(Reserved), nil) },
		"the key is reserved for concord: choose one that does not begin with pebble.Reserved"},
	{"a key of another branch", func(ctx context.Context, b *branchOf) error {
		b.r.store.lockTimeout = time.Millisecond
		s, err := b.r.Open(ctx, txn.XID{ID: txn.NewID(time.Now())})
		if err != nil {
			return err
		}
		defer func() { _ = s.Rollback(context.Background()) }() // of a branch that wrote nothing
		tx, err := b.r.Tx(ctx, adaptertest.Enlisted(s))
		if err != nil {
			return err
		}
		return tx.Set(ctx, []byte("k"), nil)
	}, `wait for the lock of "k", held by XID: lock timeout: another branch holds the key; try the transaction again`},
	{"a statement after a failure", failed(func(ctx context.Context,
		b *branchOf) error {
		return b.tx.Set(ctx, []byte("k"), nil)
	}),
		"an earlier statement of this branch failed: the key is reserved for concord: choose one that does not " +
			"begin with pebble.Reserved"},
	{"a vote after a failure", failed(func(ctx context.Context, b *branchOf) error {
		_, _,
			err := b.s.Prepare(ctx)
		return err
	}),
		"prepare XID: a statement failed: the key is reserved for concord: choose one that does not begin with " +
			"pebble.Reserved"},
	{"the only branch, after a failure",
		failed(func(ctx context.Context, b *branchOf) error { return b.s.CommitOnePhase(ctx) }),
		"commit XID: " + adapters.ErrNotCommitted.Error() +
			": a statement failed: the key is reserved for concord: choose one that does not begin with " +
			"pebble.Reserved"},
	{"a commit before the vote", func(ctx context.Context, b *branchOf) error {
		_, err := b.r.Commit(ctx, b.x, txn.Branch{})
		return err
	}, "commit XID: the branch is not prepared yet: its session must vote first"},
	{"evidence", func(_ context.Context, b *branchOf) error { return b.r.Validate(txn.Branch{Evidence: "x"}) },
		"the evidence or the holder is not that of a Pebble store: run the newest version of concord on all nodes"},
	{"a branch of a closed store", closed(func(ctx context.Context, b *branchOf) error {
		_,
			err := b.r.Open(ctx, b.x)
		return err
	}), "begin XID: the store is closed"},
	{"a rollback in a closed store", closed(func(ctx context.Context, b *branchOf) error { return b.s.Rollback(ctx) }),
		"roll back XID: the store is closed"},
	{"a list of a closed store", closed(func(ctx context.Context, b *branchOf) error {
		_,
			err := b.r.Recover(ctx)
		return err
	}), "recover: the store is closed"},
	{"evidence of a closed store", closed(func(ctx context.Context, b *branchOf) error {
		_,
			err := b.r.Evidence(ctx, b.x)
		return err
	}), "list the evidence: the store is closed"},
	{"evidence to forget of a closed store",
		closed(func(ctx context.Context, b *branchOf) error { return b.r.Forget(ctx, nil) }),
		"forget: the store is closed"},
}

// withoutRow are the texts that no row of the table has.
var withoutRow = map[string]string{
	"resource %s: store %s: %w":       broken,
	"recover %s: %w":                  broken,
	"read %q: %w":                     broken,
	"%w; and the rollback failed: %w": broken,
	"write the identity of the store: %w; open it writable and with its write-ahead log": broken,
	"key %q belongs to two prepared branches: %w; restore the store from a backup":       broken,
}

const broken = "wants a store that cannot be read or written, which other tests see to"

var anXID = regexp.MustCompile(`concord-[0-9a-f]{8}-[0-9A-Z]{26}-[0-9a-f]{2}`)

func TestWhatErrorsSay(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			w := newWorld(t)
			b := &branchOf{r: w.resource}
			b.x, b.s, b.tx = begin(t, w.resource)
			require.NoError(t, b.tx.Set(patient(t), []byte("k"), nil))
			err := m.meet(patient(t), b)
			require.Error(t, err)
			require.Equal(t, m.says, anXID.ReplaceAllString(err.Error(), "XID"))
		})
	}
	dir := t.TempDir()
	r, err := Open("ledger", dir)
	require.NoError(t, err)
	_, err = Open("ledger", dir)
	rows = append(rows, fmt.Sprintf("resource ledger: open the store %s: lock held by current process; only one "+
		"process at a time can open it", dir))
	require.EqualError(t, err, rows[len(rows)-1])
	require.NoError(t, r.Close())
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = Open("ledger", file)
	rows = append(rows, fmt.Sprintf("resource ledger: create the store: mkdir %s: not a directory; name another "+
		"directory",
		file))
	require.EqualError(t, err, rows[len(rows)-1])
	said.Check(t, rows, withoutRow)
}
