// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// What is asked for in three-phase commit beyond the effects of package protocol.

// Send sends a message to a member. It may be lost.
type Send struct {
	To      txn.PartyID
	Message Message
}

// Force asks the journal to replace the entry of the gid, durably; the zero Entry removes it. It
// ends with Forced, in the order in which it was asked for. What comes after it in the
// effects needs not wait (Participant).
type Force struct{ Entry Entry }

// Write asks the journal to replace the entry of the gid, in the order of Force, but not to force it:
// whether it is there after a crash is luck, until a later Force. It has no end (Participant).
type Write struct{ Entry Entry }

// Propose asks for a record of the witness in the log. It ends with Folded or protocol.Delivered, or
// with the end of this leadership (Coordinator).
type Propose struct{ Record txn.Record }

// Blocked says that a candidate got no quorum, and who was missing. For people: it begins again
// with ElectionDue.
type Blocked struct {
	Election txn.Election
	Missing  []txn.PartyID
}

// Breach asks for an alarm: somebody told a decision that contradicts what is known here. It is
// not obeyed.
type Breach struct {
	From        txn.PartyID
	Told, Known txn.Decision // Known is Undecided if this member cannot have been part of it
}

var _ = []protocol.Effect{Send{}, Force{}, Write{}, Propose{}, Blocked{}, Breach{}}

// IsEffect marks what may be asked for.
func (Send) IsEffect()    {}
func (Force) IsEffect()   {}
func (Write) IsEffect()   {}
func (Propose) IsEffect() {}
func (Blocked) IsEffect() {}
func (Breach) IsEffect()  {}
