// SPDX-License-Identifier: Apache-2.0

package twopc

import (
	"fmt"
	"slices"

	"github.com/concordtx/concord/internal/mutant"
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// LastCoordinator is one global transaction with a last resource at the leader: a Coordinator that decides nothing.
// The marker in that resource is the decision, and the log only takes note of it. The zero value is a transaction
// that the leader has not heard of.
//
// Invariants, beyond those of Coordinator:
//  1. Commit is proposed only after who has committed at the last resource has said so (Asked), or after its marker
//     was found there.
//  2. Abort is proposed only after a marker to abort was found there, or was inserted: nothing can commit behind it.
type LastCoordinator struct {
	Coordinator
	settling bool                // the last resource is being asked
	early    []protocol.Finished // what came before the log has delivered the decision
}

var _ protocol.Transaction = (*LastCoordinator)(nil)

// ResumeLast is Resume for a transaction with a last resource.
func ResumeLast(branches []txn.Branch, finished ...txn.BranchNo) *LastCoordinator {
	return &LastCoordinator{Coordinator: *Resume(branches, finished...)}
}

// Step handles one event. Whoever wants to abort, or only to know, makes the last resource settle it.
func (c *LastCoordinator) Step(e protocol.Event) []protocol.Effect {
	switch e := e.(type) {
	case protocol.RollbackAsked:
		return c.settleIt(e.Reason)
	case protocol.OrphanMet:
		return c.settleIt(e.Reason)
	case MarkerFound:
		return c.found(e)
	case SettleFailed:
		if c.phase == unheard && c.settling {
			return []protocol.Effect{Settle{Again: true}}
		}
		return nil
	case protocol.Finished:
		if c.phase == proposing {
			if !slices.Contains(c.early, e) {
				c.early = append(c.early, e)
			}
			return nil
		}
	case protocol.Delivered:
		effects := c.Coordinator.Step(e)
		for _, f := range c.early {
			effects = append(effects, c.Coordinator.Step(f)...)
		}
		c.early = nil
		return effects
	}
	return c.Coordinator.Step(e)
}

func (c *LastCoordinator) settleIt(reason string) []protocol.Effect {
	switch {
	case c.phase != unheard || c.settling:
		return nil
	case mutant.TombstoneWithoutLast:
		return c.propose(protocol.Propose{Decision: txn.Abort, Reason: reason})
	}
	c.settling = true
	return []protocol.Effect{Settle{}}
}

// found takes what the marker says.
func (c *LastCoordinator) found(m MarkerFound) []protocol.Effect {
	if c.phase != unheard || m.Marker.Decision == txn.Undecided {
		return nil
	}
	c.settling = false
	if m.Marker.Decision == txn.Abort {
		return c.propose(protocol.Propose{Decision: txn.Abort, Reason: m.Reason})
	}
	return c.Coordinator.Step(protocol.Asked{Branches: m.Marker.Branches})
}

// Settling reports whether the last resource is being asked.
func (c *LastCoordinator) Settling() bool { return c.phase == unheard && c.settling }

// Clone returns an independent copy.
func (c *LastCoordinator) Clone() *LastCoordinator {
	return &LastCoordinator{Coordinator: *c.Coordinator.Clone(), settling: c.settling,
		early: append([]protocol.Finished(nil), c.early...)}
}

// String prints the whole state in one line.
func (c *LastCoordinator) String() string {
	s := "last " + c.Coordinator.String()
	if c.Settling() {
		s += " settling"
	}
	for _, f := range c.early {
		s += fmt.Sprintf(" early %d:%v", f.No, f.Finish)
	}
	return s
}
