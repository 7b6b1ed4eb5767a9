// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A walk in pieces, with folds between them, visits what was open when it began and is when
// it comes by, each once; and the counts are those of a look at everything.
func TestWalkVisitsWhatIsOpenWhileItChanges(t *testing.T) {
	dice := rand.New(rand.NewPCG(3, 4))
	r := newReplica()
	base := time.UnixMilli(1_700_000_000_000)
	fold := func() {
		var id ID
		if open := r.Open(); len(open) > 60 || len(open) > 0 && dice.IntN(2) == 0 {
			id = open[dice.IntN(len(open))].ID
		} else {
			id = NewID(base)
		}
		switch dice.IntN(6) {
		case 0, 1, 2:
			r.fold(t, CommitRecord{ID: id, Branches: two})
		case 3:
			r.fold(t, End{IDs: []ID{id}})
		case 4:
			r.fold(t, HeuristicRecord{ID: id, Outcome: HeuristicHazard})
		case 5:
			r.fold(t, ForgetRecord{ID: id})
		}
		unended, alarming := 0, 0
		r.EachOpen(func(x Txn) {
			if !x.Ended {
				unended++
			}
			if x.Alarming() {
				alarming++
			}
		})
		gotUnended, gotAlarming := r.Counts()
		require.Equal(t, []int{unended, alarming}, []int{gotUnended, gotAlarming})
	}
	for range 100 {
		for range dice.IntN(30) {
			fold()
		}
		began, stayed := map[ID]bool{}, map[ID]bool{}
		for _, x := range r.Open() {
			began[x.ID], stayed[x.ID] = true, true
		}
		visited := map[ID]bool{}
		r.StartWalk()
		for more := true; more; {
			pieces := 0
			more = r.Walk(3, func(x Txn) {
				pieces++
				require.True(t, began[x.ID], "it was not open when the walk began")
				require.False(t, visited[x.ID], "visited twice")
				visited[x.ID] = true
				now, open := r.Get(x.ID)
				require.True(t, open)
				require.Equal(t, now, x)
			})
			require.LessOrEqual(t, pieces, 3)
			for range dice.IntN(4) {
				fold()
			}
			open := map[ID]bool{}
			r.EachOpen(func(x Txn) { open[x.ID] = true })
			for id := range stayed {
				if !open[id] {
					delete(stayed, id)
				}
			}
		}
		for id := range stayed {
			require.True(t, visited[id], "open all the time, and not visited")
		}
	}
}

func TestWalkThroughWhatAStoreKept(t *testing.T) {
	r := newReplica()
	for range 10 {
		r.fold(t, CommitRecord{ID: NewID(time.Now()), Branches: two})
	}
	r = r.restarted()
	unended, alarming := r.Counts()
	require.Equal(t, []int{10, 0}, []int{unended, alarming})
	r.StartWalk()
	seen := 0
	require.True(t, r.Walk(9, func(Txn) { seen++ }))
	require.False(t, r.Walk(9, func(Txn) { seen++ }))
	require.False(t, r.Walk(9, func(Txn) { seen++ }))
	require.Equal(t, 10, seen)
}
