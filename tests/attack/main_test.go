// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/program/programtest"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

const patience = programtest.Patience

// binary is the path of cmd/concord.
var binary string

func TestMain(m *testing.M) { os.Exit(programtest.Run(m, &binary)) }

// cluster is three nodes behind certificates, or without.
type cluster struct {
	testing.TB
	certs     security.Dir
	authority *security.Authority
	tokens    string // the file
	token     string // of app
	tokenID   string
	nodes     []*node
}

type node struct {
	id             int
	api, peer, log string
	config         string
	cores          bool
	process        *program.Process
}

type settings struct {
	plain       bool // no certificates
	descriptors int  // that each node may have; 0: as many as there are
	cores       bool // a node that ends by a mistake may leave its memory in a file
}

const grants = `certs_dir: %s
auth:
  tokens: %s
  grants:
    - {subject: app, roles: [application], resources: ["*"]}
    - {subject: evil, roles: [application, viewer], resources: [nothing]}
    - {subject: alice, roles: [admin]}
    - {subject: vera, roles: [viewer]}
`

func start(t testing.TB, s settings) *cluster {
	t.Helper()
	dir := t.TempDir()
	c := &cluster{TB: t, certs: security.Dir(filepath.Join(dir, "certs")), tokens: filepath.Join(dir, "tokens")}
	var err error
	c.authority, err = security.NewAuthority(c.certs, filepath.Join(dir, "ca.key"), "shop", security.AuthorityLifetime,
		false)
	require.NoError(t, err)
	c.issue(security.Node, "1", "2", "3")
	c.issue(security.Client, "app", "evil", "alice", "vera")
	token, entry, err := security.CreateToken(c.tokens, "app", time.Hour)
	require.NoError(t, err)
	c.token, c.tokenID = token, entry.ID
	members := "members:\n"
	for id := 1; id <= 3; id++ {
		n := &node{id: id, api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)),
			peer:   fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)),
			log:    filepath.Join(dir, fmt.Sprintf("log%d", id)),
			config: filepath.Join(dir, fmt.Sprintf("node%d.yaml", id)), cores: s.cores}
		c.nodes = append(c.nodes, n)
		members += fmt.Sprintf("  - {id: %d, peer: %s, api: %s}\n", id, n.peer, n.api)
	}
	for _, n := range c.nodes {
		text := fmt.Sprintf("node: %d\ndata_dir: %s\napi: {listen: %s}\npeer: {listen: %s}\n%s"+
			"resources:\n  - {name: nothing, driver: agent, addr: 127.0.0.1:1}\n", n.id,
			filepath.Join(dir, fmt.Sprintf("data%d", n.id)), n.api, n.peer, members)
		if !s.plain {
			text += fmt.Sprintf(grants, c.certs, c.tokens)
		}
		require.NoError(t, os.WriteFile(n.config, []byte(text), 0o600))
		c.run(n, s.descriptors)
	}
	c.ready(s.plain)
	return c
}

func (c *cluster) issue(k security.Kind, names ...string) {
	c.Helper()
	for _, n := range names {
		var hosts []string
		if k != security.Client {
			hosts = []string{"127.0.0.1"}
		}
		_, err := c.authority.Issue(c.certs, k, n, hosts, security.CertificateLifetime, true)
		require.NoError(c, err)
	}
}

// run starts a node.
func (c *cluster) run(n *node, descriptors int) {
	c.Helper()
	limit := ""
	if descriptors > 0 {
		limit = fmt.Sprintf("ulimit -n %d && ", descriptors)
	}
	if n.cores {
		limit += "ulimit -c unlimited && export GOTRACEBACK=crash && "
	}
	cmd := exec.Command("sh", "-c", limit+`exec "$0" serve --config "$1"`, binary, n.config)
	cmd.Dir = filepath.Dir(n.config)
	n.process = c.started(fmt.Sprintf("node %d", n.id), cmd, n.log)
}

// started starts a process that ends with the test, which shows the end of its log when it has failed.
func (c *cluster) started(name string, cmd *exec.Cmd, log string) *program.Process {
	c.Helper()
	p, err := program.StartLogged(cmd, log)
	require.NoError(c, err)
	c.Cleanup(func() {
		_ = p.End(syscall.SIGKILL, patience)
		if c.Failed() {
			text, _ := os.ReadFile(log)
			c.Logf("end of the log of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return p
}

func (c *cluster) addrs() (all []string) {
	for _, n := range c.nodes {
		all = append(all, n.api)
	}
	return all
}

// credentials are those of a client, by its name.
func (c *cluster) credentials(name string) *security.Credentials {
	c.Helper()
	x, err := security.Source{CertsDir: string(c.certs), User: name}.Open(nil)
	require.NoError(c, err)
	return x
}

func (c *cluster) caller(plain bool) *api.Client {
	c.Helper()
	opts := api.ClientOptions{Patience: patience}
	if !plain {
		opts.Credentials = c.credentials("alice")
	}
	a, err := api.Dial(c.addrs(), opts)
	require.NoError(c, err)
	c.Cleanup(func() { _ = a.Close() })
	return a
}

// ready waits until all nodes follow one leader.
func (c *cluster) ready(plain bool) {
	c.Helper()
	a := c.caller(plain)
	eventually(c, "every node is reachable and there is a leader", func() bool {
		s, err := a.Status(c.Context(), &concordv1.StatusRequest{})
		if err != nil || s.GetLeader() == 0 || s.GetCluster() == "" {
			return false
		}
		for _, n := range s.GetNodes() {
			if !n.GetReachable() {
				return false
			}
		}
		return true
	})
}

// leader returns the node that leads.
func (c *cluster) leader(plain bool) *node {
	c.Helper()
	s, err := c.caller(plain).Status(c.Context(), &concordv1.StatusRequest{})
	require.NoError(c, err)
	require.NotZero(c, s.GetLeader())
	return c.nodes[s.GetLeader()-1]
}

// alive fails the test if a node has ended.
func (c *cluster) alive() {
	c.Helper()
	for _, n := range c.nodes {
		require.True(c, n.process.Alive(), "node %d has ended", n.id)
	}
}

// resident is the memory of a node in bytes.
func (n *node) resident(t testing.TB) int {
	t.Helper()
	bytes, err := n.process.Resident()
	require.NoError(t, err)
	return int(bytes)
}

// descriptors is how many a node has open.
func (n *node) descriptors(t testing.TB) int {
	t.Helper()
	files, err := n.process.Files()
	require.NoError(t, err)
	return files
}

// honest are clients that commit all the time. No commit of theirs may fail.
type honest struct {
	testing.TB
	client  *concord.Client
	commits atomic.Int64
	stop    context.CancelFunc
	group   sync.WaitGroup
	mu      sync.Mutex
	failed  []error
}

func (c *cluster) honest(workers int, opts ...concord.Option) *honest {
	c.Helper()
	client, err := concord.Dial(c.Context(), c.addrs(), opts...)
	require.NoError(c, err)
	ctx, stop := context.WithCancel(context.Background())
	h := &honest{TB: c.TB, client: client, stop: stop}
	for range workers {
		h.group.Go(func() {
			for ctx.Err() == nil {
				if err := h.commit(); err != nil {
					h.mu.Lock()
					h.failed = append(h.failed, err)
					h.mu.Unlock()
				}
			}
		})
	}
	c.Cleanup(func() { h.end() })
	return h
}

// commit runs one transaction that the cluster decides.
func (h *honest) commit() error {
	tx, err := h.client.Begin(context.Background(), concord.Recorded())
	if err != nil {
		return err
	}
	if err := tx.Commit(context.Background()); err != nil {
		return err
	}
	h.commits.Add(1)
	return nil
}

// goOn waits until so many more commits are there.
func (h *honest) goOn(more int64) {
	h.Helper()
	want := h.commits.Load() + more
	eventually(h, "honest clients commit", func() bool { return h.commits.Load() >= want })
}

// end stops the clients; none of their commits has failed.
func (h *honest) end() {
	h.Helper()
	h.stop()
	h.group.Wait()
	_ = h.client.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Empty(h, h.failed)
}

// as dials a node with somebody's certificate, or with none, whoever answers.
func (c *cluster) as(name, addr string, protocols ...string) (*tls.Conn, error) {
	c.Helper()
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}
	if name != "" {
		base := filepath.Join(string(c.certs), name)
		pair, err := tls.LoadX509KeyPair(base+".crt", base+".key")
		require.NoError(c, err)
		conf.Certificates = []tls.Certificate{pair}
	}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, conf)
	if err == nil {
		c.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// http is an HTTP client with somebody's certificate.
func (c *cluster) http(name string, h2 bool) *http.Client {
	c.Helper()
	conf := &tls.Config{InsecureSkipVerify: true}
	if name != "" {
		base := filepath.Join(string(c.certs), name)
		pair, err := tls.LoadX509KeyPair(base+".crt", base+".key")
		require.NoError(c, err)
		conf.Certificates = []tls.Certificate{pair}
	}
	t := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: h2, DisableCompression: true}
	c.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, Timeout: patience}
}

var eventually = programtest.Eventually

func isDenied(err error) bool          { return errors.Is(err, txn.ErrDenied) }
func isUnauthenticated(err error) bool { return errors.Is(err, txn.ErrUnauthenticated) }
