// SPDX-License-Identifier: Apache-2.0

package commit

import (
	"fmt"

	"github.com/concordtx/concord/protocol/threepc"
	"github.com/concordtx/concord/protocol/twopc"
	"github.com/concordtx/concord/txn"
)

// The class in a gid says by which protocol its transaction is decided. Which core that means is
// chosen here alone, in cores; what the machine has in hand is a protocol.Transaction, and for
// three-phase transactions a council besides.

// protocolCore takes transactions of a class in hand, from a level on.
type protocolCore struct {
	from   txn.FeatureLevel
	begin  func(*Machine, *live)                // it has no decision
	resume func(*live, txn.Txn, []txn.BranchNo) // it is committed, and these branches are finished
}

// cores has a row for each class that this version decides. The rows have no names of fields, so that
// one that leaves something out does not compile.
var cores = map[txn.Class]protocolCore{
	txn.Plain:      {txn.LevelBase, beginTwoPhase, resumeTwoPhase},
	txn.Recorded:   {txn.LevelBase, beginTwoPhase, resumeTwoPhase},
	txn.ThreePhase: {txn.LevelThreePhase, beginThreePhase, resumeThreePhase},

	txn.LastResource: {txn.LevelLastResource, beginLast, resumeLast},
}

// decides reports whether this cluster decides transactions of a class.
func (c *Machine) decides(class txn.Class) bool {
	core, known := cores[class]
	return known && c.table.State().Level() >= core.from
}

// newLive takes a transaction in hand that has no decision. Whoever asks for that has seen that its
// class is decided here.
func (c *Machine) newLive(id txn.ID) *live {
	if !c.decides(id.Class()) {
		panic(fmt.Sprintf("commit: %v is taken in hand, and nothing here decides the class %v", id, id.Class()))
	}
	l := &live{id: id}
	cores[id.Class()].begin(c, l)
	return l
}

// resumeLive takes a transaction in hand that is committed, and has these branches finished.
func resumeLive(x txn.Txn, finished []txn.BranchNo) *live {
	core, known := cores[x.ID.Class()]
	if !known {
		panic(fmt.Sprintf("commit: %v is committed, and nothing here finishes the class %v", x.ID, x.ID.Class()))
	}
	l := &live{id: x.ID}
	core.resume(l, x, finished)
	return l
}

func beginTwoPhase(_ *Machine, l *live) { l.core = &twopc.Coordinator{} }

func resumeTwoPhase(l *live, x txn.Txn, finished []txn.BranchNo) {
	l.core = twopc.Resume(x.Branches, finished...)
}

func beginLast(_ *Machine, l *live) { l.core = &twopc.LastCoordinator{} }

func resumeLast(l *live, x txn.Txn, finished []txn.BranchNo) {
	l.core = twopc.ResumeLast(x.Branches, finished...)
	l.record.Last = x.Last
}

// beginThreePhase goes on where the log says that the witness is, if the transaction is open.
func beginThreePhase(c *Machine, l *live) {
	p := &council{core: threepc.NewCoordinator(l.id), addrs: map[txn.PartyID]string{}}
	if w, open := c.table.Witness(l.id); open {
		p.core = threepc.Resume(w)
		p.seat(w.Members)
		l.record.Protocol, l.record.Label, l.seen = txn.ThreePhaseCommit, w.Label, true
		p.again, p.elect = c.core.Now(), c.core.Now()
		if _, attempts := p.core.Attempting(); attempts {
			p.elect = c.core.Now().Add(p.pause(l.id))
		}
	}
	l.core, l.council = p.core, p
}

func resumeThreePhase(l *live, x txn.Txn, finished []txn.BranchNo) {
	core := threepc.ResumeDecided(x.ID, x.Branches, finished...)
	l.core, l.council = core, &council{core: core, addrs: map[txn.PartyID]string{}}
}
