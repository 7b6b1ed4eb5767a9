// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

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
		return fmt.Errorf("DUR1: the store holds %+v after %d calls returned and %d began, which left %+v", got, acked,
			begun, y.moments[acked])
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
		return fmt.Errorf("L6: the state says that it holds %v and has digest %x, the history up to there ends at "+
			"%v with %x", at, digest[:4], tail, want[:4])
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
		return fmt.Errorf("L6: the state holds %v, but not the fold of %d entries: %d pairs are right, %s: %v", applied,
			len(prefix), i, wrong, err)
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
