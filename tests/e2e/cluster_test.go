// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/txn"
)

// settings is what differs between the clusters of the tests.
type settings struct {
	nodes               int // 0: three
	observers           int // of them, the last ones
	resources           []resource
	maxAge, grace, scan time.Duration // 0: the defaults of the product
}

// resource is one entry of "resources" in the configuration.
type resource struct{ name, driver, dsn string }

// cluster is a number of "concord serve" processes.
type cluster struct {
	testing.TB
	nodes []*node // node i has the id i+1
	id    txn.ClusterID
}

type node struct {
	id             int
	api, peer, dir string
	config, log    string
	binary         string // empty: the one of today
	process        *program.Process
}

// newCluster makes configurations and directories, and starts nothing.
func newCluster(t testing.TB, s settings) *cluster {
	t.Helper()
	if s.nodes == 0 {
		s.nodes = 3
	}
	c := &cluster{TB: t}
	var members, resources strings.Builder
	for id := 1; id <= s.nodes; id++ {
		n := &node{id: id, dir: t.TempDir(),
			api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)), peer: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))}
		n.config, n.log = filepath.Join(n.dir, "concord.yaml"), filepath.Join(n.dir, "concord.log")
		c.nodes = append(c.nodes, n)
		role := "voter"
		if id > s.nodes-s.observers {
			role = "observer"
		}
		fmt.Fprintf(&members, "  - {id: %d, peer: %s, api: %s, role: %s}\n", id, n.peer, n.api, role)
	}
	for _, r := range s.resources {
		where := "dsn"
		if r.driver == "agent" {
			where = "addr"
		}
		fmt.Fprintf(&resources, "  - {name: %s, driver: %s, %s: %q}\n", r.name, r.driver, where, r.dsn)
	}
	transaction := ""
	for _, limit := range []struct {
		key string
		d   time.Duration
	}{{"max_age", s.maxAge}, {"grace", s.grace}, {"scan", s.scan}} {
		if limit.d > 0 {
			transaction += fmt.Sprintf("  %s: %v\n", limit.key, limit.d)
		}
	}
	for _, n := range c.nodes {
		text := fmt.Sprintf("node: %d\ndata_dir: %s\napi: {listen: %s}\npeer: {listen: %s}\nmembers:\n%s", n.id,
			filepath.Join(n.dir, "data"), n.api, n.peer, &members)
		if resources.Len() > 0 {
			text += "resources:\n" + resources.String()
		}
		if transaction != "" {
			text += "transaction:\n" + transaction
		}
		require.NoError(t, os.WriteFile(n.config, []byte(text), 0o600))
	}
	t.Cleanup(c.close)
	return c
}

// startCluster starts all nodes and waits until they have a leader and know all of
// their databases.
func startCluster(t testing.TB, s settings) *cluster {
	t.Helper()
	c := newCluster(t, s)
	for _, n := range c.nodes {
		c.start(n)
	}
	c.ready()
	return c
}

// in is the same cluster, for a subtest.
func (c *cluster) in(t testing.TB) *cluster {
	other := *c
	other.TB = t
	return &other
}

// ready waits until every node follows one leader and has met its resources.
func (c *cluster) ready() {
	c.Helper()
	eventually(c, "every node follows one leader and knows its resources", func() bool {
		leader, epoch := 0, 0
		for _, n := range c.nodes {
			s, ok := n.status(c)
			if !ok || s.Leader == 0 || s.Cluster == "" || leader != 0 && (s.Leader != leader || s.Epoch != epoch) {
				return false
			}
			leader, epoch = s.Leader, s.Epoch
			for _, r := range s.Resources {
				if r.Identity == "" {
					return false
				}
			}
			id, err := api.ParseCluster("cluster", s.Cluster)
			require.NoError(c, err)
			if c.id != id { // else others may be reading it
				c.id = id
			}
		}
		return true
	})
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		if n.process != nil {
			if n.process.Alive() {
				require.NoError(c, n.process.Signal(syscall.SIGCONT)) // a test may have stopped it where it was
			}
			if err := n.process.End(syscall.SIGTERM, 20*time.Second); err != nil {
				c.Errorf("node %d: %v", n.id, err)
			}
		}
		if c.Failed() {
			c.Logf("end of the log of node %d:\n%s", n.id, tail(n.log))
		}
	}
}

// start starts a node that is down.
func (c *cluster) start(n *node) {
	c.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(c, err)
	defer log.Close()
	cmd := exec.Command(cmp.Or(n.binary, binary), "serve", "--config", n.config)
	cmd.Stdout, cmd.Stderr = log, log
	n.process, err = program.Start(cmd)
	require.NoError(c, err)
}

// kill ends a node with kill -9.
func (c *cluster) kill(n *node) {
	c.Helper()
	require.True(c, n.process.Alive(), "node %d had ended by itself:\n%s", n.id, tail(n.log))
	c.buried(n)
}

// buried makes sure of the end of a node that may have been killed already.
func (c *cluster) buried(n *node) {
	c.Helper()
	require.NoError(c, n.process.End(syscall.SIGKILL, patience))
}

// leader waits until a running node says that it leads.
func (c *cluster) leader() *node {
	c.Helper()
	var leader *node
	eventually(c, "a node leads", func() bool {
		for _, n := range c.nodes {
			if s, ok := n.status(c); ok && s.Leader == s.Node {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// node returns the node with an id.
func (c *cluster) node(id int) *node { return c.nodes[id-1] }

func (c *cluster) addrs() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.api)
	}
	return all
}

// command runs a command that talks to the cluster.
func (c *cluster) command(args ...string) result {
	c.Helper()
	return command(c, append(args, "--addr", strings.Join(c.addrs(), ","))...)
}

// json runs a command with -o json and decodes what it printed.
func (c *cluster) json(into any, wantCode int, args ...string) {
	c.Helper()
	r := c.command(append(args, "-o", "json")...)
	require.Equal(c, wantCode, r.code, "concord %v: %v", args, r)
	decode(c, r.stdout, into)
}

// get is "concord tx get".
func (c *cluster) get(id txn.ID) (x txJSON) {
	c.Helper()
	c.json(&x, 0, "tx", "get", id.String())
	return x
}

// list is the first page of "concord tx ls".
func (c *cluster) list(args ...string) []txJSON {
	c.Helper()
	var page struct {
		Transactions []txJSON `json:"transactions"`
		Next         string   `json:"next"`
	}
	c.json(&page, 0, append([]string{"tx", "ls"}, args...)...)
	return page.Transactions
}

// decode is strict: what a command prints as JSON is a contract.
func decode(t testing.TB, text string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(into), "%s", text)
}

// dial connects the SDK.
func (c *cluster) dial() *concord.Client {
	c.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := concord.Dial(ctx, c.addrs())
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, client.Close()) })
	return client
}

// caller makes a client of the bare API.
func (c *cluster) caller() *api.Client {
	c.Helper()
	caller, err := api.Dial(c.addrs(), api.ClientOptions{})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, caller.Close()) })
	return caller
}

// status is "concord status -o json" as one node answers; false if it does not.
func (n *node) status(t testing.TB) (statusJSON, bool) {
	t.Helper()
	var s statusJSON
	if n.process == nil || !n.process.Alive() {
		return s, false
	}
	r := command(t, "status", "-o", "json", "--addr", n.api, "--timeout", "2s")
	if r.stdout == "" {
		require.Equal(t, 4, r.code, "%v", r)
		return s, false
	}
	decode(t, r.stdout, &s)
	return s, r.code == 0
}

func tail(path string) string {
	const most = 6000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

// The JSON of the commands, as DESIGN fixes it.
type (
	statusJSON struct {
		Cluster   string         `json:"cluster"`
		Node      int            `json:"node"`
		Leader    int            `json:"leader"`
		Epoch     int            `json:"epoch"`
		Nodes     []nodeJSON     `json:"nodes"`
		Resources []resourceJSON `json:"resources"`
		Known     bool           `json:"known"` // else what is a pointer is nil
		InDoubt   *int           `json:"in_doubt"`
		Heuristic *int           `json:"heuristic"`
		Oldest    *string        `json:"oldest"`
		Warnings  []string       `json:"warnings"`
		Zxid      string         `json:"zxid"`
		CutOff    string         `json:"cut_off"`

		Incomplete bool `json:"incomplete"`
	}
	nodeJSON struct {
		ID        int    `json:"id"`
		Role      string `json:"role"`
		State     string `json:"state"`
		Epoch     int    `json:"epoch"`
		Zxid      string `json:"zxid"`
		Lag       int    `json:"lag"`
		Reachable bool   `json:"reachable"`
		API       string `json:"api"`
	}
	resourceJSON struct {
		Name       string          `json:"name"`
		Driver     string          `json:"driver"`
		Known      bool            `json:"known"`
		OK         bool            `json:"ok"`
		Error      string          `json:"error"`
		InDoubt    *int            `json:"in_doubt"`
		Oldest     *string         `json:"oldest"`
		Identity   string          `json:"identity"`
		Foreign    *int            `json:"foreign"`
		Listed     bool            `json:"listed"`
		OwnError   string          `json:"own_error"`
		HighWater  string          `json:"high_water"`
		Quarantine *quarantineJSON `json:"quarantine"`
	}
	quarantineJSON struct {
		Has        string    `json:"has"`
		Remembered string    `json:"remembered"`
		Since      time.Time `json:"since"`
	}
	txJSON struct {
		GID        string          `json:"gid"`
		State      string          `json:"state"`
		Protocol   string          `json:"protocol"`
		Last       string          `json:"last_resource"`
		Started    time.Time       `json:"started"`
		Age        string          `json:"age"`
		Branches   []branchJSON    `json:"branches"`
		Reason     string          `json:"reason"`
		Zxid       string          `json:"zxid"`
		Whole      string          `json:"whole"`
		Next       string          `json:"next"`
		Heuristics []heuristicJSON `json:"heuristics"`
		DecidedBy  string          `json:"decided_by"`
		Decided    *time.Time      `json:"decided"`
		Forgets    []forgetJSON    `json:"forgets"`
		Acts       []actJSON       `json:"acts"`
		Expected   []int           `json:"expected"`
		Missing    []int           `json:"missing"`
	}
	forgetJSON struct {
		Who  string     `json:"who"`
		Why  string     `json:"why"`
		Time *time.Time `json:"time"`
	}
	actJSON struct {
		No       int       `json:"no"`
		Time     time.Time `json:"time"`
		Subject  string    `json:"subject"`
		Who      string    `json:"who"`
		Command  string    `json:"command"`
		GID      string    `json:"gid"`
		Branch   *int      `json:"branch"`
		Resource string    `json:"resource"`
		Node     int       `json:"node"`
		Reason   string    `json:"reason"`
		Outcome  string    `json:"outcome"`
		Says     string    `json:"says"`
		Roles    string    `json:"roles"`
		Address  string    `json:"address"`
		Called   int       `json:"called"`
	}
	branchJSON struct {
		No       int    `json:"no"`
		Resource string `json:"resource"`
		State    string `json:"state"`
		Evidence string `json:"evidence"`
		Holder   string `json:"holder"`
		Error    string `json:"error"`
		Attempts int    `json:"attempts"`
		Next     string `json:"next_attempt"`
		Failed   string `json:"failed"`
		Seen     string `json:"seen"`
		Unseen   string `json:"unseen"`
		Blocked  []struct {
			Session   string `json:"session"`
			Waited    string `json:"waited"`
			Statement string `json:"statement"`
		} `json:"blocked"`
	}
	heuristicJSON struct {
		No        int    `json:"no"`
		Outcome   string `json:"outcome"`
		By        string `json:"by"`
		Who       string `json:"who"`
		Why       string `json:"why"`
		Forgotten bool   `json:"forgotten"`

		Time *time.Time `json:"time"`
	}
	actionJSON struct {
		GID      string     `json:"gid"`
		No       int        `json:"no"`
		Resource string     `json:"resource"`
		Action   string     `json:"action"`
		Why      string     `json:"why"`
		Result   string     `json:"result"`
		Error    string     `json:"error"`
		Prepared *time.Time `json:"prepared"`
	}
	reportJSON struct {
		Name     string        `json:"name"`
		Driver   string        `json:"driver"`
		Version  string        `json:"version"`
		OK       bool          `json:"ok"`
		Error    string        `json:"error"`
		Findings []findingJSON `json:"findings"`

		CanBe           []string `json:"can_be"`
		NotBranch       string   `json:"not_branch"`
		NotLastResource string   `json:"not_last_resource"`
	}
	findingJSON struct {
		What    string `json:"what"`
		Detail  string `json:"detail"`
		Problem bool   `json:"problem"`
		Fix     string `json:"fix"`
	}
)

type rawNode = concordv1connect.CoordinatorServiceClient

// raw talks to one node and follows no hint.
func (n *node) raw() rawNode {
	return concordv1connect.NewCoordinatorServiceClient(http.DefaultClient, "http://"+n.api)
}

// streaming is raw over HTTP/2.
func (n *node) streaming() rawNode {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return concordv1connect.NewCoordinatorServiceClient(&http.Client{Transport: &http.Transport{Protocols: protocols}},
		"http://"+n.api)
}

// itself asks a node not to hand a call on.
func itself(ctx context.Context) context.Context {
	ctx, info := connect.NewClientContext(ctx)
	info.RequestHeader().Set(api.RedirectHeader, "1")
	return ctx
}

// asIs lets a node hand a call on.
func asIs(ctx context.Context) context.Context { return ctx }

func (c *cluster) signal(s syscall.Signal, nodes ...*node) {
	c.Helper()
	for _, n := range nodes {
		require.NoError(c, n.process.Signal(s))
	}
	for _, n := range nodes {
		if s == syscall.SIGSTOP {
			eventually(c, "the node has stopped", n.process.Stopped)
		}
	}
}

// switchedOn waits until every node has come to the feature level of this release, for which all have to run.
func (c *cluster) switchedOn() {
	c.Helper()
	says := fmt.Sprintf("feature level %d from now on", txn.Newest)
	for _, n := range c.nodes {
		eventually(c, "what the release adds is switched on", func() bool {
			log, err := os.ReadFile(n.log)
			require.NoError(c, err)
			return strings.Contains(string(log), says)
		})
	}
}

func (c *cluster) others(than *node) (others []*node) {
	for _, n := range c.nodes {
		if n != than {
			others = append(others, n)
		}
	}
	return others
}

// recordedID is an id whose outcome is always committed or aborted, also if nothing changed.
func recordedID() txn.ID { return txn.NewID(time.Now()).WithClass(txn.Recorded) }

// bare asks for a decision about nothing.
func (c *cluster) bare(id txn.ID) *concordv1.CommitRequest {
	return &concordv1.CommitRequest{Gid: id.String(), Cluster: c.id.String()}
}

// decide commits a new transaction and returns it with the position that the answer reflects.
func (c *cluster) decide(ctx context.Context, caller *api.Client) (txn.ID, string) {
	c.Helper()
	id := txn.NewID(time.Now())
	res, err := caller.Commit(ctx, c.bare(id))
	require.NoError(c, err)
	require.Equal(c, "commit", res.GetDecision())
	return id, res.GetZxid()
}

func position(t testing.TB, zxid string) zab.Zxid {
	t.Helper()
	p, err := api.ParseZxid("zxid", zxid)
	require.NoError(t, err)
	require.NotZero(t, p, "every answer says what it reflects")
	return p
}

func before(a, b zab.Zxid) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Counter < b.Counter
}
