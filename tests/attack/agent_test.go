// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/security"
)

// agents starts agents that host an embedded store each, called like the agent, and gives the nodes of
// the cluster these resources.
func (c *cluster) agents(names ...string) map[string]string {
	c.Helper()
	addrs := map[string]string{}
	resources, granted := "resources:\n", ""
	for _, name := range names {
		c.issue(security.Agent, name)
		addrs[name] = fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(c))
		resources += fmt.Sprintf("  - {name: %s, driver: agent, addr: %s}\n", name, addrs[name])
		granted += fmt.Sprintf("    - {subject: %s, roles: [agent], resources: [%s]}\n", name, name)
	}
	for _, n := range c.nodes {
		text, err := os.ReadFile(n.config)
		require.NoError(c, err)
		before, _, _ := strings.Cut(string(text), "resources:\n  - {name: nothing")
		after := fmt.Sprintf(grants, c.certs, c.tokens)
		before, _, _ = strings.Cut(before, after)
		after = strings.ReplaceAll(after, "[nothing]", "["+names[0]+"]")
		require.NoError(c, os.WriteFile(n.config, []byte(before+after+granted+resources), 0o600))
	}
	for _, name := range names {
		dir := c.TempDir()
		config := filepath.Join(dir, "agent.yaml")
		require.NoError(c, os.WriteFile(config,
			fmt.Appendf(nil, "name: %s\ndata_dir: %s\nlisten: %s\ncoordinators: [%q]\ncerts_dir: %s\n"+
				"auth:\n  grants:\n    - {subject: app, roles: [application], resources: [%s]}\nresources:\n  - "+
				"{name: "+
				"%s, driver: pebble, dir: %s}\n",
				name, filepath.Join(dir, "journal"), addrs[name], c.nodes[0].api, c.certs, name, name,
				filepath.Join(dir, "store")), 0o600))
		c.started("agent "+name, exec.Command(binary, "agent", "--config", config), filepath.Join(dir, "log"))
	}
	return addrs
}

// restart makes the nodes read what changed in their configurations.
func (c *cluster) restart() {
	c.Helper()
	for _, n := range c.nodes {
		require.NoError(c, n.process.End(syscall.SIGKILL, patience))
		c.run(n, 0)
	}
	c.ready(false)
}

// Agents, the nodes that finish their branches, an application that works at them, and one that lets a node
// do it, all behind certificates: in two phases and in three.
func TestAgentsBehindCertificates(t *testing.T) {
	c := start(t, settings{})
	addrs := c.agents("east", "west")
	c.restart()
	client, err := concord.Dial(t.Context(), c.addrs(), concord.WithCertsDir(string(c.certs)), concord.WithUser("app"))
	require.NoError(t, err)
	defer client.Close()
	var ledgers []*agent.Resource
	for _, name := range []string{"east", "west"} {
		a, err := agent.Dial(addrs[name], agent.WithCredentials(c.credentials("app")))
		require.NoError(t, err)
		ledgers = append(ledgers, agent.New(name, a))
		defer a.Close()
	}
	for _, protocol := range []string{concord.TwoPhase, concord.ThreePhase} {
		eventually(t, "money moves with "+protocol, func() bool {
			tx, err := client.Begin(t.Context(), concord.WithProtocol(protocol))
			require.NoError(t, err)
			for i, l := range ledgers {
				b, err := l.Tx(t.Context(), tx)
				if err == nil {
					_, err = b.Execute(t.Context(),
						agent.Statement{Text: "add alice ?", Args: []any{[]int64{-5, 5}[i]}})
				}
				if err != nil {
					t.Logf("%s: %v", protocol, err) // the agents have just started
					_ = tx.Rollback(t.Context())
					return false
				}
			}
			err = tx.Commit(t.Context())
			if err != nil {
				t.Logf("%s: %v", protocol, err)
			}
			return err == nil
		})
	}

	// Somebody else's certificate opens nothing, though it is one of the cluster.
	a, err := agent.Dial(addrs["east"], agent.WithCredentials(c.credentials("evil")))
	require.NoError(t, err)
	defer a.Close()
	tx, err := client.Begin(t.Context())
	require.NoError(t, err)
	b, err := agent.New("east", a).Tx(t.Context(), tx)
	if err == nil {
		_, err = b.Execute(t.Context(), agent.Statement{Text: "get alice"})
	}
	require.ErrorContains(t, err, "permission denied")
	_ = tx.Rollback(t.Context())

	call := func(who, addr, procedure, body string) (m map[string]any, status int) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
			"https://"+addr+"/concord.v1.TransactionService/"+procedure, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		res, err := c.http(who, false).Do(r)
		require.NoError(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &m), string(text))
		return m, res.StatusCode
	}
	begun, status := call("client.app", c.nodes[0].api, "Begin", "{}")
	require.Equal(t, http.StatusOK, status, begun)
	session := begun["session"]
	// Any node hands it on to the one that has it, with the name of who calls.
	m, status := call("client.app", c.nodes[1].api, "Execute",
		fmt.Sprintf(`{"session": %q, "number": 1, "resource": "east", "statement": "add alice 1"}`, session))
	require.Equal(t, http.StatusOK, status, m)
	require.Nil(t, m["error"])
	// Whoever learns of the session does nothing with it, at either node.
	for _, n := range c.nodes[:2] {
		m, status = call("client.evil", n.api, "Execute",
			fmt.Sprintf(`{"session": %q, "number": 2, "resource": "east", "statement": "add mallory 1000"}`, session))
		require.NotEqual(t, http.StatusOK, status, m)
	}
	m, status = call("client.app", c.nodes[0].api, "Execute",
		fmt.Sprintf(`{"session": %q, "number": 2, "resource": "west", "statement": "add alice -1"}`, session))
	require.Equal(t, http.StatusOK, status, m)
	m, status = call("client.app", c.nodes[0].api, "Commit", fmt.Sprintf(`{"session": %q, "number": 3}`, session))
	require.Equal(t, http.StatusOK, status, m)
	require.Equal(t, "committed", m["outcome"])
	// Nor does he begin one of his own on what he was not granted.
	begun, _ = call("client.evil", c.nodes[0].api, "Begin", "{}")
	m, status = call("client.evil", c.nodes[0].api, "Execute",
		fmt.Sprintf(`{"session": %q, "number": 1, "resource": "west", "statement": "get alice"}`, begun["session"]))
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, m["message"], `"evil" has no role application on west`)
	c.fromPython()
}

const pythonCaller = `
import ssl, sys
sys.path.insert(0, "../../examples/python")
import concord
certs, addr, token = sys.argv[1:]
context = ssl.create_default_context(cafile=certs + "/ca.crt")
with_token = concord.Client([addr], context=context, token=token)
context = ssl.create_default_context(cafile=certs + "/ca.crt")
context.load_cert_chain(certs + "/client.app.crt", certs + "/client.app.key")
for client in (concord.Client([addr], context=context), with_token):
    with client.transaction() as tx:
        tx.execute("east", "add alice 3")
        tx.execute("west", "add alice -3")
    assert client.outcome(tx.gid) == "committed"
try:
    concord.Client([addr], context=ssl.create_default_context(cafile=certs + "/ca.crt")).begin()
except concord.Refused as refused:
    print(refused)
`

// fromPython does the same with the client of examples/python, by a certificate and by a token.
func (c *cluster) fromPython() {
	c.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		c.Log("not tried from Python, which is not installed")
		return
	}
	out, err := exec.CommandContext(c.Context(), python, "-c", pythonCaller, string(c.certs), c.nodes[0].api,
		c.token).CombinedOutput()
	require.NoError(c, err, string(out))
	require.Contains(c, string(out), "unauthenticated: this cluster wants a client certificate or a token")
}
