// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// keyStore is a store whose log is long enough for some folds.
func keyStore(t *testing.T) (store *wal.Store, apply func(...txn.Changes)) {
	store, err := wal.Open("/data", wal.Options{FS: vfs.NewMem(), Node: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	var entries []zab.Entry
	for n := range uint64(20) {
		e := zab.Entry{Zxid: zab.Zxid{Epoch: 1, Counter: n + 1}}
		if n > 0 {
			e.Prev = zab.Zxid{Epoch: 1, Counter: n}
		}
		entries = append(entries, e)
	}
	durable := make(chan uint64, 1)
	log := wal.NewWriter(store, func(id uint64) { durable <- id })
	log.Enqueue(zab.Write{ID: 1, Hard: &zab.HardState{Accepted: 1, Current: 1}, Entries: entries})
	<-durable
	log.Close()
	var at uint64
	return store, func(folds ...txn.Changes) {
		for i := range folds {
			at++
			folds[i].Meta = txn.Meta{Cluster: 7, Position: txn.Position{Epoch: 1, Counter: at}}
		}
		for left := folds; len(left) > 0; {
			state, n := toState(left, nil)
			for _, pair := range state.Puts {
				require.NoError(t, checkPair(pair.Key, pair.Value))
			}
			require.NoError(t, store.Apply(state))
			left = left[n:]
		}
	}
}

func useOf(key string, at time.Time, result string) txn.KeyUse {
	return txn.KeyUse{Key: key, ID: txn.NewID(at), Result: []byte(result)}
}

func TestUsesOfKeysAreStored(t *testing.T) {
	store, apply := keyStore(t)
	find := func(key string) string {
		t.Helper()
		u, ok, err := findKey(store, key)
		require.NoError(t, err)
		if !ok {
			return "none"
		}
		require.Equal(t, key, u.Key)
		return string(u.Result)
	}
	require.Equal(t, "none", find("k"))
	day := 24 * time.Hour
	begin := time.UnixMilli(1_700_000_000_000)
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", begin, "one"), useOf("kk", begin, "of another key")}})
	require.Equal(t, "one", find("k"))
	require.Equal(t, "of another key", find("kk"))
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", begin.Add(time.Minute), "one"), useOf("k", begin.Add(2*time.Minute), "the later of one fold")}})
	require.Equal(t, "the later of one fold", find("k"))
	// Much later the key is used again: that counts, also while the first use is still stored.
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", begin.Add(20*day), "two")}}, txn.Changes{Keys: []txn.KeyUse{useOf("between", begin.Add(10*day), "")}})
	require.Equal(t, "two", find("k"))
	require.Equal(t, "of another key", find("kk"))
	require.Equal(t, "", find("between"))
	apply(txn.Changes{PurgeBefore: txn.FirstID(begin.Add(8 * day))})
	require.Equal(t, "none", find("kk"))
	require.Equal(t, "", find("between"))
	require.Equal(t, "two", find("k"))
	apply(txn.Changes{PurgeBefore: txn.FirstID(begin.Add(30 * day))})
	require.Equal(t, "none", find("k"))
}

// What is on its way to the store counts as much as what is there.
func TestUsesOfKeysOnTheirWay(t *testing.T) {
	store, apply := keyStore(t)
	a := newArchive(store, txn.ID{}, func(err error) { require.NoError(t, err) })
	now := time.Now()
	_, ok := a.KeyUse("k")
	require.False(t, ok)
	for i, c := range []txn.Changes{{Keys: []txn.KeyUse{useOf("k", now, "0")}}, {Keys: []txn.KeyUse{useOf("k", now, "1")}}} {
		a.Keep(c)
		use, ok := a.KeyUse("k")
		require.True(t, ok)
		require.Equal(t, fmt.Sprint(i), string(use.Result))
	}
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", now, "stored")}})
	a.restart(txn.ID{})
	use, ok := a.KeyUse("k")
	require.True(t, ok)
	require.Equal(t, "stored", string(use.Result))
}

func TestUsesThatAreNoStateAreRefused(t *testing.T) {
	sound := usePair(useOf("k", time.Now(), "result"))
	require.NoError(t, checkPair(sound.Key, sound.Value))
	for name, bad := range map[string][2]string{
		"no value": {string(sound.Key), ""}, "no key": {string(sound.Key[:keyPrefix]), string(sound.Value)},
		"another era": {"k\x00\x00\x00\x01k", string(sound.Value)}, "a long key": {string(sound.Key) + string(make([]byte, txn.MaxKey)), string(sound.Value)},
	} {
		require.ErrorIs(t, checkPair([]byte(bad[0]), []byte(bad[1])), txn.ErrBadTxn, name)
	}
}
