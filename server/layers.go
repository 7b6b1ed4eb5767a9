// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/txn"
)

// layer is what calls pass on their way in and out: next goes on with the call and returns how
// it ended. There is one form for unary calls and streams, so that none of them can go round
// a layer. What has to see messages is an interceptor, and what streams need of it is in their
// handlers.
type layer func(ctx context.Context, c call, next func(context.Context) error) error

// call is what a layer sees of a call.
type call struct {
	procedure string
	peer      string // address of the client
	stream    bool
}

// method names the call in logs and metrics: that of another service than the node's own with its
// service.
func (c call) method() string {
	service, method := path.Split(c.procedure)
	if service == "/"+concordv1connect.CoordinatorServiceName+"/" {
		return method
	}
	return strings.TrimPrefix(path.Ext(path.Clean(service)), ".") + "/" + method
}

func callOf(s connect.Spec, p connect.Peer) call {
	return call{procedure: s.Procedure, peer: p.Addr, stream: s.StreamType != connect.StreamTypeUnary}
}

// WrapUnary implements connect.Interceptor.
func (l layer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		err = l(ctx, callOf(req.Spec(), req.Peer()), func(ctx context.Context) (err error) {
			res, err = next(ctx, req)
			return err
		})
		if err != nil {
			return nil, err
		}
		return res, nil
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (l layer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return l(ctx, callOf(conn.Spec(), conn.Peer()), func(ctx context.Context) error { return next(ctx, conn) })
	}
}

// WrapStreamingClient implements connect.Interceptor; a server has no use for it.
func (l layer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// layers are all of them, the outermost first.
func layers(m *metrics, log *slog.Logger, services ...Service) []layer {
	limits := map[string]time.Duration{}
	for _, s := range services {
		limits["/"+s.Name] = s.Limit
	}
	return []layer{m.layer, logged(log), bounded(limits), limited(maxCalls, maxStreams), m.recovered(log)}
}

// codeOf is the code with which a call ended, as a label.
func codeOf(err error) string {
	if err == nil {
		return "ok"
	}
	return connect.CodeOf(err).String()
}

// logged writes the access log, and what should not have happened where it is seen by default.
func logged(log *slog.Logger) layer {
	return func(ctx context.Context, c call, next func(context.Context) error) error {
		start := time.Now()
		err := next(ctx)
		level, attrs := slog.LevelDebug, []slog.Attr{slog.String("method", c.method()), slog.String("remote", c.peer),
			slog.String("code", codeOf(err)), slog.Duration("took", time.Since(start))}
		if connect.CodeOf(err) == connect.CodeInternal && err != nil {
			level = slog.LevelError
		}
		if err != nil {
			attrs = append(attrs, slog.Any("err", err))
		}
		log.LogAttrs(ctx, level, "call", attrs...)
		return err
	}
}

// bounded gives every unary call a deadline, and every error its status. Procedures and services may
// have limits other than callTimeout.
func bounded(limits map[string]time.Duration) layer {
	return func(ctx context.Context, c call, next func(context.Context) error) error {
		if !c.stream {
			limit := cmp.Or(limits[c.procedure], limits[path.Dir(c.procedure)], callTimeout)
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		err := next(ctx)
		if status := (*connect.Error)(nil); c.stream && errors.As(err, &status) {
			return err // of the connection
		}
		return api.ToStatus(err)
	}
}

const (
	// maxCalls unary calls may be under way; one more is answered "busy" at once.
	maxCalls = 16384
	// maxStreams streams may be open: one of each application that commits, and those that watch.
	maxStreams = 4096
)

func limited(calls, streams int64) layer {
	var under, open atomic.Int64
	return func(ctx context.Context, c call, next func(context.Context) error) error {
		count, most, what := &under, calls, "calls are under way"
		if c.stream {
			count, most, what = &open, streams, "streams are open"
		}
		defer count.Add(-1)
		if count.Add(1) > most {
			return txn.Busyf("%d %s at this node: ask again in a moment, or another node", most, what)
		}
		return next(ctx)
	}
}

// recovered makes of a panic the end of one call.
func (m *metrics) recovered(log *slog.Logger) layer {
	return func(ctx context.Context, c call, next func(context.Context) error) error {
		return m.guard(log, c.method(), func() error { return next(ctx) })
	}
}

// guard also serves goroutines of a call, whose panic would be the end of the process.
func (m *metrics) guard(log *slog.Logger, method string, do func() error) (err error) {
	defer func() {
		switch r := recover(); {
		case r == nil:
		case r == http.ErrAbortHandler: // how net/http ends a connection
			panic(r)
		default:
			m.panics.Inc()
			log.Error("a call panicked: please report this as a bug", "method", method, "panic", fmt.Sprint(r), "stack",
				string(debug.Stack()))
			err = errors.New("internal error: the node's log says more")
		}
	}()
	return do()
}
