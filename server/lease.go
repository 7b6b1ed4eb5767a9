// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"sync"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// Lease grants, renews and ends leases.
func (h *handlers) Lease(ctx context.Context, r *concordv1.LeaseRequest) (*concordv1.LeaseResponse, error) {
	res := &concordv1.LeaseResponse{LengthMs: h.node.LeaseLength().Milliseconds(), NowMs: time.Now().UnixMilli()}
	lease, subject := txn.Lease(r.GetLease()), access.Of(ctx).Subject()
	switch {
	case lease == 0 && r.GetEnd():
		return nil, txn.Invalidf("lease: is zero, which is not a lease")
	case lease == 0:
		if err := h.holders.reserve(subject, h.limits.Leases, h.node.HoldsLease); err != nil {
			return nil, err
		}
		granted, err := h.node.GrantLease(ctx)
		if err != nil {
			h.holders.grant(0, subject)
			return nil, err
		}
		h.holders.grant(granted, subject)
		res.Lease = uint32(granted)
	case r.GetEnd():
		if !h.holders.mayEnd(lease, subject) {
			break // it ends by itself, unless somebody renews it
		}
		if err := h.node.EndLease(ctx, lease); err != nil {
			return nil, err
		}
	default:
		if err := h.ofLeader(); err != nil {
			return nil, err
		}
		active, err := h.node.RenewLease(lease)
		if err != nil {
			return nil, err
		}
		if active {
			res.Lease = r.GetLease()
		}
	}
	res.Zxid = h.zxid()
	return res, nil
}

// Follow tells what became of a transaction and of the client that began it. Whoever knows the gid, which
// nobody guesses, hears that much.
func (h *handlers) Follow(ctx context.Context, r *concordv1.FollowRequest) (*concordv1.FollowResponse, error) {
	id, err := api.ParseID("gid", r.GetGid())
	if err != nil {
		return nil, err
	}
	if err := sameCluster(h.node.Status(), r.GetCluster()); err != nil {
		return nil, err
	}
	v, err := h.node.View(ctx, id) // which is up to date, and so are the leases behind it
	ended := err == nil && id.Lease() != 0 && !h.node.HoldsLease(id.Lease())
	if ended && v.Txn.Decision == txn.Undecided { // perhaps it was decided before the lease ended
		v, err = h.node.View(ctx, id)
	}
	switch {
	case err != nil:
		return nil, err
	case v.TooOld:
		return nil, txn.TooOldf("transaction %v is older than what the cluster remembers: look into the databases", id)
	}
	return &concordv1.FollowResponse{Decision: v.Txn.Decision.String(), LeaseEnded: ended, Zxid: h.zxid()}, nil
}

// holders are those to whom this node has granted leases while it led. A lease is a small number, and
// its end aborts transactions at once: nobody else may say that. Of a lease that an earlier leader has
// granted nobody may; it lapses within seconds.
type holders struct {
	mu       sync.Mutex
	of       map[txn.Lease]string
	reserved map[string]int // by subject: those that are being granted
}

// reserve makes room for one more lease of a subject, of which so many may last; grant follows. With an empty subject
// nobody asks who anybody is.
func (h *holders) reserve(subject string, most int, lasts func(txn.Lease) bool) error {
	if subject == "" {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	has := h.reserved[subject]
	for l, s := range h.of {
		switch {
		case s != subject:
		case lasts(l):
			has++
		default:
			delete(h.of, l)
		}
	}
	if has >= most {
		return txn.Busyf("%d clients of %q have leases, which is the limit: have them share one client", most, subject)
	}
	if h.reserved == nil {
		h.reserved = map[string]int{}
	}
	h.reserved[subject]++
	return nil
}

// grant notes the holder of a lease; 0: none was granted.
func (h *holders) grant(l txn.Lease, subject string) {
	if subject == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reserved[subject]--; h.reserved[subject] == 0 {
		delete(h.reserved, subject)
	}
	if l == 0 {
		return
	}
	if h.of == nil || len(h.of) >= 2*txn.MaxLeases { // those that lapsed are among them
		h.of = map[txn.Lease]string{}
	}
	h.of[l] = subject
}

func (h *holders) mayEnd(l txn.Lease, subject string) bool {
	if subject == "" {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of[l] != subject {
		return false
	}
	delete(h.of, l)
	return true
}
