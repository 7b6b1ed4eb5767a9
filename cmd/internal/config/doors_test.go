// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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
	require.Equal(t, []string{`node 3 asks nobody for their identity: make ` +
		`certificates with "concord cert", and start it without --insecure`}, opened.Warnings(3))
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

// A node can have its files anywhere, others for its peers than for its clients, and takes over new ones while it runs.
func TestFilesThatAreElsewhere(t *testing.T) {
	home := t.TempDir()
	in := func(name string) string { return filepath.Join(home, name) }
	issue := func(dir string, node string) {
		a, err := security.NewAuthority(security.Dir(in(dir)), in(dir+".key"), "shop", security.AuthorityLifetime,
			false)
		require.NoError(t, err)
		_, err = a.Issue(security.Dir(in(dir)), security.Node, node, []string{"localhost"}, time.Hour*9000, true)
		require.NoError(t, err)
		_, err = a.Issue(security.Dir(in(dir)), security.Client, "ann", nil, time.Hour*9000, true)
		require.NoError(t, err)
	}
	issue("peers", "1")
	issue("clients", "1")
	issue("other", "2")
	text := strings.NewReplacer("api:  {listen: 127.0.0.1:7420}", "api: {listen: 0.0.0.0:7420, tls: {client_ca: [\""+
		in("clients/ca.crt")+"\"]}}", "peer: {listen: 127.0.0.1:7421}", "peer: {listen: 0.0.0.0:7421, tls: {ca: [\""+
		in("peers/ca.crt")+"\"], cert: \""+in("peers/node.1.crt")+"\", key: \""+in("peers/node.1.key")+"\"}}").
		Replace(NodeExample)
	c, err := loadText(t, text)
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	opened, err := c.Doors().Open(log)
	require.NoError(t, err)
	kinds := func(k *security.Keys, dir, name string) error {
		pair, err := tls.LoadX509KeyPair(in(dir+"/"+name+".crt"), in(dir+"/"+name+".key"))
		require.NoError(t, err)
		_, err = k.Peer(&tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{pair.Leaf}})
		return err
	}
	require.NoError(t, kinds(opened.Keys, "clients", "client.ann"))
	require.NoError(t, kinds(opened.Keys, "peers", "node.1"))
	require.ErrorIs(t, kinds(opened.Keys, "peers", "client.ann"), security.ErrUntrusted, "clients have another "+
		"authority")
	require.ErrorIs(t, kinds(opened.Keys, "clients", "node.1"), security.ErrUntrusted, "and it speaks for no node")
	require.ErrorIs(t, kinds(opened.Peers, "clients", "node.1"), security.ErrUntrusted)

	t.Setenv("CONCORD_API_TLS_CLIENT_CA", `["`+in("clients/ca.crt")+`", "`+in("peers/ca.crt")+`"]`)
	both, err := loadText(t, text)
	require.NoError(t, err)
	require.NoError(t, opened.Reload(both.Doors()))
	require.NoError(t, kinds(opened.Keys, "peers", "client.ann"), "two at once, from the environment")
	require.NoError(t, kinds(opened.Keys, "clients", "client.ann"))

	for _, missing := range []string{"CONCORD_PEER_TLS_CRL", "CONCORD_API_TLS_CLIENT_CA"} {
		value := in("nowhere")
		if missing == "CONCORD_API_TLS_CLIENT_CA" {
			value = `["` + value + `"]`
		}
		t.Run(missing, func(t *testing.T) {
			t.Setenv(missing, value)
			bad, err := loadText(t, text)
			require.NoError(t, err)
			require.ErrorContains(t, opened.Reload(bad.Doors()), "no such file")
			require.NoError(t, kinds(opened.Keys, "peers", "client.ann"), "what was there stays in force")
			_, err = bad.Doors().Open(log)
			require.ErrorContains(t, err, "no such file", "it is not less than its file says")
		})
	}
	t.Setenv("CONCORD_API_TLS_CERT", in("other/node.2.crt"))
	t.Setenv("CONCORD_API_TLS_KEY", in("other/node.2.key"))
	t.Setenv("CONCORD_PEER_TLS_CA", `["`+in("peers/ca.crt")+`", "`+in("other/ca.crt")+`"]`)
	bad, err := loadText(t, text)
	require.NoError(t, err)
	_, err = bad.Doors().Open(log)
	require.ErrorContains(t, err, "node.2.crt is for concord://shop/node/2, and this node is concord://shop/node/1: "+
		"give a "+
		"certificate that was made for it")
}

// The limits of the file are those of the node.
func TestLimitsComeFromTheFile(t *testing.T) {
	c, err := loadText(t, NodeExample)
	require.NoError(t, err)
	require.Equal(t, access.DefaultLimits, c.Doors().limits)
	c, err = loadText(t, NodeExample+"\nlimits: {connections: 100, connections_per_subject: 5, body: 3s, write: 4s, "+
		"memory_mib: 16, stream_memory_mib: 4, watches: 6, leases_per_subject: 7, transactions_per_subject: 8}\n")
	require.NoError(t, err)
	require.Equal(t, access.Limits{Connections: 100, PerSubject: 5, Body: 3 * time.Second, Write: 4 * time.Second,
		Memory: 16 << 20, StreamMemory: 4 << 20, Watches: 6, Leases: 7, Transactions: 8}, c.Doors().limits)
	opened, err := c.Doors().Open(slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, c.Doors().limits, opened.Guard.Limits())
}
