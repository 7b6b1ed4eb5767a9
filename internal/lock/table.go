// SPDX-License-Identifier: Apache-2.0

package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/concordtx/concord/txn"
)

// ErrDeadlock says that waiting would never end: the holder waits, perhaps through
// others, for the one who asks. It is told to the last who joined the circle.
var ErrDeadlock = errors.New("deadlock: roll back and try the transaction again")

// ErrReleased says that the branch was ended by somebody else while it waited.
var ErrReleased = errors.New("the branch was ended while it waited for a lock")

// Table holds the locks of one store. Its zero value is empty and ready. All methods
// may be called concurrently, but Acquire not twice at once for the same branch.
//
// What always holds:
//  1. a key in keys has an owner;
//  2. held[b] has exactly the keys that b owns;
//  3. waits[b] is the one key in whose queue b stands.
//
// The queues need no bound of their own: each place in one is a caller that waits
// with a deadline.
type Table struct {
	mu    sync.Mutex
	keys  map[string]*entry
	held  map[txn.XID][]string
	waits map[txn.XID]string
}

type entry struct {
	owner txn.XID
	queue []*waiter
}

type waiter struct {
	owner   txn.XID
	granted chan error // one answer fits, so that answering never blocks
}

// Acquire makes x the owner of key, waiting until ctx ends. A branch that owns the key
// already gets it again.
func (t *Table) Acquire(ctx context.Context, x txn.XID, key string) error {
	w, err := t.enqueue(x, key)
	if err != nil || w == nil {
		return err
	}
	select {
	case err := <-w.granted:
		return err
	case <-ctx.Done():
		return t.leave(ctx, w, key)
	}
}

// enqueue returns nil when the lock was granted at once.
func (t *Table) enqueue(x txn.XID, key string) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, locked := t.keys[key]
	if !locked {
		t.grant(x, key)
		return nil, nil
	}
	if e.owner == x {
		return nil, nil
	}
	if t.waitsFor(e.owner, x) {
		return nil, ErrDeadlock
	}
	w := &waiter{owner: x, granted: make(chan error, 1)}
	e.queue = append(e.queue, w)
	if t.waits == nil {
		t.waits = map[txn.XID]string{}
	}
	t.waits[x] = key
	return w, nil
}

// waitsFor follows who waits for whom, from one branch to another. It is enough to
// look when somebody starts to wait: a circle closes then or never, since whoever is
// handed a lock waits for nobody.
func (t *Table) waitsFor(from, to txn.XID) bool {
	for from != to {
		key, waiting := t.waits[from]
		if !waiting {
			return false
		}
		from = t.keys[key].owner
	}
	return true
}

func (t *Table) grant(x txn.XID, key string) {
	if t.keys == nil {
		t.keys, t.held = map[string]*entry{}, map[txn.XID][]string{}
	}
	if e, locked := t.keys[key]; locked {
		e.owner = x
	} else {
		t.keys[key] = &entry{owner: x}
	}
	t.held[x] = append(t.held[x], key)
}

// leave gives up waiting, unless the lock came at the same moment.
func (t *Table) leave(ctx context.Context, w *waiter, key string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case err := <-w.granted:
		return err
	default:
	}
	t.dequeue(w.owner)
	return fmt.Errorf("wait for the lock of %q, held by %s: %w", key, t.keys[key].owner, context.Cause(ctx))
}

func (t *Table) dequeue(x txn.XID) *waiter {
	key, waiting := t.waits[x]
	if !waiting {
		return nil
	}
	delete(t.waits, x)
	e := t.keys[key]
	i := slices.IndexFunc(e.queue, func(w *waiter) bool { return w.owner == x })
	w := e.queue[i]
	e.queue = slices.Delete(e.queue, i, i+1)
	return w
}

// Release takes every lock from x, hands each to the next in its queue, and ends a
// wait of x itself with ErrReleased.
func (t *Table) Release(x txn.XID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.dequeue(x); w != nil {
		w.granted <- ErrReleased
	}
	for _, key := range t.held[x] {
		e := t.keys[key]
		if len(e.queue) == 0 {
			delete(t.keys, key)
			continue
		}
		next := t.dequeue(e.queue[0].owner)
		t.grant(next.owner, key)
		next.granted <- nil
	}
	delete(t.held, x)
}
