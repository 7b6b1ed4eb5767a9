// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/protocol/zab"
)

const testDir = "/data/node"

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func z(epoch zab.Epoch, counter uint64) zab.Zxid { return zab.Zxid{Epoch: epoch, Counter: counter} }

func openMem(t testing.TB, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// run makes n entries of one epoch behind prev.
func run(prev zab.Zxid, epoch zab.Epoch, n int) []zab.Entry {
	var es []zab.Entry
	for range n {
		next := z(epoch, 1)
		if prev.Epoch == epoch {
			next = z(epoch, prev.Counter+1)
		}
		es = append(es, zab.Entry{Zxid: next, Prev: prev, Data: fmt.Appendf(nil, "data of %v", next)})
		prev = next
	}
	return es
}

func zxids(es []zab.Entry) string {
	var b strings.Builder
	for i, e := range es {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(e.Zxid.String())
	}
	return b.String()
}

func persist(t testing.TB, s *Store, ws ...zab.Write) {
	t.Helper()
	require.NoError(t, s.Persist(ws))
}

func cut(t testing.TB, s *Store, at zab.Zxid) {
	t.Helper()
	persist(t, s, zab.Write{Cut: &at})
}

func log(t testing.TB, s *Store) string {
	t.Helper()
	_, base, last, _ := s.Initial()
	es, err := s.Entries(base, last, 1<<30)
	require.NoError(t, err)
	return zxids(es)
}

func TestNewStoreIsEmptyAndCountsItsOpenings(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	require.EqualValues(t, 1, s.Boot())
	id := s.ID()
	require.NotZero(t, id)
	hard, base, last, applied := s.Initial()
	require.Zero(t, hard)
	require.Zero(t, base)
	require.Zero(t, last)
	require.Zero(t, applied)
	p, ok := s.Floor(z(9, 9))
	require.True(t, ok)
	require.Zero(t, p)
	es, err := s.Entries(zab.Zxid{}, z(9, 9), 100)
	require.NoError(t, err)
	require.Empty(t, es)
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	require.EqualValues(t, 2, s.Boot())
	require.Equal(t, id, s.ID())
}

func TestBootIsDurableBeforeOpenReturns(t *testing.T) {
	fs := crashfs.New()
	for want := uint32(1); want < 5; want++ {
		s, err := Open(testDir, Options{FS: fs, Node: 1, Logger: quiet()})
		require.NoError(t, err)
		require.Equal(t, want, s.Boot())
		crashed := fs.CrashClone(vfs.CrashCloneCfg{})
		require.NoError(t, s.Close())
		fs = crashed
	}
}

func TestPersistedLogAndPromisesAreThereAfterReopen(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	hard := zab.HardState{Accepted: 2, AcceptedFrom: 3, Current: 1}
	es := run(zab.Zxid{}, 1, 3)
	persist(t, s, zab.Write{ID: 1, Entries: es, Hard: &hard}, zab.Write{ID: 2, Entries: run(z(1, 3), 2, 2)})
	require.Equal(t, "1.1 1.2 1.3 2.1 2.2", log(t, s))
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	require.Equal(t, "1.1 1.2 1.3 2.1 2.2", log(t, s))
	got, _, last, _ := s.Initial()
	require.Equal(t, hard, got)
	require.Equal(t, z(2, 2), last)
	read, err := s.Entries(zab.Zxid{}, z(1, 3), 1<<20)
	require.NoError(t, err)
	require.Equal(t, es, read)
}

func TestTruncationAndAppendInOneBatchReplaceTheTail(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 5)})
	cut, again := z(1, 3), z(1, 2)
	persist(t, s,
		zab.Write{ID: 2, TruncateAfter: &cut, Entries: run(cut, 2, 2)},
		zab.Write{ID: 3, TruncateAfter: &again, Entries: run(again, 3, 2)},
		zab.Write{ID: 4, Entries: run(z(3, 2), 3, 1)})
	require.Equal(t, "1.1 1.2 3.1 3.2 3.3", log(t, s))
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	require.Equal(t, "1.1 1.2 3.1 3.2 3.3", log(t, s))
	everything := zab.Zxid{}
	persist(t, s, zab.Write{ID: 5, TruncateAfter: &everything})
	require.Equal(t, "", log(t, s))
	persist(t, s, zab.Write{ID: 6, Entries: run(zab.Zxid{}, 4, 1)})
	require.Equal(t, "4.1", log(t, s))
}

func TestTruncationAtTheTailChangesNothing(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 2)})
	tail := z(1, 2)
	persist(t, s, zab.Write{ID: 2, TruncateAfter: &tail}, zab.Write{ID: 3})
	require.Equal(t, "1.1 1.2", log(t, s))
}

func TestEntriesStopAtTheByteLimitButReturnAtLeastOne(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	es := run(zab.Zxid{}, 1, 9)
	persist(t, s, zab.Write{ID: 1, Entries: es})
	size := len(es[0].Data)
	for _, c := range []struct {
		limit int
		want  string
	}{
		{0, "1.3"}, {size, "1.3"}, {2*size - 1, "1.3"}, {2 * size, "1.3 1.4"}, {100 * size, "1.3 1.4 1.5 1.6 1.7"},
	} {
		got, err := s.Entries(z(1, 2), z(1, 7), c.limit)
		require.NoError(t, err)
		require.Equal(t, c.want, zxids(got), "limit %d", c.limit)
	}
	got, err := s.Entries(z(1, 7), z(8, 1), 1<<20)
	require.NoError(t, err)
	require.Equal(t, "1.8 1.9", zxids(got))
	got, err = s.Entries(z(1, 7), z(1, 7), 1<<20)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestFloorAcrossEpochsAndBase(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 4)},
		zab.Write{ID: 2, Entries: run(z(1, 4), 3, 3)},
		zab.Write{ID: 3, Entries: run(z(3, 3), 7, 2)})
	require.NoError(t, s.Apply(StateChange{Applied: z(3, 2)}))
	cut(t, s, z(1, 2))
	floors := func(s *Store) string {
		var got []string
		for _, q := range []zab.Zxid{{}, z(1, 1), z(1, 2), z(1, 3), z(1, 4), z(1, 99), z(2, 1), z(3, 0), z(3, 1),
			z(3, 9), z(6, 1), z(7, 1), z(7, 5), z(9, 1)} {
			p, ok := s.Floor(q)
			if !ok {
				got = append(got, fmt.Sprintf("%v:none", q))
				continue
			}
			got = append(got, fmt.Sprintf("%v:%v", q, p))
		}
		return strings.Join(got, " ")
	}
	want := "0.0:none 1.1:none 1.2:1.2 1.3:1.3 1.4:1.4 1.99:1.4 2.1:1.4 3.0:1.4 3.1:3.1 3.9:3.3 6.1:3.3 7.1:7.1 " +
		"7.5:7.2 9.1:7.2"
	require.Equal(t, want, floors(s))
	require.Equal(t, "1.3 1.4 3.1 3.2 3.3 7.1 7.2", log(t, s))
	_, err := s.Entries(z(1, 1), z(9, 9), 100)
	require.ErrorIs(t, err, ErrCut)
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	require.Equal(t, want, floors(s))
	cut(t, s, z(3, 2))
	require.Equal(t, "3.3 7.1 7.2", log(t, s))
	to := z(3, 2)
	persist(t, s, zab.Write{ID: 4, TruncateAfter: &to})
	require.Equal(t, "", log(t, s))
	require.NoError(t, s.Close())

	s = openMem(t, fs)
	_, base, last, applied := s.Initial()
	require.Equal(t, []zab.Zxid{to, to, to}, []zab.Zxid{base, last, applied})
	persist(t, s, zab.Write{ID: 5, Entries: run(to, 8, 1)})
	require.Equal(t, "8.1", log(t, s))
	require.NoError(t, s.Apply(StateChange{Applied: z(8, 1)}))
	cut(t, s, z(8, 1))
	require.Equal(t, "", log(t, s))
}

func TestBreachesOfTheContractPanicAndWriteNothing(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 2, 4), Hard: &zab.HardState{Accepted: 3, Current: 2}})
	require.NoError(t, s.Apply(StateChange{Applied: z(2, 2)}))
	to := func(z zab.Zxid) *zab.Zxid { return &z }
	for name, w := range map[string]zab.Write{
		"a gap in the counter":            {Entries: []zab.Entry{{Zxid: z(2, 6), Prev: z(2, 4)}}},
		"a wrong predecessor":             {Entries: []zab.Entry{{Zxid: z(2, 5), Prev: z(2, 3)}}},
		"an older epoch":                  {Entries: []zab.Entry{{Zxid: z(1, 1), Prev: z(2, 4)}}},
		"an epoch that begins at 2":       {Entries: []zab.Entry{{Zxid: z(3, 2), Prev: z(2, 4)}}},
		"an epoch that begins at 0":       {Entries: []zab.Entry{{Zxid: z(3, 0), Prev: z(2, 4)}}},
		"the same entry again":            {Entries: []zab.Entry{{Zxid: z(2, 4), Prev: z(2, 3)}}},
		"a gap after a truncation":        {TruncateAfter: to(z(2, 3)), Entries: run(z(2, 4), 3, 1)},
		"a truncation of applied entries": {TruncateAfter: to(z(2, 1))},
		"a truncation to no entry":        {TruncateAfter: to(z(2, 9))},
		"an accepted epoch that shrinks":  {Hard: &zab.HardState{Accepted: 2, Current: 2}},
		"a current epoch that shrinks":    {Hard: &zab.HardState{Accepted: 3, Current: 1}},
		"current beyond accepted":         {Hard: &zab.HardState{Accepted: 3, Current: 4}},
	} {
		good := zab.Write{Entries: run(z(2, 4), 2, 1)}
		if len(w.Entries) > 0 && w.TruncateAfter == nil {
			require.Panics(t, func() { _ = s.Persist([]zab.Write{w}) }, name)
		} else {
			require.Panics(t, func() { _ = s.Persist([]zab.Write{good, w}) }, name)
		}
		require.Equal(t, "2.1 2.2 2.3 2.4", log(t, s), name)
	}
	require.Panics(t, func() { _ = s.Apply(StateChange{Applied: z(2, 2)}) }, "applied twice")
	require.Panics(t, func() { _ = s.Apply(StateChange{Applied: z(2, 5)}) }, "beyond the log")
	require.Panics(t, func() { cut(t, s, z(2, 3)) }, "not applied")
	persist(t, s, zab.Write{ID: 9, Entries: run(z(2, 4), 3, 1)}) // and it still works
	require.Equal(t, "2.1 2.2 2.3 2.4 3.1", log(t, s))
}

func TestStateIsReadBackAndSurvivesReopen(t *testing.T) {
	fs := vfs.NewMem()
	s := openMem(t, fs)
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 3)})
	digest := sha256.Sum256([]byte("one"))
	pair := func(k, v string) Pair { return Pair{Key: []byte(k), Value: []byte(v)} }
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 1), Digest: digest,
		Puts: []Pair{pair("a", "1"), pair("b", "2"), pair("c", "3"), pair("d", ""), pair("\xff\xff", "end"),
			pair("", "empty")}}))
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 3), Digest: digest,
		DeleteRanges: []Range{{Lo: []byte("b"), Hi: []byte("d")}}, Deletes: [][]byte{[]byte("a")},
		Puts: []Pair{pair("c", "new")}}))
	check := func(s *Store) {
		at, d := s.Applied()
		require.Equal(t, z(1, 3), at)
		require.Equal(t, digest, d)
		for key, want := range map[string]string{"c": "new", "d": "", "\xff\xff": "end", "": "empty"} {
			v, found, err := s.Get([]byte(key))
			require.NoError(t, err)
			require.True(t, found, "%q", key)
			require.Equal(t, want, string(v))
		}
		for _, key := range []string{"a", "b", "zz"} {
			_, found, err := s.Get([]byte(key))
			require.NoError(t, err)
			require.False(t, found, "%q", key)
		}
		require.Equal(t, "=empty c=new d= \xff\xff=end", scan(t, s, nil, nil, false))
		require.Equal(t, "\xff\xff=end d= c=new =empty", scan(t, s, nil, nil, true))
		require.Equal(t, "c=new d=", scan(t, s, []byte("b"), []byte("e"), false))
		require.Equal(t, "c=new", scan(t, s, []byte("c"), []byte("d"), true))
		require.Equal(t, "", scan(t, s, []byte("d"), []byte("c"), false))
	}
	check(s)
	require.NoError(t, s.Close())
	s = openMem(t, fs)
	check(s)
	persist(t, s, zab.Write{ID: 2, Entries: run(z(1, 3), 1, 1)})
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 4), DeleteRanges: []Range{{}}}))
	require.Equal(t, "", scan(t, s, nil, nil, false))
}

func scan(t testing.TB, s *Store, lo, hi []byte, reverse bool) string {
	t.Helper()
	var got []string
	require.NoError(t, s.Scan(lo, hi, reverse, func(k, v []byte) bool {
		got = append(got, fmt.Sprintf("%s=%s", k, v))
		return true
	}))
	return strings.Join(got, " ")
}

func TestScanStopsWhenToldTo(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	persist(t, s, zab.Write{ID: 1, Entries: run(zab.Zxid{}, 1, 1)})
	require.NoError(t, s.Apply(StateChange{Applied: z(1, 1), Puts: []Pair{{Key: []byte("a")}, {Key: []byte("b")}}}))
	calls := 0
	require.NoError(t, s.Scan(nil, nil, false, func(_, _ []byte) bool { calls++; return false }))
	require.Equal(t, 1, calls)
}

// One writer, one applier, and readers of log and state: what they see is always a
// moment of the store. The log is rewritten behind the applied point all the time,
// so a reader whose index and iterator disagreed would report damage.
func TestReadersSeeAConsistentStoreWhileItIsWritten(t *testing.T) {
	s := openMem(t, vfs.NewMem())
	const rounds = 300
	var wg sync.WaitGroup
	stop := make(chan struct{})
	reader := func(read func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					read()
				}
			}
		})
	}
	var failed sync.Once
	var failure error
	fail := func(err error) { failed.Do(func() { failure = err }) }
	reader(func() {
		_, base, last, applied := s.Initial()
		if last.Less(applied) || applied.Less(base) {
			fail(fmt.Errorf("base %v applied %v last %v", base, applied, last))
		}
		if _, err := s.Entries(applied, last, 1<<20); err != nil {
			fail(err)
		}
	})
	reader(func() {
		var n []string
		if err := s.Scan(nil, nil, false,
			func(_, v []byte) bool { n = append(n, string(v)); return true }); err != nil {
			fail(err)
		}
		for i := range n {
			if n[i] != n[0] {
				fail(fmt.Errorf("torn state: %v", n))
			}
		}
	})
	prev := zab.Zxid{}
	for i := 1; i <= rounds; i++ {
		epoch := zab.Epoch(i)
		persist(t, s, zab.Write{ID: 1, Entries: run(prev, epoch, 3)})
		keep := z(epoch, 1)
		v := fmt.Appendf(nil, "%d", i)
		require.NoError(t, s.Apply(StateChange{Applied: keep,
			Puts: []Pair{{[]byte("x"), v}, {[]byte("y"), v}, {[]byte("z"), v}}}))
		persist(t, s, zab.Write{ID: 2, TruncateAfter: &keep})
		prev = keep
	}
	close(stop)
	wg.Wait()
	require.NoError(t, failure)
	require.Equal(t, rounds, len(strings.Fields(log(t, s))))
}

func TestNotesAreKeptBesideTheStore(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *Store {
		s, err := Open("/data", Options{FS: fs, Node: 1})
		require.NoError(t, err)
		return s
	}
	s := open()
	_, found, err := s.ReadNote(DistrustNote)
	require.NoError(t, err)
	require.False(t, found)
	for _, text := range []string{"first", "", "several\nlines\x00"} {
		require.NoError(t, s.WriteNote(DistrustNote, text))
		require.NoError(t, s.Close())
		s = open()
		got, found, err := s.ReadNote(DistrustNote)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, text, got)
	}
	_, found, err = s.ReadNote(MembersNote)
	require.NoError(t, err)
	require.False(t, found, "each has its own")

	f, err := fs.Create(fs.PathJoin("/data", string(DistrustNote)), vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	_, err = f.Write([]byte("concord note check=00000000\nsomething else"))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, _, err = s.ReadNote(DistrustNote)
	require.ErrorIs(t, err, ErrCorrupt, "a note that is damaged says nothing")
	require.NoError(t, s.Close())
}
