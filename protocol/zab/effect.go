// SPDX-License-Identifier: Apache-2.0

package zab

// Effect is something that the driver has to carry out. Effects of one Step are
// in order. Whatever a core asks to send may be sent at once: it withholds every
// message whose promise is not durable yet.
type Effect interface{ isEffect() }

// Send asks for a message to be sent to Message.To. It may be lost, but never reordered
// within one connection; a driver that has to drop one must drop the connection.
type Send struct{ Message Message }

// Write asks the log writer for one atomic durable batch: first truncate, then
// append, then the hard state. Writes are done in order of their IDs; several
// may share one sync. When a write fails the process must end.
type Write struct {
	ID            uint64
	TruncateAfter *Zxid // nil: nothing is truncated
	Entries       []Entry
	Hard          *HardState // nil: unchanged
}

// Deliver hands committed entries to the state machine, each exactly once per
// incarnation and in order. They are durable here.
type Deliver struct{ Entries []Entry }

// RoleChanged says that role, phase, leader, epoch or establishment changed.
type RoleChanged struct {
	Role        Role
	Phase       Phase
	Leader      NodeID
	Epoch       Epoch
	Established bool
	Reason      string // why, in a few words, for the log
}

// Accepted answers Proposed: the entry has this zxid. It is not committed yet;
// it is delivered, or its fate becomes unknown with Dropped.
type Accepted struct {
	ID   uint64
	Zxid Zxid
}

// Refused answers Proposed: nothing was appended.
type Refused struct {
	ID  uint64
	Err error // ErrNotLeader or ErrBusy
}

// Dropped says that this node stopped leading with accepted entries whose fate it
// does not know: all own entries after After.
type Dropped struct{ After Zxid }

// ReadReady answers ReadAsked: a read of state that includes Index is
// linearizable. Index is already applied here.
type ReadReady struct {
	ID    uint64
	Index Zxid
}

// ReadFailed answers ReadAsked: there is no established leader that could confirm
// it.
type ReadFailed struct{ ID uint64 }

// Note is a line for the operator's log, such as a synchronization decision with
// its numbers.
type Note struct{ Text string }

func (Send) isEffect()        {}
func (Write) isEffect()       {}
func (Deliver) isEffect()     {}
func (RoleChanged) isEffect() {}
func (Accepted) isEffect()    {}
func (Refused) isEffect()     {}
func (Dropped) isEffect()     {}
func (ReadReady) isEffect()   {}
func (ReadFailed) isEffect()  {}
func (Note) isEffect()        {}
