// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// digestRing remembers the rolling hash of the table at recent positions, to compare
// it with what peers report: equal zxid means equal hash.
type digestRing struct {
	at   [512]zab.Zxid
	hash [512]txn.Digest
	next int
}

func (r *digestRing) add(z zab.Zxid, d txn.Digest) {
	r.at[r.next], r.hash[r.next] = z, d
	r.next = (r.next + 1) % len(r.at)
}

// differs reports whether this node folded something else than d up to z.
func (r *digestRing) differs(z zab.Zxid, d txn.Digest) bool {
	for i, at := range r.at {
		if at == z && !z.IsZero() {
			return r.hash[i] != d
		}
	}
	return false
}
