// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/said"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// door is a guard of node 1, and the directory of the certificates.
type door struct {
	*Guard
	dir       security.Dir
	authority *security.Authority
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{dir: security.Dir(t.TempDir())}
	var err error
	d.authority, err = security.NewAuthority(d.dir, filepath.Join(t.TempDir(), "ca.key"), "shop", time.Hour, false)
	require.NoError(t, err)
	d.certificate(t, security.Node, "1")
	keys, err := security.Load(d.dir.Node(1), nil)
	require.NoError(t, err)
	d.Guard = NewGuard(Config{Keys: keys})
	return d
}

// certificate makes one and returns it.
func (d *door) certificate(t *testing.T, k security.Kind, name string) *x509.Certificate {
	t.Helper()
	file, err := d.authority.Issue(d.dir, k, name, []string{"localhost"}, time.Hour, false)
	require.NoError(t, err)
	pair, err := tls.LoadX509KeyPair(file, file[:len(file)-len("crt")]+"key")
	require.NoError(t, err)
	return pair.Leaf
}

// asking is a request that somebody with a certificate makes, or somebody with none.
func asking(who *x509.Certificate, path string, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "http://localhost"+path, http.NoBody)
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	if who != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{who}
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// message is an error that a caller can meet: how, what it says, and what it wraps.
type message struct {
	name string
	meet func(*testing.T, *door) error
	says string
	is   error
}

// admitting is what the guard says of a request.
func admitting(r func(*testing.T, *door) *http.Request) func(*testing.T, *door) error {
	return func(t *testing.T, d *door) error {
		_, err := d.admit(r(t, d), Rules{"/status": Needs(security.Viewer, security.Application)})
		return err
	}
}

var messages = []message{
	{name: "a caller who does not say who it is", is: txn.ErrUnauthenticated,
		meet: admitting(func(*testing.T, *door) *http.Request { return asking(nil, "/status") }),
		says: "unauthenticated: this cluster wants a client certificate or a token: --certs-dir, --token-file"},
	{name: "a token that is not known", is: txn.ErrUnauthenticated,
		meet: admitting(func(*testing.T, *door) *http.Request {
			return asking(nil, "/status", "Authorization", "Bearer x")
		}), says: `unauthenticated: the token is not known here, has expired or was revoked: "concord token create" ` +
			`makes one`},
	{name: "too many wrong tokens", is: txn.ErrBusy, meet: func(t *testing.T, d *door) error {
		for range maxFailures {
			d.failures.add("192.0.2.1") // of httptest
		}
		return admitting(func(*testing.T, *door) *http.Request {
			return asking(nil, "/status", "Authorization", "Bearer x")
		})(t, d)
	}, says: "too many wrong tokens came from 192.0.2.1: wait a minute"},
	{name: "a page that is not there", is: txn.ErrNotFound,
		meet: admitting(func(*testing.T, *door) *http.Request { return asking(nil, "/x") }),
		says: `"/x": there is no such procedure or page here`},
	{name: "a name that is not this machine's", is: txn.ErrDenied, meet: func(*testing.T, *door) error {
		r := asking(nil, "/status")
		r.Host = "example.com"
		_, err := NewGuard(Config{Hosts: []string{"localhost"}}).admit(r, nil)
		return err
	}, says: `permission denied: this listener is for this machine, and not for the name "example.com": ask it by ` +
		`its address`},
	{name: "a caller without a role", is: txn.ErrDenied,
		meet: admitting(func(t *testing.T, d *door) *http.Request {
			return asking(d.certificate(t, security.Client, "ann"), "/status")
		}), says: `permission denied: "ann" has no role viewer or application (grants: none): "auth.grants" in the ` +
			`configuration gives roles`},
	{name: "a certificate that was revoked", is: txn.ErrUnauthenticated,
		meet: admitting(func(t *testing.T, d *door) *http.Request {
			who := d.certificate(t, security.Client, "ann")
			require.NoError(t, d.authority.Revoke(d.dir, filepath.Join(string(d.dir), "client.ann.crt")))
			require.NoError(t, d.Keys().Reload())
			return asking(who, "/status")
		}), says: "unauthenticated: the certificate is not accepted: that of concord://shop/client/ann was revoked"},
	{name: "an authority that was taken away", is: txn.ErrUnavailable,
		meet: func(t *testing.T, d *door) error {
			who := d.certificate(t, security.Client, "ann")
			other := newDoor(t)
			b, err := os.ReadFile(filepath.Join(string(other.dir), "ca.crt"))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(string(d.dir), "client-ca.crt"), b, 0o600))
			require.NoError(t, d.Keys().Reload())
			r := asking(who, "/status")
			known := &tracked{}
			known.useful.Store(true)
			_, err = d.admit(r.WithContext(context.WithValue(r.Context(), connKey{}, known)),
				Rules{"/status": Needs(security.Viewer)})
			return err
		}, says: "unavailable: the authority of this connection's certificate is not believed any more: connect again"},
	{name: "a client that speaks for another one", is: txn.ErrInvalid,
		meet: admitting(func(t *testing.T, d *door) *http.Request {
			return asking(d.certificate(t, security.Client, "ann"), "/status", api.CallerHeader,
				"concord://shop/client/bob")
		}), says: api.CallerHeader + ": only nodes speak for others"},
	{name: "too much memory", is: txn.ErrBusy, meet: func(*testing.T, *door) error {
		return newMemory(DefaultLimits).full()
	}, says: "64 MiB of requests are being carried out at this node: ask again in a moment, or another node"},
	{name: "too many connections of one", is: txn.ErrBusy, meet: func(t *testing.T, _ *door) error {
		c := newConns(DefaultLimits, slog.New(slog.DiscardHandler))
		c.subjects["ann"] = DefaultLimits.PerSubject
		ours, _ := pipe(t)
		require.True(t, c.add(ours))
		return belongs(c.context(t.Context(), ours), "ann")
	}, says: `256 connections of "ann" are open at this node: share them, or ask another node`},
}

func TestWhatErrorsSay(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			err := m.meet(t, newDoor(t))
			require.EqualError(t, err, m.says)
			require.ErrorIs(t, err, m.is)
		})
	}
}

// Who writes another error finds out here that its text has to be looked at by everybody.
func TestEveryErrorHasARow(t *testing.T) {
	var rows []string
	for _, m := range messages {
		rows = append(rows, m.says)
	}
	said.Check(t, rows, map[string]string{
		"serve at %v: %w; choose another address": "wants a listener that breaks while it is served",
	})
}
