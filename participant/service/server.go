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
	"strings"
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
	// maxStreams may be open: one of each process that has branches here.
	maxStreams = 1024
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
	c := &calls{log: log, traces: traces}
	mux.Handle(concordv1connect.NewParticipantServiceHandler(&handlers{a, c},
		connect.WithReadMaxBytes(maxRequestBytes), connect.WithCompression("gzip", nil, nil), api.StrictJSON(),
		connect.WithInterceptors(c)))
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

// calls are those under way. It gives each a deadline, a place among a limited number, a span within its caller's and
// an end even if it panics.
type calls struct {
	log            *slog.Logger
	traces         *spans.Exporter
	under, streams atomic.Int64
}

// call is one of them, by itself or on a stream.
type call struct {
	procedure   string
	remote      string // who makes it
	traceparent string // the span that it is part of, if any
	request     any
}

func (c *calls) do(ctx context.Context, k call, next func(context.Context) error) error {
	start, method := time.Now(), path.Base(k.procedure)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer c.under.Add(-1)
	if c.under.Add(1) > maxCalls {
		return txn.Busyf("%d calls are under way at this agent: ask again in a moment", maxCalls)
	}
	span := c.traces.Under(k.traceparent, strings.TrimPrefix(k.procedure, "/"), spans.Server)
	if of, ok := k.request.(interface {
		GetBranch() *concordv1.BranchAddress
	}); ok && span != nil {
		if id, err := txn.ParseID(of.GetBranch().GetGid()); err == nil {
			span.Say("concord.gid", id.String())
		}
	}
	err := c.guarded(method, func() error { return next(ctx) })
	failed := ""
	if err != nil {
		failed = connect.CodeOf(api.ToStatus(err)).String()
	}
	span.End(failed)
	c.log.Debug("call", "method", method, "remote", k.remote, "took", time.Since(start), "err", err)
	return err
}

func (c *calls) guarded(method string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			if r == http.ErrAbortHandler { // how net/http ends a connection
				panic(r)
			}
			c.log.Error("a call panicked: please report this as a bug", "method", method, "panic", fmt.Sprint(r),
				"stack", string(debug.Stack()))
			err = errors.New("internal error: the agent's log says more")
		}
	}()
	return do()
}

// WrapUnary implements connect.Interceptor.
func (c *calls) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		k := call{procedure: req.Spec().Procedure, remote: req.Peer().Addr,
			traceparent: req.Header().Get(api.TraceHeader), request: req.Any()}
		err = c.do(ctx, k, func(ctx context.Context) (err error) {
			res, err = next(ctx, req)
			return err
		})
		if err != nil {
			return nil, api.ToStatus(err)
		}
		return res, nil
	}
}

// WrapStreamingHandler implements connect.Interceptor. What comes on a stream is bounded by do.
func (c *calls) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		defer c.streams.Add(-1)
		if c.streams.Add(1) > maxStreams {
			return api.ToStatus(txn.Busyf("%d streams are open at this agent: ask again in a moment", maxStreams))
		}
		return c.guarded(path.Base(conn.Spec().Procedure), func() error { return next(ctx, conn) })
	}
}

// WrapStreamingClient implements connect.Interceptor; a server has no use for it.
func (c *calls) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
