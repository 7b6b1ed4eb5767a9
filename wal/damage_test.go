// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/protocol/zab"
)

// bigRun makes n entries of size random bytes: random, so that no compression makes
// the files small.
func bigRun(prev zab.Zxid, epoch zab.Epoch, n, size int) []zab.Entry {
	rng := rand.New(rand.NewPCG(uint64(epoch), uint64(n)))
	es := run(prev, epoch, n)
	for i := range es {
		es[i].Data = make([]byte, size)
		for j := range es[i].Data {
			es[i].Data[j] = byte(rng.Uint32())
		}
	}
	return es
}

func filesOf(t *testing.T, fs vfs.FS, suffix string) []string {
	t.Helper()
	db := fs.PathJoin(testDir, dbDir)
	names, err := fs.List(db)
	require.NoError(t, err)
	var paths []string
	for _, n := range names {
		if strings.HasSuffix(n, suffix) {
			paths = append(paths, fs.PathJoin(db, n))
		}
	}
	return paths
}

func largest(t *testing.T, fs vfs.FS, paths []string) string {
	t.Helper()
	best, size := "", int64(-1)
	for _, p := range paths {
		if n := sizeOf(t, fs, p); n > size {
			best, size = p, n
		}
	}
	return best
}

func sizeOf(t *testing.T, fs vfs.FS, path string) int64 {
	t.Helper()
	info, err := fs.Stat(path)
	require.NoError(t, err)
	return info.Size()
}

// flip turns one bit of a file over.
func flip(t *testing.T, fs vfs.FS, path string, offset int64) {
	t.Helper()
	require.NoError(t, flipBit(fs, path, offset))
}

func flipBit(fs vfs.FS, path string, offset int64) error {
	return rewrite(fs, path, func(data []byte) []byte {
		data[offset] ^= 1 << (offset % 8)
		return data
	})
}

// rewrite puts other bytes in the place of those of a file.
func rewrite(fs vfs.FS, path string, change func(data []byte) []byte) error {
	f, err := fs.Open(path)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	w, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	// under the race detector the file system scribbles on what it was given
	_, err = w.Write(bytes.Clone(change(data)))
	return errors.Join(err, w.Sync(), w.Close())
}

// tablesOf returns the files that hold log and state, without what is in the write-ahead log.
func tablesOf(fs vfs.FS) (paths []string) {
	db := fs.PathJoin(testDir, dbDir)
	names, _ := fs.List(db)
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") {
			paths = append(paths, fs.PathJoin(db, n))
		}
	}
	return paths
}

// builtStore returns a disk with a closed store: some of its log in tables, some in
// the write-ahead log, and a state.
func builtStore(t *testing.T) (*vfs.MemFS, []zab.Entry) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	all := bigRun(zab.Zxid{}, 1, 150, 900)
	persist(t, s, zab.Write{ID: 1, Entries: all, Hard: &zab.HardState{Accepted: 1, Current: 1}})
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 20), Puts: []Pair{{[]byte("k"), []byte("v")}}}))
	require.NoError(t, s.engine.Flush())
	tail := bigRun(z(1, 150), 2, 150, 900)
	for _, e := range tail {
		persist(t, s, zab.Write{Entries: []zab.Entry{e}})
	}
	require.NoError(t, s.Apply(StateChange{Applied: z(2, 100)}))
	require.NoError(t, s.Close())
	return fs, append(all, tail...)
}

// intact opens the store and compares all of it. It returns the error that the damage
// led to, or how many entries are left.
func intact(t *testing.T, fs vfs.FS, want []zab.Entry) (int, error) {
	t.Helper()
	s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
	if err != nil {
		return 0, err
	}
	defer func() { require.NoError(t, s.Close()) }()
	_, base, last, _ := s.Initial()
	got, err := s.Entries(base, last, 1<<30)
	if err != nil {
		return 0, err
	}
	require.Equal(t, want[:len(got)], got)
	if v, found, err := s.Get([]byte("k")); err != nil {
		return 0, err
	} else {
		require.True(t, found)
		require.Equal(t, "v", string(v))
	}
	return len(got), nil
}

// filesBeside returns the files of the store directory that are not the engine's.
func filesBeside(t *testing.T, fs vfs.FS) []string {
	t.Helper()
	names, err := fs.List(testDir)
	require.NoError(t, err)
	var paths []string
	for _, n := range names {
		if n != dbDir {
			paths = append(paths, fs.PathJoin(testDir, n))
		}
	}
	return paths
}

// refused checks that an error says what is wrong with a store and what to do.
func refused(t *testing.T, err error, where string) {
	t.Helper()
	if !errors.Is(err, ErrLostPromise) {
		require.ErrorIs(t, err, ErrCorrupt, where)
	}
	require.ErrorContains(t, err, testDir, where)
	require.ErrorContains(t, err, "replace this node", where)
}

func TestAFlippedBitAnywhereIsReportedOrHarmless(t *testing.T) {
	const lastBlock = 32 << 10 // where the engine takes damage for a torn tail
	fs, want := builtStore(t)
	flips := 15
	if testing.Short() {
		flips = 10
	}
	rng := rand.New(rand.NewPCG(7, 7))
	reported := map[string]int{}
	for _, path := range append(filesOf(t, fs, ""), filesBeside(t, fs)...) {
		size := sizeOf(t, fs, path)
		if size == 0 {
			continue
		}
		kind := strings.TrimLeft(filepath.Base(path), "0123456789")
		kind, _, _ = strings.Cut(kind, "-")
		offsets := []int64{0, size / 2, size - 1}
		for range flips {
			offsets = append(offsets, rng.Int64N(size), max(0, size-1-rng.Int64N(lastBlock)),
				max(0, size-1-rng.Int64N(1000)))
		}
		for _, offset := range offsets {
			hurt := vfs.NewMem()
			_, err := vfs.Clone(fs, hurt, testDir, testDir)
			require.NoError(t, err)
			flip(t, hurt, path, offset)
			where := fmt.Sprintf("%s at %d of %d", path, offset, size)
			n, err := intact(t, hurt, want)
			if err == nil {
				require.Equal(t, len(want), n, "silent loss: %s", where)
				continue
			}
			reported[kind]++
			if kind != "OPTIONS" { // text that Pebble reads strictly, but not by a checksum
				refused(t, err, where)
				_, again := intact(t, hurt, want)
				require.Error(t, again, "the second try hides it: %s", where)
			}
		}
	}
	require.Positive(t, reported[".sst"])
	require.Positive(t, reported[".log"])
	require.Positive(t, reported["MANIFEST"])
	require.Equal(t, 3*flips+3, reported["STORE"])
	require.Zero(t, reported[markFile], "one half is enough")
	t.Logf("reported by kind of file: %v", reported)
}

// damagedMiddle flips bits in the middle of the log and reads it. It is the check F07: a log
// that ends where it is damaged has lost what was acknowledged behind it.
func damagedMiddle() error {
	mem := vfs.NewMem()
	all := bigRun(zab.Zxid{}, 1, 200, 900)
	build := func() error {
		s, err := Open(testDir, Options{FS: mem, Node: 1, Logger: quiet()})
		if err != nil {
			return err
		}
		return errors.Join(
			s.Persist([]zab.Write{{Entries: all}}),
			s.Apply(StateChange{Applied: z(1, 200)}),
			s.engine.Flush(), s.Close())
	}
	if err := build(); err != nil {
		return err
	}
	const places = 14
	for _, path := range tablesOf(mem) {
		info, err := mem.Stat(path)
		if err != nil {
			return err
		}
		for place := int64(1); place < places; place++ {
			offset := info.Size() * place / places
			hurt := vfs.NewMem()
			if _, err := vfs.Clone(mem, hurt, testDir, testDir); err != nil {
				return err
			}
			if err := flipBit(hurt, path, offset); err != nil {
				return err
			}
			if err := readDamaged(hurt, all); err != nil {
				return fmt.Errorf("F07: a bit is flipped at %d of %s: %w", offset, path, err)
			}
		}
	}
	return nil
}

// readDamaged fails if the log is shorter than it was and nobody says so.
func readDamaged(fs vfs.FS, all []zab.Entry) error {
	s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
	if err != nil {
		return nil // it says so at once
	}
	got, err := s.Entries(zab.Zxid{}, all[len(all)-1].Zxid, 1<<30)
	if cerr := s.Close(); cerr != nil {
		return cerr
	}
	if err == nil && len(got) != len(all) {
		return fmt.Errorf("%d of %d entries are read, and no error", len(got), len(all))
	}
	return nil
}

func TestALogDoesNotEndWhereItIsDamaged(t *testing.T) {
	require.NoError(t, damagedMiddle())
}

func TestAFlippedBitOnTheRealDiskIsReported(t *testing.T) {
	mem, want := builtStore(t)
	dir := t.TempDir()
	_, err := vfs.Clone(mem, vfs.Default, testDir, dir, vfs.CloneSync)
	require.NoError(t, err)
	tables, err := filepath.Glob(filepath.Join(dir, dbDir, "*.sst"))
	require.NoError(t, err)
	require.NotEmpty(t, tables)
	flip(t, vfs.Default, largest(t, vfs.Default, tables), 3000)
	s, err := Open(dir, Options{Node: 1, Logger: quiet()})
	if err == nil {
		_, err = s.Entries(zab.Zxid{}, want[len(want)-1].Zxid, 1<<30)
		require.NoError(t, s.Close())
	}
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, dir)
}

// Damage that the engine's own checksums do not see: an entry is changed, dropped or
// put under another key. Whoever reads it hears of it, with its zxid.
func TestAnEntryThatIsNotWhatWasWrittenIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		harm   func(s *Store) error
		names  string
		atOpen bool
	}{
		"changed data": {func(s *Store) error {
			v, _, err := s.get(logKey(z(1, 3)))
			if err != nil {
				return err
			}
			v[len(v)-1] ^= 1
			return s.engine.Set(logKey(z(1, 3)), v, pebble.Sync)
		}, "1.3", false},
		"cut short": {func(s *Store) error {
			return s.engine.Set(logKey(z(1, 3)), []byte{1, 2}, pebble.Sync)
		}, "1.3", false},
		"missing": {func(s *Store) error { return s.engine.Delete(logKey(z(1, 3)), pebble.Sync) }, "1.4", false},
		"under another key": {func(s *Store) error {
			v, _, err := s.get(logKey(z(1, 2)))
			if err != nil {
				return err
			}
			return s.engine.Set(logKey(z(1, 3)), v, pebble.Sync)
		}, "1.3", false},
		"missing behind the state": {func(s *Store) error { return s.engine.Delete(logKey(z(2, 1)), pebble.Sync) },
			"2.2", true},
		"changed behind the state": {func(s *Store) error {
			return s.engine.Set(logKey(z(2, 2)), make([]byte, 30), pebble.Sync)
		}, "2.2", true},
		"no log below the state": {func(s *Store) error {
			return s.engine.DeleteRange(logKey(z(1, 3)), []byte{logSpace + 1}, pebble.Sync)
		}, "1.4", true},
		"promises that contradict": {func(s *Store) error {
			return s.engine.Set([]byte(hardKey), hardValue(zab.HardState{Accepted: 1, Current: 2}), pebble.Sync)
		}, "current epoch 2", true},
		"promises changed": {func(s *Store) error {
			return s.engine.Set([]byte(hardKey), make([]byte, 20), pebble.Sync)
		}, "hard", true},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openMem(t, fs)
			persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 4)},
				zab.Write{ID: 2, Entries: run(z(1, 4), 2, 3)})
			require.NoError(t, s.Apply(StateChange{Applied: z(1, 4)}))
			require.NoError(t, c.harm(s))
			if !c.atOpen {
				_, err := s.Entries(zab.Zxid{}, z(2, 3), 1<<20)
				require.ErrorIs(t, err, ErrCorrupt)
				require.ErrorContains(t, err, c.names)
			}
			require.NoError(t, s.Close())
			if c.atOpen {
				_, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
				require.ErrorIs(t, err, ErrCorrupt)
				require.ErrorContains(t, err, c.names)
				require.ErrorContains(t, err, "replace this node")
			}
		})
	}
}

func TestAMissingFileIsReportedOrHarmless(t *testing.T) {
	fs, want := builtStore(t)
	reported := 0
	for _, path := range append(filesOf(t, fs, ""), fs.PathJoin(testDir, markFile)) {
		hurt := vfs.NewMem()
		_, err := vfs.Clone(fs, hurt, testDir, testDir)
		require.NoError(t, err)
		require.NoError(t, hurt.Remove(path))
		n, err := intact(t, hurt, want)
		if err != nil {
			refused(t, err, path)
			reported++
		} else {
			require.Equal(t, len(want), n, "silent loss without %s", path)
		}
	}
	require.GreaterOrEqual(t, reported, 6) // log, table, manifest, its marker, STORE, WATERMARK
}

// The power fails in the middle of a write: of the last record the disk has some sectors, and
// behind them nothing, or nothing but zeros, or another sector is missing. Nobody was told of
// that record. The store opens without it, or with it if it is whole.
func TestATornWriteCostsNoMoreThanTheRecordThatNobodyWasToldOf(t *testing.T) {
	const sector = 512
	mem := crashfs.New()
	s := openMem(t, mem)
	told := bigRun(zab.Zxid{}, 1, 10, 700)
	persist(t, s, zab.Write{Entries: told})
	before := mem.CrashClone(vfs.CrashCloneCfg{})
	last := bigRun(z(1, 10), 1, 1, 6_000) // the engine looks for a flipped bit, which takes the square of it
	persist(t, s, zab.Write{Entries: last})
	after := mem.CrashClone(vfs.CrashCloneCfg{})
	log := largest(t, after, filesOf(t, after, ".log"))
	whole, begins := bytesOf(t, after, log), len(bytesOf(t, before, log))
	require.Greater(t, len(whole), begins+len(last[0].Data))

	kept := map[int]int{}
	try := func(content []byte, where string) {
		disk := cloned(t, before)
		require.NoError(t, rewrite(disk, log, func([]byte) []byte { return content }))
		s, err := reopen(disk)
		require.NoError(t, err, where)
		_, _, tail, _ := s.Initial()
		got, err := s.Entries(zab.Zxid{}, tail, 1<<30)
		require.NoError(t, err, where)
		require.GreaterOrEqual(t, len(got), len(told), where)
		require.Equal(t, append(told[:len(told):len(told)], last...)[:len(got)], got, where)
		kept[len(got)]++
		require.NoError(t, s.Close())
	}
	for at := begins; at < len(whole); at += sector {
		at := min(at/sector*sector, len(whole))
		if at < begins {
			continue
		}
		try(whole[:at:at], fmt.Sprintf("nothing behind %d of %d", at, len(whole)))
		zeros := append(whole[:at:at], make([]byte, len(whole)-at)...)
		try(zeros, fmt.Sprintf("zeros behind %d of %d", at, len(whole)))
		hole := append([]byte(nil), whole...)
		clear(hole[at:min(at+sector, len(hole))])
		try(hole, fmt.Sprintf("the sector at %d of %d is missing", at, len(whole)))
	}
	try(whole, "whole")
	require.Equal(t, 1, kept[len(told)+1])
	require.Greater(t, kept[len(told)], 25)
}

func bytesOf(t *testing.T, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	return data
}

// Every read of the disk fails once, from the opening on, and then for good. Whoever reads hears
// of it: a part of the log or of the state is never taken for all of it.
func TestAnErrorOfAnyReadIsNeverTakenForTheEnd(t *testing.T) {
	fs, want := builtStore(t)
	failed, atOpen := 0, 0
	for _, forGood := range []bool{false, true} {
		for failing := int64(0); ; failing++ {
			var reads atomic.Int64
			broken := errorfs.Wrap(cloned(t, fs), errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind != errorfs.OpFileRead && op.Kind != errorfs.OpFileReadAt {
					return nil
				}
				if n := reads.Add(1) - 1; n == failing || forGood && n > failing {
					return syscall.EIO
				}
				return nil
			}))
			s, err := Open(testDir, Options{FS: broken, Node: 1, Logger: quiet(), Exit: func(int) { runtime.Goexit() }})
			if err != nil {
				failed, atOpen = failed+1, atOpen+1
				continue
			}
			_, base, last, _ := s.Initial()
			got, err := s.Entries(base, last, 1<<30)
			v, found, gerr := s.Get([]byte("k"))
			where := fmt.Sprintf("read %d fails, for good: %t", failing, forGood)
			if err == nil {
				require.Equal(t, want, got, where)
			}
			if gerr == nil {
				require.True(t, found && string(v) == "v", where)
			}
			if err != nil || gerr != nil {
				failed++
			}
			done := reads.Load() <= failing
			_ = s.Close() // what it says of a disk that does not read is its business
			if done {
				break
			}
		}
	}
	require.Positive(t, atOpen)
	require.Greater(t, failed, atOpen, "some fail when the log is read")
	t.Logf("%d reads failed, %d of them at the opening", failed, atOpen)
}
