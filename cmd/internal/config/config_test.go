// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

func loadText(t *testing.T, text string) (*Node, error) {
	t.Helper()
	return LoadNode(fileOf(t, text), pflag.NewFlagSet("", pflag.ContinueOnError))
}

func fileOf(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "concord.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestExampleOfTheHelpLoads(t *testing.T) {
	c, err := loadText(t, NodeExample)
	require.NoError(t, err)
	require.EqualValues(t, 1, c.Node)
	require.Equal(t, "orders", c.Resources[0].Name)
	require.Equal(t, 5*time.Second, c.Transaction.Grace)
}

func TestComposeConfigurationsLoadAndAgree(t *testing.T) {
	var members []Member
	for n := 1; n <= 3; n++ {
		c, err := LoadNode(filepath.Join("..", "..", "..", "deploy", "compose", "node"+string(rune('0'+n))+".yaml"),
			pflag.NewFlagSet("", pflag.ContinueOnError))
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
	c, err := loadText(t, NodeExample)
	require.NoError(t, err)
	require.Equal(t, "/elsewhere", c.DataDir)
	require.Equal(t, 90*time.Second, c.Transaction.MaxAge)
}

// FuzzConfig reads a configuration file of anything: it is refused with its name, or all that
// the node is made of can be.
func FuzzConfig(f *testing.F) {
	f.Add(NodeExample)
	f.Add("node: 1\nnode: 2\n")
	f.Add("a: &a [*a, *a]\n")
	f.Add("node: 18446744073709551616\ndata_dir: [x]\n")
	f.Add("transaction: {max_age: 999999999999h}\n")
	f.Add("\x00\xff")
	file := filepath.Join(f.TempDir(), "concord.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		c, err := LoadNode(file, pflag.NewFlagSet("", pflag.ContinueOnError))
		if err != nil {
			require.ErrorContains(t, err, file)
			return
		}
		require.NoError(t, c.check())
		require.Len(t, c.Membership(), len(c.Members))
		require.Positive(t, c.Rules().Retention)
	})
}

func TestConfigurationFromTheEnvironmentAlone(t *testing.T) {
	for entry := range strings.Lines(EnvironmentExample) {
		name, value, _ := strings.Cut(strings.TrimSpace(entry), "=")
		t.Setenv(name, strings.Trim(value, "'"))
	}
	c, err := LoadNode("", pflag.NewFlagSet("", pflag.ContinueOnError))
	require.NoError(t, err)
	require.Equal(t, []Member{{ID: 1, Peer: "127.0.0.1:7421", API: "127.0.0.1:7420"}}, c.Members)
	require.Equal(t, []Resource{{Name: "orders", Driver: "postgres", DSN: security.NewDSN(
		"postgres://app@127.0.0.1:5432/orders")}},
		c.Resources)
	require.Equal(t, time.Minute, c.Transaction.MaxAge, "the rest has its defaults")

	t.Setenv("CONCORD_MEMBERS", "- {id: 1, peer: 10.0.0.1:1, api: 10.0.0.1:2}\n- {id: 2, peer: 10.0.0.2:1, api: "+
		"10.0.0.2:2}\n")
	c, err = loadText(t, NodeExample)
	require.NoError(t, err)
	require.Len(t, c.Members, 2, "the environment goes before the file")
	require.Len(t, c.Resources, 1)
	for value, want := range map[string]string{"[": "no list", "{id: 1}": "no list",
		"[{id: 1, peer: x, api: y}]": "host:port", "[{id: 1, wieght: 2}]": "wieght"} {
		t.Setenv("CONCORD_MEMBERS", value)
		_, err = LoadNode("", pflag.NewFlagSet("", pflag.ContinueOnError))
		require.ErrorContains(t, err, want)
	}
}

func TestUnknownVariablesAreNamedWithTheNearest(t *testing.T) {
	for entry, near := range map[string]string{
		"CONCORD_DATADIR=/x": "CONCORD_DATA_DIR", "CONCORD_API_LISTN=s3cr3t": "CONCORD_API_LISTEN",
		"CONCORD_MEMBER=[]":      "CONCORD_MEMBERS",
		"CONCORD_LOGLEVEL=debug": "CONCORD_LOG_LEVEL", "CONCORD_ADRESS=x": "CONCORD_ADDR",
		"CONCORD_TRANSACTION_MAXAGE=1s": "CONCORD_TRANSACTION_MAX_AGE",
		"CONCORD_=x":                    "CONCORD_", "CONCORD_data_dir=x": "CONCORD_",
	} {
		err := CheckEnvironment([]string{"PATH=/bin", entry})
		require.ErrorContains(t, err, near, entry)
		require.NotContains(t, err.Error(), "s3cr3t")
		require.Equal(t, terminal.ExitUsage, terminal.ExitCode(err))
	}
	require.NoError(t, CheckEnvironment([]string{"CONCORDE=1", "_CONCORD_RELAXED=1", "CONCORD_ADDR=x",
		"CONCORD_LOG_LEVEL=debug",
		// What Kubernetes sets in every container beside a service that is named concord or concord-peer.
		"CONCORD_SERVICE_HOST=10.0.0.1", "CONCORD_SERVICE_PORT=7420", "CONCORD_SERVICE_PORT_API=7420",
		"CONCORD_PORT=tcp://10.0.0.1:7420",
		"CONCORD_PORT_7420_TCP=tcp://10.0.0.1:7420", "CONCORD_PORT_7420_TCP_PROTO=tcp",
		"CONCORD_PORT_7420_TCP_PORT=7420", "CONCORD_PORT_7420_TCP_ADDR=10.0.0.1",
		"CONCORD_PEER_SERVICE_HOST=10.0.0.2", "CONCORD_PEER_PORT_7421_TCP_ADDR=10.0.0.2"}))
}

// Whoever writes a secret in the wrong place, or without quotes, does not find it in the error.
func TestErrorsOfTheConfigurationHoldNoSecret(t *testing.T) {
	const secret = "s3cr3t"
	for name, entry := range map[string]string{
		"behind a comma":            "{name: a, driver: mysql, dsn: app:x,s3cr3t@tcp(db:3306)/shop}",
		"a word behind a comma":     "{name: a, driver: postgres, dsn: host=db password=x,s3cr3t}",
		"a key behind a comma":      "{name: a, driver: postgres, dsn: host=db password=x,s3cr3t: y}",
		"behind a bracket":          "{name: a, driver: mysql, dsn: app:x}s3cr3t@tcp(db:3306)/shop}",
		"behind a square bracket":   "{name: a, driver: mysql, dsn: [app:s3cr3t]}",
		"in a map":                  "{name: a, driver: mysql, dsn: {app: s3cr3t}}",
		"an alias":                  "{name: a, driver: mysql, dsn: *s3cr3t}",
		"a tag":                     "{name: a, driver: mysql, dsn: !s3cr3t}",
		"an unknown escape":         `{name: a, driver: mysql, dsn: "app:\s3cr3t"}`,
		"a quote that is not ended": `{name: a, driver: mysql, dsn: "app:s3cr3t}`,
		"twice":                     "{name: a, driver: mysql, dsn: app:x, s3cr3t, s3cr3t}",
		"no map":                    "postgres://app:s3cr3t@db/shop",
		"as name":                   "{name: \"postgres://app:s3cr3t@db/shop\", driver: x}",
		"as name, and well formed":  "{name: \"postgres://app:s3cr3t@db/shop\", driver: postgres, dsn: \"a b\"}",
		"as name, twice": "{name: \"app:s3cr3t\", driver: mysql, dsn: x}\n  - {name: \"app:s3cr3t\", " +
			"driver: mysql, dsn: x}",
		"as driver":             "{name: a, driver: \"postgres://app:s3cr3t@db/shop\"}",
		"as dsn_file":           "{name: a, driver: postgres, dsn_file: \"postgres://app:s3cr3t@db/shop\"}",
		"as dsn_file, keywords": "{name: a, driver: postgres, dsn_file: \"host=db password=s3cr3t\"}",
		"as dsn_file, mysql":    "{name: a, driver: mysql, dsn_file: \"app:s3cr3t@tcp(db:3306)/shop\"}",
		"in a bad URL":          "{name: a, driver: postgres, dsn: \"postgres://app:s3cr3t%zz@db/shop\"}",
		"in a bad port":         "{name: a, driver: postgres, dsn: \"postgres://app:x@db:s3cr3t/shop\"}",
		"in a bad mysql dsn":    "{name: a, driver: mysql, dsn: \"app:s3cr3t@db/shop\"}",
		"with both": "{name: a, driver: postgres, dsn: \"postgres://app:s3cr3t@db/shop\", dsn_file: " +
			"/s3cr3t}",
	} {
		t.Run(name, func(t *testing.T) {
			text := "node: 1\ndata_dir: /nowhere\nmembers:\n  - {id: 1, peer: 127.0.0.1:7421, api: " +
				"127.0.0.1:7420}\nresources:\n  - " + entry + "\n"
			c, err := loadText(t, text)
			if err == nil {
				_, err = Open(t.Context(), c.Resources, nil)
			}
			require.Error(t, err)
			require.NotContains(t, err.Error(), secret)
			t.Log(err)
			_, err = LoadResources(fileOf(t, text))
			if err != nil {
				require.NotContains(t, err.Error(), secret)
			}
			t.Setenv("CONCORD_RESOURCES", "[ "+entry+" ]")
			c, err = loadText(t, NodeExample)
			if err == nil {
				_, err = Open(t.Context(), c.Resources, nil)
			}
			require.Error(t, err)
			require.NotContains(t, err.Error(), secret)
		})
	}
}

func TestFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	require.NoError(t, os.WriteFile(name("fine"), []byte(" postgres://app@db/shop\n"), 0o600))
	require.NoError(t, os.WriteFile(name("huge"), make([]byte, maxSecretFile+1), 0o600))
	require.NoError(t, os.WriteFile(name("blank"), []byte(" \n"), 0o600))
	require.NoError(t, syscall.Mkfifo(name("pipe"), 0o600))
	got, err := Resource{DSNFile: name("fine")}.Secret()
	require.NoError(t, err)
	require.Equal(t, "postgres://app@db/shop", got.Reveal())
	for file, want := range map[string]string{"/dev/zero": "not a regular file", name("huge"): "larger than",
		name("pipe"): "not a regular file", name("blank"): "empty",
		"/dev/null": "not a regular file", dir: "not a regular file", name("none"): "no such file"} {
		_, err := Resource{DSNFile: file}.Secret()
		require.ErrorContains(t, err, want, file)
		require.ErrorContains(t, err, file)
		_, err = LoadNode(file, pflag.NewFlagSet("", pflag.ContinueOnError))
		require.Error(t, err, file)
	}
	// Who writes into a pipe is heard, of a configuration.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	_, err = w.WriteString("secret")
	require.NoError(t, err)
	require.NoError(t, w.Close())
	b, exposed, err := readFile(fmt.Sprintf("/dev/fd/%d", r.Fd()), maxSecretFile)
	require.NoError(t, err)
	require.NoError(t, exposed)
	require.Equal(t, "secret", string(b))
	require.NoError(t, r.Close())
}
