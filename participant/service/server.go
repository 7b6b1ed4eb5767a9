// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"runtime/debug"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/spans"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

const (
	maxRequestBytes = 1 << 20
	// callTimeout bounds a call: the longest statement, and a little for its answer.
	callTimeout     = participant.MaxTimeout + 10*time.Second
	shutdownTimeout = participant.DefaultTimeout
	// maxCalls may be under way; one more is answered "busy" at once.
	maxCalls = 4096
)

// Serve serves an agent on a listener until ctx ends, and closes the listener. Calls under way are
// answered by the agent that ends. door says who may do what.
func Serve(ctx context.Context, a *participant.Agent, door *access.Guard, l net.Listener, traces *spans.Exporter,
	log *slog.Logger) error {
	return door.Serve(ctx, l, rules, Handler(a, traces, log), shutdownTimeout, log)
}

// Handler returns everything that an agent serves. traces takes the spans of calls that are part of one; nil: nobody.
func Handler(a *participant.Agent, traces *spans.Exporter, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewParticipantServiceHandler(&handlers{a},
		connect.WithReadMaxBytes(maxRequestBytes), connect.WithCompression("gzip", nil, nil), api.StrictJSON(),
		connect.WithInterceptors(traced(traces), bounded(log))))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		_, cluster, err := a.Opened(r.Context())
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case cluster == 0:
			http.Error(w, "the agent has not reached its cluster yet", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	return mux
}

// traced has the spans of calls in those of their callers.
func traced(e *spans.Exporter) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			span := e.Under(req.Header().Get(api.TraceHeader), req.Spec().Procedure[1:], spans.Server)
			if of, ok := req.Any().(interface {
				GetBranch() *concordv1.BranchAddress
			}); ok && span != nil {
				if id, err := txn.ParseID(of.GetBranch().GetGid()); err == nil {
					span.Say("concord.gid", id.String())
				}
			}
			res, err := next(ctx, req)
			failed := ""
			if err != nil {
				failed = connect.CodeOf(err).String()
			}
			span.End(failed)
			return res, err
		}
	}
}

// bounded gives every call a deadline, a place among a limited number and an end even if it
// panics, and every error its status.
func bounded(log *slog.Logger) connect.UnaryInterceptorFunc {
	var under atomic.Int64
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
			method, start := path.Base(req.Spec().Procedure), time.Now()
			ctx, cancel := context.WithTimeout(ctx, callTimeout)
			defer cancel()
			defer under.Add(-1)
			defer func() {
				if r := recover(); r != nil {
					if r == http.ErrAbortHandler { // how net/http ends a connection
						panic(r)
					}
					log.Error("a call panicked: please report this as a bug", "method", method, "panic", fmt.Sprint(r),
						"stack", string(debug.Stack()))
					res, err = nil, connect.NewError(connect.CodeInternal,
						errors.New("internal error: the agent's log says more"))
				}
			}()
			if under.Add(1) > maxCalls {
				return nil, api.ToStatus(txn.Busyf("%d calls are under way at this agent: ask again in a moment",
					maxCalls))
			}
			res, err = next(ctx, req)
			log.Debug("call", "method", method, "remote", req.Peer().Addr, "took", time.Since(start), "err", err)
			if err != nil {
				return nil, api.ToStatus(err)
			}
			return res, nil
		}
	}
}
