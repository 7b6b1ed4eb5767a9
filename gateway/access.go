// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"

	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// rules say who may make which call. A call without a row is not served to anybody.
var rules = access.Rules{
	concordv1connect.TransactionServiceBeginProcedure:      access.Needs(security.Application),
	concordv1connect.TransactionServiceExecuteProcedure:    access.Needs(security.Application),
	concordv1connect.TransactionServiceSavepointProcedure:  access.Needs(security.Application),
	concordv1connect.TransactionServiceRollbackToProcedure: access.Needs(security.Application),
	concordv1connect.TransactionServiceCommitProcedure:     access.Needs(security.Application),
	concordv1connect.TransactionServiceRollbackProcedure:   access.Needs(security.Application),
	concordv1connect.TransactionServiceRunProcedure:        access.Needs(security.Application),
}

// mine returns a session of whoever calls; nil: there is none, or it is another one's, which is no
// news for him.
func (h *handlers) mine(ctx context.Context, id txn.ID) *session {
	s := h.session(id)
	if s == nil || s.subject != access.Of(ctx).Subject() {
		return nil
	}
	return s
}

// maySettle returns an error if somebody else's session holds the transaction here: to ask for its
// outcome would end it.
func (h *handlers) maySettle(id txn.ID) error {
	if h.session(id) != nil {
		return errNoSession
	}
	return nil
}
