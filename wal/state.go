// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"bytes"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/internal/seal"
	"github.com/concordtx/concord/protocol/zab"
)

// Pair is a key and its value in the state space.
type Pair struct{ Key, Value []byte }

// Range is the keys in [Lo, Hi). A nil Hi is the end of the state space.
type Range struct{ Lo, Hi []byte }

// StateChange is what delivered entries change in the state. It takes effect as a
// whole: first DeleteRanges, then Deletes, then Puts.
type StateChange struct {
	// Applied is the last entry that is part of the state afterwards.
	Applied zab.Zxid
	// Digest is the rolling hash of everything applied up to Applied.
	Digest       [digestLen]byte
	DeleteRanges []Range
	Deletes      [][]byte
	Puts         []Pair
}

// Apply changes the state and the applied point in one atomic batch, which is not
// synced: a crash may take it back, and then Initial says so. It panics if c.Applied
// is not behind the current applied point or not in the durable log.
//
// A change that an installed snapshot holds already does nothing: it was on its way when
// the snapshot took the state's place.
func (s *Store) Apply(c StateChange) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if !s.restored.IsZero() && !s.restored.Less(c.Applied) {
		return nil
	}
	s.mu.RLock()
	if !s.applied.Less(c.Applied) || !s.log.has(c.Applied) {
		defer s.mu.RUnlock()
		panic(fmt.Sprintf("wal: apply %v on a state of %v with a log of %v to %v", c.Applied, s.applied, s.log.base,
			s.log.last()))
	}
	s.mu.RUnlock()

	batch := s.engine.NewBatch()
	defer batch.Close()
	err := fillState(batch, s.space(), c)
	if err == nil && mutant.PositionApart {
		err = batch.Commit(pebble.NoSync)
		batch = s.engine.NewBatch()
	}
	if err == nil {
		err = fillPosition(batch, c)
	}
	if err != nil {
		return fmt.Errorf("store %s: gather the state up to %v: %w", s.dir, c.Applied, err)
	}
	s.watchdog.apply.begin()
	err = batch.Commit(pebble.NoSync)
	s.watchdog.apply.end()
	if err != nil {
		return fmt.Errorf("store %s: write the state up to %v: %w", s.dir, c.Applied, err)
	}
	s.mu.Lock()
	s.applied, s.digest = c.Applied, c.Digest
	s.mu.Unlock()
	return nil
}

func fillState(batch *pebble.Batch, space byte, c StateChange) error {
	for _, r := range c.DeleteRanges {
		lo, hi := stateBounds(space, r.Lo, r.Hi)
		if err := batch.DeleteRange(lo, hi, nil); err != nil {
			return err
		}
	}
	for _, key := range c.Deletes {
		op := batch.DeleteDeferred(1 + len(key))
		op.Key[0] = space
		copy(op.Key[1:], key)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	for _, p := range c.Puts {
		op := batch.SetDeferred(1+len(p.Key), len(p.Value))
		op.Key[0] = space
		copy(op.Key[1:], p.Key)
		copy(op.Value, p.Value)
		if err := op.Finish(); err != nil {
			return err
		}
	}
	return nil
}

// fillPosition says what the state is the state of.
func fillPosition(batch *pebble.Batch, c StateChange) error {
	op := batch.SetDeferred(len(appliedKey), seal.Len+zxidLen+digestLen)
	copy(op.Key, appliedKey)
	putApplied(op.Value, c.Applied, c.Digest)
	return op.Finish()
}

// Applied returns the last entry that is part of the state, and the digest that came
// with it. Zero if nothing was applied yet.
func (s *Store) Applied() (zab.Zxid, [32]byte) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied, s.digest
}

// Get returns a copy of the value of a key of the state.
func (s *Store) Get(key []byte) (value []byte, found bool, err error) {
	for {
		space := s.space()
		value, found, err = s.get(stateKey(space, key))
		if s.space() == space { // else a snapshot took the state's place meanwhile
			return value, found, err
		}
	}
}

// Scan calls visit for the pairs with keys in [lo, hi), in order of keys or in
// reverse, until visit returns false. A nil hi is the end of the state space. It sees
// the state of one moment, whatever Apply does meanwhile. Key and value belong to the
// store: they are valid until visit returns.
func (s *Store) Scan(lo, hi []byte, reverse bool, visit func(key, value []byte) bool) (err error) {
	it, err := s.scan(lo, hi)
	if err != nil || it == nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil { // Close reports what stopped the iterator
			err = readError(s.dir, "scan the state", cerr)
		}
	}()
	start, step := it.First, it.Next
	if reverse {
		start, step = it.Last, it.Prev
	}
	for ok := start(); ok; ok = step() {
		value, err := it.ValueAndErr()
		if err != nil {
			return readError(s.dir, "scan the state", err)
		}
		if !visit(it.Key()[1:], value) {
			return nil
		}
	}
	return nil
}

// scan returns an iterator over the state of this moment, nil if there can be nothing.
func (s *Store) scan(lo, hi []byte) (*pebble.Iterator, error) {
	for {
		space := s.space()
		lower, upper := stateBounds(space, lo, hi)
		if bytes.Compare(lower, upper) >= 0 {
			return nil, nil
		}
		it, err := s.engine.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
		if err != nil {
			return nil, readError(s.dir, "scan the state", err)
		}
		if s.space() == space {
			return it, nil
		}
		if err := it.Close(); err != nil {
			return nil, readError(s.dir, "scan the state", err)
		}
	}
}
