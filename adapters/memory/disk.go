// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/txn"
)

// Disk is one database. All methods may be called concurrently.
//
// What always holds, outside of mu's critical sections:
//  1. open has the branches that are active or prepared, and each owns in locks
//     every key that it has touched;
//  2. a branch that ended after it was prepared has its decision in ended.
type Disk struct {
	id    string
	locks lock.Table

	mu    sync.Mutex
	data  map[string]int64 // updated in place
	open  map[txn.XID]*branch
	ended map[txn.XID]txn.Decision
	rows  map[txn.ClusterID]txn.HighWater
	// markers are those of the transactions that this database decides as the last resource.
	markers map[txn.XID]string
}

// branch is owned by its disk's mu.
type branch struct {
	xid      txn.XID
	prepared bool
	since    time.Time
	orphan   bool  // the session has died
	failed   error // what a statement said last that failed
	undo     []undo
	siblings []txn.BranchNo // that its transaction has, if it was told
	tag      txn.LastTag    // of its last resource; zero if it has none
}

// undo is the before image of one update.
type undo struct {
	key    string
	value  int64
	absent bool
}

// NewDisk returns an empty database.
func NewDisk() *Disk {
	return &Disk{
		id:    txn.NewID(time.Now()).String(),
		data:  map[string]int64{},
		open:  map[txn.XID]*branch{},
		ended: map[txn.XID]txn.Decision{},
		rows:  map[txn.ClusterID]txn.HighWater{},

		markers: map[txn.XID]string{},
	}
}

// Crash ends every session: what was not prepared is undone, what was prepared waits
// for its decision and keeps its locks.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.open {
		d.kill(b)
	}
}

// Kill ends one session from the server's side, as Crash does to all.
func (d *Disk) Kill(s adapters.Session) {
	b := s.(*session).branch
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[b.xid] == b {
		d.kill(b)
	}
}

func (d *Disk) kill(b *branch) {
	b.orphan = true
	if !b.prepared {
		d.rollback(b)
	}
}

// SetBack takes the high-water rows back to what they were with a copy of the database.
func (d *Disk) SetBack(rows map[txn.ClusterID]txn.HighWater) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows = maps.Clone(rows)
}

// Get returns the committed value as somebody outside sees it.
func (d *Disk) Get(key string) (value int64, found bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.open {
		for _, u := range b.undo { // the first before image is the committed one
			if u.key == key {
				return u.value, !u.absent
			}
		}
	}
	value, found = d.data[key]
	return value, found
}

// Sum adds up all committed values.
func (d *Disk) Sum() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	committed := maps.Clone(d.data)
	for _, b := range d.open {
		for _, u := range slices.Backward(b.undo) {
			committed[u.key] = u.value // zero if it was absent
		}
	}
	var sum int64
	for _, value := range committed {
		sum += value
	}
	return sum
}

func (d *Disk) begin(x txn.XID) (*branch, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[x] != nil || d.ended[x] != txn.Undecided {
		return nil, fmt.Errorf("begin %s: the name is in use: begin a new transaction", x)
	}
	b := &branch{xid: x}
	d.open[x] = b
	return b, nil
}

// locked runs do as the owner of key. Whatever fails dooms the branch.
func (d *Disk) locked(ctx context.Context, b *branch, key string, do func() error) error {
	if err := d.working(b); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = d.locks.Acquire(ctx, b.xid, key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[b.xid] != b {
		// It ended while it waited. If the lock came after that, nobody else gives it back;
		// names are not used twice, so it is nobody else's.
		d.locks.Release(b.xid)
		return adapters.ErrBranchEnded
	}
	if b.prepared {
		return adapters.ErrBranchEnded
	}
	if err == nil {
		err = do()
	}
	if err != nil {
		b.failed = err
	}
	return err
}

// working tells why a branch takes no more statements.
func (d *Disk) working(b *branch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[b.xid] != b || b.prepared {
		return adapters.ErrBranchEnded
	}
	if b.failed != nil {
		return fmt.Errorf("an earlier statement of this branch failed: %w", b.failed)
	}
	return nil
}

func (d *Disk) put(b *branch, key string, value int64) {
	old, found := d.data[key]
	b.undo = append(b.undo, undo{key: key, value: old, absent: !found})
	d.data[key] = value
}

func (d *Disk) prepare(ctx context.Context, b *branch) (txn.Vote, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.open[b.xid] != b || b.prepared:
		return txn.VoteNo, adapters.ErrBranchEnded
	case b.failed != nil:
		d.rollback(b)
		return txn.VoteNo, fmt.Errorf("a statement failed: %w", b.failed)
	case ctx.Err() != nil:
		d.rollback(b)
		return txn.VoteNo, ctx.Err()
	case len(b.undo) == 0:
		d.end(b)
		return txn.VoteReadOnly, nil
	}
	b.prepared, b.since = true, time.Now()
	return txn.VoteYes, nil
}

// commitOnePhase leaves no evidence: there is no decision to compare it with.
func (d *Disk) commitOnePhase(ctx context.Context, b *branch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[b.xid] != b || b.prepared {
		return adapters.ErrBranchEnded
	}
	err := b.failed
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		d.rollback(b)
		return fmt.Errorf("%w: %w", adapters.ErrNotCommitted, err)
	}
	d.end(b)
	return nil
}

// commit is the session's own.
func (d *Disk) commit(ctx context.Context, b *branch) (txn.Finish, error) {
	d.mu.Lock()
	died := b.orphan
	d.mu.Unlock()
	if died {
		return 0, ErrSessionDied
	}
	return d.finish(ctx, b.xid, txn.Commit)
}

// giveUp is the session's own rollback; a branch that has ended is none of its business.
func (d *Disk) giveUp(b *branch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[b.xid] != b {
		return nil
	}
	if b.orphan {
		return ErrSessionDied
	}
	d.rollback(b)
	if b.prepared {
		d.ended[b.xid] = txn.Abort
	}
	return nil
}

// finish ends a prepared branch, or tells from the evidence what became of it.
func (d *Disk) finish(ctx context.Context, x txn.XID, decision txn.Decision) (txn.Finish, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if b := d.open[x]; b != nil {
		if decision == txn.Commit && !b.prepared {
			return 0, fmt.Errorf("%s is not prepared yet: its session must vote first", x)
		}
		if decision == txn.Commit {
			d.end(b)
		} else {
			d.rollback(b)
		}
		if b.prepared {
			d.ended[x] = decision
		}
		return txn.Done, nil
	}
	switch evidence := d.ended[x]; {
	case evidence == decision:
		return txn.AlreadyDone, nil
	case evidence != txn.Undecided:
		return txn.Contradicted, nil
	case decision == txn.Commit:
		return txn.Lost, nil
	default:
		return txn.AlreadyDone, nil
	}
}

func (d *Disk) rollback(b *branch) {
	for _, u := range slices.Backward(b.undo) {
		if u.absent {
			delete(d.data, u.key)
		} else {
			d.data[u.key] = u.value
		}
	}
	d.end(b)
}

func (d *Disk) end(b *branch) {
	delete(d.open, b.xid)
	d.locks.Release(b.xid)
}
