// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

func TestRecentIDsNeverCallAFinishedTransactionAbsent(t *testing.T) {
	base := time.UnixMilli(1_700_000_000_000)
	for _, c := range []struct {
		name string
		born func(i int) time.Time
	}{
		{"in order", func(i int) time.Time { return base.Add(time.Duration(i) * time.Millisecond) }},
		{"within a second", func(i int) time.Time { return base.Add(time.Duration(i%1000) * time.Millisecond) }},
		{"backwards", func(i int) time.Time { return base.Add(-time.Duration(i) * time.Millisecond) }},
		{"one clock ahead", func(i int) time.Time {
			return base.Add(time.Duration(i) +
				time.Duration(i%64/63)*time.Minute)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r recentIDs
			var finished []txn.ID
			floor := r.floor
			for i := range 4 * recentMax {
				id := txn.NewID(c.born(i))
				r.add(id)
				require.False(t, r.absent(id))
				require.LessOrEqual(t, floor.Compare(r.floor), 0, "the floor fell")
				floor = r.floor
				finished = append(finished, id)
			}
			for _, id := range finished {
				require.False(t, r.absent(id))
			}
			require.Less(t, len(r.young.ids), recentMax)
			require.LessOrEqual(t, len(r.old.ids), recentMax)
			require.True(t, r.absent(txn.NewID(base.Add(time.Hour))))
			if r.floor != (txn.ID{}) {
				require.False(t, r.absent(r.floor), "of the floor itself nothing is known")
			}
		})
	}
}

// A floor taken from the store when a node starts holds below it whatever comes.
func TestRecentIDsKnowNothingBelowTheirFloor(t *testing.T) {
	base := time.UnixMilli(1_700_000_000_000)
	r := recentIDs{floor: txn.NewID(base)}
	require.False(t, r.absent(txn.NewID(base.Add(-time.Hour))))
	for range 3 * recentMax {
		r.add(txn.NewID(base.Add(-time.Duration(rand.Int64N(int64(time.Hour))))))
	}
	require.Empty(t, r.young.ids, "what is below the floor is not kept")
	require.True(t, r.absent(txn.NewID(base.Add(time.Hour))))
}

// A full generation is handed on as it is: nothing is moved, and so nothing takes long.
func TestRecentIDsMoveNothing(t *testing.T) {
	var r recentIDs
	place := func(g generation) uintptr { return reflect.ValueOf(g.ids).Pointer() }
	base := time.UnixMilli(1_700_000_000_000)
	for range 3 {
		r.add(txn.NewID(base))
		young := place(r.young)
		for len(r.young.ids) > 0 && place(r.young) == young {
			r.add(txn.NewID(base))
		}
		require.Equal(t, young, place(r.old))
		require.Len(t, r.old.ids, recentMax)
		require.Empty(t, r.young.ids)
		base = base.Add(time.Second)
	}
}

// Random adds of few ids, compared with a set that forgets nothing.
func TestRecentIDsAgainstASetOfAll(t *testing.T) {
	dice := rand.New(rand.NewPCG(1, 2))
	var r recentIDs
	all := map[txn.ID]bool{}
	id := func() (id txn.ID) {
		binary.BigEndian.PutUint64(id[:], dice.Uint64N(1<<20))
		return id
	}
	for range 6 * recentMax {
		x := id()
		r.add(x)
		all[x] = true
		if y := id(); r.absent(y) {
			require.False(t, all[y])
		}
	}
}
