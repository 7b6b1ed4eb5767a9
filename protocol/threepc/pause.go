// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"hash/fnv"

	"github.com/concordtx/concord/txn"
)

// Pause is how long a member waits before it tries something for the n-th time, from 0: first, twice as
// long each time up to most, and up to half as much again. That differs between members and
// transactions, so that candidates do not meet again and again.
func Pause[Duration ~int64](first, most Duration, n int, id txn.ID, who txn.PartyID) Duration {
	d := min(first<<min(n, 8), most)
	h := fnv.New32a()
	_, _ = h.Write(id[:])
	_, _ = h.Write(who.Journal[:])
	_, _ = h.Write([]byte{byte(n)})
	return d + d*Duration(h.Sum32()%512)/1024
}
