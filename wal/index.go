// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"slices"
	"sort"

	"github.com/concordtx/concord/protocol/zab"
)

// index knows which zxids are in the log, without the entries. An epoch counts its
// entries without a gap, so a log is a few segments, one for each epoch that has
// entries. What always holds:
//
//  1. Segments have growing epochs and are never empty.
//  2. A segment begins at 1, except that the first one begins behind the base when
//     the base is of the same epoch.
type index struct {
	base     zab.Zxid // the log was cut here; zero if never
	segments []segment
}

// segment is the run of entries first..last of one epoch.
type segment struct {
	epoch       zab.Epoch
	first, last uint64
}

// last returns the tail of the log, the base if the log is empty.
func (x *index) last() zab.Zxid {
	if len(x.segments) == 0 {
		return x.base
	}
	tail := x.segments[len(x.segments)-1]
	return zab.Zxid{Epoch: tail.epoch, Counter: tail.last}
}

// floor returns the greatest zxid <= z of log and base; false if z is before the base.
func (x *index) floor(z zab.Zxid) (zab.Zxid, bool) {
	if z.Less(x.base) {
		return zab.Zxid{}, false
	}
	i := x.behind(z)
	if i == 0 {
		return x.base, true
	}
	s := x.segments[i-1]
	if s.epoch == z.Epoch {
		return zab.Zxid{Epoch: s.epoch, Counter: min(s.last, z.Counter)}, true
	}
	return zab.Zxid{Epoch: s.epoch, Counter: s.last}, true
}

// has reports whether z is the base or an entry of the log.
func (x *index) has(z zab.Zxid) bool {
	p, ok := x.floor(z)
	return ok && p == z
}

// behind returns how many segments begin at or before z.
func (x *index) behind(z zab.Zxid) int {
	return sort.Search(len(x.segments), func(i int) bool {
		s := x.segments[i]
		return z.Less(zab.Zxid{Epoch: s.epoch, Counter: s.first})
	})
}

// follows reports whether z may stand directly behind the tail: the next of its
// epoch, or the first of a later one.
func (x *index) follows(z zab.Zxid) bool { return successor(x.last(), z) }

func successor(prev, z zab.Zxid) bool {
	if z.Epoch == prev.Epoch {
		return z.Epoch != 0 && z.Counter == prev.Counter+1
	}
	return prev.Epoch < z.Epoch && z.Counter == 1
}

// append adds z, which follows the tail.
func (x *index) append(z zab.Zxid) {
	if n := len(x.segments); n > 0 && x.segments[n-1].epoch == z.Epoch {
		x.segments[n-1].last = z.Counter
		return
	}
	x.segments = append(x.segments, segment{epoch: z.Epoch, first: z.Counter, last: z.Counter})
}

// truncate drops what is behind z; z is in the log or is the base.
func (x *index) truncate(z zab.Zxid) {
	n := x.behind(z)
	x.segments = x.segments[:n]
	if n > 0 {
		x.segments[n-1].last = min(x.segments[n-1].last, z.Counter)
	}
}

// cut makes z, which is in the log, the base.
func (x *index) cut(z zab.Zxid) {
	n := x.behind(z)
	x.base = z
	if n == 0 {
		return
	}
	if tail := &x.segments[n-1]; z.Counter < tail.last { // z is inside, keep the rest
		tail.first = z.Counter + 1
		n--
	}
	x.segments = slices.Clone(x.segments[n:])
}

// drop makes z, which is in the log or behind it, the base.
func (x *index) drop(z zab.Zxid) {
	if x.last().Less(z) {
		*x = index{base: z}
		return
	}
	x.cut(z)
}

// count returns the number of entries.
func (x *index) count() (n uint64) {
	for _, s := range x.segments {
		n += s.last - s.first + 1
	}
	return n
}

// before returns the zxid that n entries stand behind, the base if there are not so many.
func (x *index) before(n uint64) zab.Zxid {
	for i := len(x.segments) - 1; i >= 0; i-- {
		s := x.segments[i]
		if here := s.last - s.first + 1; n >= here {
			n -= here
			continue
		}
		return zab.Zxid{Epoch: s.epoch, Counter: s.last - n}
	}
	return x.base
}

func (x *index) clone() index {
	return index{base: x.base, segments: slices.Clone(x.segments)}
}
