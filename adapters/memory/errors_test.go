// SPDX-License-Identifier: Apache-2.0

package memory_test

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

var anXID = regexp.MustCompile(`concord-[0-9a-f]{8}-[0-9A-Z]{26}-[0-9a-f]{2}`)

func TestWhatErrorsSay(t *testing.T) {
	ctx := t.Context()
	over, cancel := context.WithCancel(ctx)
	cancel()
	var rows []string
	for _, m := range []struct {
		name string
		meet func(*memory.Resource, *memory.Disk, txn.XID, adapters.Session, *memory.Tx) error
		says string
	}{
		{"a branch of another kind", func(r *memory.Resource, _ *memory.Disk, _ txn.XID, _ adapters.Session,
			_ *memory.Tx) error {
			_, err := r.Tx(ctx, adaptertest.Enlisted(nil))
			return err
		}, "enlist ledger: the transaction has a branch of another kind of resource under this name: give each " +
			"its own"},
		{"a context that has ended", func(r *memory.Resource, _ *memory.Disk, x txn.XID, _ adapters.Session,
			_ *memory.Tx) error {
			_, err := r.Open(over, x)
			return err
		}, "begin XID: context canceled"},
		{"a name that is in use", func(r *memory.Resource, _ *memory.Disk, x txn.XID, _ adapters.Session,
			_ *memory.Tx) error {
			_, err := r.Open(ctx, x)
			return err
		}, "begin XID: the name is in use: begin a new transaction"},
		{"no key", func(_ *memory.Resource, _ *memory.Disk, _ txn.XID, _ adapters.Session, tx *memory.Tx) error {
			return tx.Put(ctx, "", 1)
		}, "a key must not be empty"},
		{"a statement after that", func(_ *memory.Resource, _ *memory.Disk, _ txn.XID, _ adapters.Session,
			tx *memory.Tx) error {
			_ = tx.Put(ctx, "", 1)
			return tx.Put(ctx, "A", 1)
		}, "an earlier statement of this branch failed: a key must not be empty"},
		{"a vote after that", func(_ *memory.Resource, _ *memory.Disk, _ txn.XID, s adapters.Session,
			tx *memory.Tx) error {
			_ = tx.Put(ctx, "", 1)
			_, _, err := s.Prepare(ctx)
			return err
		}, "prepare XID: a statement failed: a key must not be empty"},
		{"a commit before the vote", func(r *memory.Resource, _ *memory.Disk, x txn.XID, _ adapters.Session,
			_ *memory.Tx) error {
			_, err := r.Commit(ctx, x, txn.Branch{})
			return err
		}, "XID is not prepared yet: its session must vote first"},
		{"a session that died", func(_ *memory.Resource, d *memory.Disk, _ txn.XID, s adapters.Session,
			_ *memory.Tx) error {
			_, _, err := s.Prepare(ctx)
			require.NoError(t, err)
			d.Crash()
			_, err = s.Commit(ctx)
			return err
		}, "the session died: finish its branch by Resource.Commit or Resource.Rollback"},
		{"a last resource that was settled", func(r *memory.Resource, _ *memory.Disk, x txn.XID, s adapters.Session,
			_ *memory.Tx) error {
			_, err := r.Settle(ctx, x.Cluster, x.ID)
			require.NoError(t, err)
			return s.(adapters.Last).CommitLast(ctx, txn.LastMarker{Decision: txn.Commit})
		}, "commit XID as the last resource: not committed: the cluster was asked for the outcome before the commit, " +
			"and has aborted it in its last resource: run it again"},
		{"evidence", func(r *memory.Resource, _ *memory.Disk, _ txn.XID, _ adapters.Session, _ *memory.Tx) error {
			return r.Validate(txn.Branch{Evidence: "x"})
		}, "the evidence or the holder is not that of a memory disk: run the newest version of concord on all nodes"},
	} {
		rows = append(rows, m.says)
		t.Run(m.name, func(t *testing.T) {
			disk := memory.NewDisk()
			r := memory.New("ledger", disk)
			x := txn.XID{ID: txn.NewID(time.Now())}
			s, err := r.Open(ctx, x)
			require.NoError(t, err)
			tx, err := r.Tx(ctx, adaptertest.Enlisted(s))
			require.NoError(t, err)
			require.NoError(t, tx.Put(ctx, "K", 1))
			err = m.meet(r, disk, x, s, tx)
			require.Error(t, err)
			require.Equal(t, m.says, anXID.ReplaceAllString(err.Error(), "XID"))
		})
	}
	said.Check(t, rows, nil)
}
