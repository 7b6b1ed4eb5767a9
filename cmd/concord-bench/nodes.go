// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security"
	"github.com/concordtx/concord/txn"
)

const (
	// readyTimeout bounds the wait for three nodes to find each other.
	readyTimeout = 60 * time.Second
	stopTimeout  = 10 * time.Second
	askTimeout   = 2 * time.Second
	pollInterval = 20 * time.Millisecond
)

// nodes are three "concord serve" processes.
type nodes struct {
	program string
	dir     string
	members []replica.Member
	clients map[zab.NodeID]*api.Client // one for each node, to ask exactly that one
	certs   security.Dir               // empty: they ask nobody who he is
	maxAge  time.Duration              // of a transaction; 0: the default

	mu      sync.Mutex
	running map[zab.NodeID]*program.Process
	cpu     time.Duration // of those that have ended
}

// findConcord returns the program that the nodes run: the one that is named, or else the one beside
// this program, or else the one in PATH.
func findConcord(named string) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", terminal.Usagef("--concord: %v: give the path of the program concord, or build it with "+
				"\"make build\"", err)
		}
		return filepath.Abs(path)
	}
	if own, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(own), "concord")); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("concord")
	if err != nil {
		return "", terminal.Usagef("there is no program concord, which the nodes run, beside this one or in PATH: " +
			"build it with \"make build\", or name it with --concord")
	}
	return filepath.Abs(path)
}

// startNodes returns when the nodes have a leader and all follow it. The caller stops them. named is
// the program that they run, see findConcord.
func startNodes(ctx context.Context, named, dir string, resources []config.Resource) (*nodes, error) {
	return startNodesWith(ctx, &nodes{}, named, dir, resources)
}

// startNodesBehind is startNodes with the certificates of a directory, where the client benchClients[0] has one.
func startNodesBehind(ctx context.Context, certs security.Dir, named, dir string,
	resources []config.Resource) (*nodes, error) {
	return startNodesWith(ctx, &nodes{certs: certs}, named, dir, resources)
}

// startNodesWith is startNodes of nodes that have certs and maxAge.
func startNodesWith(ctx context.Context, n *nodes, named, dir string,
	resources []config.Resource) (_ *nodes, err error) {
	if n.program, err = findConcord(named); err != nil {
		return nil, err
	}
	n.dir, n.clients, n.running = dir, map[zab.NodeID]*api.Client{}, map[zab.NodeID]*program.Process{}
	who, err := n.credentials()
	if err != nil {
		return nil, err
	}
	if n.members, err = config.FreeMembers(); err != nil {
		return nil, err
	}
	for _, m := range n.members {
		if n.clients[m.ID], err = api.Dial([]string{m.API}, api.ClientOptions{Patience: askTimeout,
			Credentials: who}); err == nil {
			err = n.configure(m, resources)
		}
		if err == nil {
			err = n.start(m.ID)
		}
		if err != nil {
			return nil, errors.Join(err, n.stop())
		}
	}
	if _, err := n.await(ctx); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

// configure writes a node's file, for this user's eyes alone: it may hold passwords.
func (n *nodes) configure(m replica.Member, resources []config.Resource) error {
	type dict = map[string]any
	file := dict{
		"node": m.ID, "data_dir": n.file(m.ID, "data"),
		"api": dict{"listen": m.API}, "peer": dict{"listen": m.Peer},
	}
	var members, databases []dict
	for _, o := range n.members {
		members = append(members, dict{"id": o.ID, "peer": o.Peer, "api": o.API})
	}
	for _, r := range resources {
		if r.Driver == "agent" {
			databases = append(databases, dict{"name": r.Name, "driver": r.Driver, "addr": r.Addr})
			continue
		}
		dsn, err := r.Secret()
		if err != nil {
			return err
		}
		databases = append(databases, dict{"name": r.Name, "driver": r.Driver, "dsn": dsn.Reveal(),
			"tls": r.TLS, "tls_ca": r.TLSCA})
	}
	file["members"], file["resources"] = members, databases
	if n.maxAge > 0 {
		file["transaction"] = dict{"max_age": n.maxAge.String()}
	}
	if n.certs != "" {
		var grants []dict
		for _, name := range benchClients {
			grants = append(grants, dict{"subject": name, "roles": []string{"application", "viewer"},
				"resources": []string{"*"}})
		}
		file["certs_dir"], file["auth"] = string(n.certs), dict{"grants": grants}
	}
	text, err := json.Marshal(file) // JSON is YAML
	if err != nil {
		return err
	}
	return os.WriteFile(n.file(m.ID, "yaml"), text, 0o600)
}

// credentials are those of a client; nil: it needs none.
func (n *nodes) credentials() (*security.Credentials, error) {
	if n.certs == "" {
		return nil, nil
	}
	return security.Source{CertsDir: string(n.certs), User: benchClients[0]}.Open(nil)
}

func (n *nodes) file(id zab.NodeID, kind string) string {
	return filepath.Join(n.dir, fmt.Sprintf("node%v.%s", id, kind))
}

func (n *nodes) start(id zab.NodeID) error {
	p, err := startProcess(exec.Command(n.program, "serve", "--config", n.file(id, "yaml")), n.file(id, "log"))
	if err != nil {
		return fmt.Errorf("start node %v: %w", id, err)
	}
	n.mu.Lock()
	n.running[id] = p
	n.mu.Unlock()
	return nil
}

// startProcess starts a process of concord that appends to a log. Its file says all that it needs to know.
func startProcess(cmd *exec.Cmd, logFile string) (*program.Process, error) {
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CONCORD_") })
	return program.StartLogged(cmd, logFile)
}

// endProcess sends a signal and returns when the process is gone.
func endProcess(p *program.Process, with syscall.Signal) error {
	err := p.Signal(with)
	_ = p.Await(stopTimeout) // one that takes longer is killed, which is no matter here
	return err
}

// end sends a signal to a node and returns when it is gone.
func (n *nodes) end(id zab.NodeID, with syscall.Signal) error {
	n.mu.Lock()
	p, ok := n.running[id]
	delete(n.running, id)
	n.mu.Unlock()
	if !ok {
		return fmt.Errorf("node %v does not run", id)
	}
	if err := endProcess(p, with); err != nil {
		return fmt.Errorf("end node %v: %w", id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cpu += p.State().UserTime() + p.State().SystemTime()
	return nil
}

// pids are the processes of the nodes that run.
func (n *nodes) pids() []int {
	n.mu.Lock()
	defer n.mu.Unlock()
	var pids []int
	for _, p := range n.running {
		pids = append(pids, p.Pid())
	}
	return pids
}

// halt ends all nodes that run. They can be started again.
func (n *nodes) halt() error {
	n.mu.Lock()
	var ids []zab.NodeID
	for id := range n.running {
		ids = append(ids, id)
	}
	n.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, n.end(id, syscall.SIGTERM))
	}
	return errors.Join(errs...)
}

// stop ends all nodes that run, for good.
func (n *nodes) stop() error {
	errs := []error{n.halt()}
	for _, c := range n.clients {
		if c != nil {
			_ = c.Close() // always nil
		}
	}
	return errors.Join(errs...)
}

// await returns the leader's status once all three nodes work together.
func (n *nodes) await(ctx context.Context) (*concordv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		s, why := n.agreed(ctx)
		if s != nil {
			return s, nil
		}
		if id, dead := n.died(); dead {
			return nil, fmt.Errorf("node %v ended by itself; end of its log:\n%s", id, logTail(n.file(id, "log")))
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return nil, fmt.Errorf("the three nodes do not work together: %s: %w", why, context.Cause(ctx))
		}
	}
}

// agreed returns the status of the leader, or why the nodes do not agree yet.
func (n *nodes) agreed(ctx context.Context) (leader *concordv1.StatusResponse, why string) {
	for _, m := range n.members {
		s, err := n.clients[m.ID].Status(ctx, &concordv1.StatusRequest{})
		switch {
		case err != nil:
			return nil, err.Error()
		case s.GetLeader() == 0 || s.GetCluster() == "":
			return nil, fmt.Sprintf("node %v knows no leader", m.ID)
		case s.GetLeader() == s.GetNode():
			leader = s
		}
	}
	if leader == nil {
		return nil, "no node leads"
	}
	for _, o := range leader.GetNodes() {
		if !o.GetReachable() || o.GetState() != "leading" && o.GetState() != "following" {
			return nil, fmt.Sprintf("node %d is %s", o.GetId(), o.GetState())
		}
	}
	return leader, ""
}

// died returns a node that ended without being asked to.
func (n *nodes) died() (zab.NodeID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, p := range n.running {
		select {
		case <-p.Done():
			return id, true
		default:
		}
	}
	return 0, false
}

func (n *nodes) addresses() []string {
	var out []string
	for _, m := range n.members {
		out = append(out, m.API)
	}
	return out
}

// logTail is the end of a node's log, for the message of a failed start.
func logTail(path string) string {
	const most = 2000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// decider asks a cluster for decisions about transactions without branches.
type decider struct {
	client  *api.Client
	cluster txn.ClusterID
}

func newDecider(ctx context.Context, addrs []string) (*decider, error) {
	client, err := api.Dial(addrs, api.ClientOptions{})
	if err != nil {
		return nil, err
	}
	s, err := client.Status(ctx, &concordv1.StatusRequest{})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	cluster, err := api.ParseCluster("cluster", s.GetCluster())
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &decider{client: client, cluster: cluster}, nil
}

// commit makes one commit request, the way the SDK does, and returns the position in
// the log that the answer reflects.
func (d *decider) commit(ctx context.Context, id txn.ID, label string) (zxid string, err error) {
	res, err := d.client.Commit(ctx, api.CommitRequest(txn.CommitRequest{ID: id, Cluster: d.cluster, Label: label}))
	if err != nil {
		return "", err
	}
	if res.GetDecision() != txn.Commit.String() {
		return "", fmt.Errorf("transaction %v: the decision is %s: %s", id, res.GetDecision(), res.GetReason())
	}
	return res.GetZxid(), nil
}

func (d *decider) close() { _ = d.client.Close() } // always nil
