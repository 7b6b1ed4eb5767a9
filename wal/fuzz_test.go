// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/protocol/zab"
)

// Most of what is read from the disk is sealed, so bytes that were not written as they are
// never get further than the checksum. The targets seal them, to see what is behind it.

func sealed(key, body []byte) []byte {
	value := append(make([]byte, seal.Len), body...)
	seal.Put(key, value)
	return value
}

func FuzzLogRecord(f *testing.F) {
	for _, e := range []zab.Entry{
		{Zxid: z(1, 1), Data: []byte("data")},
		{Zxid: z(math.MaxUint32, math.MaxUint64), Prev: z(1, 1)},
	} {
		key, value := make([]byte, logKeyLen), make([]byte, entryLen(e))
		putEntry(key, value, e)
		f.Add(key, value[seal.Len:])
	}
	f.Add([]byte{logSpace}, []byte{})
	f.Add(make([]byte, logKeyLen), make([]byte, zxidLen-1))
	f.Fuzz(func(t *testing.T, key, body []byte) {
		value := sealed(key, body)
		e, err := getEntry(key, value)
		if err == nil {
			gotKey, gotValue := make([]byte, logKeyLen), make([]byte, entryLen(e))
			putEntry(gotKey, gotValue, e)
			require.Equal(t, value, gotValue)
			require.Equal(t, key[1:], gotKey[1:])
		}
		if len(value) > seal.Len { // and not a bit of it may be another
			value[seal.Len+len(body)/2] ^= 1
			_, err = getEntry(key, value)
			require.Error(t, err)
		}
		_, err = getEntry(key, body)
		require.True(t, err != nil || seal.Checksum(key, body[seal.Len:]) == binary.BigEndian.Uint32(body))
	})
}

// FuzzMetaValue reads what the store says of itself: hard state, base, applied point, count of
// starts, space.
func FuzzMetaValue(f *testing.F) {
	f.Add(hardValue(zab.HardState{Accepted: 7, AcceptedFrom: math.MaxUint64, Current: 6})[seal.Len:])
	f.Add(zxidValue(baseKey, z(7, 9))[seal.Len:])
	applied := make([]byte, seal.Len+zxidLen+digestLen)
	putApplied(applied, z(7, 9), [digestLen]byte{1})
	f.Add(applied[seal.Len:])
	f.Add(bootValue(3)[seal.Len:])
	f.Add(spaceValue(otherSpace)[seal.Len:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, key := range []string{hardKey, baseKey, appliedKey, bootKey, spaceKey} {
			value := sealed([]byte(key), body)
			length := map[string]int{hardKey: 16, baseKey: zxidLen, appliedKey: zxidLen + digestLen, bootKey: 4,
				spaceKey: 1}[key]
			got, err := unsealMeta(key, value, length)
			require.Equal(t, len(body) != length, err != nil)
			if err != nil {
				continue
			}
			again := map[string]func() []byte{
				hardKey: func() []byte { return hardValue(getHard(got)) },
				baseKey: func() []byte { return zxidValue(baseKey, getZxid(got)) },
				appliedKey: func() []byte {
					b := make([]byte, seal.Len+zxidLen+digestLen)
					putApplied(b, getZxid(got), [digestLen]byte(got[zxidLen:]))
					return b
				},
				bootKey:  func() []byte { return bootValue(binary.BigEndian.Uint32(got)) },
				spaceKey: func() []byte { return spaceValue(got[0]) },
			}[key]
			require.Equal(t, value, again())
			_, err = unsealMeta(map[bool]string{true: baseKey, false: hardKey}[key == hardKey], value, length)
			require.Error(t, err, "a value under the key of another")
		}
	})
}

// FuzzWatermark reads a watermark file of any bytes, and slots with a sound checksum.
func FuzzWatermark(f *testing.F) {
	m := mark{seq: 9, id: [16]byte{1, 2}, tail: z(3, 14), hard: zab.HardState{Accepted: 5, AcceptedFrom: 2, Current: 4},
		boot: 7, logs: logFiles{4, 1 << 40}}
	f.Add(m.slot())
	f.Add(append(m.slot(), mark{seq: 10}.slot()...))
	f.Add(append(m.slot()[:100], m.slot()...))
	later := m.slot()
	copy(later[seal.Len:], "concord mark v2\n")
	f.Add(later)
	f.Fuzz(func(t *testing.T, b []byte) {
		files := vfs.NewMem()
		file, err := files.Create("mark", vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		_, err = file.Write(b)
		require.NoError(t, err)
		require.NoError(t, file.Close())
		w, err := readMark(files, "mark")
		require.NoError(t, err)
		require.LessOrEqual(t, w.good, slots)

		slot := make([]byte, slotSize)
		copy(slot, b)
		binary.BigEndian.PutUint32(slot, crc32.Checksum(slot[seal.Len:], crc32.MakeTable(crc32.Castagnoli)))
		if got, ok := parseSlot(slot); ok {
			require.True(t, bytes.HasPrefix(slot[seal.Len:], slotMagic), "a version that is not known")
			again, ok := parseSlot(got.slot())
			require.True(t, ok)
			require.Equal(t, got, again)
		}
	})
}

func FuzzStoreIdentity(f *testing.F) {
	f.Add(newIdentity(7).String())
	f.Add("concord store version=99999999999999999999 node=1 id=00 check=0")
	f.Add("concord store version=-1 node=1 id=000102030405060708090a0b0c0d0e0f check=00000000\n")
	f.Fuzz(func(t *testing.T, text string) {
		if i, ok := parseIdentity(text); ok {
			require.Equal(t, text, i.String())
		}
	})
}

// FuzzStagedSnapshot stages parts of a snapshot from a peer that sends anything. What is
// taken is what was sent, in order; nothing of it is ever the state before Finish.
func FuzzStagedSnapshot(f *testing.F) {
	s, err := Open(testDir, Options{FS: vfs.NewMem(), Node: 1, Logger: quiet()})
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, s.Close()) })
	one := appendPair(nil, []byte("a"), []byte("1"))
	f.Add(one, appendPair(nil, []byte("b"), nil))
	f.Add(one, one)
	f.Add([]byte{}, one)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, one)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		x, err := s.Stage(nil)
		require.NoError(t, err)
		sum := contentHash(z(1, 1), [digestLen]byte{})
		good := true
		for _, part := range [][]byte{first, second} {
			if err := x.Add(part); err != nil {
				require.ErrorIs(t, err, ErrBadSnapshot)
				good = false
				break
			}
			sum.Write(canonicalPairs(part))
		}
		if good {
			require.NoError(t, x.Finish(z(1, 1), [digestLen]byte{}, [32]byte(sum.Sum(nil)), func() {}))
		}
		require.Empty(t, scan(t, s, nil, nil, false))
		require.NoError(t, x.Discard())
	})
}

// canonicalPairs encodes pairs as a sender does.
func canonicalPairs(part []byte) (b []byte) {
	for len(part) > 0 {
		key, rest, _ := takeBytes(part)
		value, rest, _ := takeBytes(rest)
		b, part = appendPair(b, key, value), rest
	}
	return b
}
