// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

func BenchmarkEncodeCommit(b *testing.B) {
	r := CommitRecord{ID: NewID(time.Now()), Branches: sampleBranches}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = EncodeRecords(buf[:0], r)
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeCommit(b *testing.B) {
	data := EncodeRecords(nil, CommitRecord{ID: NewID(time.Now()), Branches: sampleBranches})
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeRecords(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEncodeTxn is what a node keeps of each finished transaction.
func BenchmarkEncodeTxn(b *testing.B) {
	x := Txn{ID: NewID(time.Now()), Decision: Commit, Branches: sampleBranches, Ended: true}
	var buf []byte
	var err error
	b.ReportAllocs()
	for b.Loop() {
		if buf, err = x.AppendBinary(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}

// oblivion is an archive that costs nothing: what remains is the table.
type oblivion struct{}

func (oblivion) Keep(Changes)                 {}
func (oblivion) Finished(ID) (Txn, bool)      { return Txn{}, false }
func (oblivion) KeyUse(string) (KeyUse, bool) { return KeyUse{}, false }

// BenchmarkApply folds log entries that commit some transactions and end those of the
// entry before. The time is per entry.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("%d-transactions-per-entry", n), func(b *testing.B) {
			t := NewTable(Meta{}, nil, oblivion{})
			ids, last := make([]ID, n), make([]ID, n)
			for i := range ids {
				ids[i] = NewID(time.Now())
			}
			var counter uint64
			var data []byte
			b.ReportAllocs()
			for b.Loop() {
				data = EncodeRecords(data[:0], End{IDs: last})
				for i := range ids {
					counter++
					binary.BigEndian.PutUint64(ids[i][8:], counter)
					data = AppendRecord(data, CommitRecord{ID: ids[i], Branches: sampleBranches})
				}
				if _, err := t.Apply(zab.Zxid{Counter: counter}, data); err != nil {
					b.Fatal(err)
				}
				copy(last, ids)
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "transactions/s")
			if t.OpenCount() != n {
				b.Fatalf("%d transactions are open, want those of the last entry, %d", t.OpenCount(), n)
			}
		})
	}
}
