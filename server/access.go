// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// rules say who may make which call. A call without a row is not served to anybody.
var rules = access.Rules{
	concordv1connect.CoordinatorServiceCommitProcedure:        access.Needs(security.Application),
	concordv1connect.CoordinatorServiceDecideProcedure:        access.Streams(security.Application),
	concordv1connect.CoordinatorServiceLeaseProcedure:         access.Needs(security.Application),
	concordv1connect.CoordinatorServiceWaitingProcedure:       access.Needs(security.Application),
	concordv1connect.CoordinatorServiceDeliverProcedure:       access.Needs(security.MemberRole),
	concordv1connect.CoordinatorServiceListThroughProcedure:   access.Needs(security.NodeRole),
	concordv1connect.CoordinatorServiceFinishThroughProcedure: access.Needs(security.NodeRole),
	concordv1connect.CoordinatorServiceFinishedProcedure:      access.Needs(security.Application, security.AgentRole),
	concordv1connect.CoordinatorServiceOutcomeProcedure:       access.Needs(security.Application, security.AgentRole),
	concordv1connect.CoordinatorServiceKeyUseProcedure:        access.Needs(security.Application),
	concordv1connect.CoordinatorServiceFollowProcedure:        access.Needs(security.Application),

	concordv1connect.CoordinatorServiceGetProcedure: access.Needs(security.Application, security.AgentRole,
		security.Viewer),
	concordv1connect.CoordinatorServiceListProcedure: access.Needs(security.Application, security.AgentRole,
		security.Viewer),
	concordv1connect.CoordinatorServiceResourcesProcedure: access.Needs(security.Application, security.AgentRole,
		security.Viewer),
	concordv1connect.CoordinatorServiceStatusProcedure: access.Needs(security.Viewer),
	concordv1connect.CoordinatorServiceWatchProcedure:  access.Streams(security.Viewer),

	concordv1connect.CoordinatorServiceResolveProcedure:        access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceForgetProcedure:         access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceSettleProcedure:         access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceRetryProcedure:          access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceRecoverProcedure:        access.Streams(security.Operator),
	concordv1connect.CoordinatorServiceCheckResourceProcedure:  access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceReportResourceProcedure: access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceAcceptResourceProcedure: access.Needs(security.Operator),
	concordv1connect.CoordinatorServiceAuditProcedure:          access.Needs(security.Operator),

	concordv1connect.CoordinatorServiceReplaceMemberProcedure:      access.Needs(security.Admin),
	concordv1connect.CoordinatorServiceAddMemberProcedure:          access.Needs(security.Admin),
	concordv1connect.CoordinatorServiceRemoveMemberProcedure:       access.Needs(security.Admin),
	concordv1connect.CoordinatorServiceTransferLeadershipProcedure: access.Needs(security.Admin),

	"/metrics": access.Needs(security.Viewer),
	"/livez":   {Open: true},
	"/readyz":  {Open: true},
}

// mayCommit returns an error unless the caller may change all databases that a request names. A request
// that is denied leaves nothing behind.
func mayCommit(ctx context.Context, r txn.CommitRequest) error {
	var resources []string
	for _, b := range r.Branches {
		resources = append(resources, b.Resource)
	}
	for _, a := range r.Agents {
		for _, b := range a.Branches {
			resources = append(resources, b.Resource)
		}
	}
	return access.Of(ctx).OnAll(resources, security.Application)
}

// owns reports whether a transaction on some resources is one of the caller's: an application's if it
// may use all of them, an agent's if it hosts one. One of which no resource is known is anybody's who
// knows its gid, which nobody guesses.
func owns(a security.Access, resources []string) bool {
	on := func(role security.Role) func(string) bool {
		return func(r string) bool { return a.On(r, role) }
	}
	return len(resources) == 0 || slices.ContainsFunc(resources, on(security.AgentRole)) ||
		a.Has(security.Application) && !slices.ContainsFunc(resources,
			func(r string) bool { return !a.On(r, security.Application) })
}

// shown is what of a transaction a caller gets to see; nil: nothing, and that it is there is no news for
// him either. Holders and evidence are for those whose branches they are, and for operators.
func shown(a security.Access, m *concordv1.Transaction) *concordv1.Transaction {
	var resources []string
	for _, b := range m.GetBranches() {
		resources = append(resources, b.GetResource())
	}
	switch {
	case a.All(), a.Has(security.Operator), len(resources) > 0 && owns(a, resources):
		return m
	case !a.Has(security.Viewer) && !owns(a, resources):
		return nil
	}
	for _, b := range m.GetBranches() {
		b.Holder, b.Evidence = "", ""
	}
	return m
}

// mayEnd returns an error, that of a transaction which is not known, unless the caller may settle what
// became of a transaction: who asks ends one that is not decided yet.
func (h *handlers) mayEnd(ctx context.Context, id txn.ID) error {
	a, err := access.Of(ctx).Access()
	if err != nil || a.All() {
		return err
	}
	v, err := h.node.View(ctx, id)
	if err != nil {
		return err
	}
	if !owns(a, resourcesOf(id, v)) {
		return notKnown(id, &commit.View{})
	}
	return nil
}

// mayReplay returns an error unless a transaction is one of the caller's: who else comes with its key
// does not get to see what it left.
func mayReplay(ctx context.Context, x txn.Txn) error {
	a, err := access.Of(ctx).Access()
	if err != nil || a.All() {
		return err
	}
	var resources []string
	for _, b := range x.Branches {
		resources = append(resources, b.Resource)
	}
	if !owns(a, resources) {
		return txn.Deniedf("another application's transaction is committed under the key: begin keys with a name of " +
			"your own")
	}
	return nil
}

// resourcesOf are those that a view knows of a transaction.
func resourcesOf(id txn.ID, v *commit.View) (names []string) {
	if v.Known {
		for _, b := range v.Txn.Branches {
			names = append(names, b.Resource)
		}
	}
	for x, listed := range v.InDoubt {
		if x.ID == id {
			names = append(names, listed.Resource)
		}
	}
	return names
}
