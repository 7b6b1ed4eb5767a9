// SPDX-License-Identifier: Apache-2.0

package lock_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/lock"
	"github.com/concordtx/concord/txn"
)

func branch(no txn.BranchNo) txn.XID { return txn.XID{Branch: no} }

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// over is a context that has ended: Acquire with it answers without waiting.
func over() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestOwnerGetsItsKeyAgainAndOthersDoNot(t *testing.T) {
	var table lock.Table
	require.NoError(t, table.Acquire(patient(t), branch(1), "k"))
	require.NoError(t, table.Acquire(patient(t), branch(1), "k"))
	require.ErrorIs(t, table.Acquire(over(), branch(2), "k"), context.Canceled)
	require.NoError(t, table.Acquire(patient(t), branch(2), "other"))
	table.Release(branch(1))
	require.NoError(t, table.Acquire(over(), branch(2), "k"))
	table.Release(branch(9)) // unknown: nothing happens
}

// acquireSoon asks in the background.
func acquireSoon(t *testing.T, table *lock.Table, x txn.XID, key string) <-chan error {
	answer := make(chan error, 1)
	go func() { answer <- table.Acquire(patient(t), x, key) }()
	return answer
}

func TestCircleOfTwoIsTheLastOnesDeadlock(t *testing.T) {
	var table lock.Table
	one, two := branch(1), branch(2)
	require.NoError(t, table.Acquire(patient(t), one, "a"))
	require.NoError(t, table.Acquire(patient(t), two, "b"))
	answers := map[txn.XID]<-chan error{
		one: acquireSoon(t, &table, one, "b"),
		two: acquireSoon(t, &table, two, "a"),
	}
	var loser, winner txn.XID
	select {
	case err := <-answers[one]:
		require.ErrorIs(t, err, lock.ErrDeadlock)
		loser, winner = one, two
	case err := <-answers[two]:
		require.ErrorIs(t, err, lock.ErrDeadlock)
		loser, winner = two, one
	}
	table.Release(loser)
	require.NoError(t, <-answers[winner])
}

func TestReleaseEndsTheWaitOfTheReleased(t *testing.T) {
	var table lock.Table
	require.NoError(t, table.Acquire(patient(t), branch(1), "a"))
	waiting := acquireSoon(t, &table, branch(2), "a")
	require.Eventually(t, func() bool {
		table.Release(branch(2))
		select {
		case err := <-waiting:
			return errors.Is(err, lock.ErrReleased)
		default:
			return false
		}
	}, 20*time.Second, time.Millisecond)
	table.Release(branch(1))
	require.NoError(t, table.Acquire(over(), branch(3), "a"))
}

// Many branches take random keys in random order. Nobody may wait for ever, and two
// never own one key.
func TestRandomOrderNeitherHangsNorShares(t *testing.T) {
	const workers, rounds, keys = 8, 300, 5
	var table lock.Table
	var guarded [keys]int // written without any other guard: the race detector watches
	var deadlocks, done [workers]int
	ctx := patient(t)
	var group sync.WaitGroup
	for worker := range workers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1))
			for range rounds {
				for _, key := range random.Perm(keys)[:3] {
					err := table.Acquire(ctx, branch(txn.BranchNo(worker)), strconv.Itoa(key))
					if errors.Is(err, lock.ErrDeadlock) {
						deadlocks[worker]++
						break
					}
					if err != nil {
						t.Errorf("worker %d: %v", worker, err)
						break
					}
					guarded[key]++
					done[worker]++
				}
				table.Release(branch(txn.BranchNo(worker)))
			}
		})
	}
	group.Wait()
	sum, want := 0, 0
	for _, n := range guarded {
		sum += n
	}
	for worker := range workers {
		want += done[worker]
	}
	require.Equal(t, want, sum)
	require.Positive(t, sum)
	t.Logf("%d locks, %v deadlocks", sum, deadlocks)
}
