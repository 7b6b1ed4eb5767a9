// SPDX-License-Identifier: Apache-2.0

package txnsim

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"

	"github.com/concordtx/concord/internal/sim"
	"github.com/concordtx/concord/txn"
)

// quirks is what the databases, and the people around them, do in one seed. It is drawn
// and played with a generator of its own, so that a seed keeps the faults that its Swarm
// drew. Each family of it is off in some seeds. A distance is the mean time between two
// events; zero is never.
type quirks struct {
	Detach, NoMarker, SlowCommit bool
	LateDetach                   float64 // a finish right after the end of a session is lost
	Vanish                       float64 // a client that dies takes its host along
	Foreign                      int     // prepared branches of others at each bank
	Rows                         int     // over which transactions compete; zero: they do not
	Reads                        sim.Instant
	Retention                    time.Duration // zero: as long as a week
	TurnSteps                    int           // of a node; zero: more than a run ever needs
	Leases                       bool          // clients have them
	Silence                      float64       // a client with a lease is silent for a while
	Keys                         bool          // some transactions have idempotency keys, which are not forgotten

	Failover, Restart, Restore, DBA, Operator, Clock sim.Instant
}

func drawQuirks(seed uint64, quiet bool) (quirks, *rand.Rand) {
	r := rand.New(rand.NewPCG(seed, 0x71756972))
	chance := func(p float64) bool { return r.Float64() < p }
	between := func(low, high sim.Instant) sim.Instant {
		return sim.Instant(float64(low) * math.Exp(r.Float64()*math.Log(float64(high)/float64(low))))
	}
	often := func(p float64, low, high sim.Instant) sim.Instant {
		if at := between(low, high); chance(p) {
			return at
		}
		return 0
	}
	q := quirks{
		Detach: chance(0.3), NoMarker: chance(0.5), SlowCommit: chance(0.3),
		Foreign: r.IntN(3), Reads: often(0.7, 100*sim.Millisecond, 2*sim.Second),
	}
	if seed%3 == 1 { // so few that whatever can wait does; a piece is one step
		q.TurnSteps = 1 + int(seed/3%3)
	}
	if chance(0.4) {
		q.Rows = 1 + r.IntN(30)
	}
	if chance(0.3) {
		q.Retention = time.Duration(between(3*sim.Second, 15*sim.Second)) * time.Microsecond
	}
	q.Leases = chance(0.7)
	q.Keys = seed%2 == 0 && q.Retention == 0
	if quiet {
		return q, r
	}
	if chance(0.5) {
		q.LateDetach = 0.1 + 0.9*r.Float64()
	}
	if chance(0.5) {
		q.Vanish = 0.5
	}
	if chance(0.5) {
		q.Silence = 0.2
	}
	q.Failover, q.Restart = often(0.5, sim.Second/2, 10*sim.Second), often(0.5, sim.Second/2, 10*sim.Second)
	q.Restore, q.DBA = often(0.3, 2*sim.Second, 20*sim.Second), often(0.4, sim.Second/4, 5*sim.Second)
	q.Operator, q.Clock = often(0.5, sim.Second/5, 5*sim.Second), often(0.3, sim.Second, 10*sim.Second)
	return q, r
}

// odds, roll and pick draw from the generator of the quirks.
func (w *world) odds(p float64) bool { return p > 0 && w.dice.Float64() < p }

func (w *world) roll(mean sim.Instant) sim.Instant {
	return sim.Instant(min(w.dice.ExpFloat64(), 10) * float64(mean))
}

func (w *world) pick(n int) int { return w.dice.IntN(n) }

// often lets something happen again and again until everything is healed.
func (w *world) often(mean sim.Instant, do func()) {
	if mean <= 0 {
		return
	}
	w.After(w.roll(mean)+1, func() {
		if !w.Healed {
			do()
			w.often(mean, do)
		}
	})
}

func (w *world) anyBank() *bank { return w.banks[w.pick(len(w.banks))] }

func (w *world) openBanks() {
	for i, name := range resources {
		f := postgres
		switch {
		case i%2 == 1 && w.quirks.Detach:
			f = mysql
		case i%2 == 1:
			f = mariadb
		}
		b := newBank(w, name, f)
		b.noMarker = f != postgres && w.quirks.NoMarker
		w.banks = append(w.banks, b)
	}
}

const year = 365 * 24 * time.Hour

// startQuirks lets the databases and the people begin.
func (w *world) startQuirks() {
	q := w.quirks
	w.often(q.Failover, func() { w.anyBank().failover() })
	w.often(q.Restart, func() { w.anyBank().restart(w.roll(sim.Second)) })
	w.often(q.Restore, func() {
		if b := w.anyBank(); b.backup != nil && w.odds(0.5) {
			b.restore()
		} else {
			b.save()
		}
	})
	w.often(q.DBA, func() { w.anyBank().byHand() })
	w.often(q.Operator, w.operate)
	w.often(q.Reads, w.read)
	w.often(q.Clock, func() {
		w.hit(ClockStepped)
		w.skews[w.pick(len(w.skews))] = time.Duration(w.pick(21)-10) * time.Second
	})
}

// plantForeign prepares branches at a bank that belong to others: of another cluster,
// and with an id that is old enough to be an orphan, or one of ours.
func (b *bank) plantForeign() {
	if len(b.foreign) > 0 || b.w.quirks.Foreign == 0 || b.w.formed == 0 || len(b.all) == 0 {
		return
	}
	for i := range b.w.quirks.Foreign {
		id := txn.FirstID(b.w.clock().Add(-time.Minute))
		binary.BigEndian.PutUint64(id[8:], b.w.dice.Uint64())
		id = id.WithClass(txn.Plain)
		if i == 1 {
			id = b.all[0].ghost.id
		}
		b.w.check.foreign[id] = true
		b.foreign = append(b.foreign, txn.XID{Cluster: ^b.w.formed, ID: id, Branch: 1})
	}
}
