// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol/zab"
)

// Store is the durable store of one node. See the package comment for who may call
// what from where. It is a zab.Storage.
//
// What always holds: base <= applied <= last, all three in the log or the base;
// hard.Current <= hard.Accepted; the index names durable entries only.
type Store struct {
	files    vfs.FS
	dir      string
	id       [16]byte
	boot     uint32
	engine   *pebble.DB
	lock     *pebble.Lock
	mark     *watermark
	guard    *guard
	watchdog *watchdog
	fatal    func(error) // logs and ends the process

	writing sync.Mutex // held by Persist, around all below
	staging sync.Mutex // held while a snapshot is staged or installed
	stage   *Stage     // the only one that is good; under staging
	stages  uint64
	// applying is held by Apply, and while a snapshot takes the state's place.
	applying sync.Mutex
	restored zab.Zxid // the last snapshot installed since the start; under applying

	mu      sync.RWMutex // guards what follows; never held during I/O
	hard    zab.HardState
	log     index
	size    logSize
	applied zab.Zxid
	digest  [digestLen]byte
	// home is the space that the state is in. It is written under mu.
	home atomic.Uint32

	closing sync.Once
	closed  error
}

var _ zab.Storage = (*Store)(nil)

// Boot returns how often the store was opened, this time included. It is durable
// before Open returns, so no two runs of a node have the same number.
func (s *Store) Boot() uint32 { return s.boot }

// ID returns the random id that the store got when it was made. A node that lost its
// disk has another one.
func (s *Store) ID() [16]byte { return s.id }

// Initial returns promises, base, tail of the log and applied point as they are now.
func (s *Store) Initial() (hard zab.HardState, base, last, applied zab.Zxid) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.hard, s.log.base, s.log.last(), s.applied
}

// Floor returns the greatest zxid <= z among the durable log and the base, and false
// if z stands before the base. It reads memory only.
func (s *Store) Floor(z zab.Zxid) (zab.Zxid, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.log.floor(z)
}

// Entries returns the durable entries in (after, upto], in order. It stops before
// their data exceeds maxBytes, but returns at least one entry if there is one. The
// entries are the caller's. It fails with ErrCut if after stands before the base, and
// with ErrCorrupt if an entry is missing or is not what was written.
func (s *Store) Entries(after, upto zab.Zxid, maxBytes int) ([]zab.Entry, error) {
	prev, end, it, err := s.openLog(after, upto)
	if err != nil || it == nil {
		return nil, err
	}
	entries, err := s.readLog(it, prev, end, maxBytes)
	if cerr := it.Close(); err == nil && cerr != nil {
		err = readError(s.dir, fmt.Sprintf("read the log after %v", prev), cerr)
	}
	if err != nil && !mutant.DamageIsTheEnd {
		return nil, err
	}
	return entries, nil
}

// openLog returns an iterator over (after, upto], nil if there is nothing. The index
// and the iterator see the same log: a truncation changes the index before the
// engine, an append after it.
func (s *Store) openLog(after, upto zab.Zxid) (prev, end zab.Zxid, it *pebble.Iterator, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	prev, ok := s.log.floor(after)
	if !ok {
		return prev, end, nil, fmt.Errorf("store %s: entries after %v: %w, it begins after %v; the peer needs a "+
			"snapshot", s.dir, after, ErrCut, s.log.base)
	}
	end, ok = s.log.floor(upto)
	if !ok || !prev.Less(end) {
		return prev, end, nil, nil
	}
	it, err = s.engine.NewIter(&pebble.IterOptions{LowerBound: logKey(behind(prev)), UpperBound: logKey(behind(end))})
	if err != nil {
		err = readError(s.dir, fmt.Sprintf("read the log after %v", prev), err)
	}
	return prev, end, it, err
}

// readLog returns what it has read when it fails as well.
func (s *Store) readLog(it *pebble.Iterator, prev, end zab.Zxid, maxBytes int) ([]zab.Entry, error) {
	var entries []zab.Entry
	size := 0
	for ok := it.First(); ok; ok = it.Next() {
		e, err := s.entryAt(it)
		if err != nil {
			return entries, err
		}
		if e.Prev != prev || !successor(prev, e.Zxid) {
			return entries, damaged(s.dir, "entry %v (after %v) stands behind %v, so entries are missing", e.Zxid,
				e.Prev, prev)
		}
		if size += len(e.Data); size > maxBytes && len(entries) > 0 {
			return entries, nil
		}
		entries = append(entries, e)
		prev = e.Zxid
	}
	if err := it.Error(); err != nil {
		return entries, readError(s.dir, fmt.Sprintf("read the entry after %v", prev), err)
	}
	if prev != end {
		return entries, damaged(s.dir, "the entries after %v up to %v are missing", prev, end)
	}
	return entries, nil
}

// entryAt decodes and verifies the entry that the iterator stands on.
func (s *Store) entryAt(it *pebble.Iterator) (zab.Entry, error) {
	if !it.Valid() {
		if err := it.Error(); err != nil {
			return zab.Entry{}, readError(s.dir, "read the log", err)
		}
		return zab.Entry{}, damaged(s.dir, "the tail of the log is missing")
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return zab.Entry{}, readError(s.dir, fmt.Sprintf("read the entry %x", it.Key()[1:]), err)
	}
	e, err := getEntry(it.Key(), value)
	if err != nil {
		return zab.Entry{}, damaged(s.dir, "%v", err)
	}
	return e, nil
}

// Persist makes the writes durable, in order, in one atomic synced batch: each
// truncates, then appends, then sets the hard state. An error, and an error of the
// disk underneath, must end the process; the latter does so here.
//
// It panics, before anything is written, if an entry does not follow on the one
// before it, if a truncation goes below the applied state or to a zxid that is not in
// the log, if a promise shrinks, if a cut goes beyond the applied state, or if the
// snapshot to install is not what is staged or holds less than the log.
func (s *Store) Persist(ws []zab.Write) error {
	s.writing.Lock()
	defer s.writing.Unlock()

	next := s.plan(ws)
	if next.install != nil {
		s.staging.Lock()
		defer s.staging.Unlock()
		s.applying.Lock()
		defer s.applying.Unlock()
		s.checkStage(*next.install)
	}
	batch := s.engine.NewBatch()
	defer batch.Close()
	err := fillBatch(batch, next, ws)
	if err == nil && next.install != nil {
		err = s.fillInstall(batch)
	}
	if err != nil {
		return fmt.Errorf("store %s: gather the writes: %w", s.dir, err)
	}
	if batch.Empty() {
		return nil // all that came before is durable already
	}

	s.watchdog.persist.begin()
	defer func() { s.watchdog.synced(s.watchdog.persist.end()) }()
	if next.keep.Less(next.was) { // watermark and readers let go of what the batch truncates
		s.mark.lower(next.keep)
		s.mu.Lock()
		s.log.truncate(next.keep)
		s.mu.Unlock()
	}
	if next.log.base != next.base {
		s.mu.Lock()
		s.log.drop(next.log.base)
		s.mu.Unlock()
	}
	sync := pebble.Sync
	if mutant.SwitchUnsynced && next.install != nil {
		sync = pebble.NoSync
	}
	err = batch.Commit(sync)
	if err != nil {
		return fmt.Errorf("store %s: write the log: %w", s.dir, err)
	}
	s.mu.Lock()
	s.log, s.hard = next.log, next.hard
	s.size.change(ws)
	if next.install != nil {
		s.moveIn()
	}
	s.mu.Unlock()
	s.mark.raise(next.log.last(), next.hard)
	if next.install != nil {
		return s.wipe(theOther(s.space()))
	}
	return nil
}

// plan is what the store will be after some writes.
type plan struct {
	log  index
	hard zab.HardState
	was  zab.Zxid // tail before
	base zab.Zxid // before
	keep zab.Zxid // lowest tail on the way: what is behind it is rewritten

	install *zab.Snapshot
}

// plan checks the writes and works out their effect.
func (s *Store) plan(ws []zab.Write) plan {
	s.mu.RLock()
	next := plan{log: s.log.clone(), hard: s.hard}
	applied := s.applied
	s.mu.RUnlock()
	next.was = next.log.last()
	next.keep, next.base = next.was, next.log.base

	for _, w := range ws {
		if w.TruncateAfter != nil {
			z := *w.TruncateAfter
			if z.Less(applied) {
				panic(fmt.Sprintf("wal: write %d truncates after %v, but the state holds %v", w.ID, z, applied))
			}
			if !next.log.has(z) {
				panic(fmt.Sprintf("wal: write %d truncates after %v, which is not in the log (%v to %v)", w.ID, z,
					next.log.base, next.log.last()))
			}
			next.log.truncate(z)
			if z.Less(next.keep) {
				next.keep = z
			}
		}
		for _, e := range w.Entries {
			if tail := next.log.last(); e.Prev != tail || !next.log.follows(e.Zxid) {
				panic(fmt.Sprintf("wal: write %d appends %v (after %v) behind %v", w.ID, e.Zxid, e.Prev, tail))
			}
			next.log.append(e.Zxid)
		}
		if w.Hard != nil {
			h := *w.Hard
			if h.Current > h.Accepted || h.Accepted < next.hard.Accepted || h.Current < next.hard.Current {
				panic(fmt.Sprintf("wal: write %d takes back a promise: %+v after %+v", w.ID, h, next.hard))
			}
			next.hard = h
		}
		if w.Cut != nil {
			z := *w.Cut
			if !next.log.has(z) || applied.Less(z) {
				panic(fmt.Sprintf("wal: write %d cuts at %v, but the log has %v to %v and the state %v", w.ID, z,
					next.log.base, next.log.last(), applied))
			}
			next.log.cut(z)
		}
		if w.Install != nil {
			if tail := next.log.last(); next.install != nil || !tail.Less(w.Install.Zxid) {
				panic(fmt.Sprintf("wal: write %d installs a snapshot of %v over a log to %v", w.ID, w.Install.Zxid,
					tail))
			}
			next.install = w.Install
			next.log = index{base: w.Install.Zxid}
			applied = w.Install.Zxid
		}
	}
	return next
}

func fillBatch(batch *pebble.Batch, next plan, ws []zab.Write) error {
	tail := next.was
	hard := false
	for _, w := range ws {
		if w.TruncateAfter != nil && w.TruncateAfter.Less(tail) {
			tail = *w.TruncateAfter
			if err := batch.DeleteRange(logKey(behind(tail)), []byte{logSpace + 1}, nil); err != nil {
				return err
			}
		}
		for _, e := range w.Entries {
			op := batch.SetDeferred(logKeyLen, entryLen(e))
			putEntry(op.Key, op.Value, e)
			if err := op.Finish(); err != nil {
				return err
			}
			tail = e.Zxid
		}
		if w.Cut != nil {
			if err := cutLog(batch, logKey(behind(*w.Cut)), *w.Cut); err != nil {
				return err
			}
		}
		if w.Install != nil {
			if err := cutLog(batch, []byte{logSpace + 1}, w.Install.Zxid); err != nil {
				return err
			}
			tail = w.Install.Zxid
		}
		hard = hard || w.Hard != nil
	}
	if !hard {
		return nil
	}
	return batch.Set([]byte(hardKey), hardValue(next.hard), nil)
}

// cutLog makes base the base of the log, and drops the keys before end.
func cutLog(batch *pebble.Batch, end []byte, base zab.Zxid) error {
	if err := batch.DeleteRange([]byte{logSpace}, end, nil); err != nil {
		return err
	}
	return batch.Set([]byte(baseKey), zxidValue(baseKey, base), nil)
}

// Size returns the bytes that the store takes on disk.
func (s *Store) Size() uint64 { return s.engine.Metrics().DiskSpaceUsage() }

// Close closes the store and gives its directory free; a second call returns the
// same. No other method may be running or be called afterwards.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.watchdog.open.begin() // it may take as long
		s.guard.close()
		err := errors.Join(s.engine.Close(), s.mark.close(), s.lock.Close())
		s.watchdog.open.end()
		s.watchdog.close()
		if err != nil {
			s.closed = fmt.Errorf("close store %s: %w", s.dir, err)
		}
	})
	return s.closed
}

// get returns a copy of the value of a raw key.
func (s *Store) get(key []byte) ([]byte, bool, error) {
	value, closer, err := s.engine.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, readError(s.dir, "look up a key", err)
	}
	value = slices.Clone(value)
	if err := closer.Close(); err != nil {
		return nil, false, readError(s.dir, "look up a key", err)
	}
	return value, true, nil
}
