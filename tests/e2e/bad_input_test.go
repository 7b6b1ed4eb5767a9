// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/postgres"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

func TestBadConfigurationIsRefusedWithTheNextStep(t *testing.T) {
	dir := t.TempDir()
	good := fmt.Sprintf("node: 1\ndata_dir: %s\napi: {listen: 127.0.0.1:%d}\npeer: {listen: 127.0.0.1:%d}\n",
		filepath.Join(dir, "data"), testdb.FreePort(t), testdb.FreePort(t))
	const self = "  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420}\n"
	for name, x := range map[string]struct {
		text string
		want []string
	}{
		"unknown key": {good + "members:\n" + self + "retries: 3\n",
			[]string{"retries", "unknown", "serve --help"}},
		"unknown key of a member": {good +
			"members:\n  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420, weight: 2}\n",
			[]string{"weight", "unknown"}},
		"unknown key of a resource": {good + "members:\n" + self +
			"resources:\n  - {name: a, driver: postgres, dns: x}\n", []string{"dns", "unknown"}},
		"duplicate member": {good + "members:\n" + self +
			"  - {id: 1, peer: 127.0.0.1:7431, api: 127.0.0.1:7430}\n", []string{"members[1]", "1 is given twice"}},
		"duplicate address": {good + "members:\n" + self +
			"  - {id: 2, peer: 127.0.0.1:7421, api: 127.0.0.1:7430}\n", []string{"members[1]", "127.0.0.1:7421"}},
		"member without id": {good + "members:\n  - {peer: 127.0.0.1:7421, api: 127.0.0.1:7420}\n",
			[]string{"members[0]", "id", "missing"}},
		"node that is no member": {good + "members:\n  - {id: 2, peer: 127.0.0.1:7421, api: 127.0.0.1:7420}\n",
			[]string{"node 1", "members", "add it"}},
		"no members": {good, []string{"members", "list all nodes"}},
		"unknown role": {good +
			"members:\n  - {id: 1, peer: 127.0.0.1:7421, api: 127.0.0.1:7420, role: boss}\n",
			[]string{"boss", "voter", "observer"}},
		"resource twice": {good + "members:\n" + self +
			"resources:\n  - {name: a, driver: postgres, dsn: x}\n  - {name: a, driver: mysql, dsn: y}\n",
			[]string{"resources[1]", `"a"`, "twice"}},
		"unknown driver": {good + "members:\n" + self +
			"resources:\n  - {name: a, driver: oracle, dsn: x}\n", []string{"oracle", "postgres", "mysql"}},
		"resource without connection": {good + "members:\n" + self + "resources:\n  - {name: a, driver: postgres}\n",
			[]string{"resource a", "dsn_file"}},
		"secret in a bad source name": {good + "members:\n" + self +
			"resources:\n  - {name: a, driver: mysql, dsn: \"app:s3cr3t@127.0.0.1:3306\"}\n",
			[]string{`"a"`, "user:password@tcp(host:port)/database"}},
		"duration that is none": {good + "members:\n" + self + "transaction: {max_age: soon}\n",
			[]string{"max_age"}},
		"retention that is too short": {good + "members:\n" + self + "transaction: {max_age: 1h, retention: 1h}\n",
			[]string{"retention", "too short"}},
		"not YAML": {"node: [1\n", []string{"not YAML"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "concord.yaml")
			require.NoError(t, os.WriteFile(file, []byte(x.text), 0o600))
			r := command(t, "serve", "--config", file)
			require.NotZero(t, r.code, "%v", r)
			require.Empty(t, r.stdout)
			for _, w := range x.want {
				require.Contains(t, r.stderr, w)
			}
			require.NotContains(t, r.stderr, "s3cr3t")
			require.Equal(t, 1, strings.Count(strings.TrimSpace(r.stderr), "\n")+1, "one line: %s", r.stderr)
			require.NoDirExists(t, filepath.Join(dir, "data"), "nothing half done")
		})
	}
	r := command(t, "serve", "--config", filepath.Join(dir, "none.yaml"))
	require.Equal(t, 2, r.code, "%v", r)
	require.Contains(t, r.stderr, "none.yaml")
	require.Contains(t, r.stderr, "--config")
}

func TestAddressInUseIsNamed(t *testing.T) {
	for _, key := range []string{"api", "peer"} {
		t.Run(key, func(t *testing.T) {
			c := newCluster(t, settings{nodes: 1})
			addr := map[string]string{"api": c.node(1).api, "peer": c.node(1).peer}[key]
			taken, err := net.Listen("tcp", addr)
			require.NoError(t, err)
			defer taken.Close()
			r := command(t, "serve", "--config", c.node(1).config)
			require.Equal(t, 1, r.code, "%v", r)
			require.Contains(t, r.stderr, key+".listen")
			require.Contains(t, r.stderr, addr)
			require.Contains(t, r.stderr, "another address")
		})
	}
}

func TestStoreThatIsNotThisNodesIsRefused(t *testing.T) {
	c := startCluster(t, settings{nodes: 1})
	n := c.node(1)
	edit := func(old, new string) string {
		b, err := os.ReadFile(n.config)
		require.NoError(t, err)
		require.Contains(t, string(b), old)
		file := filepath.Join(t.TempDir(), "concord.yaml")
		require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(b), old, new, 1)), 0o600))
		return file
	}
	addresses := fmt.Sprintf("api: {listen: 127.0.0.1:%d}\npeer: {listen: 127.0.0.1:%d}", testdb.FreePort(t),
		testdb.FreePort(t))
	used := edit(fmt.Sprintf("api: {listen: %s}\npeer: {listen: %s}", n.api, n.peer), addresses)
	r := command(t, "serve", "--config", used)
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, "in use")
	require.Contains(t, r.stderr, "data_dir")

	require.NoError(t, n.process.End(syscall.SIGTERM, patience))
	other := edit("node: 1\n", "node: 2\n")
	b, err := os.ReadFile(other)
	require.NoError(t, err)
	text := strings.Replace(string(b), "members:\n",
		fmt.Sprintf("members:\n  - {id: 2, peer: 127.0.0.1:%d, api: 127.0.0.1:%d}\n", testdb.FreePort(t),
			testdb.FreePort(t)), 1)
	require.NoError(t, os.WriteFile(other, []byte(text), 0o600))
	r = command(t, "serve", "--config", other)
	require.Equal(t, 1, r.code, "%v", r)
	for _, w := range []string{"made for node 1", "this is node 2", "data_dir"} {
		require.Contains(t, r.stderr, w)
	}

	foreign := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.MkdirAll(filepath.Join(foreign, "store"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "store", "letters.txt"), []byte("dear"), 0o600))
	r = command(t, "serve", "--config", edit(filepath.Join(n.dir, "data"), foreign))
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, "not a concord store")
	require.Contains(t, r.stderr, "letters.txt")

	// None of it has hurt the store.
	c.start(n)
	c.ready()
}

func TestDataDirectoryOfAnotherClusterIsKeptOut(t *testing.T) {
	old := startCluster(t, settings{nodes: 3})
	require.NoError(t, old.node(3).process.End(syscall.SIGTERM, patience))
	c := startCluster(t, settings{nodes: 3})
	stray := c.node(3)
	require.NotEqual(t, old.id, c.id)
	require.NoError(t, stray.process.End(syscall.SIGTERM, patience))
	data := filepath.Join(stray.dir, "data")
	require.NoError(t, os.RemoveAll(data))
	require.NoError(t, os.Rename(filepath.Join(old.node(3).dir, "data"), data))
	c.start(stray)
	eventually(t, "the status says who is a stranger", func() bool {
		s, ok := c.node(1).status(t)
		return ok && strings.Contains(strings.Join(s.Warnings, "\n"), "node 3 belongs to cluster "+old.id.String())
	})
	s, ok := c.node(1).status(t)
	require.True(t, ok, "the others go on")
	require.NotEqual(t, 3, s.Leader)
	require.False(t, s.Nodes[2].Reachable)
	own, ok := stray.status(t)
	require.False(t, ok)
	require.Zero(t, own.Leader)
	require.Contains(t, tail(stray.log), "data directory of another cluster")
}

func TestDamagedStoreIsNotOpened(t *testing.T) {
	c := startCluster(t, settings{nodes: 1})
	n := c.node(1)
	caller := c.caller()
	// Enough for the damage to be far from the end, where it could be a write that the crash has cut short; and not so
	// much that it is in tables, and its log is read no more.
	for range 100 {
		_, err := caller.Resolve(t.Context(),
			&concordv1.ResolveRequest{Gid: txn.NewID(time.Now()).String(), Decision: "abort", Who: "test",
				Reason: strings.Repeat("x", txn.MaxReason), Force: true})
		require.NoError(t, err)
	}
	c.kill(n)
	var largest string
	var size int64
	require.NoError(t, filepath.Walk(filepath.Join(n.dir, "data"),
		func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() && strings.HasSuffix(path, ".log") && info.Size() > size {
				largest, size = path, info.Size()
			}
			return err
		}))
	require.NotEmpty(t, largest)
	b, err := os.ReadFile(largest)
	require.NoError(t, err)
	used := len(strings.TrimRight(string(b), "\x00"))
	b[used/3] ^= 0x40
	require.NoError(t, os.WriteFile(largest, b, 0o600))
	r := command(t, "serve", "--config", n.config)
	require.Equal(t, 1, r.code, "%v", r)
	for _, w := range []string{n.dir, "the store is damaged", "keep a copy"} {
		require.Contains(t, r.stderr, w)
	}
}

func TestBadRequests(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{nodes: 1, resources: b.resources()})
	caller, client := c.caller(), c.dial()
	commit := func(id string, resource string) (*concordv1.CommitResponse, error) {
		return caller.Commit(ctx, &concordv1.CommitRequest{Gid: id, Cluster: c.id.String(),
			Branches: []*concordv1.Branch{{Resource: resource}}})
	}

	t.Run("malformed gid", func(t *testing.T) {
		c := c.in(t)
		for _, gid := range []string{"", "nonsense", strings.Repeat("0", 27), "'; DROP TABLE account; --",
			strings.Repeat("Z", 26)} {
			_, err := commit(gid, "orders")
			require.ErrorIs(t, err, txn.ErrInvalid, "%q", gid)
			require.ErrorContains(t, err, "gid")
			for _, args := range [][]string{{"tx", "get", gid},
				{"tx", "resolve", gid, "--abort", "--reason", "x", "--yes"}, {"recover", gid}} {
				if gid == "" && args[0] == "recover" {
					continue // which is all of them
				}
				r := c.command(args...)
				require.Equal(t, 2, r.code, "%v: %v", args, r)
			}
		}
	})
	t.Run("gid that is too old", func(t *testing.T) {
		c := c.in(t)
		// before it there is nothing that could be forgotten
		_, err := caller.Commit(ctx, c.bare(txn.NewID(time.Now())))
		require.NoError(t, err)
		var id txn.ID
		eventually(t, "the watermark follows", func() bool {
			id = txn.NewID(time.Now().AddDate(0, 0, -30))
			_, err = caller.Commit(ctx, c.bare(id))
			return err != nil
		})
		require.ErrorIs(t, err, txn.ErrTooOld)
		require.ErrorContains(t, err, "look into the databases")
		outcome, err := client.Outcome(ctx, id)
		require.ErrorIs(t, err, txn.ErrTooOld)
		require.Equal(t, concord.Unknown, outcome)
		r := c.command("tx", "resolve", id.String(), "--abort", "--reason", "test", "--yes")
		require.Equal(t, 6, r.code, "%v", r)
	})
	t.Run("branch of an unknown resource", func(t *testing.T) {
		res, err := commit(txn.NewID(time.Now()).String(), "nowhere")
		require.NoError(t, err)
		require.Equal(t, "abort", res.GetDecision())
		require.Contains(t, res.GetReason(), `no resource "nowhere"`)
		require.Contains(t, res.GetReason(), `"resources"`)
	})
	t.Run("request for another cluster", func(t *testing.T) {
		c := c.in(t)
		_, err := caller.Commit(ctx, &concordv1.CommitRequest{Gid: txn.NewID(time.Now()).String(), Cluster: "00000001",
			Branches: []*concordv1.Branch{{Resource: "orders"}}})
		require.ErrorIs(t, err, txn.ErrInvalid)
		require.ErrorContains(t, err, c.id.String())
	})
	t.Run("second Commit and Commit after Abort", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h, err := b.prepareTransfer(ctx, c.id)
		require.NoError(t, err)
		for range 3 {
			res, err := caller.Commit(ctx, h.request())
			require.NoError(t, err)
			require.Equal(t, "commit", res.GetDecision())
		}
		for _, s := range h.sessions {
			_, err := s.Commit(ctx)
			require.NoError(t, err)
		}
		require.Equal(t, concord.Committed, b.shows(h.id))

		h, err = b.prepareTransfer(ctx, c.id)
		require.NoError(t, err)
		outcome, err := client.Outcome(ctx, h.id)
		require.NoError(t, err)
		require.Contains(t, []concord.Outcome{concord.Unrecorded, concord.Aborted}, outcome,
			"a scan may have listed its branches, or not yet")
		res, err := caller.Commit(ctx, h.request())
		require.NoError(t, err)
		require.Equal(t, "abort", res.GetDecision())
		require.NotEmpty(t, res.GetReason())
		b.settled(c)
		eventually(t, "the request has told that it had two", func() bool {
			outcome, err := client.Outcome(ctx, h.id)
			return err == nil && outcome == concord.Aborted
		})
		require.Equal(t, concord.Aborted, b.shows(h.id))

		tx, err := client.Begin(ctx)
		require.NoError(t, err)
		require.NoError(t, b.transfer(ctx, tx, tx.ID()))
		require.NoError(t, tx.Commit(ctx))
		require.ErrorIs(t, tx.Commit(ctx), concord.ErrTxEnded)
		require.ErrorIs(t, tx.Rollback(ctx), concord.ErrTxEnded)
		require.Equal(t, concord.Committed, b.shows(tx.ID()))
	})
	t.Run("resource that the coordinator does not know", func(t *testing.T) {
		b := b.in(t)
		stranger := postgres.New("nowhere", b.pool)
		b.refused(ctx, client, c, stranger, `"nowhere"`, "billing, orders", "concord resource ls")
	})
	t.Run("pool that points to another database", func(t *testing.T) {
		b := b.in(t)
		elsewhere, err := openApplication(newDatabase(t, b.left.server).dsn(), b.right.dsn())
		require.NoError(t, err)
		defer elsewhere.close()
		b.refused(ctx, client, c, elsewhere.orders, `"orders"`, "same database")
	})
	b.settled(c)
	b.sumHolds()
}

// refused checks that a transaction cannot use a resource, which its error explains, and that
// nothing of it happens at the others.
func (b *bank) refused(ctx context.Context, client *concord.Client, c *cluster, r *postgres.Resource, texts ...string) {
	b.Helper()
	var id txn.ID
	err := client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		if err := b.transfer(ctx, tx, id); err != nil {
			return err
		}
		_, err := r.Tx(ctx, tx)
		return err
	})
	require.ErrorIs(b, err, concord.ErrResource)
	require.ErrorIs(b, err, concord.ErrAborted)
	for _, text := range texts {
		require.ErrorContains(b, err, text)
	}
	b.settled(c)
	require.Equal(b, concord.Aborted, b.shows(id))
}
