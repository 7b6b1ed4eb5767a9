// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"bytes"
	"slices"

	"github.com/concordtx/concord/txn"
)

// recentMax finished transactions are remembered by their ids alone.
const recentMax = 1 << 17

// recentIDs are the ids of all finished transactions above floor. An id above floor
// that is not among them is certainly not finished, which spares the way of every new
// commit a look into the store: ids grow with time, so new ones are above.
//
// It may hold more than that (an id that was opened again), never less.
type recentIDs struct {
	floor txn.ID
	ids   map[txn.ID]struct{}
}

func (r *recentIDs) add(id txn.ID) {
	if bytes.Compare(id[:], r.floor[:]) <= 0 {
		return
	}
	if r.ids == nil {
		r.ids = make(map[txn.ID]struct{})
	}
	r.ids[id] = struct{}{}
	if len(r.ids) >= recentMax {
		r.raise()
	}
}

// raise forgets the older half.
func (r *recentIDs) raise() {
	all := make([]txn.ID, 0, len(r.ids))
	for id := range r.ids {
		all = append(all, id)
	}
	slices.SortFunc(all, compareID)
	r.floor = all[len(all)/2]
	for _, id := range all[:len(all)/2+1] {
		delete(r.ids, id)
	}
}

// absent reports that id is certainly not finished. False means nothing.
func (r *recentIDs) absent(id txn.ID) bool {
	if bytes.Compare(id[:], r.floor[:]) <= 0 {
		return false
	}
	_, ok := r.ids[id]
	return !ok
}
