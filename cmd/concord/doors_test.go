// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"go.yaml.in/yaml/v3"

	"github.com/concordtx/concord/cmd/internal/config"
	"github.com/concordtx/concord/cmd/internal/terminal"
	"github.com/concordtx/concord/security"
)

// locked is what is wrong with a configuration that says who may come in, and with the commands that
// make certificates and tokens.
var locked = []message{
	{name: "a door to the street", line: serving,
		file: with("api:  {listen: 127.0.0.1:7420}", "api:  {listen: 10.0.0.1:7420}"),
		says: `FILE: api.listen: 10.0.0.1:7420 can be reached from outside and has no TLS: run "concord cert", or ` +
			`start with --insecure`, code: terminal.ExitUsage},
	{name: "a door for peers to the street", line: serving,
		file: with("peer: {listen: 127.0.0.1:7421}", `peer: {listen: ":7421"}`),
		says: `FILE: peer.listen: :7421 can be reached from outside and has no TLS: run "concord cert", or start ` +
			`with --insecure`, code: terminal.ExitUsage},
	{name: "both", line: serving + " --insecure --certs-dir certs", file: with("node: 1", "node: 1"),
		says: `FILE: "certs_dir" and "insecure" contradict each other: remove one of them`, code: terminal.ExitUsage},
	{name: "grants for nothing", line: serving,
		file: with("node: 1", "node: 1\nauth: {grants: [{subject: a, roles: [viewer]}]}"),
		says: `FILE: "auth" protects nothing without "certs_dir": give the directory with the certificates ` +
			`("concord cert --help" says how to make them)`, code: terminal.ExitUsage},
	{name: "a role that is none", line: serving + " --certs-dir certs",
		file: with("node: 1", "node: 1\nauth: {grants: [{subject: a, roles: [root]}]}"),
		says: `FILE: auth.grants[0]: "root" is no role: there are application, agent, viewer, operator, admin`,
		code: terminal.ExitUsage},
	{name: "a resource that is none", line: serving + " --certs-dir certs",
		file: with("node: 1", "node: 1\nauth: {grants: [{subject: a, roles: [application], resources: [oders]}]}"),
		says: `FILE: auth.grants[0]: there is no resource "oders": correct the name, or add it to "resources"`,
		code: terminal.ExitUsage},
	{name: "no certificates", line: serving + " --certs-dir /nonexistent/certs", file: with("node: 1", "node: 1"),
		says: `authorities: open /nonexistent/certs/ca.crt: no such file or directory: "concord cert --help" says ` +
			`how to make them`, code: terminal.ExitUsage},
	{name: "a password for everybody", line: serving, mode: 0o644,
		file: with("postgres://app@", "postgres://app:s3cr3t@"),
		says: "FILE: the passwords of databases are in it: FILE can be used by others than its owner (mode 0644): " +
			"run chmod 600 on it, and think of it as known to them", code: terminal.ExitUsage},
	{name: "a way of TLS that is none", line: serving, file: with("dsn_file: ", "tls: require, dsn_file: "),
		says: `FILE: resource billing: tls "require" is neither verify-full, the default, nor insecure`,
		code: terminal.ExitUsage},
	{name: "no credentials", line: serving, file: with("/run/secrets/billing", `"${CREDENTIALS_DIRECTORY}/billing"`),
		says: "resource billing: dsn_file: the environment has no CREDENTIALS_DIRECTORY: have the service manager " +
			"load the credential (LoadCredential=), or give the path of a file", code: terminal.ExitFailed},
	{name: "no such variable", line: serving, file: with("/run/secrets/billing", "env:BILLING_DSN"),
		says: "resource billing: dsn_file env:BILLING_DSN: the environment has no such variable: set it to the data " +
			"source name", code: terminal.ExitFailed},
	{name: "no variable", line: serving, file: with("/run/secrets/billing", `"env:app:s3cr3t@tcp(db:3306)/shop"`),
		says: "resource billing: dsn_file env:" + config.NotShown + ": want the name of a variable of the environment",
		code: terminal.ExitFailed},
	{name: "anybody's PostgreSQL", line: serving,
		file: with("127.0.0.1:5432/orders", "db.example:5432/orders?sslmode=disable"),
		says: `resource orders: postgres "orders": the sslmode in the dsn lets anybody be the server: leave it out, ` +
			`which is verify-full, or say that this is meant with "tls: insecure" beside the dsn`,
		code: terminal.ExitFailed},
	{name: "half a pair of a node", line: serving, file: with("127.0.0.1:7421}", "127.0.0.1:7421, tls: {cert: a.crt}}"),
		says: `FILE: peer.tls: half a pair: give both "cert" and "key"`, code: terminal.ExitUsage},
	{name: "half a pair for clients", line: serving + " --certs-dir certs",
		file: with("127.0.0.1:7420}", "127.0.0.1:7420, tls: {key: a.key}}"),
		says: `FILE: api.tls: half a pair: give both "cert" and "key"`, code: terminal.ExitUsage},
	{name: "nobody to believe", line: serving,
		file: with("127.0.0.1:7421}", "127.0.0.1:7421, tls: {cert: a.crt, key: a.key}}"),
		says: `FILE: peer.tls: give "ca", "cert" and "key", or "certs_dir", which has all of them`,
		code: terminal.ExitUsage},
	{name: "a limit that is none", line: serving, file: with("node: 1", "node: 1\nlimits: {memory_mib: 1}"),
		says: "FILE: limits.memory_mib: 1 is not between 8 and 1048576", code: terminal.ExitUsage},
	{name: "a limit of time that is none", line: serving, file: with("node: 1", "node: 1\nlimits: {body: 1ms}"),
		says: "FILE: limits.body: 1ms is not a duration from 1s to 1h", code: terminal.ExitUsage},
	{name: "an administrator for everybody", line: serving, file: with("node: 1", "node: 1\nadmin: {listen: ':7422'}"),
		says: "FILE: admin.listen: :7422 can be reached from outside, and asks nobody for their identity: " +
			"give an address of " +
			"this machine alone, such as 127.0.0.1:7422", code: terminal.ExitUsage},

	{name: "cert alone", line: "cert", says: `say what to make: "concord cert --help" shows it`,
		code: terminal.ExitUsage},
	{name: "a certificate of nobody", line: "cert create-client",
		says: "say whose certificate it is: concord cert create-client NAME... [flags]", code: terminal.ExitUsage},
	{name: "revoke nothing", line: "cert revoke",
		says: "say which certificates: concord cert revoke FILE.crt... [flags]", code: terminal.ExitUsage},
	{name: "no authority", line: "cert create-client ann --ca-key /nonexistent/ca.key",
		says: `the authority's key: open /nonexistent/ca.key: no such file or directory: give its path with ` +
			`--ca-key, or make one with "concord cert create-ca"`, code: terminal.ExitUsage},
	{name: "token alone", line: "token", says: `say what to do: "concord token --help" shows it`,
		code: terminal.ExitUsage},
	{name: "a token of nobody", line: "token create",
		says: "want exactly one subject, for example: concord token create ci", code: terminal.ExitUsage},
	{name: "a token over something else", line: "token create ci --out FILE",
		says: "--out: FILE exists already: choose another name", code: terminal.ExitUsage},
	{name: "revoke no token", line: "token revoke",
		says: `want exactly one id of a token: "concord token ls" shows them`, code: terminal.ExitUsage},
	{name: "a token without certificates", line: "status --token-file FILE",
		says: "a token is sent to nodes only that are verified: give the directory with ca.crt, too (--certs-dir, " +
			"CONCORD_CERTS_DIR)", code: terminal.ExitUsage},
	{name: "a user without certificates", line: "status --user ann",
		says: `user "ann" has no certificate: give the directory that it is in (--certs-dir, CONCORD_CERTS_DIR)`,
		code: terminal.ExitUsage},
}

// The four commands of the help make what a cluster needs.
func TestFourCommandsMakeAllCertificates(t *testing.T) {
	dir := t.TempDir()
	made := 0
	for line := range strings.Lines(certHelp) {
		args, ok := strings.CutPrefix(strings.TrimSpace(line), "concord ")
		if !ok {
			continue
		}
		made++
		_, err := command(t, append(strings.Fields(args), "--certs-dir", filepath.Join(dir, "certs"), "--ca-key",
			filepath.Join(dir, "ca.key"))...)
		require.NoError(t, err)
	}
	require.Equal(t, 4, made)
	out, err := command(t, "cert", "ls", "--certs-dir", filepath.Join(dir, "certs"))
	require.NoError(t, err)
	for _, who := range []string{"authority of shop", "concord://shop/node/1", "concord://shop/node/2",
		"concord://shop/node/3",
		"concord://shop/agent/east", "concord://shop/client/billing-app", "concord://shop/client/alice"} {
		require.Contains(t, out, who)
	}
	require.Equal(t, 7, strings.Count(out, "valid"), out)
	_, err = command(t, "cert", "revoke", filepath.Join(dir, "certs", "client.alice.crt"), "--certs-dir",
		filepath.Join(dir, "certs"), "--ca-key", filepath.Join(dir, "ca.key"))
	require.NoError(t, err)
	out, err = command(t, "cert", "ls", "--certs-dir", filepath.Join(dir, "certs"))
	require.NoError(t, err)
	require.Contains(t, out, "that of concord://shop/client/alice was revoked")
}

// What docker-compose.yml runs makes the certificates that its nodes' configurations name, and may run again.
func TestComposeMakesTheCertificatesOfItsNodes(t *testing.T) {
	var compose struct {
		Services map[string]struct{ Command []string }
	}
	b, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	require.NoError(t, yaml.Unmarshal(b, &compose))
	dir := t.TempDir()
	args := compose.Services["certs"].Command
	for i, a := range args {
		args[i] = strings.NewReplacer("/etc/concord/certs", filepath.Join(dir, "certs"), "/var/lib/concord",
			filepath.Join(dir, "safe")).Replace(a)
	}
	first, err := command(t, args...)
	require.NoError(t, err)
	require.Equal(t, 5, strings.Count(first, ".crt"), first)
	again, err := command(t, args...)
	require.NoError(t, err)
	require.Empty(t, again)
	for id := range 3 {
		keys, err := security.Load(security.Dir(filepath.Join(dir, "certs")).Node(uint64(id+1)), nil)
		require.NoError(t, err)
		require.Equal(t, "trial", keys.Self().Cluster)
	}
}

func TestTokensAreKeptByCommands(t *testing.T) {
	tokens, own := filepath.Join(t.TempDir(), "tokens"), filepath.Join(t.TempDir(), "ci.token")
	_, err := command(t, "token", "create", "ci", "--tokens", tokens, "--out", own)
	require.NoError(t, err)
	secret, err := os.ReadFile(own)
	require.NoError(t, err)
	out, err := command(t, "token", "ls", "--tokens", tokens)
	require.NoError(t, err)
	require.Contains(t, out, "ci ")
	require.NotContains(t, out, strings.TrimSpace(string(secret)))
	id := strings.Fields(strings.Split(out, "\n")[1])[0]
	_, err = command(t, "token", "revoke", id, "--tokens", tokens)
	require.NoError(t, err)
	out, err = command(t, "token", "ls", "--tokens", tokens)
	require.NoError(t, err)
	require.NotContains(t, out, id)
}
