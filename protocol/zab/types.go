// SPDX-License-Identifier: Apache-2.0

package zab

import (
	"encoding/binary"
	"fmt"
)

// NodeID names a node of the cluster. Zero means "nobody".
type NodeID uint64

// Epoch numbers the reign of one leader. Zero means "before any leader".
type Epoch uint32

// Zxid names one entry of the history: the epoch that proposed it and its
// position inside that epoch, starting at 1. Zxids are totally ordered; the
// zero Zxid stands before every entry (the empty history).
type Zxid struct {
	Epoch   Epoch
	Counter uint64
}

// Less reports whether z stands before o in the total order.
func (z Zxid) Less(o Zxid) bool {
	return z.Epoch < o.Epoch || z.Epoch == o.Epoch && z.Counter < o.Counter
}

// IsZero reports whether z is the empty history.
func (z Zxid) IsZero() bool { return z == Zxid{} }

// String prints "epoch.counter", for example "3.17".
func (z Zxid) String() string { return fmt.Sprintf("%d.%d", z.Epoch, z.Counter) }

// Append appends z as records, frames and stores write it, in 12 bytes.
func (z Zxid) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(z.Epoch))
	return binary.BigEndian.AppendUint64(b, z.Counter)
}

// ZxidAt reads what Append wrote: the first 12 bytes of b.
func ZxidAt(b []byte) Zxid {
	return Zxid{Epoch: Epoch(binary.BigEndian.Uint32(b)), Counter: binary.BigEndian.Uint64(b[4:])}
}

// Entry is one proposal of the history. Prev names its predecessor, so that
// contiguity is verified and never assumed. Data is opaque and immutable: nobody
// writes to it after the entry was made.
type Entry struct {
	Zxid, Prev Zxid
	Data       []byte
}

// HardState is what a node has promised. It is durable before the node speaks
// of it. Current <= Accepted always; both only grow.
type HardState struct {
	// Accepted is the last epoch promised to a leader (acceptedEpoch, f.p).
	Accepted Epoch
	// AcceptedFrom is the leader to whom Accepted was promised: a second promise
	// for the same epoch counts only for the same leader.
	AcceptedFrom NodeID
	// Current is the last epoch whose initial history is in the log completely
	// (currentEpoch, f.a).
	Current Epoch
}

// Snapshot names a copy of the applied state of a node at one instant: everything up
// to Zxid and nothing else. The bytes are the driver's.
type Snapshot struct {
	Zxid Zxid
	// Ref is the receiving driver's own number for what it staged.
	Ref uint64
	// Members is the set that the state holds; of a cluster that never had a change, none.
	Members Set
}

// Role says how a node takes part.
type Role uint8

// Looking, Following, Leading and Observing are the roles of a running node.
const (
	Looking Role = iota
	Following
	Leading
	Observing
)

// Phase is the ZAB phase that a node is in.
type Phase uint8

// Election, Discovery, Synchronization and Broadcast are the phases 0 to 3.
const (
	Election Phase = iota
	Discovery
	Synchronization
	Broadcast
)

// Member is one node of the cluster.
type Member struct {
	ID NodeID
	// Observer members are in no quorum of any kind.
	Observer bool
}

// Storage gives the core synchronous access to what the log writer has made
// durable. Every method must be fast: the core is called on the node's loop.
type Storage interface {
	// Initial returns what a restart found: promises, the base (the point that the
	// log was cut at; zero if never), the last zxid of the log (the base if the log
	// is empty) and the last zxid that is part of the applied state.
	Initial() (hard HardState, base, last, applied Zxid)
	// Floor returns the greatest zxid <= z among the durable log and the base, and
	// false if z stands before the base.
	Floor(z Zxid) (Zxid, bool)
	// Entries returns durable entries after `after`, up to and including `upto`, in
	// order. It stops early once maxBytes of data are exceeded, but returns at least
	// one entry if there is one.
	Entries(after, upto Zxid, maxBytes int) ([]Entry, error)
}

// Config is what a core must know of itself and of its cluster.
type Config struct {
	ID NodeID
	// Members are those of the set that the applied state holds, and MembersAt is the entry
	// that made it so; zero: the list that the cluster begins with, which has this node.
	Members   []Member
	MembersAt Zxid
	// Change returns the members that an entry makes those of the cluster from there on, and
	// false for every other entry. It says the same of the same data, always and everywhere.
	// Nil: no entry does.
	Change func(data []byte) ([]Member, bool)
	// Boot is a durable counter of process starts, given by the driver. Sessions are
	// numbered Boot<<32|n, so a message from before a crash never matches.
	Boot uint32
	// HeartbeatTicks, SyncTicks, InitTicks and FinalizeTicks count ticks: between two
	// pings; of silence after which a synced peer is given up; for discovery and
	// synchronization without progress; that a quorum of ballots waits for a better
	// one. Zero means the default (1, 20, 100, 4; meant for ticks of 50 ms).
	HeartbeatTicks, SyncTicks, InitTicks, FinalizeTicks int
	// MaxUncommittedBytes bounds proposals in flight; beyond it Propose is refused.
	// Zero means 64 MiB.
	MaxUncommittedBytes int
	// MaxBatchBytes bounds the data of one Propose message. Zero means 1 MiB, and
	// more than 2 MiB counts as that.
	MaxBatchBytes int
	// WindowBytes bounds what is under way to one peer during synchronization. Zero
	// means 8 MiB.
	WindowBytes int
}

// Status is a snapshot of a core, for people, heartbeats and checks.
type Status struct {
	ID          NodeID
	Role        Role
	Phase       Phase
	Established bool   // leader: a quorum acknowledged NewLeader; follower, observer: UpToDate received
	Leader      NodeID // 0 if unknown
	Epoch       Epoch  // epoch of the current session; of Current when looking
	Hard        HardState
	Base        Zxid
	Tail        Zxid   // last entry handed to the log writer
	Stable      Zxid   // last entry known to be durable
	Commit      Zxid   // last entry here that is known to be committed; it may be ahead of Stable
	Applied     Zxid   // last entry that the driver said it applied
	Set         Set    // in force
	Transfer    NodeID // leader: whom leadership is being handed to, 0 for nobody
	Peers       []PeerStatus
}

// PeerStatus is what a leader knows of a peer with a live session.
type PeerStatus struct {
	ID        NodeID
	Observer  bool
	Synced    bool
	Match     Zxid // acknowledged as durable there
	SilentFor int  // ticks since anything was heard
}
