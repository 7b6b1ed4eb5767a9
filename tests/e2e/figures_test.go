// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/txn"
)

// metric scrapes one series of a node; false if it is absent.
func (n *node) metric(t testing.TB, series string) (float64, bool) {
	t.Helper()
	client := &http.Client{Timeout: patience}
	res, err := client.Get("http://" + n.api + "/metrics")
	require.NoError(t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			require.NoError(t, err)
			return v, true
		}
	}
	return 0, false
}

// show is one resource in the status of a node.
func (s statusJSON) resource(name string) resourceJSON {
	for _, r := range s.Resources {
		if r.Name == name {
			return r
		}
	}
	return resourceJSON{}
}

// count is a number that must be known; -1 if it is not.
func count(n *int) int {
	if n == nil {
		return -1
	}
	return *n
}

func TestEveryNodeTellsTheSame(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{nodes: 4, observers: 1, resources: b.resources(), maxAge: time.Hour,
		grace: 500 * time.Millisecond, scan: 500 * time.Millisecond})
	everywhere := func(what string, holds func(*node, statusJSON) bool) {
		t.Helper()
		eventually(t, "at every node: "+what, func() bool {
			for _, n := range c.nodes {
				if s, ok := n.status(t); !ok || !holds(n, s) {
					return false
				}
			}
			return true
		})
	}
	h, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)
	everywhere("one transaction in doubt, a branch at each database", func(n *node, s statusJSON) bool {
		inDoubt, ok := n.metric(t, "concord_in_doubt")
		orders, _ := n.metric(t, `concord_resource_in_doubt{resource="orders"}`)
		return s.Known && count(s.InDoubt) == 1 && count(s.Heuristic) == 0 &&
			count(s.resource("orders").InDoubt) == 1 && count(s.resource("billing").InDoubt) == 1 &&
			ok && inDoubt == 1 && orders == 1
	})

	require.NoError(t, b.left.server.Kill())
	everywhere("the database is down", func(n *node, s statusJSON) bool {
		up, ok := n.metric(t, `concord_resource_up{resource="orders"}`)
		return !s.resource("orders").OK && s.resource("orders").Error != "" && s.resource("billing").OK && ok && up == 0
	})
	res, err := c.caller().Commit(ctx, h.request())
	require.NoError(t, err)
	require.Equal(t, txn.Commit.String(), res.GetDecision())
	everywhere("it is decided, and not finished at the database that is down", func(n *node, s statusJSON) bool {
		oldest, _ := n.metric(t, `concord_resource_in_doubt_oldest_age_seconds{resource="orders"}`)
		orders := s.resource("orders")
		return count(s.InDoubt) == 1 && count(orders.InDoubt) == 1 && orders.Oldest != nil && *orders.Oldest != "" &&
			count(s.resource("billing").InDoubt) == 0 &&
			oldest >= time.Since(h.id.Time()).Seconds()-30 && strings.Contains(strings.Join(s.Warnings, "\n"),
			"orders could not be listed")
	})
	// Who leads next has never seen that database, and must not take it for empty.
	c.kill(c.leader())
	eventually(t, "the next leader says that it does not know all", func() bool {
		s, ok := c.leader().status(t)
		return ok && s.Incomplete && count(s.InDoubt) == 1 && count(s.resource("orders").InDoubt) == 1 &&
			!s.resource("orders").Listed && s.resource("orders").Foreign == nil
	})
	r := c.command("tx", "ls", "--state", "in-doubt")
	require.Contains(t, r.stderr, "resource orders")
	r = c.command("tx", "get", txn.NewID(time.Now()).String())
	require.Equal(t, 3, r.code)
	require.Contains(t, r.stderr, "resource orders")
	require.NotContains(t, r.stderr, "no resource lists")

	// Without a leader it is unknown: not zero.
	c.kill(c.leader())
	for _, n := range c.nodes {
		if !n.process.Alive() {
			continue
		}
		eventually(t, "it is unknown here", func() bool {
			s, _ := n.status(t)
			return s.Node != 0 && !s.Known
		})
		s, ok := n.status(t)
		require.False(t, ok)
		require.Nil(t, s.InDoubt)
		require.Nil(t, s.Heuristic)
		require.Nil(t, s.resource("orders").InDoubt)
		for _, series := range []string{"concord_in_doubt", "concord_heuristic",
			`concord_resource_up{resource="orders"}`, `concord_resource_in_doubt{resource="orders"}`} {
			_, there := n.metric(t, series)
			require.False(t, there, series)
		}
		known, there := n.metric(t, "concord_leader_view_known")
		require.True(t, there)
		require.Zero(t, known)
		r := command(t, "status", "--addr", n.api)
		require.Equal(t, 4, r.code)
		require.Contains(t, r.stdout, "in doubt unknown here")
		res, err := http.Get("http://" + n.api + "/readyz")
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		require.Contains(t, string(text), "no leader")
	}
	require.NoError(t, b.left.server.Start())
	for _, n := range c.nodes {
		if !n.process.Alive() {
			c.start(n)
		}
	}
	b.settled(c)
	everywhere("nothing is in doubt", func(_ *node, s statusJSON) bool {
		return count(s.InDoubt) == 0 && s.resource("orders").OK && count(s.resource("orders").InDoubt) == 0 &&
			!s.Incomplete
	})
	b.sumHolds()
}

// sum(concord_transactions_decided_total) is what the cluster decided, and decisions on the stream
// are in the histogram of calls.
func TestDecisionsAreCountedOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := startCluster(t, settings{})
	caller := c.caller()
	const decisions = 20
	for range decisions {
		c.decide(ctx, caller)
	}
	sum := func(series string) (sum float64) {
		for _, n := range c.nodes {
			v, _ := n.metric(t, series)
			sum += v
		}
		return sum
	}
	eventually(t, "all are counted", func() bool {
		return sum(
			`concord_transactions_decided_total{decision="commit"}`) == decisions
	})
	require.GreaterOrEqual(t, sum(`concord_rpc_duration_seconds_count{code="ok",method="Decide"}`), float64(decisions))
}

func TestSignalsThatMeanNoEndDoNotEndANode(t *testing.T) {
	c := startCluster(t, settings{nodes: 1})
	n := c.node(1)
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		require.NoError(t, n.process.Signal(s))
	}
	text, err := os.ReadFile(n.config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.config, append(text, "log: {level: debug}\n"...), 0o600))
	require.NoError(t, n.process.Signal(syscall.SIGHUP))
	eventually(t, "the configuration is read again",
		func() bool { return strings.Contains(tail(n.log), "log_level=debug") })
	require.NoError(t, os.WriteFile(n.config, []byte("node: ["), 0o600))
	require.NoError(t, n.process.Signal(syscall.SIGHUP))
	eventually(t, "a wrong one is not taken", func() bool { return strings.Contains(tail(n.log), "is wrong") })
	s, ok := n.status(t)
	require.True(t, ok)
	require.Equal(t, 1, s.Leader)
}

func TestConfigurationFromTheEnvironmentAlone(t *testing.T) {
	c := newCluster(t, settings{nodes: 1})
	n := c.node(1)
	log, err := os.Create(n.log)
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command(binary, "serve")
	cmd.Env = append(os.Environ(), "CONCORD_NODE=1", "CONCORD_DATA_DIR="+n.dir+"/data", "CONCORD_API_LISTEN="+n.api,
		"CONCORD_PEER_LISTEN="+n.peer,
		fmt.Sprintf(`CONCORD_MEMBERS=[{"id": 1, "peer": %q, "api": %q}]`, n.peer, n.api),
		"CONCORD_SERVICE_HOST=10.0.0.1")
	cmd.Stdout, cmd.Stderr = log, log
	n.process, err = program.Start(cmd)
	require.NoError(t, err)
	c.ready()

	wrong := exec.Command(binary, "status", "--addr", n.api)
	wrong.Env = append(os.Environ(), "CONCORD_ADR="+n.api)
	out, err := wrong.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, 2, wrong.ProcessState.ExitCode())
	require.Contains(t, string(out), "the nearest is CONCORD_ADDR")
}
