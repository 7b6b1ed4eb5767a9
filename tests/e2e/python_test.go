// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
)

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
