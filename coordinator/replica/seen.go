// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// A client says with each request which zxid it has seen, and no node answers it from
// an older state: one that is behind lets it wait until it has caught up, for a moment.
// That position may be one that this cluster never reaches, so nobody waits for long.

const (
	// SeenPatience is how long a node that is behind lets a client wait. It is less than what
	// a client gives one node, so the client hears why.
	SeenPatience = time.Second
	// MaxBehind requests may wait for this node to catch up.
	MaxBehind = 4096
)

// SeenAsked asks to be answered when this node's state reflects Zxid.
type SeenAsked struct {
	Request uint64
	Zxid    zab.Zxid
	Fresh   bool // and that the status is of this moment
}

func (SeenAsked) IsEvent() {}

// RequestNo implements Asking.
func (e SeenAsked) RequestNo() uint64 { return e.Request }

// behind is a SeenAsked that waits.
type behind struct {
	SeenAsked
	until time.Time
}

func (c *Core) onSeenAsked(e SeenAsked) {
	switch {
	case !c.Zxid().Less(e.Zxid):
		c.reply(Reply{Request: e.Request, Zxid: c.Zxid(), Seen: true, Fresh: e.Fresh})
	case len(c.behind) >= MaxBehind:
		c.reply(Reply{Request: e.Request, Err: ErrBusy})
	default:
		c.behind = append(c.behind, behind{e, c.now.Add(SeenPatience)})
	}
}

// answerSeen answers who waited for what is applied now.
func (c *Core) answerSeen() {
	at := c.Zxid()
	c.behind = slices.DeleteFunc(c.behind, func(b behind) bool {
		if at.Less(b.Zxid) {
			return false
		}
		c.reply(Reply{Request: b.Request, Zxid: at, Seen: true, Fresh: b.Fresh})
		return true
	})
}

// refuseSeen sends those away who have waited for long enough.
func (c *Core) refuseSeen() {
	c.behind = slices.DeleteFunc(c.behind, func(b behind) bool {
		if c.now.Before(b.until) {
			return false
		}
		c.reply(Reply{Request: b.Request, Err: TooFarBehind(c.Zxid(), b.Zxid)})
		return true
	})
}

// TooFarBehind is the answer of a node that has not come as far as whoever asks has seen.
func TooFarBehind(at, seen zab.Zxid) error {
	return txn.Unavailablef("this node is at zxid %v, and you have seen %v: ask another node; if none has come that "+
		"far, you have seen another cluster", at, seen)
}
