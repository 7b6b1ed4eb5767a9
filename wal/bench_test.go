// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

func openReal(b *testing.B) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), Options{Node: 1, Logger: quiet()})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	return s
}

// One operation is one synced batch on the file system of the temporary directory.
func BenchmarkPersist(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("%d-writes-per-sync", n), func(b *testing.B) {
			s := openReal(b)
			data := make([]byte, 200)
			ws := make([]zab.Write, n)
			for i := range ws {
				ws[i].Entries = make([]zab.Entry, 1)
			}
			prev := zab.Zxid{Epoch: 1}
			b.ReportAllocs()
			for b.Loop() {
				for i := range ws {
					next := behind(prev)
					if prev.Counter == 0 {
						prev = zab.Zxid{}
					}
					ws[i].Entries[0] = zab.Entry{Zxid: next, Prev: prev, Data: data}
					prev = next
				}
				if err := s.Persist(ws); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}

func filled(b *testing.B, n int) *Store {
	b.Helper()
	s := openReal(b)
	require.NoError(b, s.Persist([]zab.Write{{Entries: run(zab.Zxid{}, 1, n)}}))
	return s
}

// One operation applies one entry with two puts.
func BenchmarkApply(b *testing.B) {
	const chunk = 100_000
	s := filled(b, chunk)
	key, value := make([]byte, 16), make([]byte, 100)
	c := StateChange{Applied: zab.Zxid{Epoch: 1},
		Puts: []Pair{{Key: key, Value: value}, {Key: []byte("watermark"), Value: value[:8]}}}
	last := uint64(chunk)
	b.ReportAllocs()
	for b.Loop() {
		if c.Applied.Counter == last {
			b.StopTimer()
			require.NoError(b, s.Persist([]zab.Write{{Entries: run(c.Applied, 1, chunk)}}))
			last += chunk
			b.StartTimer()
		}
		c.Applied = behind(c.Applied)
		binary.BigEndian.PutUint64(key, c.Applied.Counter*0x9E3779B97F4A7C15)
		if err := s.Apply(c); err != nil {
			b.Fatal(err)
		}
	}
}

// One operation looks up a key that is not there, in 200,000 keys in tables.
func BenchmarkGetOfAnAbsentKey(b *testing.B) {
	s := filled(b, 1)
	const keys = 200_000
	c := StateChange{Applied: z(1, 1)}
	for i := range uint64(keys) {
		c.Puts = append(c.Puts, Pair{Key: binary.BigEndian.AppendUint64(nil, i*0x9E3779B97F4A7C15),
			Value: make([]byte, 100)})
	}
	require.NoError(b, s.Apply(c))
	require.NoError(b, s.engine.Flush())
	key := make([]byte, 8)
	i := uint64(keys)
	b.ReportAllocs()
	for b.Loop() {
		i++
		binary.BigEndian.PutUint64(key, i*0x9E3779B97F4A7C15)
		_, found, err := s.Get(key)
		if err != nil || found {
			b.Fatal(found, err)
		}
	}
}
