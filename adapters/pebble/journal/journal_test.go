// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/txn"
)

var journalSpace = []byte("\x00j")

func openJournal(t *testing.T, fs vfs.FS) (*pebble.DB, *Journal) {
	db, err := pebble.Open("db", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db, New(db, journalSpace)
}

// silent is a Pebble logger; a failed write ends the test.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func journalBranch(no txn.BranchNo) Branch {
	return Branch{XID: txn.XID{Cluster: 0xfffffffe, ID: txn.ID{0xff, 1, 2, 15: 0xff}, Branch: no}}
}

func present(v string) Image { return Image{Present: true, Value: []byte(v)} }

// dump prints everything in the store; keys of the journal as their kind.
func dump(t *testing.T, db *pebble.DB) (lines []string) {
	it, err := db.NewIter(nil)
	require.NoError(t, err)
	for valid := it.First(); valid; valid = it.Next() {
		if key, ours := bytes.CutPrefix(it.Key(), journalSpace); ours {
			lines = append(lines, fmt.Sprintf("journal %c of branch %d", key[0], key[21]))
		} else {
			lines = append(lines, fmt.Sprintf("%s=%s", it.Key(), it.Value()))
		}
	}
	require.NoError(t, it.Close())
	return lines
}

// story does the same work in every test: it changes a, creates b and changes it
// again, removes c, removes d which is not there, and empties e.
func story(t *testing.T, db *pebble.DB, j *Journal) Branch {
	for _, key := range []string{"a", "c", "e"} {
		require.NoError(t, db.Set([]byte(key), []byte("old "+key), pebble.Sync))
	}
	b := journalBranch(0)
	for _, u := range []Update{
		{Key: []byte("a"), Undo: present("old a"), Redo: present("new a")},
		{Key: []byte("b"), Redo: present("first b")},
		{Key: []byte("b"), Undo: present("first b"), Redo: present("new b")},
		{Key: []byte("c"), Undo: present("old c")},
		{Key: []byte("d")},
		{Key: []byte("e"), Undo: present("old e"), Redo: present("")},
	} {
		require.NoError(t, j.Do(&b, u))
	}
	require.EqualValues(t, 6, b.Updates)
	return b
}

var (
	before = []string{"a=old a", "c=old c", "e=old e"}
	after  = []string{"a=new a", "b=new b", "e="}
)

func TestUndoPutsTheBeforeImagesBackAndRemovesWhatWasAbsent(t *testing.T) {
	for _, prepare := range []bool{false, true} {
		db, j := openJournal(t, vfs.NewMem())
		b := story(t, db, j)
		if prepare {
			require.NoError(t, j.Prepare(&b, time.Now()))
		}
		require.NoError(t, j.Undo(b))
		require.Equal(t, before, dump(t, db))
		done, err := j.Committed(b.XID)
		require.NoError(t, err)
		require.False(t, done)
	}
}

func TestRedoIsIdempotentAndRepairsAStoreThatLags(t *testing.T) {
	db, j := openJournal(t, vfs.NewMem())
	b := story(t, db, j)
	require.NoError(t, j.Prepare(&b, time.Now()))
	whole := dump(t, db)
	for range 2 {
		require.NoError(t, j.Redo(b))
		require.Equal(t, whole, dump(t, db))
	}
	// As if the updates in place had been lost.
	for _, key := range []string{"a", "b", "e"} {
		require.NoError(t, db.Delete([]byte(key), pebble.Sync))
	}
	require.NoError(t, db.Set([]byte("c"), []byte("old c"), pebble.Sync))
	require.NoError(t, j.Redo(b))
	require.Equal(t, whole, dump(t, db))
	require.NoError(t, j.Undo(b))
	require.Equal(t, before, dump(t, db))
}

func TestCommitOfAPreparedBranchLeavesAMarkerUntilForgotten(t *testing.T) {
	db, j := openJournal(t, vfs.NewMem())
	b := story(t, db, j)
	require.NoError(t, j.Prepare(&b, time.Now()))
	require.NoError(t, j.Commit(b))
	require.Equal(t, append([]string{"journal m of branch 0"}, after...), dump(t, db))
	done, err := j.Committed(b.XID)
	require.NoError(t, err)
	require.True(t, done)
	listed, err := j.Markers(txn.XID{}, 1)
	require.NoError(t, err)
	require.Equal(t, []txn.XID{b.XID}, listed)
	for _, none := range []struct {
		after txn.XID
		most  int
	}{{b.XID, 1}, {txn.XID{}, 0}} {
		listed, err = j.Markers(none.after, none.most)
		require.NoError(t, err)
		require.Empty(t, listed)
	}
	require.NoError(t, j.Forget([]txn.XID{b.XID, journalBranch(9).XID}))
	require.Equal(t, after, dump(t, db))
}

func TestCommitInOnePhaseLeavesNothing(t *testing.T) {
	db, j := openJournal(t, vfs.NewMem())
	require.NoError(t, j.Commit(story(t, db, j)))
	require.Equal(t, after, dump(t, db))
}

func TestBranchesAreFoundAgainAsTheyWere(t *testing.T) {
	fs := crashfs.New()
	db, j := openJournal(t, fs)
	prepared := story(t, db, j)
	at := time.UnixMilli(1_700_000_000_123)
	require.NoError(t, j.Prepare(&prepared, at))
	committed := journalBranch(1)
	require.NoError(t, j.Do(&committed, Update{Key: []byte("x"), Redo: present("1")}))
	require.NoError(t, j.Prepare(&committed, at))
	require.NoError(t, j.Commit(committed))
	open := journalBranch(255)
	require.NoError(t, j.Do(&open, Update{Key: []byte("y"), Redo: present("1")}))

	branches, err := j.Branches()
	require.NoError(t, err)
	require.Equal(t, []Branch{prepared, open}, branches)
	require.True(t, branches[0].Since.Equal(at))

	// Nothing was synced behind the commit: the crash takes the open branch, update and
	// record together.
	crashed, j := openJournal(t, fs.CrashClone(vfs.CrashCloneCfg{}))
	branches, err = j.Branches()
	require.NoError(t, err)
	require.Equal(t, []Branch{prepared}, branches)
	require.NotContains(t, dump(t, crashed), "y=1")
	updates, err := j.Updates(branches[0])
	require.NoError(t, err)
	require.Len(t, updates, 6)
	require.Equal(t, Update{Key: []byte("b"), Undo: present("first b"), Redo: present("new b")}, updates[2])
}

func TestDamageIsFoundAndNothingIsUndone(t *testing.T) {
	record := func(kind byte, last ...byte) []byte {
		x := journalBranch(0).XID
		key := append(append([]byte{}, journalSpace...), kind, 0xff, 0xff, 0xff, 0xfe)
		return append(append(append(key, x.ID[:]...), byte(x.Branch)), last...)
	}
	for name, damage := range map[string]func(db *pebble.DB) error{
		"an update is missing": func(db *pebble.DB) error { return db.Delete(record('u', 0, 0, 0, 2), nil) },
		"the last is missing":  func(db *pebble.DB) error { return db.Delete(record('u', 0, 0, 0, 5), nil) },
		"an update was changed": func(db *pebble.DB) error {
			return db.Merge(record('u', 0, 0, 0, 2), []byte("x"),
				nil)
		},
		"an update is empty":      func(db *pebble.DB) error { return db.Set(record('u', 0, 0, 0, 2), nil, nil) },
		"the head was changed":    func(db *pebble.DB) error { return db.Merge(record('h'), []byte("x"), nil) },
		"a key is too short":      func(db *pebble.DB) error { return db.Set(record('u', 1), nil, nil) },
		"a head without a branch": func(db *pebble.DB) error { return db.DeleteRange(record('u'), record('v'), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			db, j := openJournal(t, vfs.NewMem())
			b := story(t, db, j)
			require.NoError(t, j.Prepare(&b, time.Now()))
			require.NoError(t, damage(db))
			_, err := j.Branches()
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
	t.Run("at undo", func(t *testing.T) {
		db, j := openJournal(t, vfs.NewMem())
		b := story(t, db, j)
		require.NoError(t, db.Delete(record('u', 0, 0, 0, 5), nil))
		damaged := dump(t, db)
		require.ErrorIs(t, j.Undo(b), ErrCorrupt)
		require.ErrorIs(t, j.Redo(b), ErrCorrupt)
		require.Equal(t, damaged, dump(t, db))
	})
	t.Run("the marker", func(t *testing.T) {
		db, j := openJournal(t, vfs.NewMem())
		require.NoError(t, db.Set(record('m'), []byte("1234"), nil))
		_, err := j.Committed(journalBranch(0).XID)
		require.ErrorIs(t, err, ErrCorrupt)
	})
}

func TestABranchThatOutgrowsTheBoundIsRefusedBeforeItIsWritten(t *testing.T) {
	db, j := openJournal(t, vfs.NewMem())
	b := journalBranch(0)
	b.Bytes = MaxBranchBytes - 3
	require.ErrorIs(t, j.Do(&b, Update{Key: []byte("k"), Redo: present("123")}), ErrBranchTooLarge)
	require.Empty(t, dump(t, db))
	require.NoError(t, j.Do(&b, Update{Key: []byte("k"), Redo: present("12")}))
	require.Len(t, dump(t, db), 2)
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	_, j := openJournal(t, vfs.NewMem())
	b := journalBranch(0)
	b.Bytes = MaxBranchBytes
	large := j.Do(&b, Update{Key: []byte("k"), Redo: present("v")})
	rows := []string{
		b.XID.String() + ": more than 256 MiB: the branch has too many updates; split the transaction",
		"journal of branches: a key has the wrong length: the store is damaged; keep a copy of the store and " +
			"restore it from a backup",
	}
	require.EqualError(t, large, rows[0])
	require.EqualError(t, j.damaged("a key has the wrong length"), rows[1])
	said.Check(t, rows, map[string]string{
		"has flags that mean nothing here": "a part of what is said of a store that is damaged",
		"enough was read":                  "nobody hears it: it ends a list",
		"read the marker of %s: %w":        "wants a store that cannot be read, of which Pebble says why",
		"read the journal: %w":             "wants a store that cannot be read, of which Pebble says why",
	})
}
