// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
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

// append persists n entries of so many bytes.
func (y *story) append(s *Store, n, size int) error {
	w := zab.Write{Entries: run(y.tail(), max(y.tail().Epoch, 1), n)}
	for i := range w.Entries {
		w.Entries[i].Data = make([]byte, size)
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
	stage, err := s.Stage(nil)
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
// begun, as a whole (DUR1: what was promised is there), and a state that is exactly the fold of
// a prefix of the history, and says of which (L6).
func (y *story) check(s *Store, acked, begun int) error {
	hard, base, last, applied := s.Initial()
	es, err := s.Entries(base, last, 1<<30)
	if err != nil {
		return fmt.Errorf("DUR1: %w", err)
	}
	got := moment{log: zxids(es), base: base, hard: hard}
	y.mu.Lock()
	defer y.mu.Unlock()
	if !slices.Contains(y.moments[acked:begun+1], got) {
		return fmt.Errorf("DUR1: the store holds %+v after %d calls returned and %d began, which left %+v", got, acked, begun, y.moments[acked])
	}
	return y.checkState(s, es, applied)
}

func (y *story) checkState(s *Store, log []zab.Entry, applied zab.Zxid) error {
	var prefix []zab.Entry
	for _, e := range y.history {
		if !applied.Less(e.Zxid) {
			prefix = append(prefix, e)
		}
	}
	at, digest := s.Applied()
	tail, want := zab.Zxid{}, [32]byte{}
	if len(prefix) > 0 {
		tail, want = prefix[len(prefix)-1].Zxid, digestOf(prefix)
	}
	if at != applied || tail != applied || digest != want {
		return fmt.Errorf("L6: the state says that it holds %v and has digest %x, the history up to there ends at %v with %x", at, digest[:4], tail, want[:4])
	}
	i, wrong := 0, ""
	err := s.Scan(nil, nil, false, func(k, v []byte) bool {
		if i >= len(prefix) || prefix[i].Zxid != getZxid(k) || string(prefix[i].Data) != string(v) {
			wrong = fmt.Sprintf("pair %d is of %v", i, getZxid(k))
			return false
		}
		i++
		return true
	})
	if err != nil || wrong != "" || i != len(prefix) {
		return fmt.Errorf("L6: the state holds %v, but not the fold of %d entries: %d pairs are right, %s: %v", applied, len(prefix), i, wrong, err)
	}
	for _, e := range log { // what log and history share is the same
		for _, h := range prefix {
			if h.Zxid == e.Zxid && !reflect.DeepEqual(h, e) {
				return fmt.Errorf("L6: the state holds another %v than the log", e.Zxid)
			}
		}
	}
	return nil
}

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
			return 0, fmt.Errorf("W01: the power fails at operation %d of story %d, %d %% of what is not synced stays: %w", c.op, seed, c.percent, err)
		}
	}
	return len(*crashes), nil
}

// crashing is a disk for a story to live on. Before each write to it, it notes what a power
// failure would leave of it: none, half or all of what was not synced.
func (y *story) crashing(mem *crashfs.FS, seed uint64) (vfs.FS, *[]crash) {
	rng := rand.New(rand.NewPCG(seed, 2))
	var mu sync.Mutex
	var crashes []crash
	return errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		acked, _ := y.bounds()
		percent := []int{0, 50, 100}[(len(crashes)+int(seed))%3]
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
		_, begun := y.bounds() // a call may have begun meanwhile
		crashes = append(crashes, crash{fs: clone, percent: percent, op: len(crashes), acked: acked, begun: begun})
		return nil
	})), &crashes
}

// reopen opens the disk that a crash left, and checks it.
func (y *story) reopen(c crash) error {
	back, err := Open(testDir, Options{FS: c.fs, Node: 1, Logger: quiet()})
	if err != nil {
		return fmt.Errorf("DUR1: it does not open: %w", err)
	}
	return errors.Join(y.check(back, c.acked, c.begun), back.Close())
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
	for _, kind := range []errorfs.OpKind{errorfs.OpCreate, errorfs.OpRename, errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpFileSync} {
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
			return "", 0, fmt.Errorf("W02: write operation %d fails (%s), the power at %d, %d %% of what is not synced stays: %w", failing, how, c.op, c.percent, err)
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
