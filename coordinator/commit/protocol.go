// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// The class in a gid says by which protocol its transaction is decided. Which core that means is
// chosen here alone; what the machine has in hand is a protocol.Transaction, and for three-phase
// transactions a council besides.

// decides reports whether this cluster decides transactions of a class.
func (c *Machine) decides(class txn.Class) bool {
	return class == txn.Plain || class == txn.Recorded ||
		class == txn.ThreePhase && c.table.State().Level() >= txn.LevelThreePhase
}

// newLive takes a transaction in hand that has no decision. One that is open goes on where the
// log says that the witness is. Of a class that is not decided here there can only be aborts, of
// what somebody left.
func (c *Machine) newLive(id txn.ID) *live {
	l := &live{id: id}
	if id.Class() != txn.ThreePhase || !c.decides(id.Class()) {
		l.core = &twopc.Coordinator{}
		return l
	}
	p := &council{core: threepc.NewCoordinator(id), addrs: map[txn.PartyID]string{}}
	if w, open := c.table.Witness(id); open {
		p.core = threepc.Resume(w)
		p.seat(w.Members)
		l.record.Protocol, l.record.Label, l.seen = txn.ThreePhaseCommit, w.Label, true
		p.again, p.elect = c.core.Now(), c.core.Now()
		if _, attempts := p.core.Attempting(); attempts {
			p.elect = c.core.Now().Add(p.pause(id))
		}
	}
	l.core, l.council = p.core, p
	return l
}

// resumeLive takes a transaction in hand that is committed, and has these branches finished.
func resumeLive(x txn.Txn, finished []txn.BranchNo) *live {
	l := &live{id: x.ID}
	if x.Protocol == txn.ThreePhaseCommit {
		core := threepc.ResumeDecided(x.ID, x.Branches, finished...)
		l.core, l.council = core, &council{core: core, addrs: map[txn.PartyID]string{}}
		return l
	}
	l.core = twopc.Resume(x.Branches, finished...)
	return l
}
