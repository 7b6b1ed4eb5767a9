// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/pebble/journal"
	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/txn"
)

// Reserved starts every key that concord keeps for itself.
const Reserved = "\x00concord\x00"

const (
	journalSpace = Reserved + "j"
	identityKey  = Reserved + "identity"
)

// LockTimeout bounds each wait for a lock, beside the context.
const LockTimeout = 5 * time.Second

// Errors of a Tx. Each dooms its branch.
var (
	// ErrReservedKey: the key starts with Reserved.
	ErrReservedKey = errors.New("the key is reserved for concord: choose one that does not begin with pebble.Reserved")
	// ErrLockTimeout: another branch held the key for LockTimeout. If nobody ends that
	// branch, "concord tx ls" shows whether it is in doubt.
	ErrLockTimeout = errors.New("lock timeout: another branch holds the key; try the transaction again")
)

// ErrClosed says that the store was closed. An open branch is undone when the store
// is opened again; a prepared one waits there.
var ErrClosed = errors.New("the store is closed")

// store is what all handles share.
//
// What always holds outside of critical sections:
//  1. branches has the branches that are active or prepared, and each owns the lock
//     of every key that it changed;
//  2. before has the committed image of every key that one of them changed.
//
// Mutexes are taken in the order life, branch.mu, mu or view. None is held while
// somebody waits for a lock of a key.
type store struct {
	db          *pebble.DB
	journal     *journal.Journal
	identity    string
	owned       bool // close db at the end
	lockTimeout time.Duration
	locks       lock.Table

	life    sync.RWMutex // read-locked by whoever uses db
	closed  bool
	handles int

	mu       sync.Mutex
	branches map[txn.XID]*branch

	// settling is held while a marker of a last resource is looked for and written. It comes after branch.mu.
	settling sync.Mutex

	view   sync.RWMutex
	before map[string]journal.Image
}

// branch is one open branch. A state only grows.
type branch struct {
	mu      sync.Mutex
	state   state
	journal journal.Branch
	changed map[string]struct{}
	failed  error // the first statement that failed
}

type state uint8

const (
	active state = iota
	prepared
	ended
)

// newStore recovers: it redoes and locks what is prepared and undoes the rest.
func newStore(db *pebble.DB, owned bool) (*store, error) {
	s := &store{
		db:          db,
		journal:     journal.New(db, []byte(journalSpace)),
		owned:       owned,
		lockTimeout: LockTimeout,
		handles:     1,
		branches:    map[txn.XID]*branch{},
		before:      map[string]journal.Image{},
	}
	branches, err := s.journal.Branches()
	if err != nil {
		return nil, err
	}
	for _, b := range branches {
		if b.Prepared {
			err = s.revive(b)
		} else {
			err = s.journal.Undo(b)
		}
		if err != nil {
			return nil, fmt.Errorf("recover %s: %w", b.XID, err)
		}
	}
	return s, s.identify()
}

// revive takes up a prepared branch of an earlier life.
func (s *store) revive(j journal.Branch) error {
	updates, err := s.journal.Updates(j)
	if err != nil {
		return err
	}
	b := &branch{state: prepared, journal: j, changed: map[string]struct{}{}}
	for _, u := range updates {
		key := string(u.Key)
		if _, again := b.changed[key]; again {
			continue
		}
		if _, taken := s.before[key]; taken {
			return fmt.Errorf("key %q belongs to two prepared branches: %w; restore the store from a backup", key,
				journal.ErrCorrupt)
		}
		if err := s.locks.Acquire(context.Background(), j.XID, key); err != nil {
			return err // cannot be: the line above saw that nobody has it
		}
		s.shelve(b, key, u.Undo)
	}
	s.branches[j.XID] = b
	return s.journal.Redo(j)
}

// identify reads the store's random name, drawing it the first time. The write is
// synced each time, because a store that cannot sync must not promise anything.
func (s *store) identify() error {
	name, found, err := s.read([]byte(identityKey))
	if err != nil {
		return err
	}
	if !found {
		name = []byte(rand.Text())
	}
	s.identity = "pebble " + string(name)
	if err := s.db.Set([]byte(identityKey), name, pebble.Sync); err != nil {
		return fmt.Errorf("write the identity of the store: %w; open it writable and with its write-ahead log", err)
	}
	return nil
}

// use keeps the store open until release is called.
func (s *store) use() (release func(), err error) {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return nil, ErrClosed
	}
	return s.life.RUnlock, nil
}

func (s *store) addHandle() {
	s.life.Lock()
	defer s.life.Unlock()
	s.handles++
}

func (s *store) dropHandle() error {
	s.life.Lock()
	defer s.life.Unlock()
	s.handles--
	if s.handles > 0 {
		return nil
	}
	s.closed = true
	if !s.owned {
		return nil
	}
	return s.db.Close()
}

// begin refuses a name that is open or has committed. Names are minted for one
// branch, so it does not matter that the two looks are not one.
func (s *store) begin(x txn.XID) (*branch, error) {
	inUse, err := s.journal.Committed(x)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if inUse || s.branches[x] != nil {
		return nil, fmt.Errorf("the name %s is in use: begin a new transaction", x)
	}
	b := &branch{journal: journal.Branch{XID: x}, changed: map[string]struct{}{}}
	s.branches[x] = b
	return b, nil
}

func (s *store) find(x txn.XID) *branch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.branches[x]
}

// locked runs do as the owner of key's lock. What fails dooms the branch.
func (s *store) locked(ctx context.Context, b *branch, key []byte, do func() error) error {
	if err := b.working(); err != nil {
		return err
	}
	err := s.acquire(ctx, b.journal.XID, key)
	release, closed := s.use()
	if closed != nil {
		return closed
	}
	defer release()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state == ended {
		// Somebody ended the branch while it waited. If the lock came after that, nobody
		// else gives it back.
		s.locks.Release(b.journal.XID)
	}
	if b.state != active {
		return adapters.ErrBranchEnded
	}
	if err == nil {
		err = do()
	}
	if err != nil && b.failed == nil {
		b.failed = err
	}
	return err
}

// working tells why a branch takes no more statements.
func (b *branch) working() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != active {
		return adapters.ErrBranchEnded
	}
	if b.failed != nil {
		return fmt.Errorf("an earlier statement of this branch failed: %w", b.failed)
	}
	return nil
}

func (s *store) acquire(ctx context.Context, x txn.XID, key []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if bytes.HasPrefix(key, []byte(Reserved)) {
		return ErrReservedKey
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.lockTimeout, ErrLockTimeout)
	defer cancel()
	return s.locks.Acquire(ctx, x, string(key))
}

// read copies a value as it stands in the store.
func (s *store) read(key []byte) (value []byte, found bool, err error) {
	stored, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read %q: %w", key, err)
	}
	defer closer.Close()
	return append([]byte{}, stored...), true, nil
}

// committed reads past the updates of open branches. It holds view until it has read,
// so that no branch changes the key in between.
func (s *store) committed(key []byte) (value []byte, found bool, err error) {
	s.view.RLock()
	defer s.view.RUnlock()
	if image, changed := s.before[string(key)]; changed {
		return append([]byte{}, image.Value...), image.Present, nil
	}
	return s.read(key)
}

// change updates a key in place; the caller is in locked.
func (s *store) change(b *branch, key []byte, redo journal.Image) error {
	value, found, err := s.read(key)
	if err != nil {
		return err
	}
	undo := journal.Image{Present: found, Value: value}
	s.shelve(b, string(key), undo)
	return s.journal.Do(&b.journal, journal.Update{Key: key, Undo: undo, Redo: redo})
}

// shelve keeps the first before image of a key for committed.
func (s *store) shelve(b *branch, key string, image journal.Image) {
	if _, again := b.changed[key]; again {
		return
	}
	s.view.Lock()
	defer s.view.Unlock()
	b.changed[key] = struct{}{}
	s.before[key] = image
}

// commit and rollback end a branch that the caller has locked.
func (s *store) commit(b *branch) error {
	if err := s.journal.Commit(b.journal); err != nil {
		return err
	}
	s.end(b)
	return nil
}

func (s *store) rollback(b *branch) error {
	if err := s.journal.Undo(b.journal); err != nil {
		return err
	}
	s.end(b)
	return nil
}

// end gives back what the branch holds. The locks go last: whoever gets one finds the
// store as the branch left it.
func (s *store) end(b *branch) {
	b.state = ended
	s.mu.Lock()
	delete(s.branches, b.journal.XID)
	s.mu.Unlock()
	s.view.Lock()
	for key := range b.changed {
		delete(s.before, key)
	}
	s.view.Unlock()
	s.locks.Release(b.journal.XID)
}
