// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof" // #nosec G108 -- nobody serves the mux that it registers itself with

	"github.com/concordtx/concord/security/access"
)

// Admin is a listener of this machine alone, with what is for those who run the node: metrics, profiles and the level
// of its log. It asks nobody for their identity, and answers to no name but localhost.
type Admin struct {
	Listener net.Listener
	Level    *slog.LevelVar
}

// maxLevel bytes name a level.
const maxLevel = 32

// serve serves it until ctx ends. api has the metrics.
func (a *Admin) serve(ctx context.Context, api http.Handler, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", api)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /log/level", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, a.Level.Level()) })
	mux.HandleFunc("PUT /log/level", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(io.LimitReader(r.Body, maxLevel))
		if err == nil {
			err = a.Level.UnmarshalText(text)
		}
		if err != nil {
			http.Error(w, fmt.Sprintf("%.40q is none of debug, info, warn, error", text), http.StatusBadRequest)
			return
		}
		log.Info("the log level was set", "level", a.Level.Level().String(), "remote", r.RemoteAddr)
		fmt.Fprintln(w, a.Level.Level())
	})
	door := access.NewGuard(access.Config{Hosts: []string{"localhost"}, Logger: log})
	// a page in somebody's browser reaches it by its address, too, and must not change anything
	safe := http.NewCrossOriginProtection().Handler(mux)
	return door.Serve(ctx, a.Listener, nil, safe, shutdownTimeout, log)
}
