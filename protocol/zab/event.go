// SPDX-License-Identifier: Apache-2.0

package zab

// Event is something that happened to a node. Events are the only input of a
// core; Step handles one at a time.
type Event interface{ isEvent() }

// Tick says that one tick of time went by.
type Tick struct{}

// Received hands over a message of a peer. The transport is first-in first-out
// while a connection lives; across connections anything may happen.
type Received struct{ Message Message }

// Proposed asks a leader to append Data to the history. The core answers with an
// Accepted or a Refused effect.
type Proposed struct {
	// ID is the driver's own number for the proposal, echoed in the answer.
	ID   uint64
	Data []byte
}

// ReadAsked asks for a linearizable read. The core answers ReadReady or
// ReadFailed with the same ID. IDs need not be unique over time. Any member may ask; a
// follower or observer asks its leader for the index.
type ReadAsked struct{ ID uint64 }

// Persisted says that the write with this ID and all earlier ones are durable.
type Persisted struct{ Write uint64 }

// Applied says that the state machine holds everything up to Upto.
type Applied struct{ Upto Zxid }

// PeerLost says that the connection from or to a peer was lost, so messages may
// be missing: what was built on that session is void.
type PeerLost struct{ Peer NodeID }

// Compact offers to cut the log. Upto is how far the driver would like to cut; what a
// peer in a session still lacks stays. Must is how far it has to be cut whoever lacks
// it, which bounds the log; a peer that needed more gets a snapshot. Neither may be
// beyond what the stored state holds. The answer is a Write with Cut, or nothing.
type Compact struct{ Upto, Must Zxid }

// SnapshotMoved says that bytes of a snapshot went to or came from a peer, so that the
// session is not given up for making no progress.
type SnapshotMoved struct {
	Peer    NodeID
	Session uint64
}

// SnapshotStaged says that the snapshot that FetchSnapshot asked for is here completely,
// verified, and durable or made so by the write that installs it. When no Write with
// Install comes back at once, nobody wants it any more.
type SnapshotStaged struct {
	Session  uint64
	Snapshot Snapshot
}

// SnapshotFailed says that a snapshot could not be fetched.
type SnapshotFailed struct {
	Session uint64
	Why     string
}

func (Tick) isEvent()           {}
func (Received) isEvent()       {}
func (Proposed) isEvent()       {}
func (ReadAsked) isEvent()      {}
func (Persisted) isEvent()      {}
func (Applied) isEvent()        {}
func (PeerLost) isEvent()       {}
func (Compact) isEvent()        {}
func (SnapshotMoved) isEvent()  {}
func (SnapshotStaged) isEvent() {}
func (SnapshotFailed) isEvent() {}
