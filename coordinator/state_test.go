// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"fmt"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// What a node could not start from is refused before it takes the place of its own state.
func TestPairsThatAreNoStateAreRefused(t *testing.T) {
	x := txn.Txn{ID: txn.ID{1}, Decision: txn.Commit}
	value, err := x.AppendBinary(nil)
	require.NoError(t, err)
	for _, sound := range [][2][]byte{{[]byte(metaKey), encodeMeta(txn.Meta{})}, {stateKey(openKey, x.ID), value},
		{stateKey(finishedKey, x.ID), value}} {
		require.NoError(t, checkPair(sound[0], sound[1]), "%q", sound[0])
	}
	for _, bad := range [][2]string{{"k", "v"}, {metaKey, "v"}, {levelKey, "v"}, {leasesKey, "v"}, {membersKey, "v"},
		{string(stateKey(openKey, txn.ID{2})), string(value)}} {
		require.Error(t, checkPair([]byte(bad[0]), []byte(bad[1])), "%q", bad[0])
	}
}

// An open gid of a three-phase transaction outlives a restart, until it is decided.
func TestOpenGidsAreStored(t *testing.T) {
	store, err := wal.Open("/data", wal.Options{FS: vfs.NewMem(), Node: 1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer store.Close()
	entries := []zab.Entry{{Zxid: zab.Zxid{Epoch: 1, Counter: 1}},
		{Prev: zab.Zxid{Epoch: 1, Counter: 1}, Zxid: zab.Zxid{Epoch: 1, Counter: 2}}}
	durable := make(chan uint64, 1)
	log := wal.NewWriter(store, func(id uint64) { durable <- id })
	log.Enqueue(zab.Write{ID: 1, Hard: &zab.HardState{Accepted: 1, Current: 1}, Entries: entries})
	<-durable
	log.Close()
	w := txn.Witness{ID: txn.ID{1}, Members: []txn.Party{{}}, Branches: []txn.Branch{{Resource: "orders"}},
		Accepted:    txn.Commit,
		LastAttempt: txn.FirstElection, LastElected: txn.Election{N: 2}}
	at := func(n uint64) txn.Meta { return txn.Meta{Cluster: 7, Zxid: zab.Zxid{Epoch: 1, Counter: n}} }
	state, _ := toState([]txn.Changes{{Witnesses: []txn.Witness{w}, Meta: at(1)}}, nil)
	for _, pair := range state.Puts {
		require.NoError(t, checkPair(pair.Key, pair.Value))
	}
	require.NoError(t, store.Apply(state))
	table, err := loadTable(store, nil)
	require.NoError(t, err)
	require.Equal(t, []txn.Witness{w}, table.Witnesses())

	state, _ = toState([]txn.Changes{{Closed: []txn.ID{w.ID}, Meta: at(2)}}, nil)
	require.NoError(t, store.Apply(state))
	table, err = loadTable(store, nil)
	require.NoError(t, err)
	require.Empty(t, table.Witnesses())
}

// Acts of people are in the store by number, as long as they are kept.
func TestActsAreStored(t *testing.T) {
	store, apply := keyStore(t)
	acts := func() (list []txn.Act) {
		table, err := loadTable(store, nil)
		require.NoError(t, err)
		for _, a := range table.Acts() {
			list = append(list, *a)
		}
		return list
	}
	begun := func(no uint64) txn.Act {
		return txn.Act{No: no, ActRecord: txn.ActRecord{Key: no, Kind: txn.ActLead, Time: time.UnixMilli(7),
			Why: "why"}}
	}
	ended := begun(2)
	ended.Outcome, ended.Says = txn.ActRefused, "no"
	apply(txn.Changes{Acts: []txn.Act{begun(1), begun(2)}}, txn.Changes{Acts: []txn.Act{ended, begun(256)}})
	require.Equal(t, []txn.Act{begun(1), ended, begun(256)}, acts())
	apply(txn.Changes{Acts: []txn.Act{begun(257), ended}, ActsFrom: 256})
	require.Equal(t, []txn.Act{begun(256), begun(257)}, acts())
	value, err := ended.AppendBinary(nil)
	require.NoError(t, err)
	require.NoError(t, checkPair(keyOfAct(2), value))
	require.ErrorIs(t, checkPair(keyOfAct(3), value), txn.ErrBadTxn)
	require.ErrorIs(t, checkPair(keyOfAct(2), value[1:]), txn.ErrBadTxn)
}

// FuzzTableMeta reads what the applied state says of the table besides transactions; with a
// snapshot it comes from a peer.
func FuzzTableMeta(f *testing.F) {
	f.Add(encodeMeta(txn.Meta{Cluster: 0xc0ffee, Watermark: time.UnixMilli(1_700_000_000_000),
		Stores: []txn.MemberStore{{Node: 1, Store: txn.StoreID{1}}, {Node: math.MaxUint64, Store: txn.StoreID{2}}}}))
	f.Add(make([]byte, 12))
	f.Add(make([]byte, 13))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m txn.Meta
		if err := decodeMeta(b, &m); err != nil {
			require.ErrorIs(t, err, txn.ErrBadTxn)
			return
		}
		require.Equal(t, b, encodeMeta(m))
	})
}

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
	state, _ := toState([]txn.Changes{{Meta: txn.Meta{Cluster: 7, Zxid: first.Zxid,
		Level: txn.Newest + 1}}}, nil)
	require.NoError(t, store.Apply(state))
	require.NoError(t, store.Close())

	_, err = Open(Config{Node: 1, Members: []replica.Member{{ID: 1, Peer: "127.0.0.1:0"}}, DataDir: "/data", FS: fs,
		Logger: slog.New(slog.DiscardHandler)})
	require.ErrorIs(t, err, ErrNewerStore)
	require.ErrorContains(t, err, "run the release that the other nodes run")
}

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
			folds[i].Meta = txn.Meta{Cluster: 7, Zxid: zab.Zxid{Epoch: 1, Counter: at}}
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
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", begin.Add(time.Minute), "one"), useOf("k",
		begin.Add(2*time.Minute), "the later of one fold")}})
	require.Equal(t, "the later of one fold", find("k"))
	// Much later the key is used again: that counts, also while the first use is still stored.
	apply(txn.Changes{Keys: []txn.KeyUse{useOf("k", begin.Add(20*day), "two")}},
		txn.Changes{Keys: []txn.KeyUse{useOf("between", begin.Add(10*day), "")}})
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
	for i, c := range []txn.Changes{{Keys: []txn.KeyUse{useOf("k", now, "0")}}, {Keys: []txn.KeyUse{useOf("k", now,
		"1")}}} {
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
		"another era": {"k\x00\x00\x00\x01k", string(sound.Value)}, "a long key": {string(sound.Key) +
			string(make([]byte, txn.MaxKey)), string(sound.Value)},
	} {
		require.ErrorIs(t, checkPair([]byte(bad[0]), []byte(bad[1])), txn.ErrBadTxn, name)
	}
}
