// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// Event is something that happened to a coordinator. Events are the only input of a
// Core. Events with a Request are answered by exactly one Reply with that number.
type Event interface{ IsEvent() }

// Tick says that one tick went by, and what time it is now. Time only decides when
// something is tried, never what is true.
type Tick struct {
	Now time.Time
	// Peers is the latest that the clock of another node shows, as far as is known.
	Peers time.Time
}

// Peer hands over an event of the replicated log: zab.Received, zab.PeerLost,
// zab.Persisted, zab.Compact, or one about a snapshot.
type Peer struct{ Event zab.Event }

// Note is a line for the log of the node.
type Note struct {
	Alarm bool // somebody has to look at it
	Text  string
}

// Asking is an event that is answered: each that has a Request. A test looks for forgotten ones.
type Asking interface{ RequestNo() uint64 }

func (Tick) IsEvent() {}
func (Peer) IsEvent() {}

// Effects is what the driver has to carry out after a Step. Order matters only within
// one slice. The slices are valid until the next Step.
type Effects struct {
	Send  []zab.Message
	Write []zab.Write
	Reply []Reply
	// SendSnapshot come before Send: who is told of a snapshot may ask for it at once.
	SendSnapshot []zab.SendSnapshot
	// FetchSnapshot, if its session is not 0, and Discard, if not 0: the Ref of a staged
	// snapshot that is not wanted.
	FetchSnapshot zab.FetchSnapshot
	Discard       uint64
	// Distrust, if not empty, is why this node stops for good: it must be told so at each start.
	Distrust string
	Notes    []Note
}

// Reply answers a request. With an error (see package txn) nothing else is set.
type Reply struct {
	Request uint64
	Err     error
	Zxid    zab.Zxid
	Seen    bool // to a SeenAsked
	Fresh   bool // to one that wants it
}
