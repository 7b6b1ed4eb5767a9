// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"errors"
	"maps"
	"time"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/txn"
)

// A client that has transactions keeps one lease with the cluster, whose number is in their
// gids. When the leader has not heard of it for a while a record ends it; then whatever was
// begun under it and is not decided is aborted, and its branches need not grow old first.
//
// Which leases there are is in the log. When each was heard last is known by the leader alone,
// and only for as long as it leads: the next one gives all of them their full time again. No
// clock is part of safety: a lease that is ended too early aborts what might have been committed.

// LeaseAsked asks for a lease.
type LeaseAsked struct{ Request uint64 }

// LeaseEndAsked gives a lease back: what was begun under it has ended.
type LeaseEndAsked struct {
	Request uint64
	Lease   txn.Lease
}

// LeasesHeard says which leases were renewed.
type LeasesHeard struct{ Leases []txn.Lease }

func (LeaseAsked) IsEvent()    {}
func (LeaseEndAsked) IsEvent() {}
func (LeasesHeard) IsEvent()   {}

const (
	// leaseCheck is how often a leader looks for leases that it has not heard of.
	leaseCheck = 250 * time.Millisecond
	// leaseStep bounds what one tick adds to the time of leases: a leader that was stopped, or
	// whose clock was set, must not take that for the silence of its clients.
	leaseStep = 500 * time.Millisecond
	// maxEnded leases are ended by one record.
	maxEnded = 1024
)

// leaseBook is what a leader knows of the leases beyond what the log says.
type leaseBook struct {
	now    time.Duration // that this node was there, as its ticks tell
	check  time.Duration // when it looks next
	heard  map[txn.Lease]time.Duration
	ending map[txn.Lease]bool // with a record on its way

	asked   []uint64    // requests for a lease, in order
	wanted  int         // of them, those that no record asks for yet
	granted []txn.Lease // by the entry that was applied last, in the order of its requests
}

// clear begins a leadership: every lease has its full time from now on.
func (b *leaseBook) clear() {
	b.heard, b.ending = map[txn.Lease]time.Duration{}, map[txn.Lease]bool{}
	b.asked, b.wanted, b.granted = nil, 0, nil
}

// passLeaseTime notes that some time went by between two ticks.
func (c *Machine) passLeaseTime(now time.Time) {
	last := c.core.Now()
	if last.IsZero() {
		return
	}
	c.leases.now += min(max(now.Sub(last), 0), leaseStep)
	if now.Sub(last) > replica.PauseGap {
		clear(c.leases.heard) // what was said meanwhile was said to nobody: all have their full time again
	}
}

func (c *Machine) onLeaseAsked(e LeaseAsked) {
	switch {
	case !c.ready(e.Request):
	case c.table.Level() < txn.LevelLeases:
		c.reply(Reply{Request: e.Request,
			Err: txn.Refusedf("leases are not switched on yet: some member of the cluster is away, or runs a " +
				"release that does not know them; see \"concord status\"")})
	default:
		c.leases.asked, c.leases.wanted = append(c.leases.asked, e.Request), c.leases.wanted+1
		c.core.Await(e.Request)
	}
}

// grant answers a request whose entry was delivered.
func (c *Machine) grant(request uint64) {
	if len(c.leases.granted) == 0 {
		c.reply(Reply{Request: request, Err: txn.Refusedf("%d clients have a lease, which is the limit: close "+
			"some of them", txn.MaxLeases)})
		return
	}
	lease := c.leases.granted[0]
	c.leases.granted = c.leases.granted[1:]
	c.leases.heard[lease] = c.leases.now
	c.reply(Reply{Request: request, Lease: lease, Zxid: c.core.Zxid()})
}

func (c *Machine) onLeaseEndAsked(e LeaseEndAsked) {
	if !c.ready(e.Request) {
		return
	}
	if !c.table.Leases().Holds(e.Lease) {
		c.reply(Reply{Request: e.Request, Zxid: c.core.Zxid()}) // it has ended, or never was
		return
	}
	c.endLeases([]txn.Lease{e.Lease})
	c.core.Await(e.Request)
}

func (c *Machine) endLeases(leases []txn.Lease) {
	c.core.Propose(txn.LeaseEndRecord{Leases: leases})
	for _, n := range leases {
		c.leases.ending[n] = true
	}
}

// hear notes that whoever holds a lease lives.
func (c *Machine) hear(n txn.Lease) {
	if c.core.Leading() && n != 0 && c.table.Leases().Holds(n) {
		c.leases.heard[n] = c.leases.now
	}
}

// endSilent ends the leases of clients that were not heard for too long.
func (c *Machine) endSilent() {
	if c.leases.now < c.leases.check || c.core.Doubts() {
		return
	}
	c.leases.check = c.leases.now + leaseCheck
	var silent []txn.Lease
	for _, n := range c.table.Leases().Active {
		heard, known := c.leases.heard[n]
		switch {
		case !known:
			c.leases.heard[n] = c.leases.now
		case !c.leases.ending[n] && c.leases.now-heard > c.config.Rules.Lease && len(silent) < maxEnded:
			silent = append(silent, n)
		}
	}
	if len(silent) > 0 {
		c.core.Note("leases %v end: their clients were not heard from for %v, and what they left prepared is aborted",
			silent, c.config.Rules.Lease)
		c.endLeases(silent)
	}
}

// onLeasesEnded looks for branches of leases that have just ended at once.
func (c *Machine) onLeasesEnded(ended []txn.Lease) {
	for _, n := range ended {
		delete(c.leases.heard, n)
		delete(c.leases.ending, n)
	}
	for _, s := range c.scans {
		if len(ended) > 0 {
			s.due, s.again = c.core.Now(), s.running
		}
	}
}

// leaseEnded returns why a transaction cannot be committed any more, or nil.
func (c *Machine) leaseEnded(id txn.ID) error {
	if n := id.Lease(); c.table.LeaseEnded(n) && !mutant.CommitUnderEndedLease {
		return errors.New(txn.LeaseEnded(n))
	}
	return nil
}

// Whoever is about to run a transaction under an idempotency key claims the key first, so that others wait for it
// and do not do what is rolled back in the end. Claims are known to the leader alone, and only for as long as it
// leads. They save work and promise nothing: it is the fold that commits one transaction under a key.

// KeyClaim is what a KeyAsked claims.
type KeyClaim struct {
	By  txn.ID        // a name with the lease of the client in it, which is that of no transaction; zero: nobody
	For time.Duration // at most MaxKeyClaim; zero gives the key back
}

// MaxKeyClaim bounds how long a key is claimed: who has not given it back by then, and lives, never will.
const MaxKeyClaim = time.Hour

const (
	// maxKeyClaims bounds how many keys are claimed at a time. Who finds no room does without.
	maxKeyClaims = 10_000
	// keyClaimSweep is how often claims are dropped that are over.
	keyClaimSweep = time.Second
)

// keyClaims are by key. Their times are those of leaseBook.now, which does not count while the node sleeps.
type keyClaims struct {
	held  map[string]heldKey
	sweep time.Duration // when they are looked through next
}

type heldKey struct {
	by    txn.ID
	until time.Duration
}

// claimKey takes a key for its caller, prolongs that, or gives it back. It reports whether somebody else has it.
func (c *Machine) claimKey(key string, k KeyClaim) (taken bool) {
	if h, ok := c.keys.held[key]; ok && h.by != k.By && c.holds(h) && !mutant.ClaimHoldsNobody {
		return true
	}
	switch lease := k.By.Lease(); {
	case k.By.IsZero(), !c.core.Leading():
	case k.For <= 0:
		delete(c.keys.held, key)
	case lease != 0 && c.table.Leases().Holds(lease) && len(c.keys.held) < maxKeyClaims:
		c.keys.held[key] = heldKey{by: k.By, until: c.leases.now + k.For}
	}
	return false
}

// holds reports whether a claim is not over. That of a client that died is over with its lease.
func (c *Machine) holds(h heldKey) bool {
	return c.leases.now < h.until && (mutant.ClaimOutlivesLease || c.table.Leases().Holds(h.by.Lease()))
}

// dropKeyClaims makes room of those that are over, of which nobody else is told.
func (c *Machine) dropKeyClaims() {
	if c.leases.now < c.keys.sweep {
		return
	}
	c.keys.sweep = c.leases.now + keyClaimSweep
	c.core.Spend(len(c.keys.held) >> 6)
	maps.DeleteFunc(c.keys.held, func(_ string, h heldKey) bool { return !c.holds(h) })
}
