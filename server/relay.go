// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// relay hands on to the leader what belongs to it and came to this node, so that clients
// that reach only an observer can commit. A call is handed on once at most: who gets it that
// way and does not lead says so. What this node has perhaps carried out it does not hand on: the leader's refusal
// would not be the whole answer.
type relay struct {
	node   Node
	http   *http.Client
	scheme string

	mu      sync.Mutex
	leaders map[string]leader // by address: members of the cluster, so there are few
}

type leader = concordv1connect.CoordinatorServiceClient

// newRelay makes a relay that shows the node's keys; nil: leaders are called in plain.
func newRelay(n Node, keys *security.Keys) *relay {
	r := &relay{node: n, leaders: map[string]leader{}, scheme: "http://"}
	var conf api.TLSFor
	if keys != nil {
		r.scheme, conf = "https://", keys.NodeClient
	}
	r.http = &http.Client{Transport: api.HTTP2(conf, 15*time.Second)}
	return r
}

// handOns are the calls of the leader.
var handOns = map[string]func(context.Context, leader, connect.AnyRequest) (connect.AnyResponse, error){
	concordv1connect.CoordinatorServiceCommitProcedure:             through(leader.Commit),
	concordv1connect.CoordinatorServiceDeliverProcedure:            through(leader.Deliver),
	concordv1connect.CoordinatorServiceFinishedProcedure:           through(leader.Finished),
	concordv1connect.CoordinatorServiceLeaseProcedure:              through(leader.Lease),
	concordv1connect.CoordinatorServiceWaitingProcedure:            through(leader.Waiting),
	concordv1connect.CoordinatorServiceOutcomeProcedure:            through(leader.Outcome),
	concordv1connect.CoordinatorServiceKeyUseProcedure:             through(leader.KeyUse),
	concordv1connect.CoordinatorServiceFollowProcedure:             through(leader.Follow),
	concordv1connect.CoordinatorServiceListProcedure:               through(leader.List),
	concordv1connect.CoordinatorServiceGetProcedure:                through(leader.Get),
	concordv1connect.CoordinatorServiceResolveProcedure:            through(leader.Resolve),
	concordv1connect.CoordinatorServiceForgetProcedure:             through(leader.Forget),
	concordv1connect.CoordinatorServiceSettleProcedure:             through(leader.Settle),
	concordv1connect.CoordinatorServiceReportResourceProcedure:     through(leader.ReportResource),
	concordv1connect.CoordinatorServiceAcceptResourceProcedure:     through(leader.AcceptResource),
	concordv1connect.CoordinatorServiceAuditProcedure:              through(leader.Audit),
	concordv1connect.CoordinatorServiceReplaceMemberProcedure:      through(leader.ReplaceMember),
	concordv1connect.CoordinatorServiceRetryProcedure:              through(leader.Retry),
	concordv1connect.CoordinatorServiceCheckResourceProcedure:      through(leader.CheckResource),
	concordv1connect.CoordinatorServiceResourcesProcedure:          through(leader.Resources), // with a doubt
	concordv1connect.CoordinatorServiceAddMemberProcedure:          through(leader.AddMember),
	concordv1connect.CoordinatorServiceRemoveMemberProcedure:       through(leader.RemoveMember),
	concordv1connect.CoordinatorServiceTransferLeadershipProcedure: through(leader.TransferLeadership),
}

func through[Req, Res any](do func(leader, context.Context, *Req) (*Res, error)) func(context.Context, leader,
	connect.AnyRequest) (connect.AnyResponse, error) {
	return func(ctx context.Context, l leader, req connect.AnyRequest) (connect.AnyResponse, error) {
		r, ok := req.Any().(*Req)
		if !ok {
			return nil, fmt.Errorf("server: %T is no request of %s", req.Any(), req.Spec().Procedure)
		}
		res, err := do(l, ctx, r)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(res), nil
	}
}

func (r *relay) interceptor() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			res, err := next(ctx, req)
			notLeader := handable(err)
			do := handOns[req.Spec().Procedure]
			if do == nil || notLeader == nil ||
				req.Header().Get(api.RedirectHeader) != "" || req.Header().Get(api.HandedOnHeader) != "" {
				return res, err
			}
			if res, err = do(ctx, r.leader(notLeader.API), req); err != nil {
				return nil, leaderError(notLeader, err)
			}
			res.Header().Set(api.HandedOnHeader, r.name())
			return res, nil
		}
	}
}

// handable is an answer after which a call may be handed on, or nil.
func handable(err error) *txn.NotLeaderError {
	var notLeader *txn.NotLeaderError
	if errors.As(err, &notLeader) && notLeader.API != "" && notLeader.Untouched {
		return notLeader
	}
	return nil
}

// commit hands on a request of a stream.
func (r *relay) commit(ctx context.Context, c *concordv1.NumberedCommit,
	to *txn.NotLeaderError) *concordv1.NumberedAnswer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a := &concordv1.NumberedAnswer{Number: c.GetNumber()}
	res, err := r.leader(to.API).Commit(ctx, c.GetRequest())
	if err != nil {
		a.Error = api.CommitError(leaderError(to, err))
		return a
	}
	a.Response = res
	return a
}

// leaderError is what the leader said, or that it said nothing.
func leaderError(l *txn.NotLeaderError, err error) error {
	if !connect.IsWireError(err) {
		return txn.Unavailablef("the leader, node %d, did not answer at %s (%v): ask again, or run \"concord status\"",
			l.Leader, l.API, api.FromStatus(err))
	}
	return api.FromStatus(err)
}

func (r *relay) name() string { return strconv.FormatUint(uint64(r.node.Status().Node), 10) }

func (r *relay) leader(addr string) leader {
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.leaders[addr]
	if !ok {
		l = concordv1connect.NewCoordinatorServiceClient(r.http, r.scheme+addr, connect.WithInterceptors(marking{r}))
		r.leaders[addr] = l
	}
	return l
}

// marking says in a request that it was handed on, and for whom: the leader decides whether that one may.
type marking struct{ *relay }

func (m marking) mark(ctx context.Context, h http.Header) {
	h.Set(api.HandedOnHeader, m.name())
	access.Of(ctx).Relay(h)
}

// WrapUnary implements connect.Interceptor.
func (m marking) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		m.mark(ctx, req.Header())
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (m marking) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		m.mark(ctx, conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor; a client has no use for it.
func (m marking) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// seen lets calls wait until this node's state reflects what their client has seen. Calls
// of the leader are its own affair.
func seen(n Node) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			r, ok := req.Any().(interface{ GetSeen() string })
			if !ok {
				return next(ctx, req)
			}
			at, err := api.ParseZxid("seen", r.GetSeen())
			if err != nil {
				return nil, err
			}
			s := n.Status()
			// Who speaks of another cluster has seen what this one may never reach.
			if named, ok := req.Any().(interface{ GetCluster() string }); ok {
				if err := sameCluster(s, named.GetCluster()); err != nil {
					return nil, err
				}
			}
			if handOns[req.Spec().Procedure] == nil || s.Leader == s.Node ||
				req.Spec().Procedure == concordv1connect.CoordinatorServiceOutcomeProcedure {
				if err := n.Reach(ctx, at); err != nil {
					return nil, err
				}
			}
			return next(ctx, req)
		}
	}
}
