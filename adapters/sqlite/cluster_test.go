// SPDX-License-Identifier: Apache-2.0

package sqlite

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
)

const applicationVar = "CONCORD_SQLITE_APPLICATION"

// serveApplication is the process that is killed: it moves money from a PostgreSQL database to a file.
func serveApplication() {
	text, is := os.LookupEnv(applicationVar)
	if !is {
		return
	}
	fmt.Println("failed", moveForEver(strings.Split(text, "\n")))
	os.Exit(1)
}

func moveForEver(where []string) error {
	ctx := context.Background()
	addr, dsn, path := where[0], where[1], where[2]
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	orders := postgres.New("orders", pool)
	ledger, err := Open("ledger", path)
	if err != nil {
		return err
	}
	c, err := concord.Dial(ctx, []string{addr})
	for err == nil {
		if err = move(ctx, c, orders, ledger); err == nil {
			fmt.Println("moved")
		}
	}
	return err
}

func move(ctx context.Context, c *concord.Client, orders *postgres.Resource, ledger *Resource) error {
	return c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		pg, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := pg.Exec(ctx, "UPDATE accounts SET balance = balance - 1"); err != nil {
			return err
		}
		file, err := ledger.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = file.ExecContext(ctx, addText)
		return err
	}, concord.WithLastResource("ledger"))
}

// startNode runs a node in this process, as an application does that has the file.
func startNode(t *testing.T, resources ...adapters.Resource) (addr string) {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l
	}
	peer, front := listen(), listen()
	log := slog.New(slog.DiscardHandler)
	node, err := coordinator.Open(coordinator.Config{Node: 1, DataDir: t.TempDir(), Listener: peer, Logger: log,
		Members: []replica.Member{{ID: 1, Peer: peer.Addr().String(), API: front.Addr().String()}},
		Rules:   commit.Rules{Grace: 200 * time.Millisecond, Scan: 200 * time.Millisecond}, Resources: resources})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	// Their errors are that they were stopped.
	running.Go(func() { _ = node.Run(ctx) })
	running.Go(func() { _ = server.Serve(ctx, node, access.Open(), front, log) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return front.Addr().String()
}

// An application that changes PostgreSQL and a file together is killed again and again, and never has one changed
// without the other once the node has looked.
func TestPostgresAndAFileChangeTogether(t *testing.T) {
	ctx := t.Context()
	db := testdb.Postgres(t)
	require.NoError(t, db.Exec(ctx, "", "CREATE DATABASE orders"))
	require.NoError(t, db.Exec(ctx, "orders", "CREATE TABLE accounts (balance bigint)",
		"INSERT INTO accounts VALUES (0)"))
	path := newFile(t)
	pg, err := postgres.Open(ctx, "orders", db.DSN("orders"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Close()) })
	ledger := open(t, path)
	addr := startNode(t, pg, ledger)
	pool, err := pgxpool.New(ctx, db.DSN("orders"))
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	moved := int64(0)
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), applicationVar+"="+strings.Join([]string{addr, db.DSN("orders"), path}, "\n"))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		seen := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			require.Equal(t, "moved", lines.Text())
			moved++
			if seen++; seen == 3 {
				time.AfterFunc(time.Duration(round)*700*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		require.Error(t, cmd.Wait())
		var left int64
		require.Eventually(t, func() bool {
			list, err := pg.Recover(ctx)
			require.NoError(t, err)
			require.NoError(t, pool.QueryRow(ctx, "SELECT balance FROM accounts").Scan(&left))
			return len(list) == 0
		}, adaptertest.Patience, 20*time.Millisecond)
		sum, _ := valueIn(t, ledger, "sum")
		require.Equal(t, sum, -left)
		require.GreaterOrEqual(t, sum, moved)
	}
}

// A file that is not the last resource is refused with the way out, and nothing changes.
func TestAFileThatIsNotLastVotesNo(t *testing.T) {
	ctx := t.Context()
	one, two := open(t, newFile(t)), open(t, newFile(t))
	two.name = "other"
	c, err := concord.Dial(ctx, []string{startNode(t, one, two)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	both := func(ctx context.Context, tx *concord.Tx) error {
		for _, r := range []*Resource{one, two} {
			file, err := r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			if _, err := file.ExecContext(ctx, "INSERT INTO kv VALUES ('k', 1)"); err != nil {
				return err
			}
		}
		return nil
	}
	err = c.Run(ctx, both)
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.ErrorContains(t, err, "name it in WithLastResource")
	err = c.Run(ctx, both, concord.WithLastResource("other"))
	require.ErrorContains(t, err, "cannot take part beside a last resource")
	for _, r := range []*Resource{one, two} {
		_, found := valueIn(t, r, "k")
		require.False(t, found)
	}
	// Alone it needs nobody.
	require.NoError(t, c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		file, err := one.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = file.ExecContext(ctx, "INSERT INTO kv VALUES ('k', 1)")
		return err
	}))
	_, found := valueIn(t, one, "k")
	require.True(t, found)
}
