// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
)

// agentMessages are the errors of "concord agent".
func agentMessages() []message {
	with := func(old, changed string) string {
		if !strings.Contains(config.AgentExample, old) {
			panic("the example has no " + old)
		}
		return strings.Replace(config.AgentExample, old, changed, 1)
	}
	const help = `see the example in "concord agent --help"`
	list := []message{
		{name: "agent: unknown key", file: with("listen:", "lisen:"), says: `FILE: unknown keys: lisen: ` + help},
		{name: "agent: unknown key of a resource", file: with("dir: /var/lib/ledger", "dri: x"),
			says: `FILE: resources[2]: unknown key "dri": did you mean "dir"?: ` + help},
		{name: "agent: not YAML", file: with("name: east", "name: ["),
			says: `FILE is not YAML (line 2): put texts with special characters in quotes; an example is in ` +
				`"concord agent --help"`},
		{name: "agent: no name", file: with("name: east", "name: the east"),
			says: `FILE: "name" is "the east": give the agent a name of 1 to 64 letters, digits, dots, hyphens and ` +
				`underscores, of its own in the cluster`},
		{name: "agent: no data_dir", file: with("data_dir: /var/lib/concord-agent", ""),
			says: `FILE: "data_dir" is missing: give a directory of its own to each agent`},
		{name: "agent: no coordinators", file: with(`["127.0.0.1:7420", "127.0.0.2:7420"]`, "[]"),
			says: `FILE: "coordinators" is empty: list the API addresses of the coordinator nodes, such as ` +
				`127.0.0.1:7420`},
		{name: "agent: a coordinator without a port", file: with("127.0.0.2:7420", "127.0.0.2"),
			says: `FILE: coordinators[1]: "127.0.0.2" is not host:port, such as 10.0.0.1:7420`},
		{name: "agent: no resources", file: config.AgentExample[:strings.Index(config.AgentExample, "resources:")],
			says: `FILE: "resources" is empty: an agent hosts at least one database`},
		{name: "agent: a store without a directory", file: with("dir: /var/lib/ledger", ""),
			says: `FILE: resource ledger: a pebble store is in a directory of its own: give "dir", and neither ` +
				`"dsn" nor "dsn_file"`},
		{name: "agent: a database with a directory", file: with("driver: mysql,", "driver: mysql, dir: x,"),
			says: `FILE: resource billing: "dir" is for driver pebble: give "dsn" or "dsn_file" instead`},
		{name: "agent: an unknown driver", file: with("driver: pebble", "driver: peble"),
			says: `FILE: resources[2]: driver "peble" is none of postgres, mysql (also for MariaDB), pebble`},
		{name: "agent: advertised nowhere", file: config.AgentExample + "\nadvertise: here",
			says: `FILE: advertise: "here" is not host:port, such as 10.0.0.1:7430: it is where coordinators and ` +
				`other agents find this one`},
		{name: "agent: max_open", file: config.AgentExample + "\nmax_open: 0",
			says: "FILE: max_open: 0 is not between 1 and 10000: it is how many branches may have a session"},
		{name: "agent: silence", file: config.AgentExample + "\nsilence: 1h",
			says: "FILE: silence: 1h0m0s is not a duration from 100ms to 5m0s"},
		{name: "agent: log format", file: config.AgentExample + "\nlog: {format: xml}",
			says: `FILE: log.format: "xml" is neither text nor json`},
		{name: "agent: a list in the environment that is none", file: config.AgentExample,
			env: [2]string{"CONCORD_AGENT_COORDINATORS", "{"},
			says: `CONCORD_AGENT_COORDINATORS is no list in YAML or JSON (line 1): an example is in "concord agent ` +
				`--help"`},
		{name: "agent: no configuration", line: "agent",
			says: `--config is missing, and CONCORD_AGENT_RESOURCES is not set: an example is in "concord agent ` +
				`--help"`},
		{name: "agent: an address that is taken",
			file: with("127.0.0.1:7430",
				"TAKEN")[:strings.Index(with("127.0.0.1:7430", "TAKEN"), "  - {name: billing")],
			code: terminal.ExitFailed,
			says: "listen: listen tcp TAKEN: bind: address already in use: choose another address, or stop the " +
				"process that uses it"},
	}
	for i := range list {
		if list[i].line == "" {
			list[i].line = "agent --config FILE"
		}
		if list[i].code == 0 {
			list[i].code = terminal.ExitUsage
		}
	}
	return list
}

func TestTheAgentsExampleIsAConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	require.NoError(t, os.WriteFile(file, []byte(config.AgentExample), 0o600))
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	for _, name := range []string{"name", "data-dir", "listen", "log-level", "log-format"} {
		flags.String(name, "", "")
	}
	c, err := config.LoadAgent(file, flags)
	require.NoError(t, err)
	require.Equal(t, "east", c.Name)
	require.Len(t, c.Coordinators, 2)
	require.Equal(t, config.Resource{Name: "ledger", Driver: "pebble", Dir: "/var/lib/ledger"}, c.Resources[2])
	require.Equal(t, 64, c.MaxOpen)

	t.Setenv("CONCORD_AGENT_NAME", "west")
	t.Setenv("CONCORD_AGENT_COORDINATORS", `["10.0.0.1:7420"]`)
	c, err = config.LoadAgent(file, flags)
	require.NoError(t, err)
	require.Equal(t, "west", c.Name)
	require.Equal(t, []string{"10.0.0.1:7420"}, c.Coordinators)
	require.NoError(t, config.CheckEnvironment([]string{"CONCORD_AGENT_NAME=west"}))
	require.Error(t, config.CheckEnvironment([]string{"CONCORD_AGENT_NAM=west"}))
}
