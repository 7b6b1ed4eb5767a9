// SPDX-License-Identifier: Apache-2.0

package coordinator

import "github.com/concordtx/concord/txn"

// recentMax finished transactions are remembered by their ids alone in one generation;
// there are two.
const recentMax = 1 << 16

// recentIDs are the ids of all finished transactions above floor. An id above floor
// that is not among them is certainly not finished, which spares the way of every new
// commit a look into the store: ids grow with time, so new ones are above.
//
// It may hold more than that (an id that was opened again, or one below floor), never less.
// floor never falls. Nothing is ever moved or searched through: when a generation is full
// the one before it is dropped whole, and the greatest id of that is the floor from then on.
type recentIDs struct {
	floor      txn.ID
	young, old generation
}

// generation is some ids, and the greatest of them.
type generation struct {
	ids      map[txn.ID]struct{}
	greatest txn.ID
}

func (g *generation) add(id txn.ID) {
	if g.ids == nil {
		g.ids = make(map[txn.ID]struct{})
	}
	g.ids[id] = struct{}{}
	if g.greatest.Compare(id) < 0 {
		g.greatest = id
	}
}

func (g *generation) has(id txn.ID) bool {
	_, ok := g.ids[id]
	return ok
}

func (r *recentIDs) add(id txn.ID) {
	if id.Compare(r.floor) <= 0 {
		return
	}
	r.young.add(id)
	if len(r.young.ids) < recentMax {
		return
	}
	if r.floor.Compare(r.old.greatest) < 0 {
		r.floor = r.old.greatest
	}
	r.old, r.young = r.young, generation{}
}

// absent reports that id is certainly not finished. False means nothing.
func (r *recentIDs) absent(id txn.ID) bool {
	return id.Compare(r.floor) > 0 && !r.young.has(id) && !r.old.has(id)
}
