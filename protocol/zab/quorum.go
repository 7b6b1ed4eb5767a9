// SPDX-License-Identifier: Apache-2.0

package zab

// maxMembers bounds a cluster, so that sets of members fit in fixed arrays.
const maxMembers = 32

// majority returns the size of a quorum of voters.
func majority(voters int) int { return voters/2 + 1 }

// tally collects one value of each voter and answers which value a quorum has
// reached. Missing voters count as the zero value. It lives on the stack.
type tally[T any] struct {
	values [maxMembers]T
	n      int
}

// add inserts v so that values stay in descending order.
func (t *tally[T]) add(v T, less func(a, b T) bool) {
	i := t.n
	for i > 0 && less(t.values[i-1], v) {
		t.values[i] = t.values[i-1]
		i--
	}
	t.values[i] = v
	t.n++
}

// reached returns the greatest value that at least quorum voters have reached.
func (t *tally[T]) reached(quorum int) T {
	if t.n < quorum {
		var zero T
		return zero
	}
	return t.values[quorum-1]
}

func lessZxid(a, b Zxid) bool  { return a.Less(b) }
func lessSeq(a, b uint64) bool { return a < b }
func minZxid(a, b Zxid) Zxid {
	if b.Less(a) {
		return b
	}
	return a
}
func maxZxid(a, b Zxid) Zxid {
	if a.Less(b) {
		return b
	}
	return a
}
