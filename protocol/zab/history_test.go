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

func (h *history) all() (entries []Entry) {
	for _, c := range h.chunks {
		entries = append(entries, c.entries...)
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
	require.Equal(t, sizeOf(h.all()), h.bytes)

	h.truncate(Zxid{})
	require.Equal(t, Zxid{}, h.tail())
	require.Zero(t, h.bytes)
}

func TestEvictedHistoryKeepsWhatIsNotDurable(t *testing.T) {
	var h history
	h.append(chain(Zxid{}, Zxid{1, 1}, Zxid{1, 2}, Zxid{1, 3})...)
	h.evict(Zxid{1, 2}, 0)
	require.Equal(t, Zxid{1, 2}, h.after)
	require.Equal(t, chain(Zxid{1, 2}, Zxid{1, 3}), h.all())
	require.Equal(t, sizeOf(h.all()), h.bytes)
	h.truncate(Zxid{1, 1}) // below what is in memory
	require.Equal(t, Zxid{1, 1}, h.tail())
}

// Whatever is done to a history, it is what one plain list would be; and what it handed out stays.
func TestHistoryAgreesWithAPlainList(t *testing.T) {
	r := rand.New(rand.NewSource(5))
	var h history
	var list []Entry
	after := Zxid{}
	epoch := Epoch(1)
	at := func() Zxid { // of the list, or after
		if i := r.Intn(len(list) + 1); i > 0 {
			return list[i-1].Zxid
		}
		return after
	}
	type handed struct{ got, want []Entry }
	var out []handed
	for range 4000 {
		switch r.Intn(12) {
		default:
			var zxids []Zxid
			z := h.tail()
			for range 1 + r.Intn(200) {
				if r.Intn(50) == 0 {
					epoch++
				}
				if z.Epoch == epoch {
					z.Counter++
				} else {
					z = Zxid{epoch, 1}
				}
				zxids = append(zxids, z)
			}
			more := chain(h.tail(), zxids...)
			list = append(list, more...)
			out = append(out, handed{h.append(more...), more})
		case 0:
			z := at()
			n := sort.Search(len(list), func(i int) bool { return z.Less(list[i].Zxid) })
			h.truncate(z)
			list = list[:n:n]
			epoch++
		case 1:
			upto, most := at(), r.Intn(h.bytes+1)
			h.evict(upto, most)
			for sizeOf(list) > most && len(list) > 0 && !upto.Less(list[0].Zxid) {
				after, list = list[0].Zxid, list[1:]
			}
		case 2:
			z := at()
			h.forget(z)
			for len(list) > 0 && !z.Less(list[0].Zxid) {
				after, list = list[0].Zxid, list[1:]
			}
		}
		require.Equal(t, after, h.after)
		require.Equal(t, sizeOf(list), h.bytes)
		if len(list) > 0 {
			require.Equal(t, list[len(list)-1].Zxid, h.tail())
		}
		a, b := at(), at()
		from := sort.Search(len(list), func(i int) bool { return a.Less(list[i].Zxid) })
		to := sort.Search(len(list), func(i int) bool { return b.Less(list[i].Zxid) })
		require.Equal(t, a, h.floor(a))
		if from < to {
			require.Equal(t, sizeOf(list[from:to]), h.size(a, b))
			got := h.slice(a, b, 1+r.Intn(5000))
			require.NotEmpty(t, got)
			require.Equal(t, list[from:from+len(got)], got)
		} else {
			require.Zero(t, h.size(a, b))
			require.Empty(t, h.slice(a, b, 1000))
		}
		for len(out) > 20 {
			require.Equal(t, out[0].want, out[0].got)
			out = out[1:]
		}
		if len(list) > 5000 {
			h.forget(list[len(list)-1].Zxid)
			after, list = list[len(list)-1].Zxid, nil
		}
	}
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
