// SPDX-License-Identifier: Apache-2.0

package concord

import "sync"

// maxDoubts bounds how many transactions of unknown outcome a client remembers.
const maxDoubts = 4096

// doubts remembers the transactions that the cluster was asked to commit and whose outcome the
// application did not learn. This client knows that no database has committed one of them
// alone, so to it "unrecorded" means "aborted". What it has forgotten it only knows less of.
type doubts struct {
	mu    sync.Mutex
	order []ID // oldest first
	ids   map[ID]bool
}

func (d *doubts) add(id ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = make(map[ID]bool)
	}
	if len(d.order) == maxDoubts {
		delete(d.ids, d.order[0])
		d.order = d.order[1:]
	}
	d.order, d.ids[id] = append(d.order, id), true
}

func (d *doubts) has(id ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ids[id]
}
