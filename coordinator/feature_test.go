// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// A release that went back too far must not guess what its store holds.
func TestStoreOfALaterReleaseIsNotOpened(t *testing.T) {
	fs := vfs.NewMem()
	store, err := wal.Open("/data", wal.Options{FS: fs, Node: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	first := zab.Entry{Zxid: zab.Zxid{Epoch: 1, Counter: 1}, Data: txn.EncodeRecords(nil, txn.Form{Cluster: 7})}
	durable := make(chan uint64, 1)
	w := wal.NewWriter(store, func(id uint64) { durable <- id })
	w.Enqueue(zab.Write{ID: 1, Hard: &zab.HardState{Accepted: 1, Current: 1}, Entries: []zab.Entry{first}})
	<-durable
	w.Close()
	state, _ := toState([]txn.Changes{{Meta: txn.Meta{Cluster: 7, Position: toPosition(first.Zxid), Level: txn.Newest + 1}}}, nil)
	require.NoError(t, store.Apply(state))
	require.NoError(t, store.Close())

	_, err = Open(Config{Node: 1, Members: []Member{{ID: 1, Peer: "127.0.0.1:0"}}, DataDir: "/data", FS: fs, Logger: slog.New(slog.DiscardHandler)})
	require.ErrorIs(t, err, ErrNewerStore)
	require.ErrorContains(t, err, "run the release that the other nodes run")
}
