// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/security/access"
)

func TestANodeThatAsksNobodySaysSo(t *testing.T) {
	var log bytes.Buffer
	opened, err := Doors{insecure: true}.Open(slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.True(t, opened.Guard.Insecure())
	require.Equal(t, []string{`node 3 asks nobody who he is: make certificates with "concord cert", and start it ` +
		`without --insecure`}, opened.Warnings(3))
	require.Contains(t, log.String(), "level=WARN")
	opened, err = Doors{}.Open(slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	require.False(t, opened.Guard.Insecure(), "it serves its own machine alone")
	require.Empty(t, opened.Warnings(3))
}

func TestACertificateThatEndsSoonIsAWarning(t *testing.T) {
	dir := security.Dir(filepath.Join(t.TempDir(), "certs"))
	a, err := security.NewAuthority(dir, filepath.Join(t.TempDir(), "ca.key"), "shop", security.AuthorityLifetime,
		false)
	require.NoError(t, err)
	doors := Doors{certsDir: string(dir), own: func(d security.Dir) security.Files { return d.Node(1) }}
	for life, warned := range map[time.Duration]bool{24 * time.Hour: true, security.CertificateLifetime: false} {
		_, err = a.Issue(dir, security.Node, "1", []string{"localhost"}, life, true)
		require.NoError(t, err)
		opened, err := doors.Open(slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		require.Equal(t, warned, len(opened.Warnings(1)) > 0)
		if warned {
			require.Contains(t, opened.Warnings(1)[0], "node 1: its certificate ends at ")
		}
	}
}

// What of this machine is reached from elsewhere.
func TestWhatIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{"127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true,
		"127.9.9.9:1": true,
		":1":          false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "db.example:1": false,
		"127.0.0.1": false} {
		require.Equal(t, want, loopback(addr), addr)
	}
}

// A node that has certificates takes over what its configuration says of them, or keeps what it has and says so.
func TestDoorsAreNeverLessThanTheirFileSays(t *testing.T) {
	home := t.TempDir()
	in := func(name string) string { return filepath.Join(home, name) }
	issue := func(dir, key string, life time.Duration) {
		a, err := security.NewAuthority(security.Dir(in(dir)), in(key), "shop", life, false)
		require.NoError(t, err)
		_, err = a.Issue(security.Dir(in(dir)), security.Node, "1", []string{"localhost"}, time.Hour*9000, true)
		require.NoError(t, err)
	}
	issue("old", "old.key", security.AuthorityLifetime)
	issue("new", "new.key", 2*security.CertificateLifetime)
	first, _, err := security.CreateToken(in("tokens"), "ci", time.Hour)
	require.NoError(t, err)
	second, _, err := security.CreateToken(in("others"), "ci", time.Hour)
	require.NoError(t, err)
	conf := func(certs, tokens string) Doors {
		d := Doors{certsDir: certs, own: func(d security.Dir) security.Files { return d.Node(1) }}
		d.auth.Tokens = tokens
		return d
	}
	opened, err := conf(in("old"), in("tokens")).Open(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	status := func(token string) int {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
		w := httptest.NewRecorder()
		opened.Guard.Handler(access.Rules{"/metrics": access.Needs(security.Viewer)},
			http.NotFoundHandler()).ServeHTTP(w, r)
		return w.Code
	}
	require.Equal(t, http.StatusForbidden, status(first), "he is known, and granted nothing")
	require.Equal(t, http.StatusUnauthorized, status(second))
	_, before := opened.Keys.Expiry()

	for says, bad := range map[string]Doors{
		"no such file":                          conf(in("nowhere"), in("tokens")),
		"tokens: ":                              conf(in("new"), in("nowhere")),
		"this process goes on asking who calls": conf("", ""),
		"there is no resource \"orders\": correct": func() Doors {
			d := conf(in("new"), "")
			d.auth.Grants = []grant{{Subject: "a", Roles: []string{"agent"}, Resources: []string{"orders"}}}
			return d
		}(),
	} {
		require.ErrorContains(t, opened.Reload(bad), says)
		require.Equal(t, http.StatusForbidden, status(first), says)
		require.Equal(t, http.StatusUnauthorized, status(second), says)
		_, now := opened.Keys.Expiry()
		require.Equal(t, before, now, says)
	}
	require.NoError(t, opened.Reload(conf(in("new"), in("others"))))
	require.Equal(t, http.StatusUnauthorized, status(first), "the file that has it is not the one that counts")
	require.Equal(t, http.StatusForbidden, status(second))
	_, after := opened.Keys.Expiry()
	require.True(t, after.Before(before), "the authority is another one")
	require.NoError(t, opened.Reload(conf(in("new"), "")))
	require.Equal(t, http.StatusUnauthorized, status(second), "there are no tokens any more")

	require.NoError(t, os.WriteFile(in("new/ca.crt"), nil, 0o600))
	require.Error(t, opened.Keys.Reload())
	require.Equal(t, []string{"node 1 goes on with the certificates that it has, as what was read last is wrong: " +
		"authorities: " + in("new/ca.crt") + " is empty: \"concord cert --help\" says how to make them"},
		opened.Warnings(1))
}
