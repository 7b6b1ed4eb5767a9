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
//
// A write with Cut or Install has nothing else. Cut makes a zxid the base: it and all
// before it go from the log. Install makes a staged snapshot the applied state and its
// zxid the base, and empties the log.
type Write struct {
	ID            uint64
	TruncateAfter *Zxid // nil: nothing is truncated
	Entries       []Entry
	Hard          *HardState // nil: unchanged
	Cut           *Zxid
	Install       *Snapshot
}

// Deliver hands committed entries to the state machine, each exactly once per
// incarnation and in order. They are durable here.
type Deliver struct{ Entries []Entry }

// Restored says that the applied state is now that of a snapshot, durably: the state
// machine forgets what it held and begins from the store. What is delivered from here
// on follows the snapshot.
type Restored struct{ Snapshot Snapshot }

// SendSnapshot allows a peer to fetch a snapshot of the applied state, within this
// session. It must be taken after this effect, and of what the stored state then holds.
type SendSnapshot struct {
	To      NodeID
	Session uint64
}

// FetchSnapshot asks for a snapshot to be fetched from a peer and staged beside the
// applied state, which stays as it is. SnapshotStaged or SnapshotFailed answers; whatever
// was being fetched before is wanted no more.
type FetchSnapshot struct {
	From    NodeID
	Session uint64
}

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

func (Send) isEffect()          {}
func (Write) isEffect()         {}
func (Deliver) isEffect()       {}
func (Restored) isEffect()      {}
func (SendSnapshot) isEffect()  {}
func (FetchSnapshot) isEffect() {}
func (RoleChanged) isEffect()   {}
func (Accepted) isEffect()      {}
func (Refused) isEffect()       {}
func (Dropped) isEffect()       {}
func (ReadReady) isEffect()     {}
func (ReadFailed) isEffect()    {}
func (Note) isEffect()          {}
