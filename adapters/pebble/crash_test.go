// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/internal/crashfs"
	"github.com/concordtx/concord/txn"
)

// A seeded workload of interleaved branches moves money between accounts and creates
// and removes receipts. At moments all over it, in front of any write or sync of the
// file system, the machine crashes: a clone keeps 0, 50 or 100 % of what was not
// synced. Each clone is opened and compared with what had been told by then.
func TestCrashAnywhereKeepsExactlyWhatWasTold(t *testing.T) {
	crashes := 0
	for seed := range uint64(6) {
		h := newHistory(t, seed)
		for range 150 {
			h.step()
		}
		clones := h.stop()
		for _, c := range clones {
			h.verify(c)
		}
		crashes += len(clones)
		require.NotZero(t, h.votes)
		require.NotZero(t, h.commits)
		require.NotZero(t, h.rollbacks)
	}
	require.Greater(t, crashes, 150)
	t.Logf("%d crashes", crashes)
}

const (
	accounts = 6
	receipts = 4
	opening  = 100
)

// writes is what a branch makes of each key; nil removes it.
type writes map[string][]byte

// told is what the caller of the resource knows at a moment.
type told struct {
	committed map[string]string
	prepared  map[txn.XID]writes
	pending   *pending // the call that has not returned
}

type pending struct {
	x      txn.XID
	writes writes
	kind   string // prepare, commit, roll back, one phase
}

type crash struct {
	fs   *crashfs.FS
	seen told
	at   string
}

// history drives one store. Only the file system's goroutines run beside it; told is
// what they look at, so it has the mutex.
type history struct {
	t         *testing.T
	seed      uint64
	random    *rand.Rand
	resource  *Resource
	open      []*work
	undecided []txn.XID

	mu      sync.Mutex
	told    told
	fs      *crashfs.FS
	dice    *rand.Rand // for the moments of crashes
	armed   bool
	crashes []crash

	votes, commits, rollbacks int
}

type work struct {
	x       txn.XID
	session adapters.Session
	tx      *Tx
	writes  writes
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{
		t:      t,
		seed:   seed,
		random: rand.New(rand.NewPCG(seed, 1)),
		dice:   rand.New(rand.NewPCG(seed, 2)),
		fs:     crashfs.New(),
		told:   told{committed: map[string]string{}, prepared: map[txn.XID]writes{}},
	}
	db, err := pebble.Open("db", &pebble.Options{
		FS:                 errorfs.Wrap(h.fs, errorfs.InjectorFunc(h.maybeCrash)),
		FormatMajorVersion: pebble.FormatNewest,
		MemTableSize:       16 << 10, // so that flushes and compactions take part
		Logger:             quiet{t},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	h.resource, err = New("ledger", db)
	require.NoError(t, err)

	_, s, tx := begin(t, h.resource)
	for i := range accounts {
		require.NoError(t, tx.Set(context.Background(), account(i), number(opening)))
		h.told.committed[string(account(i))] = string(number(opening))
	}
	require.NoError(t, s.CommitOnePhase(context.Background()))
	h.mu.Lock()
	h.armed = true
	h.mu.Unlock()
	return h
}

// stop ends the crashes. Pebble may still be at work in the background.
func (h *history) stop() []crash {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = false
	return h.crashes
}

func account(i int) []byte { return fmt.Appendf(nil, "account %d", i) }
func receipt(i int) []byte { return fmt.Appendf(nil, "receipt %d", i) }

// maybeCrash stands in front of every operation of the file system.
func (h *history) maybeCrash(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.armed || h.dice.IntN(4) != 0 {
		return nil
	}
	percent := []int{0, 50, 100}[len(h.crashes)%3]
	seen := told{committed: maps.Clone(h.told.committed), prepared: maps.Clone(h.told.prepared),
		pending: h.told.pending}
	h.crashes = append(h.crashes, crash{
		fs:   h.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: h.dice}),
		seen: seen,
		at:   fmt.Sprintf("seed %d, crash %d (%d %% of the unsynced is kept)", h.seed, len(h.crashes), percent),
	})
	return nil
}

// step begins a branch, works in one, or ends one.
func (h *history) step() {
	if len(h.open) < 3 {
		x, s, tx := begin(h.t, h.resource)
		h.open = append(h.open, &work{x: x, session: s, tx: tx, writes: writes{}})
	}
	i := h.random.IntN(len(h.open))
	w := h.open[i]
	for range 1 + h.random.IntN(3) {
		h.transfer(w)
	}
	if h.random.IntN(3) == 0 {
		return
	}
	h.end(w)
	h.open = slices.Delete(h.open, i, i+1)
	// Now and then, a decision for the one that has been prepared the longest.
	if len(h.undecided) > 0 && h.random.IntN(2) == 0 {
		x := h.undecided[0]
		h.undecided = h.undecided[1:]
		h.decide(x, h.told.prepared[x])
	}
}

// transfer moves money between two accounts and touches a receipt, where no other
// branch has the keys.
func (h *history) transfer(w *work) {
	ctx := context.Background()
	from, to := h.random.IntN(accounts), h.random.IntN(accounts)
	slip := receipt(h.random.IntN(receipts))
	if from == to || h.taken(w, account(from)) || h.taken(w, account(to)) {
		return
	}
	h.add(w, account(from), -3)
	h.add(w, account(to), +3)
	switch {
	case h.taken(w, slip):
	case h.random.IntN(2) == 0:
		require.NoError(h.t, w.tx.Delete(ctx, slip))
		w.writes[string(slip)] = nil
	default:
		require.NoError(h.t, w.tx.Set(ctx, slip, []byte(w.x.String())))
		w.writes[string(slip)] = []byte(w.x.String())
	}
}

func (h *history) add(w *work, key []byte, delta int64) {
	ctx := context.Background()
	old, found, err := w.tx.Get(ctx, key)
	require.NoError(h.t, err)
	require.True(h.t, found)
	sum := number(value(old) + delta)
	require.NoError(h.t, w.tx.Set(ctx, key, sum))
	w.writes[string(key)] = sum
}

func (h *history) taken(w *work, key []byte) bool {
	for _, other := range h.open {
		if _, has := other.writes[string(key)]; has && other != w {
			return true
		}
	}
	for _, ws := range h.told.prepared {
		if _, has := ws[string(key)]; has {
			return true
		}
	}
	return false
}

// end prepares, commits in one phase or rolls back.
func (h *history) end(w *work) {
	ctx := context.Background()
	switch h.random.IntN(6) {
	case 0:
		require.NoError(h.t, w.session.Rollback(ctx))
	case 1:
		h.begins(pending{w.x, w.writes, "one phase"})
		require.NoError(h.t, w.session.CommitOnePhase(ctx))
		h.returns(func() { apply(h.told.committed, w.writes) })
	default:
		h.begins(pending{w.x, w.writes, "prepare"})
		vote, _, err := w.session.Prepare(ctx)
		require.NoError(h.t, err)
		h.returns(func() {
			if vote == txn.VoteYes {
				h.told.prepared[w.x] = w.writes
				h.undecided = append(h.undecided, w.x)
				h.votes++
			}
		})
	}
}

func (h *history) decide(x txn.XID, ws writes) {
	ctx := context.Background()
	if h.random.IntN(3) > 0 {
		h.begins(pending{x, ws, "commit"})
		got, err := h.resource.Commit(ctx, x, txn.Branch{})
		require.NoError(h.t, err)
		require.Equal(h.t, txn.Done, got)
		h.returns(func() {
			delete(h.told.prepared, x)
			apply(h.told.committed, ws)
			h.commits++
		})
		return
	}
	h.begins(pending{x, ws, "roll back"})
	got, err := h.resource.Rollback(ctx, x, txn.Branch{})
	require.NoError(h.t, err)
	require.Equal(h.t, txn.Done, got)
	h.returns(func() {
		delete(h.told.prepared, x)
		h.rollbacks++
	})
}

func (h *history) begins(p pending) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told.pending = &p
}

func (h *history) returns(learn func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told.pending = nil
	learn()
}

// apply keeps the maps of earlier moments as they were: they were cloned.
func apply(to map[string]string, ws writes) {
	for key, v := range ws {
		if v == nil {
			delete(to, key)
		} else {
			to[key] = string(v)
		}
	}
}

// verify opens what the crash left and holds it against what was told.
func (h *history) verify(c crash) {
	db, err := pebble.Open("db", &pebble.Options{FS: c.fs, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{h.t}})
	require.NoError(h.t, err, c.at)
	r, err := New("ledger", db)
	require.NoError(h.t, err, c.at)

	listed := map[txn.XID]bool{}
	list, err := r.Recover(context.Background())
	require.NoError(h.t, err)
	for _, p := range list {
		listed[p.XID] = true
	}
	if p := c.seen.pending; p != nil {
		h.settle(r, &c.seen, *p, listed[p.x], c.at)
	}
	require.Len(h.t, listed, len(c.seen.prepared), c.at)
	for x := range c.seen.prepared {
		require.True(h.t, listed[x], "%s: %s voted yes and is not there", c.at, x)
	}

	h.requireOutside(r, c.seen.committed, c.at)
	inside := maps.Clone(c.seen.committed)
	for _, ws := range c.seen.prepared {
		apply(inside, ws)
		h.requireHeld(r, ws, c.at)
	}
	require.Equal(h.t, inside, contents(h.t, db), c.at)

	h.decideAll(r, &c.seen, c.at)
	require.Equal(h.t, c.seen.committed, contents(h.t, db), c.at)
	h.requireOutside(r, c.seen.committed, c.at)
	require.NoError(h.t, r.Close())
	require.NoError(h.t, db.Close())
}

// settle learns from the clone which of the two allowed ends an unanswered call had.
func (h *history) settle(r *Resource, seen *told, p pending, listed bool, at string) {
	switch p.kind {
	case "prepare":
		if listed {
			seen.prepared[p.x] = p.writes
		}
	case "one phase":
		done := maps.Clone(seen.committed)
		apply(done, p.writes)
		if maps.Equal(done, h.outside(r)) {
			seen.committed = done
		}
	case "commit":
		if !listed {
			delete(seen.prepared, p.x)
			apply(seen.committed, p.writes)
			got, err := r.Commit(context.Background(), p.x, txn.Branch{})
			require.NoError(h.t, err)
			require.Equal(h.t, txn.AlreadyDone, got, at)
		}
	case "roll back":
		if !listed {
			delete(seen.prepared, p.x)
		}
	}
}

func (h *history) requireOutside(r *Resource, want map[string]string, at string) {
	got := h.outside(r)
	require.Equal(h.t, want, got, at)
	var sum int64
	for i := range accounts {
		sum += value([]byte(got[string(account(i))]))
	}
	require.EqualValues(h.t, accounts*opening, sum, at)
}

func (h *history) outside(r *Resource) map[string]string {
	all := map[string]string{}
	keys := [][]byte{}
	for i := range accounts {
		keys = append(keys, account(i))
	}
	for i := range receipts {
		keys = append(keys, receipt(i))
	}
	for _, key := range keys {
		v, found, err := r.Get(key)
		require.NoError(h.t, err)
		if found {
			all[string(key)] = string(v)
		}
	}
	return all
}

// requireHeld requires that a stranger gets none of the keys.
func (h *history) requireHeld(r *Resource, ws writes, at string) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for key := range ws {
		require.ErrorIs(h.t, r.store.locks.Acquire(over, txn.XID{}, key), context.Canceled, at)
	}
}

func (h *history) decideAll(r *Resource, seen *told, at string) {
	for x, ws := range seen.prepared {
		finish := r.Rollback
		if h.random.IntN(2) == 0 {
			finish = r.Commit
			apply(seen.committed, ws)
		}
		got, err := finish(context.Background(), x, txn.Branch{})
		require.NoError(h.t, err)
		require.Equal(h.t, txn.Done, got, at)
	}
}
