// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// What an operator does is kept with who he is, whatever he signs with.
func TestTheLogKnowsWhoItWas(t *testing.T) {
	n := newFake()
	c := guarded(t, n)
	_, err := c.stub("otto").Forget(t.Context(), &concordv1.ForgetRequest{Gid: gid(), Who: "ann", Reason: "why"})
	require.NoError(t, err)
	require.Equal(t, "otto (signed ann)", n.who)
	_, err = c.stub("otto").Forget(t.Context(), &concordv1.ForgetRequest{Gid: gid(), Who: "otto", Reason: "why"})
	require.NoError(t, err)
	require.Equal(t, "otto", n.who)
	require.Equal(t, "otto", n.acts[0].Subject)
	require.Equal(t, "ann", n.acts[0].Who)

	// From where, too: what a node says of whom it speaks for is believed, and of nobody else.
	forgets := func(as, caller string) txn.Caller {
		t.Helper()
		ctx, info := connect.NewClientContext(t.Context())
		info.RequestHeader().Set(api.CallerAddressHeader, "192.0.2.7:4711")
		info.RequestHeader().Set(api.HandedOnHeader, "2")
		transport := c.as(as).Transport
		if caller != "" {
			transport = speaking{transport, caller}
		}
		_, err := concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: transport}, "https://"+c.addr).
			Forget(ctx, &concordv1.ForgetRequest{Gid: gid(), Reason: "why"})
		require.NoError(t, err)
		return n.acts[len(n.acts)-1].From
	}
	require.Equal(t, txn.Caller{Roles: "operator", Addr: "192.0.2.7:4711", Node: 2},
		forgets("2", "concord://shop/client/otto"))
	own := forgets("otto", "")
	require.True(t, strings.HasPrefix(own.Addr, "127.0.0.1:"), own.Addr)
	own.Addr = ""
	require.Equal(t, txn.Caller{Roles: "operator", Node: uint64(n.Status().Node)}, own)
}

// looking are the calls of operators that change nothing; Retry only hurries what would be done anyway.
var looking = []string{"Audit", "CheckResource", "ReportResource", "Retry"}

// Who adds a call that only operators or administrators may make says what it changes, or puts it into the audit.
func TestEveryActOfAPersonIsInTheAudit(t *testing.T) {
	for name, do := range ofLeader {
		roles := rules["/"+concordv1connect.CoordinatorServiceName+"/"+name].Roles
		if !slices.Contains(roles, security.Operator) && !slices.Contains(roles, security.Admin) ||
			slices.Contains(looking, name) {
			continue
		}
		n := newFake()
		require.NoError(t, do(t.Context(), serve(t, n, nil).stub(t)), name)
		if name == "Recover" {
			require.Empty(t, n.acts, "to look is no act")
			require.NoError(t, recovers(t.Context(), serve(t, n, nil).stub(t), &concordv1.RecoverRequest{Apply: true,
				Who: "ann", Reason: "why"}))
		}
		require.Len(t, n.acts, 1, "%s is not in the audit: have node.Act do it", name)
		require.Equal(t, "ann", n.acts[0].Who, name)
		require.Equal(t, "why", n.acts[0].Why, name)
	}
}

func TestTheAuditIsPaged(t *testing.T) {
	n := newFake()
	id := txn.NewID(time.Now())
	for no := range uint64(5) {
		a := &txn.Act{No: no + 1, ActRecord: txn.ActRecord{Kind: txn.ActLead, Who: "ann", Node: 2,
			Time: time.UnixMilli(1000 * int64(no))}}
		if no == 2 {
			a.ActRecord = txn.ActRecord{Kind: txn.ActAbandon, Subject: "otto", ID: id, Time: a.Time, Branch: 3}
		}
		n.acts = append(n.acts, a)
	}
	c := serve(t, n, nil).stub(t)
	numbers := func(r *concordv1.AuditRequest) (list []uint64, next uint64) {
		res, err := c.Audit(t.Context(), r)
		require.NoError(t, err)
		for _, a := range res.GetActs() {
			list = append(list, a.GetNo())
		}
		return list, res.GetNext()
	}
	list, next := numbers(&concordv1.AuditRequest{Limit: 3})
	require.Equal(t, []uint64{5, 4, 3}, list)
	list, next = numbers(&concordv1.AuditRequest{Limit: 3, Before: next})
	require.Equal(t, []uint64{2, 1}, list)
	require.Zero(t, next)
	list, _ = numbers(&concordv1.AuditRequest{Who: "otto"})
	require.Equal(t, []uint64{3}, list)
	list, _ = numbers(&concordv1.AuditRequest{Gid: id.String()})
	require.Equal(t, []uint64{3}, list)
	list, _ = numbers(&concordv1.AuditRequest{SinceMs: 3000, Who: "ann"})
	require.Equal(t, []uint64{5, 4}, list)
	n.view = &commit.View{Known: true, Txn: txn.Txn{ID: id, Decision: txn.Commit, Ended: true,
		Heuristics: []txn.Heuristic{{Branch: 3, Outcome: txn.HeuristicHazard, By: txn.FromOperator}}}, Acts: n.acts}
	got, err := c.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
	require.NoError(t, err)
	require.Len(t, got.GetTransaction().GetActs(), 1)
	require.EqualValues(t, 3, got.GetTransaction().GetActs()[0].GetBranch())
	require.Zero(t, got.GetTransaction().GetHeuristics()[0].GetTimeMs(), "it was not done")
	n.acts[2].Outcome = txn.ActDone
	got, err = c.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
	require.NoError(t, err)
	require.EqualValues(t, 2000, got.GetTransaction().GetHeuristics()[0].GetTimeMs())
}
