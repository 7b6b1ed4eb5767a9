// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
)

// The programs of examples/ are built and run as their comments say, on the databases that
// docker-compose.yml has.
func TestExamples(t *testing.T) {
	b := newBank(t)
	ledger := newDatabase(t, mysqlServer.Get(t))
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

	listen := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	service := exec.Command(filepath.Join(dir, "billing"), "-listen", listen, "-addr", c.addrs()[0])
	service.Env = append(os.Environ(), "BILLING_DSN="+b.right.dsn())
	p, err := program.Start(service)
	require.NoError(t, err)
	eventually(t, "billing serves", func() bool {
		conn, err := net.Dial("tcp", listen)
		return err == nil && conn.Close() == nil
	})
	before := b.right.number(t, "SELECT cents FROM account WHERE id = 'bob'")
	said, err = example("orders", "-cents", "30", "-billing", "http://"+listen)
	require.NoError(t, err)
	require.Equal(t, "moved 30 cents from alice to bob\n", said)
	require.Equal(t, 720, b.left.number(t, "SELECT cents FROM account WHERE id = 'alice'"))
	require.Equal(t, before+30, b.right.number(t, "SELECT cents FROM account WHERE id = 'bob'"))
	said, err = example("orders", "-to", "nobody", "-billing", "http://"+listen)
	require.Error(t, err)
	require.Contains(t, said, "billing: 404 Not Found: there is no such account")
	require.Equal(t, 720, b.left.number(t, "SELECT cents FROM account WHERE id = 'alice'"))
	require.NoError(t, p.End(os.Interrupt.(syscall.Signal), patience))

	for _, d := range []*database{b.left, b.right, ledger} {
		eventually(t, "nothing stays prepared", func() bool { return len(d.prepared(t, c.id)) == 0 })
	}
}

// order is what a test in another language wants to have killed or started.
type order struct {
	do, what string
	done     chan error
}

// The client of examples/python runs its own tests: on real databases, and while its program, the agent
// and the node that holds its transaction are killed in each phase.
func TestPythonClient(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		reason := fmt.Sprintf("Python: NOT RUN (%v)", err)
		if testdb.Required(testdb.FlavorPostgres) {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	b := newBank(t)
	agentAddr := fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t))
	c := newCluster(t, settings{resources: []resource{{"orders", "agent", agentAddr}, {"billing", "agent", agentAddr}}})
	for _, n := range c.nodes {
		c.start(n)
	}
	east := startAgentAt(t, c, agentAddr, "east", "",
		fmt.Sprintf("name: orders, driver: postgres, dsn: %q", b.left.dsn()),
		fmt.Sprintf("name: billing, driver: mysql, dsn: %q", b.right.dsn()))
	c.ready()

	orders := make(chan order)
	control := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		do, what, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		o := order{do, what, make(chan error, 1)}
		orders <- o
		if err := <-o.done; err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	defer control.Close()
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), python, args...)
		cmd.Dir = "../../examples/python"
		cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "CONCORD_ADDR="+strings.Join(c.addrs(), ","),
			"CONCORD_CONTROL="+strings.TrimPrefix(control.URL, "http://"))
		said := make(chan error, 1)
		go func() {
			out, err := cmd.CombinedOutput()
			t.Logf("python3 %s\n%s", strings.Join(args, " "), out)
			said <- err
		}()
		for {
			select {
			case o := <-orders:
				o.done <- obey(c, east, o)
			case err := <-said:
				require.NoError(t, err)
				return
			}
		}
	}
	run("transfer.py", "--addr", strings.Join(c.addrs(), ","), "--amount", "300")
	require.Equal(t, opening-300, b.left.number(t, "SELECT balance FROM account WHERE id = 1"))
	require.Equal(t, opening+300, b.right.number(t, "SELECT balance FROM account WHERE id = 1"))
	c.switchedOn() // or idempotency keys are not, for as long as the node is down that is killed first
	run("-m", "unittest", "-v", "test_concord")
	eventually(t, "nothing stays prepared",
		func() bool { return len(b.left.prepared(t, c.id))+len(b.right.prepared(t, c.id)) == 0 })
}

func obey(c *cluster, east *agent, o order) error {
	if o.what == "agent" {
		switch o.do {
		case "kill":
			east.kill()
		case "start":
			east.start()
		default:
			return errors.New("kill or start?")
		}
		return nil
	}
	id, err := strconv.Atoi(o.what)
	switch {
	case err != nil || id < 1 || id > len(c.nodes):
		return fmt.Errorf("there is no node %q", o.what)
	case o.do == "kill":
		c.kill(c.node(id))
	case o.do == "start":
		c.start(c.node(id))
		c.ready()
	default:
		return errors.New("kill or start?")
	}
	return nil
}
