// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/coordinator"
)

const (
	maxRequestBytes = 1 << 20
	// callTimeout bounds a call whose client set no deadline of its own.
	callTimeout     = 30 * time.Second
	recoverTimeout  = 5 * time.Minute
	shutdownTimeout = 3 * time.Second
)

// Serve serves the API of a node on a listener until ctx ends, and closes the
// listener. Calls under way get a moment to end.
func Serve(ctx context.Context, n *coordinator.Node, l net.Listener, log *slog.Logger) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Handler:           Handler(n),
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// Calls under way end by the answer of the closing node, not by a cancelled context:
		// "ask another node" is what their clients have to know.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		err := s.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) { // streams do not end by themselves
			err = s.Close()
		}
		stopped <- err
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API at %v: %w", l.Addr(), err)
	}
	return <-stopped
}

// Handler returns everything that a node serves to clients.
func Handler(n *coordinator.Node) http.Handler {
	metrics, relay := newMetrics(n), newRelay(n)
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics)

	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(&handlers{node: n, relay: relay},
		connect.WithReadMaxBytes(maxRequestBytes), connect.WithInterceptors(metrics.interceptor(), boundary(), relay.interceptor(), seen(n))))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch s, now := n.Status(), time.Now(); {
		case s.Distrusted != "":
			http.Error(w, s.Distrusted, http.StatusServiceUnavailable)
		case s.CutOff(now) > 0:
			http.Error(w, fmt.Sprintf("this node has known no leader for %v: its state is that of zxid %v", s.CutOff(now).Round(time.Second), s.Zxid), http.StatusServiceUnavailable)
		case s.Leader == 0:
			http.Error(w, "this node knows no leader at the moment", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	return mux
}

// boundary gives every unary call a deadline and every error its status.
func boundary() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			limit := callTimeout
			if req.Spec().Procedure == concordv1connect.CoordinatorServiceRecoverProcedure {
				limit = recoverTimeout
			}
			ctx, cancel := context.WithTimeout(ctx, limit)
			defer cancel()
			res, err := next(ctx, req)
			return res, api.ToStatus(err)
		}
	}
}
