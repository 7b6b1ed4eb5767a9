// SPDX-License-Identifier: Apache-2.0

package txn

import (
	"fmt"
	"math"
	"slices"

	"github.com/concordtx/concord/internal/mutant"
)

// MaxLeases clients may have a lease at the same time. One more goes without: its orphans are
// recognized by their age.
const MaxLeases = 10_000

// Leases are those of the clients. Numbers are given in order and never again, so that one up
// to Last that is not active has ended, for ever.
type Leases struct {
	Last   Lease
	Active []Lease // ascending; replaced as a whole, never changed
}

// Holds reports whether a lease was granted and has not ended.
func (l Leases) Holds(n Lease) bool {
	_, active := slices.BinarySearch(l.Active, n)
	return active
}

// Ended reports whether a lease was granted and has ended. Of a number that was not granted
// yet nothing is known.
func (l Leases) Ended(n Lease) bool { return n != 0 && n <= l.Last && !l.Holds(n) }

// LeaseRecord grants as many leases as so many clients have asked for.
type LeaseRecord struct{ Count uint32 }

// LeaseEndRecord ends leases: whoever held them was not heard for too long, or gives them back.
// From here on no request to commit a transaction that was begun under one of them succeeds.
type LeaseEndRecord struct{ Leases []Lease }

// Leases returns the leases of the clients.
func (t *Table) Leases() Leases { return t.leases }

// LeaseEnded reports whether a lease was granted and has ended.
func (t *Table) LeaseEnded(n Lease) bool { return t.leases.Ended(n) }

func (t *Table) grant(r LeaseRecord, c *Changes) {
	free := min(MaxLeases-len(t.leases.Active), int(math.MaxUint32-t.leases.Last))
	n := min(int(r.Count), free)
	if n <= 0 {
		return
	}
	active := slices.Clip(t.leases.Active)
	for range n {
		t.leases.Last++
		active = append(active, t.leases.Last)
		c.Granted = append(c.Granted, t.leases.Last)
	}
	t.leases.Active = active
}

func (t *Table) endLeases(r LeaseEndRecord, c *Changes) {
	ending := make(map[Lease]bool, len(r.Leases))
	for _, n := range r.Leases {
		ending[n] = true
	}
	active := make([]Lease, 0, len(t.leases.Active))
	for _, n := range t.leases.Active {
		if ending[n] {
			c.Ended = append(c.Ended, n)
		} else {
			active = append(active, n)
		}
	}
	t.leases.Active = active
}

// refusal says why a transaction is not committed although every branch voted Yes; empty if it
// may be. An operator's word counts more than the lease of a client that is gone.
func (t *Table) refusal(id ID, by Source) string {
	if lease := id.Lease(); by != FromOperator && t.LeaseEnded(lease) && !mutant.CommitUnderEndedLease {
		return LeaseEnded(lease)
	}
	return ""
}

// LeaseEnded says in words why the transactions of a lease that has ended are aborted.
func LeaseEnded(n Lease) string {
	return fmt.Sprintf("lease %d of the client has ended: it was closed, or the cluster had not heard from it for "+
		"too long", n)
}
