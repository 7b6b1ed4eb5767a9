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
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
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
func Serve(ctx context.Context, a *participant.Agent, door *access.Guard, l net.Listener, log *slog.Logger) error {
	return door.Serve(ctx, l, rules, Handler(a, log), shutdownTimeout, log)
}

// Handler returns everything that an agent serves.
func Handler(a *participant.Agent, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	c := &calls{log: log}
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

// calls are those under way. It gives each a deadline, a place among a limited number and an end even if it
// panics.
type calls struct {
	log            *slog.Logger
	under, streams atomic.Int64
}

func (c *calls) do(ctx context.Context, method, remote string, next func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer c.under.Add(-1)
	if c.under.Add(1) > maxCalls {
		return txn.Busyf("%d calls are under way at this agent: ask again in a moment", maxCalls)
	}
	err := c.guarded(method, func() error { return next(ctx) })
	c.log.Debug("call", "method", method, "remote", remote, "took", time.Since(start), "err", err)
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
		err = c.do(ctx, path.Base(req.Spec().Procedure), req.Peer().Addr, func(ctx context.Context) (err error) {
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
