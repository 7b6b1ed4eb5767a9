// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
)

// node is a "concord serve" process.
type node struct {
	id                     int
	api, peer, dir, config string
	log                    string
	small                  string // the mount point of a small disk that it lives on; empty: none
	status                 concordv1connect.CoordinatorServiceClient
	*program.Process
}

// agentProcess is the "concord agent" process.
type agentProcess struct {
	addr, dir, config, log string
	stub                   concordv1connect.ParticipantServiceClient
	*program.Process
}

// smallDisk is the size of the file system of node 3, and reserve what a node keeps free.
const smallDisk, reserve = 400 << 20, 64

func (w *world) newNode(id int) *node {
	w.Helper()
	n := &node{id: id, dir: w.path(fmt.Sprintf("node%d", id)), api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(w)),
		peer: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(w))}
	require.NoError(w, os.MkdirAll(n.dir, 0o700))
	n.config, n.log = n.dir+".yaml", n.dir+".log"
	n.status = concordv1connect.NewCoordinatorServiceClient(&http.Client{Timeout: 2 * time.Second}, "http://"+n.api)
	return n
}

// configure makes three nodes, each of which reaches each other one by a link of its own.
func (w *world) configure() {
	w.Helper()
	for id := 1; id <= 3; id++ {
		w.nodes = append(w.nodes, w.newNode(id))
	}
	third := w.nodes[2]
	if err := mountSmall(third.dir); err != nil {
		w.Logf("node 3 has no small disk, so none fills up: %v", err)
	} else {
		third.small = third.dir
		w.Cleanup(func() { _ = syscall.Unmount(third.small, syscall.MNT_DETACH) })
	}
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			if to != from {
				w.links[[2]int{from.id, to.id}] = w.link(to.peer, false)
			}
		}
		w.apis = append(w.apis, w.link(from.api, false))
	}
	w.agent = &agentProcess{addr: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(w)), dir: w.path("agent"),
		config: w.path("agent.yaml"), log: w.path("agent.log")}
	w.agents = w.link(w.agent.addr, false)
	w.agent.stub = concordv1connect.NewParticipantServiceClient(&http.Client{Timeout: 10 * time.Second},
		"http://"+w.agent.addr)
	for _, n := range w.nodes {
		require.NoError(w, w.write(n))
	}
	w.Cleanup(func() {
		for _, n := range w.nodes {
			if n.Process != nil {
				_ = n.Signal(syscall.SIGCONT)
				if err := n.End(syscall.SIGTERM, 20*time.Second); err != nil {
					w.Errorf("node %d: %v", n.id, err)
				}
			}
		}
	})
}

func mountSmall(dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("that needs root")
	}
	return syscall.Mount("concord-chaos", dir, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk))
}

// write writes the configuration of a node. Those that join later reach the others without links.
func (w *world) write(n *node) error {
	var text strings.Builder
	fmt.Fprintf(&text, "node: %d\ndata_dir: %s\napi: {listen: %s}\npeer: {listen: %s}\ndisk: {reserve_mib: %d}\n"+
		"transaction: {max_age: 20s, grace: 2s, scan: 1s}\nmembers:\n", n.id, filepath.Join(n.dir, "data"), n.api,
		n.peer, reserve)
	members := w.nodes[:3:3]
	if n.id > 3 {
		members = append(members, n)
	}
	for _, m := range members {
		peer := m.peer
		if l := w.links[[2]int{n.id, m.id}]; l != nil {
			peer = l.Addr()
		}
		fmt.Fprintf(&text, "  - {id: %d, peer: %s, api: %s}\n", m.id, peer, m.api)
	}
	text.WriteString("resources:\n")
	for _, name := range sqlNames {
		d, driver := w.dbs[name], "mysql"
		if name == orders {
			driver = "postgres"
		}
		fmt.Fprintf(&text, "  - {name: %s, driver: %s, dsn: %q}\n", name, driver, d.through(d.nodes))
	}
	for _, name := range agentNames {
		fmt.Fprintf(&text, "  - {name: %s, driver: agent, addr: %q}\n", name, w.agents.Addr())
	}
	return os.WriteFile(n.config, []byte(text.String()), 0o600)
}

// program is the binary with arguments, which say it all.
func concordCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CONCORD_") })
	return cmd
}

func (w *world) start(n *node) (err error) {
	n.Process, err = program.StartLogged(concordCommand(context.Background(), "serve", "--config", n.config), n.log)
	return err
}

// kill ends a node with kill -9. That it had ended by itself is an error.
func (w *world) kill(n *node) error {
	if !n.Alive() {
		return fmt.Errorf("node %d had ended by itself: %v", n.id, n.Err())
	}
	return n.End(syscall.SIGKILL, patience)
}

func (w *world) startAgent() (err error) {
	a := w.agent
	if _, err := os.Stat(a.config); err != nil {
		var addrs []string
		for _, l := range w.apis {
			addrs = append(addrs, l.Addr())
		}
		coordinators, err := json.Marshal(addrs)
		if err != nil {
			return err
		}
		text := fmt.Sprintf("name: west\ndata_dir: %s\nlisten: %s\ncoordinators: %s\nscan: 500ms\nsilence: 5s\n"+
			"resources:\n  - {name: %s, driver: postgres, dsn: %q}\n  - {name: %s, driver: pebble, dir: %s}\n", a.dir,
			a.addr, coordinators, desk, w.dbs[desk].through(w.dbs[desk].clients), ledger, w.path("ledger"))
		if err := os.WriteFile(a.config, []byte(text), 0o600); err != nil {
			return err
		}
		w.Cleanup(func() {
			if err := a.End(syscall.SIGTERM, 20*time.Second); err != nil {
				w.Errorf("the agent: %v", err)
			}
		})
	}
	a.Process, err = program.StartLogged(concordCommand(context.Background(), "agent", "--config", a.config), a.log)
	return err
}

// ask is what a node says of itself; nil: nothing.
func (w *world) ask(n *node) *concordv1.StatusResponse {
	if !n.Alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s, err := n.status.Status(ctx, &concordv1.StatusRequest{})
	if err != nil {
		return nil
	}
	return s
}

// leader returns a node that says it leads; nil: none does.
func (w *world) leader() (leader *node) {
	var epoch uint32
	for _, n := range w.nodes {
		if s := w.ask(n); s != nil && s.GetLeader() == s.GetNode() && s.GetEpoch() >= epoch {
			leader, epoch = n, s.GetEpoch()
		}
	}
	return leader
}

// someLeader waits for one.
func (w *world) someLeader() (*node, error) {
	for start := time.Now(); time.Since(start) < patience; time.Sleep(50 * time.Millisecond) {
		if l := w.leader(); l != nil {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no node leads within %v", patience)
}

func (w *world) others(than *node) (others []*node) {
	for _, n := range w.nodes {
		if n != than {
			others = append(others, n)
		}
	}
	return others
}

// ready waits until every node follows one leader and has met its resources.
func (w *world) ready(limit time.Duration) error {
	why := ""
	for start := time.Now(); time.Since(start) < limit; time.Sleep(50 * time.Millisecond) {
		if why = w.unready(); why == "" {
			return nil
		}
		for _, n := range w.nodes {
			if !n.Alive() {
				return fmt.Errorf("node %d has ended by itself: %v: %s", n.id, n.Err(), tail(n.log))
			}
		}
	}
	return fmt.Errorf("not within %v: %s", limit, why)
}

func (w *world) unready() string {
	var leader uint64
	var epoch uint32
	for _, n := range w.nodes {
		s := w.ask(n)
		switch {
		case s == nil:
			if !n.Alive() {
				return fmt.Sprintf("node %d has ended", n.id)
			}
			return fmt.Sprintf("node %d does not answer", n.id)
		case s.GetLeader() == 0 || s.GetCluster() == "":
			return fmt.Sprintf("node %d knows no leader", n.id)
		case leader != 0 && (s.GetLeader() != leader || s.GetEpoch() != epoch):
			return fmt.Sprintf("node %d follows node %d of epoch %d, another one node %d of epoch %d", n.id,
				s.GetLeader(), s.GetEpoch(), leader, epoch)
		}
		leader, epoch = s.GetLeader(), s.GetEpoch()
		for _, r := range s.GetResources() {
			if r.GetIdentity() == "" {
				return fmt.Sprintf("node %d has not met %s: %s", n.id, r.GetName(), r.GetError())
			}
		}
		id, err := api.ParseCluster("cluster", s.GetCluster())
		if err != nil {
			return err.Error()
		}
		if w.id != id { // else others may be reading it
			w.id = id
		}
	}
	return ""
}

// concord runs a command against the nodes that the run began with.
func (w *world) concord(args ...string) (out string, code int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var addrs []string
	for _, n := range w.nodes {
		addrs = append(addrs, n.api)
	}
	var text bytes.Buffer
	cmd := concordCommand(ctx, append(args, "--addr", strings.Join(addrs, ","))...)
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Sprintf("concord %v hangs\n%s", args, &text), -1
	}
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return text.String(), cmd.ProcessState.ExitCode()
}

// way sets what happens to what one node sends to another, on the connections of both.
func (w *world) way(from, to *node, f faultproxy.Fault) {
	if l := w.links[[2]int{from.id, to.id}]; l != nil {
		l.Set(faultproxy.Forward, f)
	}
	if l := w.links[[2]int{to.id, from.id}]; l != nil {
		l.Set(faultproxy.Backward, f)
	}
}

// between sets what happens to what two nodes send to each other.
func (w *world) between(a, b *node, f faultproxy.Fault) {
	w.way(a, b, f)
	w.way(b, a, f)
}

func (w *world) healNodes() {
	for _, l := range w.links {
		l.Heal()
	}
}

// tail is the end of a log.
func tail(path string) string {
	const most = 3000
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}
