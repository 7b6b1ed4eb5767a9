// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
)

// rules say who may make which call of an agent: applications work in branches, and nodes end them. A
// call without a row is not served to anybody.
var rules = access.Rules{
	concordv1connect.ParticipantServiceDescribeProcedure: access.Needs(security.Application, security.Viewer,
		security.AgentRole),
	concordv1connect.ParticipantServiceExecuteProcedure:    access.Needs(security.Application),
	concordv1connect.ParticipantServiceSavepointProcedure:  access.Needs(security.Application),
	concordv1connect.ParticipantServiceRollbackToProcedure: access.Needs(security.Application),
	concordv1connect.ParticipantServicePrepareProcedure:    access.Needs(security.Application),
	concordv1connect.ParticipantServiceFinishProcedure:     access.Needs(security.Application),

	concordv1connect.ParticipantServiceWorkProcedure: access.Streams(security.Application),

	concordv1connect.ParticipantServiceDeliverProcedure: access.Needs(security.MemberRole),

	concordv1connect.ParticipantServiceListBranchesProcedure:   access.Needs(security.NodeRole),
	concordv1connect.ParticipantServiceEvidenceProcedure:       access.Needs(security.NodeRole),
	concordv1connect.ParticipantServiceForgetEvidenceProcedure: access.Needs(security.NodeRole),
	concordv1connect.ParticipantServiceCheckHostedProcedure:    access.Needs(security.NodeRole, security.Operator),

	"/livez":  {Open: true},
	"/readyz": {Open: true},
}

// mayWork returns an error unless the caller may change the database of a branch.
func mayWork(ctx context.Context, resource string) error {
	return access.Of(ctx).OnAll([]string{resource}, security.Application)
}
