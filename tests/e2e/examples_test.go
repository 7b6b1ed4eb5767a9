// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The programs of examples/ are built and run as their comments say, on the databases that
// docker-compose.yml has.
func TestExamples(t *testing.T) {
	b := newBank(t)
	ledger := newDatabase(t, mysqlServer.get(t))
	for d, table := range map[*database]string{
		b.left:  "CREATE TABLE account (id varchar(20) PRIMARY KEY, cents bigint NOT NULL)",
		b.right: "CREATE TABLE account (id varchar(20) PRIMARY KEY, cents bigint NOT NULL) ENGINE = InnoDB",
	} {
		require.NoError(t, d.server.Exec(t.Context(), d.name, "DROP TABLE account", table,
			"INSERT INTO account VALUES ('alice', 1000), ('bob', 1000)"))
	}
	c := startCluster(t, settings{resources: append(b.resources(), resource{"ledger", "mysql", ledger.dsn()})})
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"github.com/concordtx/concord/examples/...")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	example := func(name string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(dir, name), append(args, "-addr", c.addrs()[0])...)
		cmd.Env = append(os.Environ(), "ORDERS_DSN="+b.left.dsn(), "BILLING_DSN="+b.right.dsn(),
			"LEDGER_DSN="+ledger.dsn())
		out, err := cmd.CombinedOutput()
		t.Logf("%s %v: %s", name, args, out)
		return string(out), err
	}

	said, err := example("transfer", "-cents", "300")
	require.NoError(t, err)
	require.Equal(t, "moved 300 cents from alice to bob\n", said)
	require.Equal(t, []string{"700", "1000"}, b.left.texts(t, "SELECT cents FROM account ORDER BY id"))
	require.Equal(t, []string{"1000", "1300"}, b.right.texts(t, "SELECT cents FROM account ORDER BY id"))
	said, err = example("transfer", "-cents", "701")
	require.Error(t, err)
	require.Contains(t, said, "alice does not have 701 cents")
	said, err = example("transfer", "-cents", "1", "-to", "nobody")
	require.Error(t, err)
	require.Contains(t, said, "there is no account nobody")
	require.Equal(t, []string{"700", "1000"}, b.left.texts(t, "SELECT cents FROM account ORDER BY id"))

	_, err = example("retry", "-cents", "50")
	require.NoError(t, err)
	require.Equal(t, 750, b.left.number(t, "SELECT cents FROM account WHERE id = 'alice'"))
	require.Equal(t, 950, b.right.number(t, "SELECT cents FROM account WHERE id = 'alice'"))

	for _, want := range []string{"handled\n", "was handled before\n"} {
		said, err = example("outbox", "-request", "7f3a")
		require.NoError(t, err)
		require.Equal(t, want, said)
		require.Equal(t, 1, b.left.number(t, "SELECT count(*) FROM item_order"))
		require.Equal(t, 1, b.right.number(t, "SELECT count(*) FROM outbox"))
	}

	said, err = example("three", "-order", "4711")
	require.NoError(t, err)
	require.Contains(t, said, "order 4711 is booked everywhere")
	for _, d := range []*database{b.left, b.right, ledger} {
		require.Equal(t, []string{"1999"}, d.texts(t, "SELECT cents FROM booked WHERE id = 4711"))
	}
	for _, d := range []*database{b.left, b.right, ledger} {
		eventually(t, "nothing stays prepared", func() bool { return len(d.prepared(t, c.id)) == 0 })
	}
}
