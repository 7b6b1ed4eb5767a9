// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/txn"
)

// state is where a branch stands at its database.
type state int

const (
	absent state = iota
	active
	prepared
	committed
	rolledBack
	lost // it was prepared, and a failover took it
)

// bank is a virtual database with the quirks that were measured on real ones.
type bank struct {
	name string
	// xa is the MariaDB family: while the session that prepared a branch is connected,
	// others that want to finish it hear that it does not exist, though it is listed.
	// The others are the PostgreSQL family.
	xa       bool
	branches []*branch // in order of their creation
	w        *txnWorld
}

// branch is one branch at its bank.
type branch struct {
	bank   *bank
	ghost  *txnGhost
	no     txn.BranchNo
	state  state
	failed bool   // a statement failed: PREPARE will answer ROLLBACK, without an error
	work   uint64 // what the transaction did; zero is nothing
	voted  uint64 // the work that was there when the vote was given
	held   bool   // by the session that works on it
}

func (b *branch) xid() txn.XID {
	return txn.XID{Cluster: b.bank.w.formed, ID: b.ghost.id, Branch: b.no}
}

// set moves a branch and lets the checker look at it.
func (b *branch) set(s state) {
	before := b.state
	b.state = s
	b.bank.w.check.moved(b, before)
}

// prepare is what the database answers: the tag of the statement. It is true only for
// "prepared"; "rolled back" is not an error.
func (b *branch) prepare() (tagPrepared bool) {
	if b.state != active {
		return false
	}
	if b.failed {
		b.set(rolledBack)
		return false
	}
	b.voted = b.work
	b.set(prepared)
	return true
}

// finish is a session or a worker that applies a decision; bySession is the one
// that prepared. It returns what the adapter concludes from what it can see, and false
// when it has to be tried again.
func (b *branch) finish(d txn.Decision, bySession bool) (txn.Finish, bool) {
	want := committed
	if d == txn.Abort {
		want = rolledBack
	}
	switch {
	case b.state == prepared && b.held && !bySession && b.bank.xa:
		if b.bank.w.planted == NotFoundMeansDone {
			return txn.Done, true
		}
		b.held = false // fence: the holder's session is ended
		return 0, false
	case b.state == prepared || b.state == active && bySession && d == txn.Abort:
		b.set(want)
		b.held = false
		return txn.Done, true
	case b.state == want || b.state == active && d == txn.Abort:
		return txn.AlreadyDone, true
	case b.state == lost && b.bank.w.planted == NotFoundMeansDone:
		return txn.AlreadyDone, true
	case b.state == lost && d == txn.Abort:
		return txn.AlreadyDone, true
	case b.state == lost:
		return txn.Lost, true
	default:
		return txn.Contradicted, true
	}
}

// closeSession is the end of a session: what it had not prepared is rolled back.
func (b *branch) closeSession() {
	b.held = false
	if b.state == active {
		b.set(rolledBack)
	}
}

// list is what the bank shows as prepared.
func (b *bank) list() []adapters.Prepared {
	var out []adapters.Prepared
	for _, br := range b.branches {
		if br.state == prepared {
			out = append(out, adapters.Prepared{XID: br.xid()})
		}
	}
	return out
}

// failover takes the bank to a standby that is a little behind: a prepared branch is
// gone, or a committed one is prepared again.
func (b *bank) failover() {
	if len(b.branches) == 0 {
		return
	}
	br := b.branches[b.w.rng.IntN(len(b.branches))]
	_, final := br.ghost.finals[br.no]
	switch {
	case br.state == prepared && !final && b.w.chance(0.5):
		br.held = false
		br.set(lost)
	case br.state == committed:
		br.state, br.held = prepared, false // the checker still remembers that it was committed
		b.w.counters[BranchCameBack]++
	}
}
