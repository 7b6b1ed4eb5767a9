// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/security"
)

// presents waits until a node's API shows a certificate that is not one of those.
func (c *cluster) presents(n *node, old *big.Int) {
	c.Helper()
	eventually(c, "the node shows its new certificate", func() bool {
		serial := c.serial(n)
		return serial != nil && serial.Cmp(old) != 0
	})
}

func (c *cluster) serial(n *node) *big.Int {
	c.Helper()
	conn, err := c.as("", n.api)
	if err != nil {
		return nil
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber
}

// A24: certificates, the authority, a token and grants change while clients commit, one with a certificate
// and one with a token. No commit fails.
func TestEverythingRotatesUnderLoad(t *testing.T) {
	c := start(t, settings{})
	tokenFile := filepath.Join(t.TempDir(), "app.token")
	require.NoError(t, os.WriteFile(tokenFile, []byte(c.token), 0o600))
	onlyCA := t.TempDir() // of the client with a token
	bring := func() {
		ca, err := os.ReadFile(filepath.Join(string(c.certs), "ca.crt"))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(onlyCA, "new"), ca, 0o600))
		require.NoError(t, os.Rename(filepath.Join(onlyCA, "new"), filepath.Join(onlyCA, "ca.crt")))
	}
	bring()
	certified := c.honest(2, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	bearer := c.honest(2, concord.WithCertsDir(onlyCA), concord.WithTokenFile(tokenFile))
	goOn := func() {
		certified.goOn(100)
		bearer.goOn(100)
	}
	goOn()
	renew := func() {
		for _, n := range c.nodes {
			old := c.serial(n)
			c.issue(security.Node, string(rune('0'+n.id)))
			c.presents(n, old)
		}
		c.issue(security.Client, "app", "alice")
		goOn()
	}
	renew() // certificates
	// Somebody who gets no certificate of the new authority, and somebody with the first token, at every node: they are
	// known, and may not see the metrics, until they are not known any more.
	c.issue(security.Client, "leaver")
	answered := func(who, token string, want int) {
		for _, n := range c.nodes {
			eventually(t, fmt.Sprintf("node %d answers %q with %d", n.id, who, want), func() bool {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+n.api+"/metrics", nil)
				require.NoError(t, err)
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				res, err := c.http(who, false).Do(r)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				return res.StatusCode == want
			})
		}
	}
	answered("client.leaver", "", http.StatusForbidden)
	answered("", c.token, http.StatusForbidden)

	path := filepath.Join(string(c.certs), "ca.crt")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	c.authority, err = security.NewAuthority(c.certs, filepath.Join(t.TempDir(), "new.key"), "shop",
		security.AuthorityLifetime, false)
	require.NoError(t, err)
	bring()
	c.issue(security.Client, "newcomer") // of the new authority, whom nodes know when they believe it
	newcomer, err := api.Dial(c.addrs(),
		api.ClientOptions{Credentials: c.credentials("newcomer"), Patience: 5 * time.Second})
	require.NoError(t, err)
	defer newcomer.Close()
	for _, n := range c.nodes {
		one, err := api.Dial([]string{n.api},
			api.ClientOptions{Credentials: c.credentials("newcomer"), Patience: 5 * time.Second})
		require.NoError(t, err)
		eventually(t, "the new authority is believed", func() bool {
			_, err := one.Status(t.Context(), &concordv1.StatusRequest{})
			return isDenied(err) // he is known, and granted nothing
		})
		require.NoError(t, one.Close())
	}
	renew()                        // with certificates of the new authority
	<-time.After(10 * time.Second) // within which everybody has read them, as the documentation says
	both, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path+".new", bytes.TrimSuffix(both, before), 0o644))
	require.NoError(t, os.Rename(path+".new", path)) // and the old one is believed no more
	bring()
	goOn()
	answered("client.leaver", "", http.StatusUnauthorized)

	token, _, err := security.CreateToken(c.tokens, "app", time.Hour)
	require.NoError(t, err)
	answered("", token, http.StatusForbidden) // the nodes have the file of tokens before the client has the token
	require.NoError(t, os.WriteFile(tokenFile+".new", []byte(token), 0o600))
	require.NoError(t, os.Rename(tokenFile+".new", tokenFile))
	<-time.After(10 * time.Second) // what the documentation asks for, between handing out and revoking
	require.NoError(t, security.RevokeToken(c.tokens, c.tokenID))
	<-time.After(10 * time.Second)
	goOn()
	answered("", c.token, http.StatusUnauthorized)

	for _, n := range c.nodes { // grants
		text, err := os.ReadFile(n.config)
		require.NoError(t, err)
		text = bytes.Replace(text, []byte("{subject: evil, roles: [application, viewer], resources: [nothing]}"),
			[]byte("{subject: newcomer, roles: [viewer]}"), 1)
		require.NoError(t, os.WriteFile(n.config, text, 0o600))
		require.NoError(t, n.process.Signal(syscall.SIGHUP))
	}
	eventually(t, "the newcomer may look", func() bool {
		_, err := newcomer.Status(t.Context(), &concordv1.StatusRequest{})
		return err == nil
	})
	goOn()
	// Whoever is revoked is out.
	require.NoError(t, c.authority.Revoke(c.certs, filepath.Join(string(c.certs), "client.newcomer.crt")))
	eventually(t, "who was revoked is not known", func() bool {
		_, err := newcomer.Status(t.Context(), &concordv1.StatusRequest{})
		return isUnauthenticated(err)
	})
	goOn()
	c.alive()
}
