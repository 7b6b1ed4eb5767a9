// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"math/rand"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
)

// chain makes entries of the given zxids, each after the one before.
func chain(after Zxid, zxids ...Zxid) []Entry {
	var entries []Entry
	for _, z := range zxids {
		entries = append(entries, Entry{Zxid: z, Prev: after, Data: []byte(z.String())})
		after = z
	}
	return entries
}

func TestHistoryThatBeginsAfterABase(t *testing.T) {
	h := history{after: Zxid{2, 9}}
	require.Equal(t, Zxid{2, 9}, h.tail())
	require.Empty(t, h.slice(Zxid{2, 9}, Zxid{9, 9}, 1000))
	h.append(chain(Zxid{2, 9}, Zxid{2, 10}, Zxid{2, 11}, Zxid{5, 1}, Zxid{5, 2})...)
	require.Equal(t, Zxid{5, 2}, h.tail())

	floors := map[Zxid]Zxid{
		{2, 9}: {2, 9}, {2, 10}: {2, 10}, {2, 12}: {2, 11}, {4, 7}: {2, 11}, {5, 1}: {5, 1}, {8, 8}: {5, 2},
	}
	for z, want := range floors {
		require.Equal(t, want, h.floor(z), "floor of %s", z)
	}
	require.Len(t, h.slice(Zxid{2, 10}, Zxid{5, 1}, 1000), 2)
	require.Len(t, h.slice(Zxid{2, 9}, Zxid{5, 2}, 1), 1, "one entry comes whatever its size")
}

func TestHistoryRefusesAGap(t *testing.T) {
	h := history{after: Zxid{1, 1}}
	require.Panics(t, func() { h.append(Entry{Zxid: Zxid{1, 3}, Prev: Zxid{1, 1}}) })
	require.Panics(t, func() { h.append(Entry{Zxid: Zxid{2, 2}, Prev: Zxid{1, 1}}) })
	require.Panics(t, func() { h.append(Entry{Zxid: Zxid{1, 2}, Prev: Zxid{1, 0}}) })
}

func TestTruncatedHistoryLeavesHandedOutEntriesAlone(t *testing.T) {
	var h history
	h.append(chain(Zxid{}, Zxid{1, 1}, Zxid{1, 2}, Zxid{1, 3})...)
	out := h.slice(Zxid{}, Zxid{1, 3}, 1000)
	h.truncate(Zxid{1, 1})
	h.append(chain(Zxid{1, 1}, Zxid{2, 1}, Zxid{2, 2})...)
	require.Equal(t, chain(Zxid{}, Zxid{1, 1}, Zxid{1, 2}, Zxid{1, 3}), out)
	require.Equal(t, Zxid{2, 2}, h.tail())
	require.Equal(t, sizeOf(h.entries), h.bytes)

	h.truncate(Zxid{})
	require.Equal(t, Zxid{}, h.tail())
	require.Zero(t, h.bytes)
}

func TestEvictedHistoryKeepsWhatIsNotDurable(t *testing.T) {
	var h history
	h.append(chain(Zxid{}, Zxid{1, 1}, Zxid{1, 2}, Zxid{1, 3})...)
	h.evict(Zxid{1, 2}, 0)
	require.Equal(t, Zxid{1, 2}, h.after)
	require.Equal(t, chain(Zxid{1, 2}, Zxid{1, 3}), h.entries)
	require.Equal(t, sizeOf(h.entries), h.bytes)
	h.truncate(Zxid{1, 1}) // below what is in memory
	require.Equal(t, Zxid{1, 1}, h.tail())
}

func TestTallyAgreesWithSorting(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 2000 {
		n := 1 + r.Intn(maxMembers)
		var tl tally[uint64]
		values := make([]uint64, n)
		for i := range values {
			values[i] = uint64(r.Intn(10))
			tl.add(values[i], lessSeq)
		}
		sort.Slice(values, func(i, j int) bool { return values[i] > values[j] })
		q := majority(n)
		require.Equal(t, values[q-1], tl.reached(q))
		require.Greater(t, 2*q, n, "two quorums meet")
		require.Zero(t, tl.reached(n+1), "who is missing has reached nothing")
	}
}

func TestFifoKeepsOrderAcrossCompaction(t *testing.T) {
	var q fifo[int]
	next := 0
	for i := range 10000 {
		q.push(i)
		if i%3 > 0 {
			require.Equal(t, next, q.pop())
			next++
		}
	}
	for q.len() > 0 {
		require.Equal(t, next, q.pop())
		next++
	}
	require.Equal(t, 10000, next)
}
