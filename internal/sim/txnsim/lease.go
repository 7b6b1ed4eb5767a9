// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// A client of a seed with leases has one, as the SDK does: it asks for one before its first
// transaction and renews it for as long as it lives. It may be silent for longer than the lease
// lasts and then go on as if nothing had happened, which no clock of its own keeps it from here.

const (
	leaseRenewal = 400 * sim.Millisecond
	leaseSilence = 3 * sim.Second
)

// leased goes on when the client has a lease, or could not get one.
func (c *client) leased(then func()) {
	w := c.w
	if c.lease != 0 || !w.quirks.Leases {
		then()
		return
	}
	life := c.life
	got := func(n txn.Lease) {
		if c.life != life {
			return // it ends by itself
		}
		if c.lease = n; n != 0 {
			c.silent = 0
			c.renew(n)
		}
		then()
	}
	w.question(c.target(), false, func(request uint64) replica.Event {
		return commit.LeaseAsked{Request: request}
	}, func(r commit.Reply) { got(r.Lease) }, func() { got(0) })
}

// renew renews a lease again and again.
func (c *client) renew(n txn.Lease) {
	w := c.w
	if c.lease != n || w.Healed && !c.busy {
		return
	}
	if w.Now >= c.silent {
		to := c.target()
		w.say(func() { w.Event(to, asked{event: commit.LeasesHeard{Leases: []txn.Lease{n}}}) })
	}
	if w.odds(w.quirks.Silence) {
		c.silent = w.Now + w.roll(leaseSilence)
	}
	w.After(leaseRenewal, func() { c.renew(n) })
}

// leasesFolded notes where leases end.
func (c *checker) leasesFolded(changes txn.Changes) {
	for _, n := range changes.Ended {
		if _, known := c.leases[n]; !known {
			c.leases[n] = changes.Meta.Zxid
		}
	}
}

// leased is LEASE: nothing is committed under a lease that has ended, unless an operator says so.
func (c *checker) leased(x txn.Txn) {
	if end, ended := c.leases[x.ID.Lease()]; ended && end.Less(x.Decided) && x.By != txn.FromOperator {
		c.Fail("LEASE", "%v is decided commit at %v, but lease %d of its client ended at %v", x.ID, x.Decided,
			x.ID.Lease(), end)
	}
}
