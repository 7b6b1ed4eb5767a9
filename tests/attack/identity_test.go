// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

// A01 to A05 and A23: what opens with a forged hello does not get as far as that. Whoever is no node of
// this cluster is turned away at each peer port, again and again, while it decides transactions.
func TestStrangersAtThePeerPort(t *testing.T) {
	c := start(t, settings{})
	h := c.honest(4, concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	h.goOn(100)
	other := &cluster{TB: t, certs: security.Dir(filepath.Join(t.TempDir(), "certs"))}
	var err error
	other.authority, err = security.NewAuthority(other.certs, filepath.Join(t.TempDir(), "ca.key"), "shop",
		security.AuthorityLifetime, false)
	require.NoError(t, err)
	other.issue(security.Node, "2")
	hello := append([]byte("\x00\x00\x00\x70\x01concord peer\n\x00\x05"), bytes.Repeat([]byte{0xff}, 96)...)
	for range 20 {
		for _, n := range c.nodes {
			for _, who := range []struct {
				from *cluster
				name string
			}{{c, ""}, {c, "client.app"}, {c, "client.alice"}, {other, "node.2"}} {
				conn, err := who.from.as(who.name, n.peer)
				if err != nil {
					continue // it is refused in the handshake
				}
				_, _ = conn.Write(hello)
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				_, err = io.ReadAll(conn)
				require.Error(t, err, "%s got an answer", who.name)
				_ = conn.Close()
			}
			plain, err := net.DialTimeout("tcp", n.peer, 10*time.Second)
			require.NoError(t, err)
			_, _ = plain.Write(hello)
			_ = plain.Close()
		}
	}
	h.goOn(100)
	s, err := c.caller(false).Status(t.Context(), &concordv1.StatusRequest{})
	require.NoError(t, err)
	for _, n := range s.GetNodes() {
		require.True(t, n.GetReachable(), "node %d is muted", n.GetId())
	}
	c.alive()
}

// A08 and the deeds of W7: whoever may use other resources changes and sees nothing of these.
func TestWhoMayDoOtherThings(t *testing.T) {
	c := start(t, settings{})
	client, err := concord.Dial(t.Context(), c.addrs(), concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	require.NoError(t, err)
	defer client.Close()
	tx, err := client.Begin(t.Context(), concord.Recorded())
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	evil, err := api.Dial(c.addrs(), api.ClientOptions{Credentials: c.credentials("evil"), Patience: 10 * time.Second})
	require.NoError(t, err)
	defer evil.Close()
	gid := tx.ID().String()
	_, err = evil.Resolve(t.Context(), &concordv1.ResolveRequest{Gid: gid, Decision: "abort", Who: "alice",
		Reason: "x"})
	require.ErrorIs(t, err, txn.ErrDenied)
	_, err = evil.Forget(t.Context(), &concordv1.ForgetRequest{Gid: gid, Who: "alice", Reason: "x"})
	require.ErrorIs(t, err, txn.ErrDenied)
	_, err = evil.RemoveMember(t.Context(),
		&concordv1.RemoveMemberRequest{Node: 2, Key: "k", Who: "alice", Reason: "x"})
	require.ErrorIs(t, err, txn.ErrDenied)
	_, err = evil.TransferLeadership(t.Context(),
		&concordv1.TransferLeadershipRequest{Node: 2, Who: "alice", Reason: "x"})
	require.ErrorIs(t, err, txn.ErrDenied)
	s, err := evil.Status(t.Context(), &concordv1.StatusRequest{})
	require.NoError(t, err)
	_, err = evil.Commit(t.Context(), &concordv1.CommitRequest{Gid: gid, Cluster: s.GetCluster(),
		Branches: []*concordv1.Branch{{No: 1, Resource: "orders"}, {No: 2, Resource: "billing"}}})
	require.ErrorIs(t, err, txn.ErrDenied)
	outcome, err := client.Outcome(t.Context(), tx.ID())
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)
}

// recorder is a stranger, who writes down what arrives.
type recorder struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (r *recorder) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			// He shows a certificate of his own, which is for no node of the cluster.
			s := tls.Server(io2{conn, r}, strangerTLS)
			if s.Handshake() == nil {
				b, _ := io.ReadAll(s)
				r.mu.Lock()
				r.seen.Write(b) // in the clear
				r.mu.Unlock()
			}
		}()
	}
}

// io2 writes down what is read of a connection.
type io2 struct {
	net.Conn
	r *recorder
}

func (c io2) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.seen.Write(b[:n])
	return n, err
}

var strangerTLS = func() *tls.Config {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates}
}()

// redirecting is a node that names a stranger as the leader.
type redirecting struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	to string
}

func (r redirecting) Resources(context.Context, *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
	return nil, api.ToStatus(&txn.NotLeaderError{Leader: 2, API: r.to})
}

// A16: a node sends a client to a stranger. No byte of the token arrives there, nor with who only
// answers at a node's address.
func TestNoTokenForStrangers(t *testing.T) {
	dir := security.Dir(filepath.Join(t.TempDir(), "certs"))
	a, err := security.NewAuthority(dir, filepath.Join(t.TempDir(), "ca.key"), "shop", security.AuthorityLifetime,
		false)
	require.NoError(t, err)
	_, err = a.Issue(dir, security.Node, "1", []string{"127.0.0.1"}, security.CertificateLifetime, false)
	require.NoError(t, err)
	token, _, err := security.CreateToken(filepath.Join(t.TempDir(), "tokens"), "ci", time.Hour)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ci.token")
	require.NoError(t, os.WriteFile(file, []byte(token), 0o600))

	stranger := &recorder{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go stranger.serve(l)
	pair, err := tls.LoadX509KeyPair(string(dir)+"/node.1.crt", string(dir)+"/node.1.key")
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(redirecting{to: l.Addr().String()}))
	var asked sync.Map
	evil := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Header.Get("Authorization"), true)
		mux.ServeHTTP(w, r)
	}))
	evil.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	evil.StartTLS()
	defer evil.Close()
	for _, addr := range []string{strings.TrimPrefix(evil.URL, "https://"), l.Addr().String()} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err = concord.Dial(ctx, []string{addr}, concord.WithCertsDir(string(dir)), concord.WithTokenFile(file))
		cancel()
		require.Error(t, err)
		require.NotContains(t, err.Error(), token)
	}
	_, told := asked.Load("Bearer " + token)
	require.True(t, told, "the node gets it")
	stranger.mu.Lock()
	defer stranger.mu.Unlock()
	require.NotEmpty(t, stranger.seen.Bytes(), "the client has been there")
	require.NotContains(t, stranger.seen.String(), token[:12])
}

// A20: a page in a browser on a node's machine asks by a name that leads to the loopback address.
func TestAPageFromElsewhere(t *testing.T) {
	c := start(t, settings{plain: true})
	ask := func(host string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			"http://"+c.nodes[0].api+"/concord.v1.CoordinatorService/Status", strings.NewReader("{}"))
		require.NoError(t, err)
		r.Host = host
		r.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(text)
	}
	code, text := ask("evil.example")
	require.Equal(t, http.StatusForbidden, code)
	require.Contains(t, text, `this listener is for this machine, and not for the name \"evil.example\"`)
	for _, own := range []string{c.nodes[0].api, "localhost", fmt.Sprintf("[::1]:%d", 7420)} {
		code, text = ask(own)
		require.Equal(t, http.StatusOK, code, text)
	}
}
