// SPDX-License-Identifier: Apache-2.0

package threepc

import (
	"github.com/concordtx/concord/protocol"
	"github.com/concordtx/concord/txn"
)

// What happens in three-phase commit beyond the events of package protocol.

// Asked is the request to commit. To a Coordinator.
type Asked struct {
	Agents []txn.Agent
	Label  string // what the application says that it is about
}

// Received brings a message of another member.
type Received struct {
	From    txn.PartyID
	Message Message
}

// Forced says that the journal has, durably, what the earliest Force asks for that was not
// answered yet. To a Participant.
type Forced struct{}

// Folded says that the log delivered a record about the gid, and that it is open: this is what the
// table has of it now. To a Coordinator. A decision comes as protocol.Delivered.
type Folded struct{ Witness txn.Witness }

// Forgotten says that the gid is unknown and older than what the log remembers. To a
// Coordinator.
type Forgotten struct{}

// ElectionDue says that there was no news for so long that somebody has to find out. To a
// Participant or Coordinator.
type ElectionDue struct{}

// TimeUp says that a candidate has waited long enough for answers or acknowledgements. To a
// Participant or Coordinator.
type TimeUp struct{}

var _ = []protocol.Event{Asked{}, Received{}, Forced{}, Folded{}, Forgotten{}, ElectionDue{}, TimeUp{}}

// IsEvent marks what may happen.
func (Asked) IsEvent()       {}
func (Received) IsEvent()    {}
func (Forced) IsEvent()      {}
func (Folded) IsEvent()      {}
func (Forgotten) IsEvent()   {}
func (ElectionDue) IsEvent() {}
func (TimeUp) IsEvent()      {}
