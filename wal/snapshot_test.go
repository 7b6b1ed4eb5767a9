// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/protocol/zab"
)

// stateOf returns the state as one text.
func stateOf(t testing.TB, s *Store) (text string) {
	t.Helper()
	require.NoError(t, s.Scan(nil, nil, false, func(k, v []byte) bool {
		text += fmt.Sprintf("%s=%s ", k, v)
		return true
	}))
	return text
}

// grown returns a store with n applied entries, each a key of its own and one that all
// of them write.
func grown(t testing.TB, n int) *Store {
	t.Helper()
	s := openMem(t, vfs.NewMem())
	persist(t, s, zab.Write{Entries: run(zab.Zxid{}, 1, n)})
	for i := range n {
		require.NoError(t, s.Apply(StateChange{Applied: z(1, uint64(i+1)), Digest: [32]byte{byte(i + 1)},
			Puts: []Pair{{fmt.Appendf(nil, "key %04d", i), []byte("v")}, {[]byte("last"), fmt.Appendf(nil, "%d", i)}}}))
	}
	return s
}

// carry stages a snapshot of one store in another.
func carry(t testing.TB, from *Snapshot, to *Store) *Stage {
	t.Helper()
	stage, err := to.Stage(nil)
	require.NoError(t, err)
	for {
		part, err := from.Next(200)
		require.NoError(t, err)
		if len(part) == 0 {
			break
		}
		require.NoError(t, stage.Add(part))
	}
	return stage
}

func install(t testing.TB, s *Store, x *Stage) {
	t.Helper()
	persist(t, s, zab.Write{Install: &zab.Snapshot{Zxid: x.zxid, Ref: x.Ref()}})
}

func TestSnapshotIsTheStateOfOneInstantWhateverHappensMeanwhile(t *testing.T) {
	from := grown(t, 50)
	want := stateOf(t, from)
	x, err := from.Snapshot()
	require.NoError(t, err)
	persist(t, from, zab.Write{Entries: run(z(1, 50), 1, 10)})
	require.NoError(t, from.Apply(StateChange{Applied: z(1, 60), DeleteRanges: []Range{{}},
		Puts: []Pair{{[]byte("new"), nil}}}))
	cut(t, from, z(1, 55))

	to := openMem(t, vfs.NewMem())
	persist(t, to, zab.Write{Entries: run(zab.Zxid{}, 1, 7)})
	require.NoError(t, to.Apply(StateChange{Applied: z(1, 5), Puts: []Pair{{[]byte("old"), nil}}}))
	stage := carry(t, x, to)
	require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}))
	require.NoError(t, x.Close())
	require.Equal(t, "old= ", stateOf(t, to), "the state is as it was until the switch")

	install(t, to, stage)
	require.Equal(t, want, stateOf(t, to))
	applied, digest := to.Applied()
	require.Equal(t, z(1, 50), applied)
	require.Equal(t, [32]byte{50}, digest)
	_, base, last, _ := to.Initial()
	require.Equal(t, z(1, 50), base)
	require.Equal(t, z(1, 50), last)
	_, err = to.Entries(z(1, 3), z(1, 50), 1000)
	require.ErrorIs(t, err, ErrCut)

	persist(t, to, zab.Write{Entries: run(z(1, 50), 1, 2)})
	require.NoError(t, to.Apply(StateChange{Applied: z(1, 51), Puts: []Pair{{[]byte("zz"), []byte("after")}}}))
	require.Equal(t, want+"zz=after ", stateOf(t, to))
	v, found, err := to.Get([]byte("last"))
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "49", string(v))
	require.Equal(t, "1.51 1.52", log(t, to))
}

func TestInstalledSnapshotIsThereAfterARestartAndCanBeReplacedAgain(t *testing.T) {
	fs := vfs.NewMem()
	var want string
	for i := 1; i <= 3; i++ {
		from := grown(t, 10*i)
		want = stateOf(t, from)
		x, err := from.Snapshot()
		require.NoError(t, err)
		to, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.NoError(t, err)
		stage := carry(t, x, to)
		require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}))
		require.NoError(t, x.Close())
		install(t, to, stage)
		require.NoError(t, to.Close())
		to = openMem(t, fs)
		require.Equal(t, want, stateOf(t, to))
		other, err := to.Stage(nil) // begun and forgotten
		require.NoError(t, err)
		require.NoError(t, other.Add(appendPair(nil, []byte("k"), []byte("v"))))
		require.NoError(t, to.Close())
	}
	to := openMem(t, fs)
	require.Equal(t, want, stateOf(t, to))
	x, err := to.Snapshot()
	require.NoError(t, err)
	again := openMem(t, vfs.NewMem())
	stage := carry(t, x, again)
	require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}),
		"what is left of an older stage is no part of it")
	require.NoError(t, x.Close())
}

func TestDamagedOrIncompleteSnapshotIsNeverInstalled(t *testing.T) {
	from := grown(t, 20)
	x, err := from.Snapshot()
	require.NoError(t, err)
	defer func() { require.NoError(t, x.Close()) }()
	var parts [][]byte
	for {
		part, err := x.Next(40)
		require.NoError(t, err)
		if len(part) == 0 {
			break
		}
		parts = append(parts, append([]byte(nil), part...))
	}
	to := openMem(t, vfs.NewMem())
	stage := func(parts ...[]byte) error {
		st, err := to.Stage(nil)
		require.NoError(t, err)
		for _, p := range parts {
			if err := st.Add(p); err != nil {
				return err
			}
		}
		return st.Finish(x.Zxid, x.Digest, x.Sum(), func() {})
	}
	flipped := append([]byte(nil), parts[3]...)
	flipped[len(flipped)-1] ^= 1
	require.NoError(t, stage(parts...))
	require.ErrorIs(t, stage(parts[1:]...), ErrBadSnapshot, "the first part is missing")
	require.ErrorIs(t, stage(parts[:len(parts)-1]...), ErrBadSnapshot, "the last part is missing")
	require.ErrorIs(t, stage(append(parts[:3:3], parts[4:]...)...), ErrBadSnapshot, "a part is missing")
	require.ErrorIs(t, stage(append(parts[:3:3], flipped)...), ErrBadSnapshot, "a bit is flipped")
	require.ErrorIs(t, stage(parts[1], parts[0]), ErrBadSnapshot, "out of order")
	require.ErrorIs(t, stage(parts[0], parts[0]), ErrBadSnapshot, "twice")
	require.ErrorIs(t, stage([]byte{9}), ErrBadSnapshot, "no pair at all")
	require.ErrorIs(t, stage(parts[0][:len(parts[0])-1]), ErrBadSnapshot, "half a pair")

	st, err := to.Stage(nil)
	require.NoError(t, err)
	require.Panics(t, func() { install(t, to, st) }, "not finished")
	later, err := to.Stage(nil)
	require.NoError(t, err)
	require.ErrorIs(t, st.Add(parts[0]), ErrBadSnapshot, "a later one is staged")
	require.NoError(t, later.Discard())
	require.ErrorIs(t, later.Add(parts[0]), ErrBadSnapshot)
	require.Empty(t, stateOf(t, to))
}

func TestSnapshotThatHoldsLessThanTheLogPanics(t *testing.T) {
	from := grown(t, 5)
	x, err := from.Snapshot()
	require.NoError(t, err)
	to := openMem(t, vfs.NewMem())
	persist(t, to, zab.Write{Entries: run(zab.Zxid{}, 1, 5)})
	stage := carry(t, x, to)
	require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}))
	require.NoError(t, x.Close())
	require.Panics(t, func() { install(t, to, stage) })
	require.Equal(t, "1.1 1.2 1.3 1.4 1.5", log(t, to))
}

// A change that was on its way when the snapshot took the state's place is in it.
func TestChangeThatASnapshotHoldsAlreadyDoesNothing(t *testing.T) {
	from := grown(t, 9)
	x, err := from.Snapshot()
	require.NoError(t, err)
	to := openMem(t, vfs.NewMem())
	persist(t, to, zab.Write{Entries: run(zab.Zxid{}, 1, 3)})
	stage := carry(t, x, to)
	require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}))
	require.NoError(t, x.Close())
	install(t, to, stage)
	want := stateOf(t, from)
	require.NoError(t, to.Apply(StateChange{Applied: z(1, 3), Puts: []Pair{{[]byte("late"), nil}}}))
	require.Equal(t, want, stateOf(t, to))
	applied, _ := to.Applied()
	require.Equal(t, z(1, 9), applied)
	require.Panics(t, func() { _ = to.Apply(StateChange{Applied: z(1, 10)}) }, "not in the log")
}

// Readers see the old state or the new one, never half of either.
func TestReadersDuringAnInstallationSeeOneStateOrTheOther(t *testing.T) {
	to := grown(t, 200)
	before := stateOf(t, to)
	from := grown(t, 400)
	after := stateOf(t, from)
	x, err := from.Snapshot()
	require.NoError(t, err)
	stage := carry(t, x, to)
	require.NoError(t, stage.Finish(x.Zxid, x.Digest, x.Sum(), func() {}))
	require.NoError(t, x.Close())
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				text := ""
				err := to.Scan(nil, nil, false,
					func(k, v []byte) bool { text += fmt.Sprintf("%s=%s ", k, v); return true })
				v, found, gerr := to.Get([]byte("last"))
				if err != nil || gerr != nil || text != before && text != after || !found || string(v) != "199" &&
					string(v) != "399" {
					panic(fmt.Sprintf("%v %v %v %s %d", err, gerr, found, v, len(text)))
				}
			}
		})
	}
	install(t, to, stage)
	close(stop)
	wg.Wait()
	require.Equal(t, after, stateOf(t, to))
}

func TestLogSizeFollowsWhatIsWrittenAndCut(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	entries, size := s.LogSize()
	require.Zero(t, entries)
	require.Zero(t, size)
	require.Zero(t, s.CutPoint(0, 0))
	rng := rand.New(rand.NewPCG(1, 1))
	tail := zab.Zxid{}
	for range 80 {
		es := run(tail, 1, 1)
		es[0].Data = make([]byte, 100_000)
		for i := range es[0].Data {
			es[0].Data[i] = byte(rng.Uint32())
		}
		persist(t, s, zab.Write{Entries: es})
		tail = es[0].Zxid
	}
	entries, size = s.LogSize()
	require.EqualValues(t, 80, entries)
	require.InDelta(t, 8_000_000, size, 100_000)
	require.Zero(t, s.CutPoint(40, 1<<30), "nothing is applied")
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 70)}))
	require.Equal(t, z(1, 40), s.CutPoint(40, 1<<30))
	require.Equal(t, z(1, 70), s.CutPoint(1, 1<<30))
	require.Zero(t, s.CutPoint(80, 1<<30))
	at := s.CutPoint(80, 5_000_000)
	require.InDelta(t, 30, at.Counter, 11, "a milestone stands every MiB")
	cut(t, s, at)
	entries, size = s.LogSize()
	require.EqualValues(t, 80-at.Counter, entries)
	require.InDelta(t, entries*100_000, size, 100_000)
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	_, found := s.LogSize()
	require.InDelta(t, size, found, 1_500_000, "as the engine sees it")
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 80)}))
	require.Equal(t, z(1, 80), s.CutPoint(80, 0))
	from := z(1, 80)
	persist(t, s, zab.Write{TruncateAfter: &from, Entries: run(z(1, 80), 2, 3)})
	cut(t, s, z(1, 80))
	entries, size = s.LogSize()
	require.EqualValues(t, 3, entries)
	require.Less(t, size, uint64(1000))
}
