// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/protocol/zab"
)

// crash is a disk as a crash left it.
type crash struct {
	fs           *crashfs.FS
	percent      int
	op           int
	acked, begun int
}

// At every write, sync, create, rename and removal of a store's life, from the first
// directory on, the machine loses its power, and none, half or all of what was not
// synced is on the disk. Every such disk opens, and holds what was promised.
func TestWhateverPersistReturnedForIsThereAfterACrashAtAnyPoint(t *testing.T) {
	lives, steps := 3, 40
	if testing.Short() {
		lives = 1
	}
	total, installs := 0, 0
	for seed := range uint64(lives) {
		y := newStory(seed)
		crashes, err := powerFails(seed, func(s *Store) error { return y.live(s, steps) }, y)
		require.NoError(t, err)
		total += crashes
		installs += y.installs
	}
	require.Positive(t, installs)
	require.Greater(t, total, 100*lives, "crash points")
	t.Logf("%d crash points, %d snapshots installed", total, installs)
}

// State and position are one batch, so no crash leaves one without the other. The states are
// as small as the positions, so that a torn end is as often between two as in one.
func TestStateAndItsPositionAreNeverApart(t *testing.T) {
	crashes, err := applyUntilThePowerFails(1)
	require.NoError(t, err)
	require.Greater(t, crashes, 50)
}

func applyUntilThePowerFails(seed uint64) (crashes int, err error) {
	y := newStory(seed)
	return powerFails(seed, func(s *Store) error {
		for range 20 {
			if err := y.append(s, 40, 8); err != nil {
				return err
			}
			for y.applied != y.tail() {
				if err := y.apply(s); err != nil {
					return err
				}
			}
		}
		return nil
	}, y)
}

// powerFails lives through a story in a new store, and opens and checks every disk that a
// power failure would have left. It is the check W01.
func powerFails(seed uint64, live func(*Store) error, y *story) (int, error) {
	fs, crashes := y.crashing(crashfs.New(), seed)
	s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
	if err != nil {
		return 0, err
	}
	if err := errors.Join(live(s), s.Close()); err != nil {
		return 0, err
	}
	for _, c := range *crashes {
		if err := y.reopen(c); err != nil {
			return 0, fmt.Errorf("W01: the power fails at operation %d of story %d, %d %% of what is not synced "+
				"stays: %w", c.op, seed, c.percent, err)
		}
	}
	return len(*crashes), nil
}

// The state is written without a sync. A crash takes it back to where the log is, or
// leaves it, and the log alone is enough to build it again.
func TestACrashMayTakeBackStateButNeverItsLog(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		mem := crashfs.New()
		s := openMem(t, mem)
		persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 10)})
		for i := range uint64(10) {
			require.NoError(t, s.Apply(StateChange{Applied: z(1, i+1)}))
		}
		rng := rand.New(rand.NewPCG(1, 1))
		back := openMem(t, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		require.Equal(t, 10, len(strings.Fields(log(t, back))))
		_, _, last, applied := back.Initial()
		require.False(t, last.Less(applied))
		if percent == 0 {
			require.Zero(t, applied)
		}
		for next := applied.Counter + 1; next <= 10; next++ {
			require.NoError(t, back.Apply(StateChange{Applied: z(1, next)}))
		}
	}
}

// A synced Persist makes the state that was applied before it durable as well: both
// are in one write-ahead log.
func TestASyncedWriteCarriesEarlierStateWithIt(t *testing.T) {
	mem := crashfs.New()
	s := openMem(t, mem)
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 1)})
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 1)}))
	persist(t, s, zab.Write{ID: 2, Entries: run(z(1, 1), 1, 1)})
	back := openMem(t, mem.CrashClone(vfs.CrashCloneCfg{}))
	_, _, last, applied := back.Initial()
	require.Equal(t, z(1, 2), last)
	require.Equal(t, z(1, 1), applied)
}

// Every single write operation of the disk fails once. The caller gets an error, or
// the process ends, or it was background work that is done again; and a restart finds
// all that was promised.
func TestAnErrorOfAnyWriteOperationNeverLosesAPromise(t *testing.T) {
	outcomes := map[string]int{}
	stride := 1
	if testing.Short() {
		stride = 7
	}
	kinds := map[errorfs.OpKind]int{}
	for failing := 0; ; failing += stride {
		how, kind, err := writeFails(failing)
		require.NoError(t, err)
		outcomes[how]++
		if kind < 0 {
			require.Equal(t, "done", how)
			break
		}
		kinds[kind]++
	}
	require.Positive(t, outcomes["exit"])
	require.Positive(t, outcomes["error"])
	for _, kind := range []errorfs.OpKind{errorfs.OpCreate, errorfs.OpRename, errorfs.OpFileWrite,
		errorfs.OpFileWriteAt, errorfs.OpFileSync} {
		require.Positive(t, kinds[kind], "operation %d of the disk", kind)
	}
	t.Logf("outcomes: %v, kinds of operations: %v", outcomes, kinds)
}

// writeFails lets one write operation fail, and tells how the story ended, and which kind
// it was; negative if there were not so many. The power may fail at the end, or at one of the
// next operations, if there are any. It is the check W02.
func writeFails(failing int) (how string, kind errorfs.OpKind, err error) {
	const steps = 25
	mem := crashfs.New()
	y := newStory(3)
	var mu sync.Mutex
	var crashes []crash
	ops := 0
	kind = -1
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		ops++
		if ops-1 == failing {
			kind = op.Kind
			return errorfs.ErrInjected
		}
		if kind >= 0 && len(crashes) < 4 {
			acked, _ := y.bounds()
			clone := mem.CrashClone(vfs.CrashCloneCfg{})
			_, begun := y.bounds()
			crashes = append(crashes, crash{fs: clone, op: ops - 1, acked: acked, begun: begun})
		}
		return nil
	}))
	outcome := make(chan string, 4)
	exit := func(int) {
		outcome <- "exit"
		select {} // a process that ended does nothing more
	}
	go func() {
		s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet(), Exit: exit})
		if err == nil {
			err = y.live(s, steps)
		}
		if err == nil {
			err = s.Close()
		}
		if err != nil {
			outcome <- "error"
			return
		}
		outcome <- "done"
	}()
	select {
	case how = <-outcome:
	case <-time.After(30 * time.Second):
		return "", 0, fmt.Errorf("W02: write operation %d fails: nothing comes of it", failing)
	}
	mu.Lock()
	defer mu.Unlock()
	acked, _ := y.bounds()
	for _, percent := range []int{0, 100} {
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, 1))})
		_, begun := y.bounds()
		crashes = append(crashes, crash{fs: clone, percent: percent, op: ops, acked: acked, begun: begun})
	}
	for _, c := range crashes {
		if err := y.reopen(c); err != nil {
			return "", 0, fmt.Errorf("W02: write operation %d fails (%s), the power at %d, %d %% of what is not "+
				"synced stays: %w", failing, how, c.op, c.percent, err)
		}
	}
	return how, kind, nil
}

// A new store's first write-ahead log has the old format, which hides damage. It must
// not be the one that promises go to.
func TestNewStoreHasTheNewestFormatFromItsFirstLogOn(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	require.Equal(t, pebble.FormatNewest, s.engine.FormatMajorVersion())
	for _, e := range bigRun(zab.Zxid{}, 1, 200, 1000) {
		persist(t, s, zab.Write{Entries: []zab.Entry{e}})
	}
	require.NoError(t, s.Close())
	logs := filesOf(t, fs, ".log")
	require.NotEmpty(t, logs)
	flip(t, fs, largest(t, fs, logs), 2000)
	_, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
	require.ErrorIs(t, err, ErrCorrupt)
}

// A marker must never be on the disk before the manifest that it points to: no crash
// may leave a store that does not open.
func TestAManifestIsDurableBeforeItsMarkerAppears(t *testing.T) {
	mem := crashfs.New()
	markers := 0
	var missing []string
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		const prefix = "marker.manifest."
		name := mem.PathBase(op.Path)
		if op.Kind != errorfs.OpCreate || !strings.HasPrefix(name, prefix) {
			return nil
		}
		markers++
		manifest := name[strings.LastIndexByte(name, '.')+1:]
		path := mem.PathJoin(mem.PathDir(op.Path), manifest)
		if _, err := mem.CrashClone(vfs.CrashCloneCfg{}).Stat(path); err != nil {
			missing = append(missing, path)
		}
		return nil
	}))
	for range 3 {
		s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.NoError(t, err)
		require.NoError(t, s.engine.Flush())
		require.NoError(t, s.Close())
	}
	require.Positive(t, markers)
	require.Empty(t, missing)
}
