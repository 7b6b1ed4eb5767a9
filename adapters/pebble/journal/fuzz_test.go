// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/txn"
)

// sealed puts a checksum before a body.
func sealed(key, body []byte) []byte {
	value := append(make([]byte, seal.Len), body...)
	seal.Put(key, value)
	return value
}

func FuzzJournalUpdate(f *testing.F) {
	for _, u := range []Update{
		{Key: []byte("k"), Undo: Image{Present: true, Value: []byte("old")}, Redo: Image{Present: true}},
		{Key: []byte{}},
	} {
		f.Add([]byte("key"), updateValue([]byte("key"), u)[seal.Len:])
	}
	f.Add([]byte("key"), []byte{3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte("key"), []byte{0x80, 0, 0})
	f.Fuzz(func(t *testing.T, key, body []byte) {
		u, err := parseUpdate(key, sealed(key, body))
		if err != nil {
			return
		}
		again, err := parseUpdate(key, updateValue(key, u))
		require.NoError(t, err)
		require.Equal(t, u, again)
		_, err = parseUpdate(append([]byte("other "), key...), sealed(key, body))
		require.Error(t, err, "an update under the key of another")
	})
}

// FuzzJournal reads a journal with one record of any kind, key and content in it.
func FuzzJournal(f *testing.F) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), FormatMajorVersion: pebble.FormatNewest,
		Logger: silent{}})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, db.Close()) })
	j := New(db, []byte("j"))
	x := txn.XID{Cluster: 7, ID: txn.ID{1, 2}, Branch: 3}
	f.Add(byte(headKind), j.key(headKind, x)[2:], make([]byte, headLen-seal.Len))
	f.Add(byte(updateKind), j.updateKey(x, 0)[2:], updateValue(nil, Update{Key: []byte("k")})[seal.Len:])
	f.Add(byte(markerKind), j.key(markerKind, x)[2:], []byte{})
	f.Add(byte(updateKind), []byte{1}, []byte{})
	f.Fuzz(func(t *testing.T, kind byte, name, body []byte) {
		key := append([]byte{'j', kind}, name...)
		require.NoError(t, db.Set(key, sealed(key, body), pebble.NoSync))
		branches, err := j.Branches()
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		for _, b := range branches {
			if _, err := j.Updates(b); err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
			}
		}
		if len(name) == xidLen {
			if _, err := j.Committed(getXID(name)); err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
			}
		}
		require.NoError(t, db.Delete(key, pebble.NoSync))
	})
}
