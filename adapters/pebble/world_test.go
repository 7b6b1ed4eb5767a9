// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/txn"
)

// world is a store on a file system that can crash.
type world struct {
	fs       *crashfs.FS
	db       *pebble.DB
	resource *Resource
}

func newWorld(t testing.TB) *world {
	w := &world{fs: crashfs.New()}
	w.open(t)
	return w
}

func (w *world) open(t testing.TB) {
	db, err := pebble.Open("db", &pebble.Options{
		FS:                 w.fs,
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       256 << 10,
		Logger:             quiet{t},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	w.db = db
	w.resource, err = New("ledger", db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.resource.Close()) })
}

// crash comes back with what was synced and some percent of what was not.
func (w *world) crash(t testing.TB, percent int, seed uint64) *world {
	after := &world{fs: w.fs.CrashClone(vfs.CrashCloneCfg{
		UnsyncedDataPercent: percent,
		RNG:                 rand.New(rand.NewPCG(seed, uint64(percent))),
	})}
	after.open(t)
	return after
}

// quiet is a Pebble logger: a failed write ends the test.
type quiet struct{ t testing.TB }

func (q quiet) Infof(string, ...any)              {}
func (q quiet) Errorf(format string, args ...any) { q.t.Logf(format, args...) }
func (q quiet) Fatalf(format string, args ...any) { panic(format) }

// begin opens a branch of a new transaction.
func begin(t testing.TB, r *Resource) (txn.XID, adapters.Session, *Tx) {
	x := txn.XID{Cluster: 7, ID: txn.NewID(time.Now()), Branch: 1}
	s, err := r.Open(context.Background(), x)
	require.NoError(t, err)
	tx, err := r.Tx(context.Background(), adaptertest.Enlisted(s))
	require.NoError(t, err)
	return x, s, tx
}

func number(v int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(v)) }

func value(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// contents returns every key of the application as the store itself has it.
func contents(t testing.TB, db *pebble.DB) map[string]string {
	all := map[string]string{}
	it, err := db.NewIter(nil)
	require.NoError(t, err)
	for valid := it.First(); valid; valid = it.Next() {
		if key := string(it.Key()); len(key) < len(Reserved) || key[:len(Reserved)] != Reserved {
			all[key] = string(it.Value())
		}
	}
	require.NoError(t, it.Close())
	return all
}

// journalKeys counts what the journal holds.
func journalKeys(t testing.TB, db *pebble.DB) (n int) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte(journalSpace), UpperBound: []byte(Reserved + "k")})
	require.NoError(t, err)
	for valid := it.First(); valid; valid = it.Next() {
		n++
	}
	require.NoError(t, it.Close())
	return n
}
