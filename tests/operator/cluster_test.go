// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// cluster is a number of "concord serve" processes.
type cluster struct {
	testing.TB
	nodes []*node // node i has the id i+1
	id    txn.ClusterID
	// resources of the configuration that nodes are started with from now on.
	resources []resource
	rules     string // of "transaction"
}

// resource is one entry of "resources" in the configuration.
type resource struct{ name, driver, dsn string }

type node struct {
	id                          int
	api, peer, dir, log, config string
	process                     *program.Process // nil: it does not run
}

const quick = "transaction: {scan: 500ms, grace: 500ms, max_age: 1m}\n"

func newCluster(t testing.TB, nodes int, rules string, resources ...resource) *cluster {
	t.Helper()
	c := &cluster{TB: t, resources: resources, rules: rules}
	for id := 1; id <= nodes; id++ {
		dir := t.TempDir()
		c.nodes = append(c.nodes, &node{id: id, dir: dir, api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)),
			peer: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)), log: filepath.Join(dir, "log"),
			config: filepath.Join(dir, "concord.yaml")})
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			c.end(n, syscall.SIGKILL)
			if t.Failed() {
				t.Logf("end of the log of node %d:\n%s", n.id, tail(n.log))
			}
		}
	})
	return c
}

func startCluster(t testing.TB, nodes int, rules string, resources ...resource) *cluster {
	t.Helper()
	c := newCluster(t, nodes, rules, resources...)
	for _, n := range c.nodes {
		c.start(n)
	}
	c.ready()
	return c
}

// configure writes what a node is started with.
func (c *cluster) configure(n *node) {
	c.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "node: %d\ndata_dir: %s\napi: {listen: %s}\npeer: {listen: %s}\n%smembers:\n", n.id,
		filepath.Join(n.dir, "data"), n.api, n.peer, c.rules)
	for _, m := range c.nodes {
		fmt.Fprintf(&text, "  - {id: %d, peer: %s, api: %s}\n", m.id, m.peer, m.api)
	}
	if len(c.resources) > 0 {
		text.WriteString("resources:\n")
	}
	for _, r := range c.resources {
		fmt.Fprintf(&text, "  - {name: %s, driver: %s, dsn: %q}\n", r.name, r.driver, r.dsn)
	}
	require.NoError(c, os.WriteFile(n.config, []byte(text.String()), 0o600))
}

// start starts a node.
func (c *cluster) start(n *node, flags ...string) {
	c.Helper()
	c.configure(n)
	var err error
	n.process, err = program.StartLogged(exec.Command(binary,
		append([]string{"serve", "--config", n.config}, flags...)...), n.log)
	require.NoError(c, err)
}

// end ends a node by a signal, and waits for it.
func (c *cluster) end(n *node, s syscall.Signal) {
	c.Helper()
	if n.process == nil {
		return
	}
	if err := n.process.End(s, patience); err != nil {
		c.Errorf("node %d: %v", n.id, err)
	}
	n.process = nil
}

// exits waits until a node has ended by itself, and returns its exit code.
func (c *cluster) exits(n *node) int {
	c.Helper()
	if err := n.process.Await(patience); err != nil {
		c.Fatalf("node %d: %v\n%s", n.id, err, tail(n.log))
	}
	code := n.process.State().ExitCode()
	n.process = nil
	return code
}

// ready waits until every node follows one leader, which has listed all of its resources.
func (c *cluster) ready() {
	c.Helper()
	eventually(c, "every node follows one leader, and all databases are listed", func() bool {
		for _, n := range c.nodes {
			s, ok := n.status(c)
			if !ok || s.Leader == 0 || !s.Known || s.Incomplete {
				return false
			}
			for _, r := range s.Resources {
				if !r.Known || r.Identity == "" {
					return false
				}
			}
			id, err := api.ParseCluster("cluster", s.Cluster)
			require.NoError(c, err)
			c.id = id
		}
		return true
	})
}

// leader returns the node that leads.
func (c *cluster) leader() (leader *node) {
	c.Helper()
	eventually(c, "a node leads", func() bool {
		for _, n := range c.nodes {
			if s, ok := n.status(c); ok && s.Leader == n.id {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

func (c *cluster) addrs() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.api)
	}
	return strings.Join(all, ",")
}

func (c *cluster) caller() *api.Client {
	c.Helper()
	caller, err := api.Dial(strings.Split(c.addrs(), ","), api.ClientOptions{Patience: patience})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, caller.Close()) })
	return caller
}

// in is the same cluster, for a subtest.
func (c *cluster) in(t testing.TB) *cluster {
	other := *c
	other.TB = t
	return &other
}

// result is what a command printed and how it ended.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout:\n%s\nstderr:\n%s", r.code, r.stdout, r.stderr)
}

// exited runs a command to its end.
func exited(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: errs.String()}
}

// concord runs a command that talks to the cluster.
func (c *cluster) concord(args ...string) result {
	c.Helper()
	return command(c, append(args, "--addr", c.addrs())...)
}

func command(t testing.TB, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := exited(t, exec.CommandContext(ctx, binary, args...))
	require.NoError(t, ctx.Err(), "concord %v hangs\n%v", args, r)
	return r
}

type statusJSON struct {
	Leader     int  `json:"leader"`
	Known      bool `json:"known"`
	Incomplete bool `json:"incomplete"`
	Cluster    string
	InDoubt    *int     `json:"in_doubt"`
	Heuristic  *int     `json:"heuristic"`
	Warnings   []string `json:"warnings"`
	Resources  []struct {
		Name     string `json:"name"`
		Known    bool   `json:"known"`
		OK       bool   `json:"ok"`
		Error    string `json:"error"`
		InDoubt  *int   `json:"in_doubt"`
		Foreign  *int   `json:"foreign"`
		Identity string `json:"identity"`
	} `json:"resources"`
}

// status is what a node says of itself; false if it does not.
func (n *node) status(t testing.TB) (s statusJSON, ok bool) {
	t.Helper()
	r := command(t, "status", "-o", "json", "--addr", n.api, "--timeout", "2s")
	if r.stdout == "" {
		return s, false
	}
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &s), "%v", r)
	return s, r.code == 0
}

type txJSON struct {
	GID      string `json:"gid"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Whole    string `json:"whole"`
	Next     string `json:"next"`
	Branches []struct {
		No       int    `json:"no"`
		Resource string `json:"resource"`
		State    string `json:"state"`
		Holder   string `json:"holder"`
		Error    string `json:"error"`
	} `json:"branches"`
	Heuristics []struct {
		No        int    `json:"no"`
		Outcome   string `json:"outcome"`
		By        string `json:"by"`
		Who       string `json:"who"`
		Why       string `json:"why"`
		Forgotten bool   `json:"forgotten"`
	} `json:"heuristics"`
}

// get is "concord tx get"; false if the cluster has not heard of the transaction.
func (c *cluster) get(id txn.ID) (x txJSON, known bool) {
	c.Helper()
	r := c.concord("tx", "get", id.String(), "-o", "json")
	if r.code == 3 {
		return x, false
	}
	require.Equal(c, 0, r.code, "%v", r)
	require.NoError(c, json.Unmarshal([]byte(r.stdout), &x), "%v", r)
	return x, true
}

// page fetches a page from a node.
func (n *node) page(t testing.TB, path string) string {
	t.Helper()
	res, err := http.Get("http://" + n.api + path)
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(text)
}

func tail(path string) string {
	const most = 6000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}
