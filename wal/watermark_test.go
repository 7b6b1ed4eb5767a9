// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/protocol/zab"
)

var markPath = testDir + "/" + markFile

func marksOf(t *testing.T, fs vfs.FS) found {
	t.Helper()
	w, err := readMark(fs, markPath)
	require.NoError(t, err)
	return w
}

func cloned(t *testing.T, fs vfs.FS) *vfs.MemFS {
	t.Helper()
	to := vfs.NewMem()
	_, err := vfs.Clone(fs, to, testDir, testDir)
	require.NoError(t, err)
	return to
}

func reopen(fs vfs.FS) (*Store, error) {
	return Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
}

// forgetLogFiles takes the names of the write-ahead log out of a watermark, so that only
// its other claims count.
func forgetLogFiles(t *testing.T, fs vfs.FS) {
	t.Helper()
	w := marksOf(t, fs)
	require.NotZero(t, w.logs, "there is always one")
	f, err := fs.OpenReadWrite(markPath, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	for i, m := range w.slots {
		m.logs = logFiles{}
		_, err := f.WriteAt(m.slot(), int64(i)*slotSize)
		require.NoError(t, err)
	}
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

func TestASlotIsReadBackOnlyAsItWasWritten(t *testing.T) {
	m := mark{seq: 9, id: [16]byte{1, 2}, tail: z(3, 14), hard: zab.HardState{Accepted: 5, AcceptedFrom: 2, Current: 4},
		boot: 7, logs: logFiles{4, 1 << 40}}
	back, ok := parseSlot(m.slot())
	require.True(t, ok)
	require.Equal(t, m, back)
	for bit := range slotSize * 8 {
		b := m.slot()
		b[bit/8] ^= 1 << (bit % 8)
		_, ok := parseSlot(b)
		require.False(t, ok, "bit %d", bit)
	}
	_, ok = parseSlot(m.slot()[:slotSize-1])
	require.False(t, ok)
}

func TestTheWatermarkFollowsTheLogWithoutBeingAsked(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	persist(t, s, zab.Write{Entries: run(zab.Zxid{}, 1, 3)})
	require.Eventually(t, func() bool {
		w := marksOf(t, fs)
		return w.slots[0].tail == z(1, 3) && w.slots[1].tail == z(1, 3)
	}, 10*time.Second, 5*time.Millisecond)
}

func TestAPromiseOfAnEpochIsInTheWatermarkWhenPersistReturns(t *testing.T) {
	fs := crashfs.New()
	s := openMem(t, fs)
	for epoch := zab.Epoch(1); epoch < 5; epoch++ {
		hard := zab.HardState{Accepted: epoch, AcceptedFrom: 2, Current: epoch - 1}
		persist(t, s, zab.Write{Hard: &hard})
		require.Equal(t, hard, marksOf(t, fs.CrashClone(vfs.CrashCloneCfg{})).hard)
	}
}

func TestAStoreThatIsOlderThanItsWatermarkIsRefused(t *testing.T) {
	hard := zab.HardState{Accepted: 3, AcceptedFrom: 2, Current: 3}
	for name, c := range map[string]struct {
		before, after zab.Write
		says          string
	}{
		"log": {zab.Write{Entries: run(zab.Zxid{}, 1, 4)}, zab.Write{Entries: run(z(1, 4), 1, 3)},
			"acknowledged 1.7 as durable, but the log (0.0 to 1.4)"},
		"epoch": {zab.Write{Hard: &zab.HardState{Accepted: 1, AcceptedFrom: 1}}, zab.Write{Hard: &hard},
			"promised epoch 3 to node 2 and completed epoch 3, but the store says epoch 1 to node 1 and 0"},
		"other branch": {zab.Write{Entries: run(zab.Zxid{}, 1, 9)},
			zab.Write{TruncateAfter: &zab.Zxid{Epoch: 1, Counter: 5}, Entries: run(z(1, 5), 2, 1)},
			"acknowledged 2.1 as durable, but the log (0.0 to 1.9)"},
		"nothing but the count": {zab.Write{}, zab.Write{}, "opened 2 times, but it says 1"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			s := openMem(t, fs)
			persist(t, s, c.before)
			require.NoError(t, s.Close())
			old := cloned(t, fs)
			s, err := reopen(fs)
			require.NoError(t, err)
			persist(t, s, c.after)
			require.NoError(t, s.Close())

			require.NoError(t, fs.RemoveAll(testDir+"/"+dbDir)) // the engine's directory is set back
			_, err = vfs.Clone(old, fs, testDir+"/"+dbDir, testDir+"/"+dbDir)
			require.NoError(t, err)
			_, err = reopen(fs)
			require.ErrorIs(t, err, ErrLostPromise)
			require.ErrorContains(t, err, ".log of the write-ahead log is missing")
			forgetLogFiles(t, fs)
			for range 2 { // trying again does not help
				_, err = reopen(fs)
				require.ErrorIs(t, err, ErrLostPromise)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "replace this node")
			}
		})
	}
}

func TestOneDamagedHalfOfTheWatermarkIsEnoughAndBothAreNot(t *testing.T) {
	fs, want := builtStore(t)
	one := cloned(t, fs)
	flip(t, one, markPath, 100)
	n, err := intact(t, one, want)
	require.NoError(t, err)
	require.Equal(t, len(want), n)
	require.Equal(t, slots, marksOf(t, one).good, "made good again")

	// Whichever half is left, it knows the end of the log.
	for half := range int64(slots) {
		hurt := cloned(t, fs)
		flip(t, hurt, markPath, half*slotSize+100)
		log := largest(t, hurt, filesOf(t, hurt, ".log"))
		flip(t, hurt, log, sizeOf(t, hurt, log)-200)
		_, err := intact(t, hurt, want)
		refused(t, err, "the other half and the end of the log")
	}

	both := cloned(t, fs)
	flip(t, both, markPath, 100)
	flip(t, both, markPath, slotSize+100)
	_, err = intact(t, both, want)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "both halves of the file WATERMARK are damaged")

	cut := cloned(t, fs)
	f, err := cut.Create(markPath, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = intact(t, cut, want)
	require.ErrorContains(t, err, "both halves")
}

func TestAStoreThatWasRemovedIsNotMadeAgain(t *testing.T) {
	fs, _ := builtStore(t)
	require.NoError(t, fs.RemoveAll(testDir+"/"+dbDir))
	_, err := reopen(fs)
	require.ErrorIs(t, err, ErrLostPromise)
	require.ErrorContains(t, err, "db is missing, but a store was here")
	flip(t, fs, markPath, 100)
	flip(t, fs, markPath, slotSize+100)
	_, err = reopen(fs)
	require.ErrorIs(t, err, ErrLostPromise)
}

func TestAWatermarkOfAnotherStoreIsRefused(t *testing.T) {
	fs, _ := builtStore(t)
	other := vfs.NewMem()
	require.NoError(t, openMem(t, other).Close())
	require.NoError(t, fs.RemoveAll(markPath))
	_, err := vfs.Clone(other, fs, markPath, markPath)
	require.NoError(t, err)
	_, err = reopen(fs)
	require.ErrorIs(t, err, ErrLostPromise)
	require.ErrorContains(t, err, "two different stores")
}

// At every write of the disk during a truncation that reaches behind what was
// acknowledged: whatever a power failure leaves, a healthy store opens, with each half
// of the watermark alone if the other is damaged; and without what the truncation
// keeps it does not open.
func TestACrashAroundATruncationNeitherRefusesAGoodStoreNorAcceptsABadOne(t *testing.T) {
	mem := crashfs.New()
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var crashes []*crashfs.FS
	recording := false
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if recording && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			for _, percent := range []int{0, 50, 100} {
				crashes = append(crashes, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
			}
		}
		return nil
	}))
	s, err := reopen(fs)
	require.NoError(t, err)
	persist(t, s, zab.Write{Entries: run(zab.Zxid{}, 1, 6)})
	require.NoError(t, s.Close())
	short := cloned(t, mem) // ends before what the truncation will keep
	s, err = reopen(fs)
	require.NoError(t, err)
	persist(t, s, zab.Write{Entries: run(z(1, 6), 1, 4), Hard: &zab.HardState{Accepted: 2, Current: 1}})
	require.Eventually(t, func() bool {
		w := marksOf(t, mem)
		return w.slots[0].tail == z(1, 10) && w.slots[1].tail == z(1, 10)
	}, 10*time.Second, 5*time.Millisecond)

	mu.Lock()
	recording = true
	mu.Unlock()
	persist(t, s, zab.Write{TruncateAfter: &zab.Zxid{Epoch: 1, Counter: 7}})
	mu.Lock()
	recording = false
	mu.Unlock()
	crashes = append(crashes, mem.CrashClone(vfs.CrashCloneCfg{}))
	require.NoError(t, s.Close())
	require.Greater(t, len(crashes), 3*4, "two halves and the log, each written and synced")

	tails := map[zab.Zxid]int{}
	for i, crash := range crashes {
		for half := range int64(slots + 1) {
			disk := cloned(t, crash)
			if half < slots && marksOf(t, disk).good == slots {
				flip(t, disk, markPath, half*slotSize+50)
			}
			s, err := reopen(disk)
			require.NoError(t, err, "crash %d, half %d damaged", i, half)
			_, _, last, _ := s.Initial()
			require.False(t, last.Less(z(1, 7)))
			tails[last]++
			require.NoError(t, s.Close())
		}
		lost := cloned(t, crash)
		require.NoError(t, lost.RemoveAll(testDir+"/"+dbDir))
		_, err := vfs.Clone(short, lost, testDir+"/"+dbDir, testDir+"/"+dbDir)
		require.NoError(t, err)
		forgetLogFiles(t, lost)
		_, err = reopen(lost)
		require.ErrorIs(t, err, ErrLostPromise, "crash %d", i)
		require.ErrorContains(t, err, "but the log (0.0 to 1.6) does not hold it")
	}
	require.Positive(t, tails[z(1, 10)], "before")
	require.Positive(t, tails[z(1, 7)], "after")
}

// A random life with a power failure at every write: no half of the watermark ever
// claims what is not there, so damage to one of them never refuses a good store.
func TestNoHalfOfTheWatermarkEverClaimsWhatIsNotDurable(t *testing.T) {
	lives, steps := uint64(3), 40
	if testing.Short() {
		lives = 1
	}
	for seed := range lives {
		y := newStory(seed + 100)
		fs, crashes := y.crashing(crashfs.New(), seed)
		s, err := reopen(fs)
		require.NoError(t, err)
		require.NoError(t, y.live(s, steps))
		require.NoError(t, s.Close())
		checked := 0
		for _, c := range *crashes {
			if c.op%2 == 0 {
				continue // half of them are enough
			}
			w, err := readMark(c.fs, markPath)
			if err != nil || w.good < slots {
				continue // not made yet, or torn
			}
			older := int64(0)
			if w.slots[1].seq < w.slots[0].seq {
				older = 1
			}
			disk := cloned(t, c.fs)
			flip(t, disk, markPath, (1-older)*slotSize+50) // the newest claims are gone
			s, err := reopen(disk)
			require.NoError(t, err, "seed %d, op %d", seed, c.op)
			require.NoError(t, y.check(s, c.acked, c.begun))
			require.NoError(t, s.Close())
			checked++
		}
		require.Greater(t, checked, 50)
	}
}

// Several files of the write-ahead log are there when the power fails, the ones in the
// middle with nothing but applied state. None can go, or be damaged, without notice.
func TestNoFileOfTheWriteAheadLogCanGoUnnoticed(t *testing.T) {
	mem := crashfs.New()
	gate := make(chan struct{})
	fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			<-gate // no flush ends meanwhile
		}
		return nil
	}))
	s, err := reopen(fs)
	require.NoError(t, err)
	const n = 35
	persist(t, s, zab.Write{Entries: run(zab.Zxid{}, 1, n), Hard: &zab.HardState{Accepted: 1, Current: 1}})
	value := make([]byte, 1<<17) // the first memtables are small
	for i := range uint64(n) {
		require.NoError(t, s.Apply(StateChange{Applied: z(1, i+1), Puts: []Pair{{[]byte{byte(i)}, value}}}))
	}
	persist(t, s, zab.Write{Entries: run(z(1, n), 1, 1)})
	require.Eventually(t, func() bool {
		w := marksOf(t, mem)
		return w.slots[0].tail == z(1, n+1) && w.slots[0].claims() == w.slots[1].claims()
	}, 10*time.Second, 5*time.Millisecond)
	crash := mem.CrashClone(vfs.CrashCloneCfg{})
	close(gate)
	require.NoError(t, s.Close())

	whole := cloned(t, crash)
	logs := filesOf(t, whole, ".log")
	require.GreaterOrEqual(t, len(logs), 3)
	s, err = reopen(whole)
	require.NoError(t, err)
	_, _, last, applied := s.Initial()
	require.Equal(t, z(1, n+1), last)
	require.Equal(t, z(1, n), applied)
	require.NoError(t, s.Close())

	for i, path := range logs {
		hurt := cloned(t, crash)
		require.NoError(t, hurt.Remove(path))
		for range 2 {
			_, err := reopen(hurt)
			require.ErrorIs(t, err, ErrLostPromise, path)
			require.ErrorContains(t, err, whole.PathBase(path)+" of the write-ahead log is missing")
		}
		for _, offset := range []int64{20, sizeOf(t, crash, path) / 2, sizeOf(t, crash, path) - 50} {
			hurt := cloned(t, crash)
			flip(t, hurt, path, offset)
			_, err := reopen(hurt)
			require.Error(t, err, "file %d of %d, bit at %d", i+1, len(logs), offset)
			refused(t, err, path)
		}
	}
}
