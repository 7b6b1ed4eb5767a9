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

	mu      sync.Mutex
	queue   []txn.Changes
	pending map[txn.ID]pendingTxn
	recent  recentIDs
	wake    chan struct{} // capacity 1: "look again"; when full, one is there already
}

// pendingTxn is what the last queued changes say of a transaction.
type pendingTxn struct {
	txn      txn.Txn
	finished bool // false: it is open, and so not in the archive
	at       txn.Position
}

func newArchive(s *wal.Store, fatal func(error)) *archive {
	a := &archive{store: s, fatal: fatal, wake: make(chan struct{}, 1)}
	a.reload()
	return a
}

// reload begins anew from what the store holds. Changes that wait are older than that:
// a snapshot that took the state's place holds them.
func (a *archive) reload() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue, a.pending, a.recent = nil, map[txn.ID]pendingTxn{}, recentIDs{}
	err := scanTxns(a.store, finishedKey, nil, true, func(newest txn.Txn) bool {
		a.recent.floor = newest.ID
		return false
	})
	if err != nil {
		a.fatal(fmt.Errorf("read the newest finished transaction: %w", err))
	}
}

// Keep implements txn.Archive.
func (a *archive) Keep(c txn.Changes) {
	a.mu.Lock()
	for _, x := range c.Open {
		a.pending[x.ID] = pendingTxn{at: c.Meta.Position}
	}
	for _, x := range c.Finished {
		a.pending[x.ID] = pendingTxn{txn: x, finished: true, at: c.Meta.Position}
		a.recent.add(x.ID)
	}
	a.queue = append(a.queue, c)
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
	p, ok := a.pending[id]
	absent := a.recent.absent(id)
	a.mu.Unlock()
	switch {
	case ok:
		return p.txn, p.finished
	case absent: // as for nearly every new transaction: no look into the store
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

// eachFinished visits finished transactions, newest first, beginning before the given one
// if it is not zero, until visit returns false.
func (a *archive) eachFinished(before txn.ID, visit func(txn.Txn) bool) error {
	// What is on its way is looked at first: what leaves it meanwhile is in the store.
	waiting, newer := a.waiting(before)
	upto := &before
	if before.IsZero() {
		upto = nil
	}
	more := true
	err := scanTxns(a.store, finishedKey, upto, true, func(x txn.Txn) bool {
		for more && len(newer) > 0 && compareID(newer[0].ID, x.ID) > 0 {
			more = visit(newer[0])
			newer = newer[1:]
		}
		if more && !waiting[x.ID] {
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

// waiting returns whose changes are on their way to the store, and those of them that are
// finished, newest first.
func (a *archive) waiting(before txn.ID) (all map[txn.ID]bool, finished []txn.Txn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all = make(map[txn.ID]bool, len(a.pending))
	for id, p := range a.pending {
		all[id] = true
		if p.finished && (before.IsZero() || compareID(id, before) < 0) {
			finished = append(finished, p.txn)
		}
	}
	slices.SortFunc(finished, func(x, y txn.Txn) int { return compareID(y.ID, x.ID) })
	return all, finished
}

// full reports whether the loop must wait for the store.
func (a *archive) full() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue) >= archiveFull
}

// run writes queued changes until ctx ends, and then what is left.
func (a *archive) run(ctx context.Context) {
	for done := false; !done; {
		select {
		case <-a.wake:
		case <-ctx.Done():
			done = true
		}
		a.mu.Lock()
		queue := a.queue
		a.queue = nil
		a.mu.Unlock()
		for left := queue; len(left) > 0; {
			state, n := toState(left)
			left = left[n:]
			if err := a.store.Apply(state); err != nil {
				a.fatal(err)
				return
			}
		}
		a.stored(queue)
	}
}

// stored forgets changes that the store has now, unless newer ones are on their way.
func (a *archive) stored(queue []txn.Changes) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range queue {
		for _, list := range [][]txn.Txn{c.Open, c.Finished} {
			for _, x := range list {
				if a.pending[x.ID].at == c.Meta.Position {
					delete(a.pending, x.ID)
				}
			}
		}
	}
}
