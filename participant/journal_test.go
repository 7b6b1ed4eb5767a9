// SPDX-License-Identifier: Apache-2.0

package participant

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/txn"
)

func anEntry() Entry {
	return Entry{ID: txn.NewID(time.Now()).WithClass(txn.Recorded), Cluster: 7, Branches: []Voter{
		{Branch: txn.Branch{No: 0, Resource: "orders", Evidence: "e", Holder: "h"}, Redo: []statement.Work{
			{Verb: statement.Execute, Text: "update t set a = $1", Args: []statement.Value{statement.OfInt(1), {}}},
			{Verb: statement.Savepoint, Text: "a"},
		}},
		{Branch: txn.Branch{No: 3, Resource: "ledger"}, Decision: txn.Commit, Finish: txn.Lost, Partial: true},
	}}
}

// aMembersEntry is one of three phases.
func aMembersEntry() Entry {
	e := anEntry()
	e.ID = e.ID.WithClass(txn.ThreePhase)
	west := txn.PartyID{Agent: "west", Journal: txn.JournalID{2}}
	e.Member = &threepc.Entry{State: threepc.PreAborted, Asked: threepc.Digest{7},
		LastElected: txn.Election{N: 5, By: west}, LastAttempt: txn.Election{N: 3},
		List: threepc.List{Short: true, Members: []txn.Party{{}, {PartyID: west, Addr: "10.0.0.2:7430"}}}}
	return e
}

func TestEntryOfThreePhasesIsReadAsItWasWritten(t *testing.T) {
	e := aMembersEntry()
	parsed, err := ParseEntry(e.ID, e.AppendBinary(nil))
	require.NoError(t, err)
	require.Equal(t, e, parsed)
}

func TestJournalRemembersAndCountsItsLives(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	j, err := OpenJournal(dir, "east", JournalOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, j.Epoch())
	require.Zero(t, j.Cluster())
	require.NoError(t, j.Join(7))
	require.NoError(t, j.Join(7))
	require.ErrorIs(t, j.Join(8), ErrOtherCluster)
	e, gone := anEntry(), anEntry()
	require.NoError(t, j.Apply([]Write{{Entry: e}, {Entry: gone}}))
	require.NoError(t, j.Apply([]Write{{Entry: Entry{ID: gone.ID}, Turn: 1}}))
	id := j.ID()

	_, err = OpenJournal(dir, "east", JournalOptions{})
	require.ErrorIs(t, err, ErrJournalLocked)
	require.Contains(t, err.Error(), "stop the other agent")
	require.NoError(t, j.Close())

	_, err = OpenJournal(dir, "west", JournalOptions{})
	require.ErrorIs(t, err, ErrOtherAgent)
	j, err = OpenJournal(dir, "east", JournalOptions{})
	require.NoError(t, err)
	defer j.Close()
	require.EqualValues(t, 2, j.Epoch(), "an agent that was refused has not lived")
	require.Equal(t, id, j.ID())
	require.EqualValues(t, 7, j.Cluster())
	list, err := j.Entries()
	require.NoError(t, err)
	require.Equal(t, []Entry{e}, list)
}

// A journal has what applications wrote, so nobody else may look into its directory.
func TestTheDirectoryOfAJournalIsItsOwners(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agents", "ledger")
	j, err := OpenJournal(dir, "ledger", JournalOptions{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, j.Close())
	for _, made := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(made)
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), info.Mode().Perm(), made)
	}
}

// A power failure takes what was not forced, and nothing that was: nor any epoch.
func TestJournalAfterAPowerFailure(t *testing.T) {
	files := vfs.NewCrashableMem()
	j, err := OpenJournal("/agent", "east", JournalOptions{FS: files})
	require.NoError(t, err)
	first, second, late := anEntry(), anEntry(), anEntry()
	require.NoError(t, j.Apply([]Write{{Entry: first}}))
	require.NoError(t, j.Apply([]Write{{Entry: second, Turn: 1}}))
	require.NoError(t, j.Apply([]Write{{Entry: late}}))
	after := files.CrashClone(vfs.CrashCloneCfg{})
	id := j.ID()
	require.NoError(t, j.Close())
	j, err = OpenJournal("/agent", "east", JournalOptions{FS: after})
	require.NoError(t, err)
	defer j.Close()
	require.EqualValues(t, 2, j.Epoch())
	require.Equal(t, id, j.ID())
	list, err := j.Entries()
	require.NoError(t, err)
	require.ElementsMatch(t, []Entry{first, second}, list)
}

func TestJournalRefusesADirectoryOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o600))
	_, err := OpenJournal(dir, "east", JournalOptions{})
	require.ErrorIs(t, err, ErrNotJournal)
	require.Contains(t, err.Error(), "choose an empty directory")
}

// Every bit of every value is under a checksum, and no other bytes are taken for an entry.
func TestDamageIsFound(t *testing.T) {
	for _, key := range []string{headKey, "entry"} {
		dir := t.TempDir()
		j, err := OpenJournal(dir, "east", JournalOptions{})
		require.NoError(t, err)
		e := anEntry()
		require.NoError(t, j.Apply([]Write{{Entry: e, Turn: 1}}))
		at := []byte(key)
		if key == "entry" {
			at = append([]byte{entrySpace}, e.ID[:]...)
		}
		value, closer, err := j.db.Get(at)
		require.NoError(t, err)
		whole := bytes.Clone(value)
		require.NoError(t, closer.Close())
		for bit := range len(whole) * 8 {
			damaged := bytes.Clone(whole)
			damaged[bit/8] ^= 1 << (bit % 8)
			require.NoError(t, j.db.Set(at, damaged, pebble.NoSync))
			_, err := j.Entries()
			if key == headKey {
				_, err = j.readHead()
			}
			require.ErrorIs(t, err, ErrJournalDamaged)
		}
		require.NoError(t, j.db.Set(at, whole, pebble.NoSync))
		require.NoError(t, j.Close())
	}
}

func TestJournalWithoutItsHeadIsDamaged(t *testing.T) {
	dir := t.TempDir()
	j, err := OpenJournal(dir, "east", JournalOptions{})
	require.NoError(t, err)
	require.NoError(t, j.Apply([]Write{{Entry: anEntry(), Turn: 1}}))
	require.NoError(t, j.db.Delete([]byte(headKey), pebble.Sync))
	require.NoError(t, j.Close())
	_, err = OpenJournal(dir, "east", JournalOptions{})
	require.ErrorIs(t, err, ErrJournalDamaged)
}

func TestEntriesOfLaterVersionsAreNotGuessedAt(t *testing.T) {
	b := aMembersEntry().AppendBinary(nil)
	for _, change := range []int{0, 1} {
		later := bytes.Clone(b)
		later[change]++
		_, err := ParseEntry(txn.ID{}, later)
		require.ErrorIs(t, err, ErrNewerEntry)
	}
}

// What parses is what was written, byte for byte.
func FuzzParseEntry(f *testing.F) {
	e := anEntry()
	f.Add(e.AppendBinary(nil))
	f.Add(aMembersEntry().AppendBinary(nil))
	f.Add([]byte{1, 1, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		parsed, err := ParseEntry(e.ID, b)
		if err != nil {
			require.True(t, errors.Is(err, ErrBadEntry) || errors.Is(err, ErrNewerEntry))
			return
		}
		require.Equal(t, b, parsed.AppendBinary(nil))
	})
}
