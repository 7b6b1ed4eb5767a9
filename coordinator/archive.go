// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/concordtx/concord/txn"
	"github.com/concordtx/concord/wal"
)

// archiveFull folds may wait for the store before the loop takes no more requests and
// no more messages of peers.
const archiveFull = 4096

// archive is the txn.Archive of a node: the store, and in front of it the changes
// that are still on their way there. The loop adds changes and its run goroutine
// writes them, unsynced: the log entries that they come from are durable already.
type archive struct {
	store *wal.Store
	fatal func(error)

	mu      sync.Mutex // held for a few steps only: the loop takes it
	waiting folds      // for the store
	writing folds      // is on its way there; nobody changes it any more
	recent  recentIDs
	wake    chan struct{} // capacity 1: "look again"; when full, one is there already
}

// folds are changes in order, and what the last of them says of each transaction. The list only
// grows, so who has a slice of it may read that without the lock.
type folds struct {
	list   []txn.Changes
	latest map[txn.ID]txn.Txn
	keys   map[string]txn.KeyUse
}

func (f *folds) add(c txn.Changes) {
	if f.latest == nil {
		f.latest = map[txn.ID]txn.Txn{}
	}
	for _, x := range c.Open {
		f.latest[x.ID] = x
	}
	for _, x := range c.Finished {
		f.latest[x.ID] = x
	}
	for _, u := range c.Keys {
		if f.keys == nil {
			f.keys = map[string]txn.KeyUse{}
		}
		f.keys[u.Key] = u
	}
	f.list = append(f.list, c)
}

func newArchive(s *wal.Store, newest txn.ID, fatal func(error)) *archive {
	a := &archive{store: s, fatal: fatal, wake: make(chan struct{}, 1)}
	a.restart(newest)
	return a
}

// restart begins anew from what the store holds, whose newest finished transaction this is. Changes that
// wait are older than that: a snapshot that took the state's place holds them.
func (a *archive) restart(newest txn.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting, a.writing, a.recent = folds{}, folds{}, recentIDs{floor: newest}
}

// Keep implements txn.Archive.
func (a *archive) Keep(c txn.Changes) {
	a.mu.Lock()
	a.waiting.add(c)
	for _, x := range c.Finished {
		a.recent.add(x.ID)
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Finished implements txn.Archive. A store that cannot be read ends the process: to
// answer "not finished" instead would be a guess about a transaction.
func (a *archive) Finished(id txn.ID) (txn.Txn, bool) {
	a.mu.Lock()
	if a.recent.absent(id) { // as nearly every new transaction is
		a.mu.Unlock()
		return txn.Txn{}, false
	}
	last, ok := a.waiting.latest[id]
	if !ok {
		last, ok = a.writing.latest[id]
	}
	a.mu.Unlock()
	switch {
	case ok && last.Finished():
		return last, true
	case ok: // it is open, and so not in the archive
		return txn.Txn{}, false
	}
	value, found, err := a.store.Get(stateKey(finishedKey, id))
	var x txn.Txn
	if err == nil && found {
		err = x.UnmarshalBinary(value)
	}
	if err != nil {
		a.fatal(fmt.Errorf("read transaction %v: %w", id, err))
	}
	return x, found
}

// KeyUse implements txn.Archive. What it cannot read ends the process, as with Finished.
func (a *archive) KeyUse(key string) (txn.KeyUse, bool) {
	a.mu.Lock()
	use, ok := a.waiting.keys[key]
	if !ok {
		use, ok = a.writing.keys[key]
	}
	a.mu.Unlock()
	if ok {
		return use, true
	}
	use, ok, err := findKey(a.store, key)
	if err != nil {
		a.fatal(fmt.Errorf("read an idempotency key: %w", err))
	}
	return use, ok
}

// eachFinished visits finished transactions, newest first, beginning before the given one
// if it is not zero, until visit returns false.
func (a *archive) eachFinished(before txn.ID, visit func(txn.Txn) bool) error {
	return a.each(finishedKey, before, visit)
}

// eachOpen visits transactions that are not finished, in the same way.
func (a *archive) eachOpen(before txn.ID, visit func(txn.Txn) bool) error {
	return a.each(openKey, before, visit)
}

// each visits the transactions of a space: what is stored, as changed by what is on its way.
// All that it does takes place on the goroutine of who asks, and the loop waits for none of it.
func (a *archive) each(space byte, before txn.ID, visit func(txn.Txn) bool) error {
	// What is on its way is looked at first: what leaves it meanwhile is in the store.
	changed, newer := a.underway(space, before)
	upto := &before
	if before.IsZero() {
		upto = nil
	}
	more := true
	err := scanTxns(a.store, space, upto, true, func(x txn.Txn) bool {
		for more && len(newer) > 0 && newer[0].ID.Compare(x.ID) > 0 {
			more = visit(newer[0])
			newer = newer[1:]
		}
		if more && !changed[x.ID] {
			more = visit(x)
		}
		return more
	})
	for err == nil && more && len(newer) > 0 {
		more = visit(newer[0])
		newer = newer[1:]
	}
	return err
}

// underway returns whose changes are on their way to the store, and those of them that are
// in a space, newest first.
func (a *archive) underway(space byte, before txn.ID) (all map[txn.ID]bool, in []txn.Txn) {
	a.mu.Lock()
	writing, waiting := a.writing.list, a.waiting.list
	a.mu.Unlock()
	var f folds
	for _, list := range [][]txn.Changes{writing, waiting} {
		for _, c := range list {
			f.add(c)
		}
	}
	all = make(map[txn.ID]bool, len(f.latest))
	for id, last := range f.latest {
		all[id] = true
		if last.Finished() == (space == finishedKey) && (before.IsZero() || id.Compare(before) < 0) {
			in = append(in, last)
		}
	}
	slices.SortFunc(in, func(x, y txn.Txn) int { return y.ID.Compare(x.ID) })
	return all, in
}

// full reports whether the loop must wait for the store.
func (a *archive) full() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting.list) >= archiveFull
}

// run writes queued changes until ctx ends, and then what is left.
func (a *archive) run(ctx context.Context) {
	var stored *txn.Members // by the last write; a list that is replaced is another one
	for done := false; !done; {
		select {
		case <-a.wake:
		case <-ctx.Done():
			done = true
		}
		a.mu.Lock()
		a.writing, a.waiting = a.waiting, folds{}
		left := a.writing.list
		a.mu.Unlock()
		for len(left) > 0 {
			state, n := toState(left, stored)
			if err := a.store.Apply(state); err != nil {
				a.fatal(err)
				return
			}
			stored, left = left[n-1].Meta.Members, left[n:]
		}
		a.mu.Lock()
		a.writing = folds{} // the store has it
		a.mu.Unlock()
	}
}

// recentMax finished transactions are remembered by their ids alone in one generation;
// there are two.
const recentMax = 1 << 14

// recentIDs are the ids of all finished transactions above floor. An id above floor
// that is not among them is certainly not finished, which spares the way of every new
// commit a look into the store: ids grow with time, so new ones are above.
//
// It may hold more than that (an id that was opened again, or one below floor), never less.
// floor never falls. Nothing is ever moved or searched through: when a generation is full
// the one before it is dropped whole, and the greatest id of that is the floor from then on.
type recentIDs struct {
	floor      txn.ID
	young, old generation
}

// generation is some ids, and the greatest of them.
type generation struct {
	ids      map[txn.ID]struct{}
	greatest txn.ID
}

func (g *generation) add(id txn.ID) {
	if g.ids == nil {
		g.ids = make(map[txn.ID]struct{})
	}
	g.ids[id] = struct{}{}
	if g.greatest.Compare(id) < 0 {
		g.greatest = id
	}
}

func (g *generation) has(id txn.ID) bool {
	_, ok := g.ids[id]
	return ok
}

func (r *recentIDs) add(id txn.ID) {
	if id.Compare(r.floor) <= 0 {
		return
	}
	r.young.add(id)
	if len(r.young.ids) < recentMax {
		return
	}
	if r.floor.Compare(r.old.greatest) < 0 {
		r.floor = r.old.greatest
	}
	r.old, r.young = r.young, generation{}
}

// absent reports that id is certainly not finished. False means nothing.
func (r *recentIDs) absent(id txn.ID) bool {
	return id.Compare(r.floor) > 0 && !r.young.has(id) && !r.old.has(id)
}
