// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security/access"
)

const (
	maxRequestBytes = 1 << 20
	// callTimeout bounds a call whose client set no deadline of its own.
	callTimeout     = 30 * time.Second
	recoverTimeout  = 5 * time.Minute
	shutdownTimeout = 3 * time.Second
)

// Service is one more service that is served beside the node's own, behind the same layers.
type Service struct {
	Name string // in full, as its calls name it
	// Limit bounds a call whose client set no deadline of its own.
	Limit time.Duration
	// Rules are who may make its calls.
	Rules access.Rules
	// New makes its handler, as connect's generated code does, and the path of that.
	New func(...connect.HandlerOption) (string, http.Handler)
}

// Serve serves the API of a node, and further services, on a listener until ctx ends, and closes the
// listener. Calls under way get a moment to end. door says who may do what.
func Serve(ctx context.Context, n Node, door *access.Guard, l net.Listener, log *slog.Logger,
	services ...Service) error {
	return ServeWithAdmin(ctx, n, door, l, nil, log, services...)
}

// ServeWithAdmin is Serve with pages for who is on the machine; nil: without.
func ServeWithAdmin(ctx context.Context, n Node, door *access.Guard, l net.Listener, admin *Admin, log *slog.Logger,
	services ...Service) error {
	all := maps.Clone(rules)
	for _, s := range services {
		maps.Copy(all, s.Rules)
	}
	h := Handler(n, door, log, services...)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		l := &wary{Listener: l, stuck: func() { stepAside(ctx, n, log) }}
		return door.Serve(ctx, l, all, h, shutdownTimeout, log)
	})
	if admin != nil {
		g.Go(func() error { return admin.serve(ctx, h, log) })
	}
	return g.Wait()
}

// Handler returns everything that a node serves to clients, without the door in front of it.
func Handler(n Node, door *access.Guard, log *slog.Logger, services ...Service) http.Handler {
	metrics, relay := newMetrics(n, door), newRelay(n, door.Keys())
	h := &handlers{node: n, relay: relay, metrics: metrics, log: log, limits: door.Limits()}
	return handler(h, layers(metrics, log, services...), services...)
}

// uncompressed refuses requests that are compressed: unpacking them would be work for who was not let in
// yet, and messages are small.
var uncompressed = connect.WithCompression("gzip", nil, nil)

func handler(h *handlers, layers []layer, services ...Service) http.Handler {
	n, registry := h.node, prometheus.NewRegistry()
	h.metrics.register(registry)
	var interceptors []connect.Interceptor
	for _, l := range layers {
		interceptors = append(interceptors, l)
	}
	mux := http.NewServeMux()
	for _, s := range services {
		mux.Handle(s.New(connect.WithReadMaxBytes(maxRequestBytes), uncompressed,
			connect.WithInterceptors(slices.Clone(interceptors)...)))
	}
	interceptors = append(interceptors, h.relay.interceptor(), seen(n))
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(h,
		connect.WithReadMaxBytes(maxRequestBytes), uncompressed, connect.WithInterceptors(interceptors...)))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := unready(n, time.Now()); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// unready says why a node should not be sent clients now; empty if it should.
func unready(n Node, now time.Time) string {
	select {
	case <-n.Closed():
		return "this node is shutting down"
	default:
	}
	switch s := n.Status(); {
	case s.Distrusted != "":
		return s.Distrusted
	case s.CutOff(now) > 0:
		return fmt.Sprintf("this node has known no leader for %v: its state is that of zxid %v",
			s.CutOff(now).Round(time.Second), s.Zxid)
	case s.Leader == 0:
		return "this node knows no leader at the moment: a majority of the voters must run and reach each other"
	case s.Cluster == 0:
		return "the cluster is being formed"
	}
	return ""
}
