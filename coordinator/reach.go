// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"

	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
)

// Applied is the position in the log that this node's state reflects. It is never older than
// what a request was answered from.
func (n *Node) Applied() zab.Zxid { return *n.applied.Load() }

// Reach waits until this node's state reflects z, for a second at most.
// The error is txn.ErrUnavailable if it does not by then.
func (n *Node) Reach(ctx context.Context, z zab.Zxid) error {
	if !n.applied.Load().Less(z) {
		return nil
	}
	return n.awaitSeen(ctx, z)
}

// StatusSince is Status, of a state that reflects z.
// Errors are those of Reach.
func (n *Node) StatusSince(ctx context.Context, z zab.Zxid) (*Snapshot, error) {
	if s := n.Status(); !s.Zxid.Less(z) {
		return s, nil
	}
	err := n.awaitSeen(ctx, z) // the loop publishes before it answers
	return n.Status(), err
}

// awaitSeen has a bound of its own: the loop takes no requests while the disk is behind.
func (n *Node) awaitSeen(ctx context.Context, z zab.Zxid) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*replica.SeenPatience, replica.TooFarBehind(*n.applied.Load(), z))
	defer cancel()
	_, err := n.ask(ctx, func(request uint64) replica.Event { return replica.SeenAsked{Request: request, Zxid: z} })
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
