// SPDX-License-Identifier: Apache-2.0

//go:build compose

package compose

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
)

var nodes = []string{"node1", "node2", "node3"}

// status is what one node says of the cluster.
type status struct {
	Leader  int  `json:"leader"`
	InDoubt *int `json:"in_doubt"` // nil: not known there
}

// concord runs a command of the product in a node's container.
func (e *engine) concord(node string, args ...string) (string, error) {
	return e.try(append([]string{"docker", "exec", e.container(node), "/concord"}, args...)...)
}

func (e *engine) status(node string) (s status, err error) {
	out, err := e.concord(node, "status", "-o", "json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

// leader waits for one that all nodes follow.
func (e *engine) leader() string {
	e.Helper()
	var at int
	require.True(e, eventually(func() bool {
		at = 0
		for _, n := range nodes {
			s, err := e.status(n)
			if err != nil || s.Leader == 0 || at != 0 && s.Leader != at {
				return false
			}
			at = s.Leader
		}
		return true
	}), "three nodes follow one leader")
	return nodes[at-1]
}

// What docker-compose.yml starts survives what happens to containers, and no money is made or lost.
func TestContainersAreKilledCutOffAndMadeAnew(t *testing.T) {
	began := time.Now()
	said := func(what string) { t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what) }
	e := findEngine(t)
	e.movePorts()
	if e.own {
		images, err := databases()
		require.NoError(t, err)
		for _, i := range images {
			e.build(i)
		}
	}
	e.build(concordImage(t))
	said("images are there")
	_, _ = e.try(append(e.compose, "down", "-v")...) // of a run that was killed
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range append([]string{"postgres", "mysql", "mariadb"}, nodes...) {
				c := e.container(s)
				if c == "" {
					continue
				}
				out, _ := e.try("sh", "-c", "docker logs --tail 20 "+c+" 2>&1; docker inspect -f '{{json .State}}' "+c)
				t.Logf("end of the log of %s, and its state:\n%s", s, out)
			}
		}
		_, err := e.try(append(e.compose, "down", "-v", "-t", "5")...)
		require.NoError(t, err)
	})
	e.up()
	e.waitHealthy(append([]string{"postgres", "mysql", "mariadb"}, nodes...)...)
	said("all containers are healthy")

	out, err := e.concord("node1", "resource", "check")
	require.NoError(t, err, out)
	for _, r := range []string{"orders", "billing", "ledger"} {
		require.Contains(t, out, r)
	}
	out, err = e.concord("node2", "status")
	require.NoError(t, err)
	said("node2 says\n" + out)

	certs := filepath.Join(t.TempDir(), "certs")
	e.docker("cp", e.container("node1")+":/etc/concord/certs", certs)
	client, err := concord.Dial(t.Context(), []string{"127.0.0.1:" + e.ports["NODE1_PORT"],
		"127.0.0.1:" + e.ports["NODE2_PORT"], "127.0.0.1:" + e.ports["NODE3_PORT"]},
		concord.WithCertsDir(certs), concord.WithUser("app"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	b := openBank(t, e)
	l := b.load(client, 8)
	l.goesOn(t, 200)
	said("transfers commit")

	leader := e.leader()
	e.docker("kill", "-s", "KILL", e.container(leader))
	l.goesOn(t, 100)
	e.docker("start", e.container(leader))
	e.waitHealthy(leader)
	said("the leader, " + leader + ", was killed and came back")

	cut := nodes[0]
	network := e.docker("inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}", e.container(cut))
	e.docker("network", "disconnect", network, e.container(cut))
	began20 := time.Now()
	require.True(t, eventually(func() bool { return e.health(cut) == "unhealthy" }))
	said(cut + " is cut off and unhealthy after " + time.Since(began20).Round(time.Second).String())
	l.goesOn(t, 100)
	if rest := 20*time.Second - time.Since(began20); rest > 0 {
		time.Sleep(rest) // for as long it is cut off
	}
	e.docker("network", "connect", "--alias", cut, network, e.container(cut))
	e.waitHealthy(cut)
	said(cut + " is connected again and healthy")

	for _, n := range nodes {
		e.up("--no-deps", "--force-recreate", n)
		e.waitHealthy(n)
		e.leader()
	}
	l.goesOn(t, 100)
	said("every node was made anew, one after the other")

	e.docker("kill", "-s", "KILL", e.container("postgres"))
	e.docker("start", e.container("postgres"))
	e.waitHealthy("postgres")
	l.goesOn(t, 100)
	said("PostgreSQL was killed and came back")
	for _, db := range []string{"mariadb", "mysql", "postgres"} { // each gets another host name
		e.up("--no-deps", "--force-recreate", db)
		e.waitHealthy(db)
		l.goesOn(t, 100)
		said(db + " was made anew")
	}

	l.end(t, client)
	said("no more transfers")
	require.True(t, eventually(func() bool {
		s, err := e.status(e.leader())
		return err == nil && s.InDoubt != nil && *s.InDoubt == 0
	}), "nothing is in doubt")
	out, err = e.concord("node1", "recover", "-o", "json")
	require.NoError(t, err)
	require.JSONEq(t, "[]", out, "nothing is prepared")
	b.requireSum()
	t.Logf("%d transfers committed, %d aborted, %d unknown and settled; %v in all", l.committed.Load(),
		l.aborted.Load(), len(l.unknown), time.Since(began).Round(time.Second))
}

// concordImage is of a binary that is built now, or of the one that $CONCORD names.
func concordImage(t *testing.T) image {
	t.Helper()
	binary := os.Getenv("CONCORD_BINARY")
	if binary == "" {
		t.Fatal("CONCORD_BINARY names no program: run this by make compose-test")
	}
	binary, err := filepath.Abs(filepath.Join("../..", strings.TrimSpace(binary)))
	require.NoError(t, err)
	return concordOf(binary)
}
