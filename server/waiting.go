// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator/deadlock"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// Waiting hears which transactions of a client wait for databases.
func (h *handlers) Waiting(ctx context.Context, r *concordv1.WaitingRequest) (*concordv1.WaitingResponse, error) {
	waiters, err := waitersOf(r)
	if err != nil {
		return nil, err
	}
	var resources []string
	for _, w := range waiters {
		for _, b := range w.Branches {
			if !slices.Contains(resources, b.Resource) {
				resources = append(resources, b.Resource)
			}
		}
	}
	caller := access.Of(ctx)
	if err := caller.OnAll(resources, security.Application); err != nil {
		return nil, err
	}
	reply, err := h.node.Waiting(ctx, r.GetHeard(), waiters)
	if err != nil {
		return nil, err
	}
	res := &concordv1.WaitingResponse{Look: reply.Look}
	for _, d := range reply.Deadlocks {
		m := &concordv1.Deadlock{Victim: d.Victim.String(), Resources: d.Resources}
		for _, o := range d.Others {
			if mayKnow(caller, o.Resources) {
				m.Others = append(m.Others, o.ID.String())
			}
		}
		res.Deadlocks = append(res.Deadlocks, m)
	}
	return res, nil
}

// mayKnow reports whether a caller is told the gid of a transaction with branches on some resources: who knows one
// may settle what became of it, so it is told to those whose it could be.
func mayKnow(caller *access.Caller, resources []string) bool {
	a, err := caller.Access()
	return err == nil && (a.All() || len(resources) > 0 && caller.OnAll(resources, security.Application) == nil)
}

func waitersOf(r *concordv1.WaitingRequest) ([]deadlock.Waiter, error) {
	if n := len(r.GetTransactions()); n > api.MaxWaiting {
		return nil, txn.Invalidf("transactions: are %d, report at most %d at a time", n, api.MaxWaiting)
	}
	waiters := make([]deadlock.Waiter, 0, len(r.GetTransactions()))
	for i, m := range r.GetTransactions() {
		at := fmt.Sprintf("transactions[%d]", i)
		id, err := api.ParseID(at+".gid", m.GetGid())
		if err != nil {
			return nil, err
		}
		if n := len(m.GetBranches()); n > txn.MaxBranches {
			return nil, txn.Invalidf("%s.branches: are %d: a transaction has at most %d", at, n, txn.MaxBranches)
		}
		w := deadlock.Waiter{ID: id, Voting: m.GetVoting()}
		for j, b := range m.GetBranches() {
			field := fmt.Sprintf("%s.branches[%d]", at, j)
			if err := api.ParseText(field+".resource", b.GetResource(), txn.MaxResourceName); err != nil {
				return nil, err
			}
			if err := api.ParseText(field+".session", b.GetSession(), txn.MaxHolder); err != nil {
				return nil, err
			}
			if b.GetResource() == "" || b.GetSession() == "" {
				return nil, txn.Invalidf("%s: resource or session is empty: leave out a branch whose session has no "+
					"name", field)
			}
			w.Branches = append(w.Branches, deadlock.Branch{
				Session: deadlock.Session{Resource: b.GetResource(), Name: b.GetSession()}, Waits: b.GetWaits()})
		}
		waiters = append(waiters, w)
	}
	return waiters, nil
}
