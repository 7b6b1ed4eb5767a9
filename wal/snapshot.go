// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/protocol/zab"
)

// Snapshot is the applied state of one instant: exactly the fold of the entries up to
// Zxid, whatever is applied, cut or installed meanwhile. It holds on to disk space, so it
// must be closed, and before the Store is. It is read by one goroutine.
type Snapshot struct {
	// Zxid and Digest are what Applied said at that instant.
	Zxid   zab.Zxid
	Digest [digestLen]byte

	dir    string
	engine *pebble.Snapshot
	it     *pebble.Iterator
	hash   hash.Hash
	buf    []byte
}

// Snapshot takes a snapshot. That takes no time; reading it does.
func (s *Store) Snapshot() (*Snapshot, error) {
	x := &Snapshot{dir: s.dir, engine: s.engine.NewSnapshot()}
	if err := x.begin(); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}

// begin reads what the snapshot says of itself, and begins to read the state.
func (x *Snapshot) begin() error {
	applied, err := x.meta(appliedKey, zxidLen+digestLen)
	if err != nil {
		return err
	}
	if applied != nil {
		x.Zxid = getZxid(applied)
		copy(x.Digest[:], applied[zxidLen:])
	}
	value, err := x.meta(spaceKey, 1)
	if err != nil {
		return err
	}
	space := byte(stateSpace)
	if value != nil {
		space = value[0]
	}
	lower, upper := stateBounds(space, nil, nil)
	if x.it, err = x.engine.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper}); err != nil {
		return readError(x.dir, "read a snapshot", err)
	}
	x.it.First()
	x.hash = contentHash(x.Zxid, x.Digest)
	return nil
}

func (x *Snapshot) meta(key string, length int) ([]byte, error) {
	value, closer, err := x.engine.Get([]byte(key))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, readError(x.dir, "read a snapshot", err)
	}
	body, err := unsealMeta(key, bytes.Clone(value), length)
	if cerr := closer.Close(); cerr != nil {
		return nil, readError(x.dir, "read a snapshot", cerr)
	}
	if err != nil {
		return nil, damaged(x.dir, "value %q %v", key[1:], err)
	}
	return body, nil
}

// Next returns some more of the state, about maxBytes, and nothing at its end. The
// bytes are for Stage.Add and are valid until the next call.
func (x *Snapshot) Next(maxBytes int) ([]byte, error) {
	x.buf = x.buf[:0]
	for ; x.it.Valid() && len(x.buf) < maxBytes; x.it.Next() {
		value, err := x.it.ValueAndErr()
		if err != nil {
			return nil, readError(x.dir, "read a snapshot", err)
		}
		x.buf = appendPair(x.buf, x.it.Key()[1:], value)
	}
	if err := x.it.Error(); err != nil {
		return nil, readError(x.dir, "read a snapshot", err)
	}
	x.hash.Write(x.buf)
	return x.buf, nil
}

// Sum is a hash of all that Next returned, of Zxid and Digest.
func (x *Snapshot) Sum() [sha256.Size]byte { return [sha256.Size]byte(x.hash.Sum(nil)) }

// Close gives the disk space free.
func (x *Snapshot) Close() error {
	var err error
	if x.it != nil {
		err = x.it.Close()
	}
	return errors.Join(err, x.engine.Close())
}

// contentHash begins the hash over a snapshot.
func contentHash(z zab.Zxid, digest [digestLen]byte) hash.Hash {
	var b [zxidLen]byte
	putZxid(b[:], z)
	h := sha256.New()
	h.Write(b[:])
	h.Write(digest[:])
	return h
}

// appendPair appends the encoding of a pair: two lengths as varints, each before its
// bytes. A snapshot is its pairs in order of their keys, wherever it is split.
func appendPair(b, key, value []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(key)))
	b = append(b, key...)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// takeBytes takes what appendPair wrote from the front.
func takeBytes(b []byte) (head, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	b = b[n:]
	return b[:size], b[size:], true
}

// Stage is a snapshot on its way into a store: beside the state, which does not change
// until a Write with Install names the Ref of a finished Stage. There is at most one; a
// later one, an installation and a start of the store void it. One goroutine uses it.
type Stage struct {
	store    *Store
	ref      uint64
	check    func(key, value []byte) error
	last     []byte // key
	finished bool
	zxid     zab.Zxid
	digest   [digestLen]byte
}

var errStageOver = errors.New("another snapshot was begun or installed meanwhile")

// Stage begins to stage a snapshot. Its hashes say only that it is what its sender has; check,
// if it is not nil, says whether a pair is something that this program could have written.
func (s *Store) Stage(check func(key, value []byte) error) (*Stage, error) {
	s.staging.Lock()
	defer s.staging.Unlock()
	s.stage = nil
	if err := s.wipe(theOther(s.space())); err != nil {
		return nil, err
	}
	s.stages++
	s.stage = &Stage{store: s, ref: s.stages, check: check}
	return s.stage, nil
}

// Ref is the number for zab.Snapshot.Ref.
func (x *Stage) Ref() uint64 { return x.ref }

// Add adds what Snapshot.Next returned, in the same order. Errors wrap ErrBadSnapshot if
// it cannot be that; any other error is one of the disk.
func (x *Stage) Add(part []byte) error {
	s := x.store
	s.staging.Lock()
	defer s.staging.Unlock()
	if s.stage != x || x.finished {
		return fmt.Errorf("stage a snapshot: %w: %w", ErrBadSnapshot, errStageOver)
	}
	batch := s.engine.NewBatch()
	defer batch.Close()
	space := theOther(s.space())
	for first := x.last == nil; len(part) > 0; first = false {
		key, rest, ok := takeBytes(part)
		value, rest, ok2 := takeBytes(rest)
		if !ok || !ok2 || !first && bytes.Compare(x.last, key) >= 0 {
			return fmt.Errorf("stage a snapshot: %w: bytes that are no pairs in order", ErrBadSnapshot)
		}
		if x.check != nil {
			if err := x.check(key, value); err != nil {
				return fmt.Errorf("stage a snapshot: %w: %w", ErrBadSnapshot, err)
			}
		}
		part = rest
		x.last = append(x.last[:0], key...)
		if x.last == nil {
			x.last = []byte{}
		}
		if err := batch.Set(stateKey(space, key), value, nil); err != nil {
			return fmt.Errorf("store %s: stage a snapshot: %w", s.dir, err)
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("store %s: stage a snapshot: %w", s.dir, err)
	}
	return nil
}

// Finish reads back what was staged and compares it with what Snapshot said: only then
// can it be installed. It calls alive now and then. Errors are those of Add.
//
// Nothing is synced here: the write that installs the snapshot is, and all that was
// staged stands before it in the same write-ahead log.
func (x *Stage) Finish(z zab.Zxid, digest [digestLen]byte, sum [sha256.Size]byte, alive func()) error {
	s := x.store
	s.staging.Lock()
	defer s.staging.Unlock()
	if s.stage != x || x.finished {
		return fmt.Errorf("stage a snapshot: %w: %w", ErrBadSnapshot, errStageOver)
	}
	got, err := s.hashStage(contentHash(z, digest), alive)
	if err != nil {
		return err
	}
	if got != sum || z.IsZero() {
		return fmt.Errorf("stage a snapshot of %v: %w: its hash is %x, not %x", z, ErrBadSnapshot, got[:8], sum[:8])
	}
	x.finished, x.zxid, x.digest = true, z, digest
	return nil
}

func (s *Store) hashStage(h hash.Hash, alive func()) (sum [sha256.Size]byte, err error) {
	lower, upper := stateBounds(theOther(s.space()), nil, nil)
	it, err := s.engine.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return sum, readError(s.dir, "read a staged snapshot", err)
	}
	var buf []byte
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return sum, errors.Join(readError(s.dir, "read a staged snapshot", err), it.Close())
		}
		if buf = appendPair(buf, it.Key()[1:], value); len(buf) >= stoneBytes {
			h.Write(buf)
			buf = buf[:0]
			alive()
		}
	}
	h.Write(buf)
	if err := it.Close(); err != nil { // it reports what stopped the iterator
		return sum, readError(s.dir, "read a staged snapshot", err)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Discard gives up what was staged.
func (x *Stage) Discard() error {
	s := x.store
	s.staging.Lock()
	defer s.staging.Unlock()
	if s.stage != x {
		return nil
	}
	s.stage = nil
	return s.wipe(theOther(s.space()))
}

// checkStage panics unless z names the snapshot that is staged. It, fillInstall and
// moveIn are called under staging and applying.
func (s *Store) checkStage(z zab.Snapshot) {
	if x := s.stage; x == nil || !x.finished || x.ref != z.Ref || x.zxid != z.Zxid {
		panic(fmt.Sprintf("wal: install snapshot %d of %v, which is not staged", z.Ref, z.Zxid))
	}
}

// fillInstall lets the staged snapshot take the state's place. The old state goes
// later: until the switch is made in memory as well, readers look there.
func (s *Store) fillInstall(batch *pebble.Batch) error {
	value := make([]byte, seal.Len+zxidLen+digestLen)
	putApplied(value, s.stage.zxid, s.stage.digest)
	if err := batch.Set([]byte(appliedKey), value, nil); err != nil {
		return err
	}
	return batch.Set([]byte(spaceKey), spaceValue(theOther(s.space())), nil)
}

// moveIn makes the switch in memory, under mu.
func (s *Store) moveIn() {
	s.applied, s.digest, s.restored = s.stage.zxid, s.stage.digest, s.stage.zxid
	s.home.Store(uint32(theOther(s.space())))
	s.stage = nil
}

// space is where the state is.
func (s *Store) space() byte { return byte(s.home.Load()) }

// wipe empties the space that does not hold the state. It need not be durable: the
// next start does it again.
func (s *Store) wipe(space byte) error {
	lower, upper := stateBounds(space, nil, nil)
	it, err := s.engine.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return readError(s.dir, "look for a staged snapshot", err)
	}
	there := it.First()
	if err := it.Close(); err != nil {
		return readError(s.dir, "look for a staged snapshot", err)
	}
	if !there {
		return nil
	}
	if err := s.engine.DeleteRange(lower, upper, pebble.NoSync); err != nil {
		return fmt.Errorf("store %s: remove what a snapshot replaced: %w", s.dir, err)
	}
	return nil
}

// Restored returns the zxid of the last snapshot that was installed since the store was opened;
// zero if none was.
func (s *Store) Restored() zab.Zxid {
	s.applying.Lock()
	defer s.applying.Unlock()
	return s.restored
}
