// SPDX-License-Identifier: Apache-2.0

package pebble

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/txn"
)

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestABranchSeesItsOwnWorkAndOthersTheCommitted(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	_, s, tx := begin(t, w.resource)
	buffer := []byte("one")
	require.NoError(t, tx.Set(ctx, []byte("k"), buffer))
	copy(buffer, "xxx") // the caller's again
	got, found, err := tx.Get(ctx, []byte("k"))
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "one", string(got))
	_, found, err = w.resource.Get([]byte("k"))
	require.NoError(t, err)
	require.False(t, found)

	require.NoError(t, tx.Delete(ctx, []byte("k")))
	_, found, err = tx.Get(ctx, []byte("k"))
	require.NoError(t, err)
	require.False(t, found)
	require.NoError(t, tx.Set(ctx, []byte("k"), nil))
	require.NoError(t, s.CommitOnePhase(ctx))
	got, found, err = w.resource.Get([]byte("k"))
	require.NoError(t, err)
	require.True(t, found, "an empty value is not an absent key")
	require.Empty(t, got)
	require.Zero(t, journalKeys(t, w.db))
}

func TestWaitForALockEndsAfterTheTimeoutAndDoomsTheBranch(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	w.resource.store.lockTimeout = time.Millisecond
	_, holder, tx := begin(t, w.resource)
	require.NoError(t, tx.Set(ctx, []byte("k"), nil))
	_, s, tx := begin(t, w.resource)
	require.NoError(t, tx.Set(ctx, []byte("mine"), nil))
	require.ErrorIs(t, tx.Set(ctx, []byte("k"), nil), ErrLockTimeout)
	require.ErrorIs(t, tx.Set(ctx, []byte("free"), nil), ErrLockTimeout, "the branch is doomed")
	vote, _, err := s.Prepare(ctx)
	require.ErrorIs(t, err, ErrLockTimeout)
	require.True(t, w.resource.Transient(err))
	require.False(t, w.resource.Transient(ErrReservedKey))
	require.Equal(t, txn.VoteNo, vote)
	require.NoError(t, holder.Rollback(ctx))
	require.Empty(t, contents(t, w.db))
}

func TestBranchesThatWaitForEachOtherEndAtOnce(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	w.resource.store.lockTimeout = time.Hour
	one, two := []byte("1"), []byte("2")
	_, first, tx1 := begin(t, w.resource)
	_, second, tx2 := begin(t, w.resource)
	require.NoError(t, tx1.Set(ctx, one, nil))
	require.NoError(t, tx2.Set(ctx, two, nil))
	// Whoever comes last hears it and gives way; the other one gets its lock.
	run := func(s adapters.Session, tx *Tx, key []byte) (err error) {
		if err = tx.Set(ctx, key, nil); err != nil {
			return errors.Join(err, s.Rollback(ctx))
		}
		return s.CommitOnePhase(ctx)
	}
	answers := make(chan error, 2)
	go func() { answers <- run(first, tx1, two) }()
	go func() { answers <- run(second, tx2, one) }()
	errs := []error{<-answers, <-answers}
	if errs[0] == nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	require.ErrorIs(t, errs[0], lock.ErrDeadlock)
	require.NoError(t, errs[1])
}

func TestRollbackFromOutsideEndsAWorkingBranchForGood(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	x, s, tx := begin(t, w.resource)
	require.NoError(t, tx.Set(ctx, []byte("k"), nil))
	_, err := w.resource.Commit(ctx, x, txn.Branch{})
	require.ErrorContains(t, err, "not prepared yet")
	got, err := w.resource.Rollback(ctx, x, txn.Branch{})
	require.NoError(t, err)
	require.Equal(t, txn.Done, got)
	require.ErrorIs(t, tx.Set(ctx, []byte("k"), nil), adapters.ErrBranchEnded)
	vote, _, err := s.Prepare(ctx)
	require.ErrorIs(t, err, adapters.ErrBranchEnded)
	require.Equal(t, txn.VoteNo, vote)
	require.NoError(t, s.Rollback(ctx))
	require.Empty(t, contents(t, w.db))
	require.Zero(t, journalKeys(t, w.db))
}

func TestANameServesOneBranch(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	x, s, tx := begin(t, w.resource)
	_, err := w.resource.Open(ctx, x)
	require.ErrorContains(t, err, "in use")
	require.NoError(t, tx.Set(ctx, []byte("k"), nil))
	_, _, err = s.Prepare(ctx)
	require.NoError(t, err)
	_, err = s.Commit(ctx)
	require.NoError(t, err)
	_, err = w.resource.Open(ctx, x)
	require.ErrorContains(t, err, "in use")
}

func TestEvidenceStaysUntilForgottenAndOnlyForCommits(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	x, s, tx := begin(t, w.resource)
	require.NoError(t, tx.Set(ctx, []byte("k"), nil))
	_, b, err := s.Prepare(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, b.Evidence)
	_, err = s.Commit(ctx)
	require.NoError(t, err)
	got, err := w.resource.Commit(ctx, x, b)
	require.NoError(t, err)
	require.Equal(t, txn.AlreadyDone, got)
	require.NoError(t, w.resource.Forget(ctx, []txn.XID{x}))
	got, err = w.resource.Commit(ctx, x, b)
	require.NoError(t, err)
	require.Equal(t, txn.Lost, got, "without evidence nothing is claimed")
	require.Zero(t, journalKeys(t, w.db))

	_, s, tx = begin(t, w.resource)
	require.NoError(t, tx.Set(ctx, []byte("k"), []byte("2")))
	_, _, err = s.Prepare(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Rollback(ctx))
	require.Zero(t, journalKeys(t, w.db), "a rollback leaves nothing to forget")
}

func TestReservedKeysAreNobodysBusiness(t *testing.T) {
	w, ctx := newWorld(t), patient(t)
	for _, use := range []func(tx *Tx) error{
		func(tx *Tx) error { return tx.Set(ctx, []byte(identityKey), nil) },
		func(tx *Tx) error { return tx.Delete(ctx, []byte(identityKey)) },
		func(tx *Tx) error { _, _, err := tx.Get(ctx, []byte(Reserved)); return err },
	} {
		_, s, tx := begin(t, w.resource)
		require.ErrorIs(t, use(tx), ErrReservedKey)
		require.ErrorIs(t, s.CommitOnePhase(ctx), adapters.ErrNotCommitted)
	}
	identity, err := w.crash(t, 0, 0).resource.Identity(ctx)
	require.NoError(t, err)
	mine, err := w.resource.Identity(ctx)
	require.NoError(t, err)
	require.Equal(t, mine, identity)
}

func TestCloseLeavesOpenBranchesToTheNextOpening(t *testing.T) {
	ctx, dir := patient(t), t.TempDir()
	r, err := Open("ledger", dir)
	require.NoError(t, err)
	_, err = Open("ledger", dir)
	require.ErrorContains(t, err, dir, "a second opening is refused")
	other := r.Share()
	_, open, tx := begin(t, r)
	require.NoError(t, tx.Set(ctx, []byte("open"), nil))
	x, s, tx := begin(t, other)
	require.NoError(t, tx.Set(ctx, []byte("prepared"), nil))
	_, b, err := s.Prepare(ctx)
	require.NoError(t, err)

	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	list, err := other.Recover(ctx)
	require.NoError(t, err, "one handle is left")
	require.Len(t, list, 1)
	require.NoError(t, other.Close())

	for _, err := range closedCalls(ctx, r, open, tx, x) {
		require.ErrorIs(t, err, ErrClosed)
	}
	require.ErrorIs(t, open.CommitOnePhase(ctx), adapters.ErrNotCommitted, "the next opening undoes it")
	require.NotErrorIs(t, s.CommitOnePhase(ctx), adapters.ErrNotCommitted, "which is prepared")
	r, err = Open("ledger", dir)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"prepared": ""}, contents(t, r.store.db))
	got, err := r.Commit(ctx, x, b)
	require.NoError(t, err)
	require.Equal(t, txn.Done, got)
	require.NoError(t, r.Close())
}

func closedCalls(ctx context.Context, r *Resource, s adapters.Session, tx *Tx, x txn.XID) []error {
	_, err1 := r.Open(ctx, x)
	_, err2 := r.Commit(ctx, x, txn.Branch{})
	_, err3 := r.Recover(ctx)
	_, err4 := r.Check(ctx)
	_, _, err5 := r.Get([]byte("k"))
	_, _, err6 := s.Prepare(ctx)
	return []error{err1, err2, err3, err4, err5, err6, s.CommitOnePhase(ctx), s.Rollback(ctx), r.Forget(ctx, nil)}
}

func TestAStoreThatCannotSyncIsRefused(t *testing.T) {
	db, err := pebble.Open("db", &pebble.Options{FS: vfs.NewMem(), DisableWAL: true, Logger: quiet{t}})
	require.NoError(t, err)
	_, err = New("ledger", db)
	require.ErrorContains(t, err, "WAL disabled")
	require.NoError(t, db.Close())
}

func TestASessionOfAnotherStoreIsRefused(t *testing.T) {
	_, s, _ := begin(t, newWorld(t).resource)
	_, err := newWorld(t).resource.Tx(patient(t), adaptertest.Enlisted(s))
	require.ErrorContains(t, err, "another store")
}

// Many goroutines move money and decide at random, through many handles; nobody may
// hang, and at every moment of rest the sum is what it was.
func TestConcurrentTransfersKeepTheSum(t *testing.T) {
	const workers, rounds, accounts = 8, 150, 10
	w, ctx := newWorld(t), patient(t)
	_, s, tx := begin(t, w.resource)
	for i := range accounts {
		require.NoError(t, tx.Set(ctx, account(i), number(opening)))
	}
	require.NoError(t, s.CommitOnePhase(ctx))

	var committed, deadlocks atomic.Int64
	var group sync.WaitGroup
	for worker := range workers {
		handle := w.resource.Share()
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 3))
			for range rounds {
				err := transfer(ctx, handle, random)
				switch {
				case err == nil:
					committed.Add(1)
				case errors.Is(err, lock.ErrDeadlock):
					require.True(t, w.resource.Transient(err))
					deadlocks.Add(1)
				case !errors.Is(err, errChange):
					t.Error(err)
				}
			}
			if err := handle.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	require.Positive(t, committed.Load())
	var sum int64
	for i := range accounts {
		v, found, err := w.resource.Get(account(i))
		require.NoError(t, err)
		require.True(t, found)
		sum += value(v)
	}
	require.EqualValues(t, accounts*opening, sum)
	list, err := w.resource.Recover(ctx)
	require.NoError(t, err)
	require.Empty(t, list)
	require.Empty(t, w.resource.store.before)
	t.Logf("%d committed, %d deadlocks", committed.Load(), deadlocks.Load())
}

// errChange is a change of mind.
var errChange = errors.New("rolled back on purpose")

func transfer(ctx context.Context, r *Resource, random *rand.Rand) error {
	x := txn.XID{ID: txn.NewID(time.Now())}
	s, err := r.Open(ctx, x)
	if err != nil {
		return err
	}
	tx := tx(s)
	keys := random.Perm(10)[:2]
	for i, delta := range []int64{-1, +1} {
		old, _, err := tx.Get(ctx, account(keys[i]))
		if err == nil {
			err = tx.Set(ctx, account(keys[i]), number(value(old)+delta))
		}
		if err != nil {
			return errors.Join(err, s.Rollback(ctx))
		}
	}
	vote, b, err := s.Prepare(ctx)
	if err != nil || vote != txn.VoteYes {
		return fmt.Errorf("vote %s: %w", vote, err)
	}
	switch random.IntN(4) {
	case 0:
		return errors.Join(errChange, s.Rollback(ctx))
	case 1:
		_, err = r.Rollback(ctx, x, b)
		return errors.Join(errChange, err)
	case 2:
		_, err = r.Commit(ctx, x, b)
	default:
		_, err = s.Commit(ctx)
	}
	return err
}

// BenchmarkBranch is a whole branch on a real disk: two keys read and written,
// prepared, committed. In parallel, branches share fsyncs.
func BenchmarkBranch(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			r, err := Open("ledger", b.TempDir())
			require.NoError(b, err)
			defer r.Close()
			inParallel(b, workers, func(worker int, i int64) error {
				return workInTwoPhases(context.Background(), r, worker, i)
			})
		})
	}
}

// BenchmarkPlain is what Pebble alone takes for the same two keys: one synced batch.
func BenchmarkPlain(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			r, err := Open("ledger", b.TempDir())
			require.NoError(b, err)
			defer r.Close()
			inParallel(b, workers, func(worker int, i int64) error {
				batch := r.store.db.NewBatch()
				defer batch.Close()
				for _, side := range []string{"from", "to"} {
					if err := batch.Set(fmt.Appendf(nil, "%s %d", side, worker), number(i), nil); err != nil {
						return err
					}
				}
				return batch.Commit(pebble.Sync)
			})
		})
	}
}

// inParallel does b.N pieces of work with some workers.
func inParallel(b *testing.B, workers int, do func(worker int, i int64) error) {
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for worker := range workers {
		group.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := do(worker, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "branches/s")
}

// workInTwoPhases keeps to two keys of its worker, so that no lock is waited for.
func workInTwoPhases(ctx context.Context, r *Resource, worker int, i int64) error {
	x := txn.XID{ID: txn.NewID(time.Now())}
	s, err := r.Open(ctx, x)
	if err != nil {
		return err
	}
	for _, side := range []string{"from", "to"} {
		key := fmt.Appendf(nil, "%s %d", side, worker)
		if _, _, err := tx(s).Get(ctx, key); err != nil {
			return err
		}
		if err := tx(s).Set(ctx, key, number(i)); err != nil {
			return err
		}
	}
	if vote, _, err := s.Prepare(ctx); err != nil || vote != txn.VoteYes {
		return fmt.Errorf("vote %s: %w", vote, err)
	}
	if got, err := s.Commit(ctx); err != nil || got != txn.Done {
		return fmt.Errorf("commit %s: %w", got, err)
	}
	return r.Forget(ctx, []txn.XID{x})
}

// What a store keeps is its owner's, in a directory that it makes.
func TestAStoreIsForItsOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shop", "ledger")
	r, err := Open("ledger", dir)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}
