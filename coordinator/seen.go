// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/concordtx/concord/protocol/zab"
)

// A client says with each request which zxid it has seen, and no node answers it from
// an older state: one that is behind lets it wait until it has caught up, for a moment.
// That position may be one that this cluster never reaches, so nobody waits for long.

const (
	// seenPatience is how long a node that is behind lets a client wait. It is less than what
	// a client gives one node, so the client hears why.
	seenPatience = time.Second
	// maxBehind requests may wait for this node to catch up.
	maxBehind = 4096
)

// SeenAsked asks to be answered when this node's state reflects Zxid.
type SeenAsked struct {
	Request uint64
	Zxid    zab.Zxid
	Fresh   bool // and that the status is of this moment
}

func (SeenAsked) IsEvent() {}

// behind is a SeenAsked that waits.
type behind struct {
	SeenAsked
	until time.Time
}

func (c *Core) onSeenAsked(e SeenAsked) {
	switch {
	case !c.Zxid().Less(e.Zxid):
		c.reply(LogReply{Request: e.Request, Zxid: c.Zxid(), Seen: true, Fresh: e.Fresh})
	case len(c.behind) >= maxBehind:
		c.reply(LogReply{Request: e.Request, Err: errBusy})
	default:
		c.behind = append(c.behind, behind{e, c.now.Add(seenPatience)})
	}
}

// answerSeen answers who waited for what is applied now.
func (c *Core) answerSeen() {
	at := c.Zxid()
	c.behind = slices.DeleteFunc(c.behind, func(b behind) bool {
		if at.Less(b.Zxid) {
			return false
		}
		c.reply(LogReply{Request: b.Request, Zxid: at, Seen: true, Fresh: b.Fresh})
		return true
	})
}

// refuseSeen sends those away who have waited for long enough.
func (c *Core) refuseSeen() {
	c.behind = slices.DeleteFunc(c.behind, func(b behind) bool {
		if c.now.Before(b.until) {
			return false
		}
		c.reply(LogReply{Request: b.Request, Err: tooFarBehind(c.Zxid(), b.Zxid)})
		return true
	})
}

func tooFarBehind(at, seen zab.Zxid) error {
	return unavailablef("this node is at zxid %v, and you have seen %v: ask another node; if none has come that far, you have seen another cluster", at, seen)
}

// Applied is the position in the log that this node's state reflects. It is never older than
// what a request was answered from.
func (n *Node) Applied() zab.Zxid { return *n.applied.Load() }

// Reach waits until this node's state reflects z, for a second at most.
func (n *Node) Reach(ctx context.Context, z zab.Zxid) error {
	if !n.applied.Load().Less(z) {
		return nil
	}
	return n.awaitSeen(ctx, z)
}

// StatusSince is Status, of a state that reflects z.
func (n *Node) StatusSince(ctx context.Context, z zab.Zxid) (*Snapshot, error) {
	if s := n.Status(); !s.Zxid.Less(z) {
		return s, nil
	}
	err := n.awaitSeen(ctx, z) // the loop publishes before it answers
	return n.Status(), err
}

// awaitSeen has a bound of its own: the loop takes no requests while the disk is behind.
func (n *Node) awaitSeen(ctx context.Context, z zab.Zxid) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*seenPatience, tooFarBehind(*n.applied.Load(), z))
	defer cancel()
	_, err := n.ask(ctx, func(request uint64) Event { return SeenAsked{Request: request, Zxid: z} })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
