// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

func loadText(t *testing.T, text string) (*config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "concord.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return loadConfig(file, pflag.NewFlagSet("", pflag.ContinueOnError))
}

func TestExampleOfTheHelpLoads(t *testing.T) {
	c, err := loadText(t, configExample)
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Node)
	require.Equal(t, "orders", c.Resources[0].Name)
	require.Equal(t, 5*time.Second, c.Transaction.Grace)
}

func TestComposeConfigurationsLoadAndAgree(t *testing.T) {
	var members []memberConfig
	for n := 1; n <= 3; n++ {
		c, err := loadConfig(filepath.Join("..", "..", "deploy", "compose", "node"+string(rune('0'+n))+".yaml"), pflag.NewFlagSet("", pflag.ContinueOnError))
		require.NoError(t, err)
		require.EqualValues(t, n, c.Node)
		require.Len(t, c.Resources, 3)
		if members == nil {
			members = c.Members
		}
		require.Equal(t, members, c.Members)
	}
}

func TestEnvironmentOverridesTheFile(t *testing.T) {
	t.Setenv("CONCORD_DATA_DIR", "/elsewhere")
	t.Setenv("CONCORD_TRANSACTION_MAX_AGE", "90s")
	c, err := loadText(t, configExample)
	require.NoError(t, err)
	require.Equal(t, "/elsewhere", c.DataDir)
	require.Equal(t, 90*time.Second, c.Transaction.MaxAge)
}

func TestBadConfigurationsAreNamed(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"not YAML":             {"node: 1", "node: [", "is not YAML"},
		"unknown key":          {"node: 1", "node: 1\nnoed: 2", "noed"},
		"unknown nested key":   {"listen: 127.0.0.1:7421", "lisen: 127.0.0.1:7421", "lisen"},
		"node missing":         {"node: 1", "", `"node" is missing`},
		"data_dir missing":     {"data_dir: /var/lib/concord", "", `"data_dir" is missing`},
		"node not a member":    {"node: 1", "node: 7", "node 7 is not in"},
		"member id missing":    {"{id: 1, ", "{", `"id" is missing`},
		"member id twice":      {"resources:", "  - {id: 1, peer: 127.0.0.1:1, api: 127.0.0.1:2}\nresources:", "id 1 is given twice"},
		"address twice":        {"resources:", "  - {id: 2, peer: 127.0.0.1:7421, api: 127.0.0.1:2}\nresources:", "127.0.0.1:7421 is given twice"},
		"address without port": {"peer: 127.0.0.1:7421, api", "peer: 127.0.0.1, api", "is not host:port"},
		"role unknown":         {"api: 127.0.0.1:7420}", "api: 127.0.0.1:7420, role: king}", `role "king"`},
		"no voter":             {"api: 127.0.0.1:7420}", "api: 127.0.0.1:7420, role: observer}", "no voter"},
		"resource name twice":  {"name: billing", "name: orders", `"orders" is given twice`},
		"driver unknown":       {"driver: mysql", "driver: oracle", `driver "oracle"`},
		"dsn missing":          {"dsn_file: /run/secrets/billing", "", `either "dsn" or "dsn_file"`},
		"duration bad":         {"node: 1", "node: 1\ntransaction: {grace: -5s}", "transaction.grace"},
		"retention too short":  {"node: 1", "node: 1\ntransaction: {retention: 30s}", "transaction.retention"},
	} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, configExample, tt.old)
			_, err := loadText(t, strings.Replace(configExample, tt.old, tt.new, 1))
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestMissingConfigurationSaysWhatToDo(t *testing.T) {
	_, err := loadConfig("/nonexistent/concord.yaml", pflag.NewFlagSet("", pflag.ContinueOnError))
	require.ErrorContains(t, err, "--config")
}

// FuzzConfig reads a configuration file of anything: it is refused with its name, or all that
// the node is made of can be.
func FuzzConfig(f *testing.F) {
	f.Add(configExample)
	f.Add("node: 1\nnode: 2\n")
	f.Add("a: &a [*a, *a]\n")
	f.Add("node: 18446744073709551616\ndata_dir: [x]\n")
	f.Add("transaction: {max_age: 999999999999h}\n")
	f.Add("\x00\xff")
	file := filepath.Join(f.TempDir(), "concord.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		c, err := loadConfig(file, pflag.NewFlagSet("", pflag.ContinueOnError))
		if err != nil {
			require.ErrorContains(t, err, file)
			return
		}
		require.NoError(t, c.check())
		require.Len(t, c.members(), len(c.Members))
		require.Positive(t, c.rules().Retention)
	})
}
