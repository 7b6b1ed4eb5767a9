// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security/access"
)

// Who is on the machine finds metrics and profiles, and sets the level of the log; a page in a browser does not.
func TestTheAdministratorsListener(t *testing.T) {
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		listeners = append(listeners, l)
	}
	ctx, stop := context.WithCancel(t.Context())
	level, done := &slog.LevelVar{}, make(chan error, 1)
	go func() {
		done <- ServeWithAdmin(ctx, newFake(), access.Open(), listeners[0], &Admin{Listener: listeners[1],
			Level: level}, slog.New(slog.DiscardHandler))
	}()
	ask := func(l net.Listener, method, path, body string, header ...string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path,
			strings.NewReader(body))
		require.NoError(t, err)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
			if header[i] == "Host" {
				r.Host = header[i+1]
			}
		}
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(b)
	}
	api, admin := listeners[0], listeners[1]
	for path, want := range map[string]string{"/metrics": "concord_", "/debug/pprof/": "goroutine",
		"/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/cmdline": "", "/log/level": "INFO"} {
		code, text := ask(admin, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, code, path)
		require.Contains(t, text, want, path)
		code, _ = ask(admin, http.MethodGet, path, "", "Host", "evil.example")
		require.Equal(t, http.StatusForbidden, code, path)
		if path != "/metrics" {
			code, _ = ask(api, http.MethodGet, path, "")
			require.Equal(t, http.StatusNotFound, code, "%s is nothing for clients", path)
		}
	}
	code, text := ask(admin, http.MethodPut, "/log/level", "debug")
	require.Equal(t, http.StatusOK, code, text)
	require.Equal(t, slog.LevelDebug, level.Level())
	code, text = ask(admin, http.MethodPut, "/log/level", "loud")
	require.Equal(t, http.StatusBadRequest, code)
	require.Equal(t, "\"loud\" is none of debug, info, warn, error\n", text)
	code, _ = ask(admin, http.MethodPut, "/log/level", "error", "Origin", "https://evil.example")
	require.Equal(t, http.StatusForbidden, code)
	require.Equal(t, slog.LevelDebug, level.Level())
	code, _ = ask(admin, http.MethodPost, "/concord.v1.CoordinatorService/Commit", "{}")
	require.Equal(t, http.StatusNotFound, code, "it is nothing for clients")
	stop()
	require.NoError(t, <-done)
}
