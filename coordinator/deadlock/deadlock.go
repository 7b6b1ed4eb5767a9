// SPDX-License-Identifier: Apache-2.0

package deadlock

import (
	"fmt"
	"slices"
	"strings"

	"github.com/concordtx/concord/txn"
)

// Deadlock is a circle of transactions that wait for each other in several databases.
type Deadlock struct {
	Victim    txn.ID // that has to end; the youngest
	Others    []Party
	Resources []string // in which somebody waits, in order

	circle []step
}

// Party is another transaction of a circle.
type Party struct {
	ID        txn.ID
	Resources []string // of its branches, as far as they are known, in order
}

func newDeadlock(victim txn.ID, circle []step, waiters map[txn.ID]*waiter) Deadlock {
	d := Deadlock{Victim: victim, circle: circle}
	for _, s := range circle {
		if !slices.Contains(d.Resources, s.resource) {
			d.Resources = append(d.Resources, s.resource)
		}
		if id := s.from.id; !id.IsZero() && id != victim {
			p := Party{ID: id}
			if w := waiters[id]; w != nil {
				for _, b := range w.Branches {
					p.Resources = append(p.Resources, b.Resource)
				}
				slices.Sort(p.Resources)
			}
			d.Others = append(d.Others, p)
		}
	}
	slices.Sort(d.Resources)
	slices.SortFunc(d.Others, func(a, b Party) int { return a.ID.Compare(b.ID) })
	return d
}

// String tells the circle, beginning with the victim.
func (d Deadlock) String() string {
	waits := make([]string, len(d.circle))
	for i, s := range d.circle {
		waits[i] = fmt.Sprintf("%v waits for %v at %s", s.from, s.to, s.resource)
	}
	return strings.Join(waits, ", ")
}

func (n node) String() string {
	if n.id.IsZero() {
		return fmt.Sprintf("session %q of %s", n.session.Name, n.session.Resource)
	}
	return n.id.String()
}
