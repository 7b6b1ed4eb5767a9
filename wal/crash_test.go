// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"crypto/sha256"
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

	"github.com/concordtx/concord/protocol/zab"
)

// moment is what a store must hold after some calls of Persist and Cut.
type moment struct {
	log  string
	base zab.Zxid
	hard zab.HardState
}

// story is a life of a store, chosen by a seed, with a model of what it must hold.
// The state maps each applied zxid to its data, so the state says by itself which
// entries it was built from.
type story struct {
	rng *rand.Rand

	log     []zab.Entry // behind base
	hard    zab.HardState
	base    zab.Zxid
	applied zab.Zxid
	// installs counts snapshots that took the state's place.
	installs int

	mu      sync.Mutex
	moments []moment    // moments[i]: after i durable calls
	acked   int         // calls that returned
	history []zab.Entry // everything that was ever applied
}

func newStory(seed uint64) *story {
	return &story{rng: rand.New(rand.NewPCG(seed, 1)), moments: []moment{{}}}
}

func (y *story) tail() zab.Zxid {
	if len(y.log) == 0 {
		return y.base
	}
	return y.log[len(y.log)-1].Zxid
}

// begin notes what the call that begins now leads to.
func (y *story) begin() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.moments = append(y.moments, moment{log: zxids(y.log), base: y.base, hard: y.hard})
}

func (y *story) end() {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.acked = len(y.moments) - 1
}

// bounds returns how many calls have returned, and how many have begun.
func (y *story) bounds() (acked, begun int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.acked, len(y.moments) - 1
}

// live takes n random steps.
func (y *story) live(s *Store, n int) error {
	for range n {
		var err error
		switch y.rng.IntN(13) {
		case 0, 1, 2, 3, 4:
			err = y.persist(s, false)
		case 5, 6:
			err = y.persist(s, true)
		case 7, 8, 9:
			err = y.apply(s)
		case 10:
			err = y.cut(s)
		case 11:
			err = s.engine.Flush()
		case 12:
			err = y.install(s)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (y *story) persist(s *Store, truncate bool) error {
	var w zab.Write
	if truncate {
		keep := 0
		for keep < len(y.log) && !y.applied.Less(y.log[keep].Zxid) {
			keep++
		}
		y.log = y.log[:keep+y.rng.IntN(len(y.log)-keep+1)]
		to := y.tail()
		w.TruncateAfter = &to
	}
	if y.rng.IntN(3) == 0 {
		y.hard.Accepted++
		y.hard.AcceptedFrom = zab.NodeID(y.rng.IntN(5))
		y.hard.Current = y.hard.Accepted
		h := y.hard
		w.Hard = &h
	}
	epoch := max(y.tail().Epoch, 1)
	if truncate || y.rng.IntN(4) == 0 {
		epoch = y.tail().Epoch + 1
	}
	w.Entries = run(y.tail(), epoch, y.rng.IntN(4))
	for i := range w.Entries {
		w.Entries[i].Data = make([]byte, y.rng.IntN(3000))
		for j := range w.Entries[i].Data {
			w.Entries[i].Data[j] = byte(y.rng.Uint32())
		}
	}
	y.log = append(y.log[:len(y.log):len(y.log)], w.Entries...)
	y.begin()
	if err := s.Persist([]zab.Write{w}); err != nil {
		return err
	}
	y.end()
	return nil
}

func (y *story) apply(s *Store) error {
	for _, e := range y.log {
		if !y.applied.Less(e.Zxid) {
			continue
		}
		y.mu.Lock()
		y.history = append(y.history, e)
		digest := digestOf(y.history)
		y.mu.Unlock()
		y.applied = e.Zxid
		key := make([]byte, zxidLen)
		putZxid(key, e.Zxid)
		if err := s.Apply(StateChange{Applied: e.Zxid, Digest: digest, Puts: []Pair{{key, e.Data}}}); err != nil {
			return err
		}
		if y.rng.IntN(2) == 0 {
			return nil
		}
	}
	return nil
}

func (y *story) cut(s *Store) error {
	if !y.base.Less(y.applied) || y.rng.IntN(2) == 0 {
		return nil
	}
	y.base = y.applied
	for len(y.log) > 0 && !y.base.Less(y.log[0].Zxid) {
		y.log = y.log[1:]
	}
	y.begin()
	if err := s.Persist([]zab.Write{{Cut: &y.base}}); err != nil {
		return err
	}
	y.end()
	return nil
}

// install replaces log and state by a snapshot of a node that is some entries ahead, or
// gives it up on the way.
func (y *story) install(s *Store) error {
	tail := y.tail()
	ahead := run(tail, tail.Epoch+1, 1+y.rng.IntN(3))
	history := append([]zab.Entry(nil), y.folded()...)
	history = append(history, ahead...)
	z, digest := ahead[len(ahead)-1].Zxid, digestOf(history)
	stage, err := s.Stage()
	if err != nil {
		return err
	}
	sum := contentHash(z, digest)
	for _, e := range history {
		part := appendPair(nil, stateKeyOf(e), e.Data)
		sum.Write(part)
		if err := stage.Add(part); err != nil {
			return err
		}
	}
	if y.rng.IntN(3) == 0 {
		if y.rng.IntN(2) == 0 {
			return stage.Discard()
		}
		return nil // begun and forgotten
	}
	if err := stage.Finish(z, digest, [32]byte(sum.Sum(nil)), func() {}); err != nil {
		return err
	}
	y.mu.Lock()
	y.history = append(y.history, ahead...)
	y.mu.Unlock()
	y.log, y.base, y.applied = nil, z, z
	y.installs++
	y.begin()
	if err := s.Persist([]zab.Write{{Install: &zab.Snapshot{Zxid: z, Ref: stage.Ref()}}}); err != nil {
		return err
	}
	y.end()
	return nil
}

// folded is what the state holds.
func (y *story) folded() []zab.Entry {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.history
}

func stateKeyOf(e zab.Entry) []byte {
	key := make([]byte, zxidLen)
	putZxid(key, e.Zxid)
	return key
}

func digestOf(history []zab.Entry) [32]byte {
	h := sha256.New()
	for _, e := range history {
		fmt.Fprintf(h, "%v:%d:", e.Zxid, len(e.Data))
		h.Write(e.Data)
	}
	return [32]byte(h.Sum(nil))
}

// check verifies that a store that came back holds one of the moments from acked to
// begun, as a whole, and a state that is exactly the fold of a prefix of the history.
func (y *story) check(t *testing.T, s *Store, acked, begun int) {
	t.Helper()
	hard, base, last, applied := s.Initial()
	es, err := s.Entries(base, last, 1<<30)
	require.NoError(t, err)
	got := moment{log: zxids(es), base: base, hard: hard}
	y.mu.Lock()
	defer y.mu.Unlock()
	require.Contains(t, y.moments[acked:begun+1], got, "acked %d, begun %d", acked, begun)

	require.False(t, last.Less(applied), "state %v ahead of the log %v", applied, last)
	var prefix []zab.Entry
	for _, e := range y.history {
		if !applied.Less(e.Zxid) {
			prefix = append(prefix, e)
		}
	}
	at, digest := s.Applied()
	require.Equal(t, applied, at)
	if len(prefix) == 0 {
		require.Zero(t, applied)
	} else {
		require.Equal(t, prefix[len(prefix)-1].Zxid, applied)
		require.Equal(t, digestOf(prefix), digest)
	}
	i := 0
	require.NoError(t, s.Scan(nil, nil, false, func(k, v []byte) bool {
		if i < len(prefix) {
			require.Equal(t, prefix[i].Zxid, getZxid(k))
			require.Equal(t, string(prefix[i].Data), string(v))
		}
		i++
		return true
	}))
	require.Equal(t, len(prefix), i, "pairs in the state")
	for _, e := range es { // what log and history share is the same
		for _, h := range prefix {
			if h.Zxid == e.Zxid {
				require.Equal(t, h, e)
			}
		}
	}
}

// crash is a disk as a crash left it.
type crash struct {
	fs           *vfs.MemFS
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
		mem := vfs.NewCrashableMem()
		y := newStory(seed)
		rng := rand.New(rand.NewPCG(seed, 2))
		var mu sync.Mutex
		var crashes []crash
		ops := 0
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			acked, _ := y.bounds()
			percent := []int{0, 50, 100}[(ops+int(seed))%3]
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
			_, begun := y.bounds() // a call may have begun meanwhile
			crashes = append(crashes, crash{fs: clone, percent: percent, op: ops, acked: acked, begun: begun})
			ops++
			return nil
		}))
		s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.NoError(t, err)
		require.NoError(t, y.live(s, steps))
		require.NoError(t, s.Close())
		for _, c := range crashes {
			back, err := Open(testDir, Options{FS: c.fs, Node: 1, Logger: quiet()})
			require.NoError(t, err, "seed %d op %d, %d %% kept", seed, c.op, c.percent)
			y.check(t, back, c.acked, c.begun)
			require.NoError(t, back.Close())
		}
		total += len(crashes)
		installs += y.installs
	}
	require.Positive(t, installs)
	require.Greater(t, total, 100*lives, "crash points")
	t.Logf("%d crash points, %d snapshots installed", total, installs)
}

// The state is written without a sync. A crash takes it back to where the log is, or
// leaves it, and the log alone is enough to build it again.
func TestACrashMayTakeBackStateButNeverItsLog(t *testing.T) {
	for _, percent := range []int{0, 50, 100} {
		mem := vfs.NewCrashableMem()
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
	mem := vfs.NewCrashableMem()
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
	const steps = 25
	outcomes := map[string]int{}
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for failing := 0; ; failing += stride {
		mem := vfs.NewCrashableMem()
		y := newStory(3)
		var mu sync.Mutex
		ops, hit := 0, false
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			ops++
			if ops-1 == failing {
				hit = true
				return errorfs.ErrInjected
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
		var how string
		select {
		case how = <-outcome:
		case <-time.After(30 * time.Second):
			require.FailNow(t, "hangs", "write operation %d", failing)
		}
		outcomes[how]++
		acked, _ := y.bounds()
		for _, percent := range []int{0, 100} {
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(1, 1))})
			_, begun := y.bounds()
			back, err := Open(testDir, Options{FS: clone, Node: 1, Logger: quiet()})
			require.NoError(t, err, "after an error of write operation %d (%s)", failing, how)
			y.check(t, back, acked, begun)
			require.NoError(t, back.Close())
		}
		mu.Lock()
		last := !hit
		mu.Unlock()
		if last {
			require.Equal(t, "done", how)
			break
		}
	}
	require.Positive(t, outcomes["exit"])
	require.Positive(t, outcomes["error"])
	t.Logf("outcomes: %v", outcomes)
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
	mem := vfs.NewCrashableMem()
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
