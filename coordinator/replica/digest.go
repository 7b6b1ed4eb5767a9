// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// digestRing remembers the rolling hash of the table at recent positions, to compare
// it with what peers report: equal zxid means equal hash. Every position that was delivered
// since the first of them is there.
type digestRing struct {
	at   [512]zab.Zxid
	hash [512]txn.Digest
	n    int // that were ever added
}

func (r *digestRing) add(z zab.Zxid, d txn.Digest) {
	i := r.n % len(r.at)
	r.at[i], r.hash[i] = z, d
	r.n++
}

// reset forgets all: what is added next does not follow what was added before.
func (r *digestRing) reset() { *r = digestRing{} }

// compare reports whether this node folded the same as d up to z, and whether it can tell.
// Somebody who has been at a position between two that follow each other here has delivered
// something else.
func (r *digestRing) compare(z zab.Zxid, d txn.Digest) (same, known bool) {
	if r.n == 0 {
		return false, false
	}
	oldest, newest := max(0, r.n-len(r.at)), r.n-1
	if z.Less(r.at[oldest%len(r.at)]) || r.at[newest%len(r.at)].Less(z) {
		return false, false
	}
	for i := newest; i >= oldest; i-- {
		if r.at[i%len(r.at)] == z {
			return r.hash[i%len(r.at)] == d, true
		}
	}
	return false, true
}
