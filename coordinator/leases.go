// SPDX-License-Identifier: Apache-2.0

package coordinator

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/txn"
)

// heard collects who renewed a lease since the last tick. It is beside the queue of requests,
// which is not read while the disk is behind: clients must not count as dead for that.
type heard struct {
	mu     sync.Mutex
	leases map[txn.Lease]bool
}

func (h *heard) add(n txn.Lease) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.leases == nil {
		h.leases = make(map[txn.Lease]bool)
	}
	h.leases[n] = true
}

func (h *heard) take() []txn.Lease {
	h.mu.Lock()
	defer h.mu.Unlock()
	leases := slices.Sorted(maps.Keys(h.leases))
	clear(h.leases)
	return leases
}

// publishLeases shows the leases to whoever asks; what differs has another Last or length.
func (n *Node) publishLeases(l txn.Leases) {
	if old := n.leases.Load(); old == nil || old.Last != l.Last || len(old.Active) != len(l.Active) {
		changed := l // a copy, so that nothing is allocated when nothing changed
		n.leases.Store(&changed)
	}
}

// LeaseLength returns how long whoever has a lease may be silent, or 0 as long as leases are not
// switched on.
func (n *Node) LeaseLength() time.Duration {
	if txn.FeatureLevel(n.level.Load()) < txn.LevelLeases {
		return 0
	}
	return n.config.Rules.Lease
}

// Leases returns the leases that this node knows of. They must not be changed.
func (n *Node) Leases() txn.Leases { return *n.leases.Load() }

// GrantLease returns a new lease.
// The error is txn.ErrRefused if not every member knows leases yet, or too many clients have one: then go on
// without.
func (n *Node) GrantLease(ctx context.Context) (txn.Lease, error) {
	r, err := n.ask(ctx, func(request uint64) replica.Event { return commit.LeaseAsked{Request: request} })
	return r.Lease, err
}

// RenewLease notes that whoever has a lease lives, and reports whether it still has it. It is
// for the leader.
// The error is txn.ErrUnavailable if this node has not heard of the lease yet.
func (n *Node) RenewLease(l txn.Lease) (bool, error) {
	switch leases := n.Leases(); {
	case leases.Holds(l):
		n.heard.add(l)
		return true, nil
	case leases.Ended(l):
		return false, nil
	}
	return false, txn.Unavailablef("lease %d is not known here yet: ask again", l)
}

// HoldsLease reports whether a lease was granted and has not ended, as far as this node has applied the log.
func (n *Node) HoldsLease(l txn.Lease) bool { return n.Leases().Holds(l) }

// EndLease gives a lease back: what is left of its transactions is aborted at once.
// It has no errors of its own.
func (n *Node) EndLease(ctx context.Context, l txn.Lease) error {
	_, err := n.ask(ctx, func(request uint64) replica.Event { return commit.LeaseEndAsked{Request: request, Lease: l} })
	return err
}
