// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

type stub = concordv1connect.TransactionServiceClient

// peers are the other nodes, to which calls of their sessions are handed on, once.
type peers struct {
	address func(node uint64) string
	http    *http.Client
	scheme  string
	from    uint64

	mu    sync.Mutex
	stubs map[string]stub // by address: members of the cluster, so there are few
}

func (p *peers) stub(addr string) stub {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.stubs[addr]
	if !ok {
		mark := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				req.Header().Set(api.HandedOnHeader, strconv.FormatUint(p.from, 10))
				access.Of(ctx).Relay(req.Header())
				return next(ctx, req)
			}
		})
		s = concordv1connect.NewTransactionServiceClient(p.http, p.scheme+addr, connect.WithInterceptors(mark))
		p.stubs[addr] = s
	}
	return s
}

// goneError says that the node that holds a session did not answer, or that there is no such node.
type goneError struct {
	text string
	kind error
}

func (e *goneError) Error() string { return e.text }
func (e *goneError) Unwrap() error { return e.kind }

// gone reports whether the node that holds the session did not answer.
func gone(err error) bool { return errors.As(err, new(*goneError)) }

// forward hands a call on to the node that holds its session.
func forward[Req, Res any](ctx context.Context, h *handlers, at place, r *Req,
	there func(stub, context.Context, *Req) (*Res, error)) (*Res, error) {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if by := ""; ok {
		if by = info.RequestHeader().Get(api.HandedOnHeader); by != "" {
			return nil, txn.Unavailablef("node %s passes calls for node %d on to node %d: give each node its own "+
				"address in \"members\"", by, at.node, h.conf.Node)
		}
	}
	addr := h.peers.address(at.node)
	if addr == "" {
		return nil, &goneError{fmt.Sprintf("session: node %d, which held the transaction, is no longer a member of "+
			"this cluster: begin a new one", at.node), txn.ErrNotFound}
	}
	m, err := there(h.peers.stub(addr), ctx, r)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("node %d, which holds the transaction, is still working on it: send the request "+
			"again: %w",
			at.node, context.Cause(ctx))
	case !connect.IsWireError(err):
		return nil, &goneError{fmt.Sprintf("node %d, which holds the transaction, did not answer at %s (%v): send "+
			"the request again; if it does not come back, Commit and Rollback say what became of the transaction",
			at.node, addr, api.FromStatus(err)), txn.ErrUnavailable}
	}
	return nil, api.FromStatus(err)
}
