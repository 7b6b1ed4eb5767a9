// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/security"
)

// bird is in every password here. It is a word that every encoding of a text leaves as it is, but base64 and
// hexadecimal digits, which are looked for as well.
const bird = "Kanarie7vogel"

// password has what data source names and formats trip over.
const password = bird + "-%S-@:/"

// canaries are secrets that must be nowhere.
type canaries struct {
	*cluster
	traces map[string]string // what betrays a secret, and whose it is
	paths  []string          // where they were looked for
}

func (c *cluster) canaries() *canaries {
	k := &canaries{cluster: c, traces: map[string]string{
		strings.ToLower(bird):            "a password",
		hex.EncodeToString([]byte(bird)): "a password in hexadecimal digits",
		"s2fuyxjpzt":                     "a password in base64",
		// of the first letters, as it is searched for
		strings.ToLower(c.token[4:20]):             "the beginning of a token",
		strings.ToLower(c.token[len(c.token)-16:]): "the end of a token",
	}}
	for file, whose := range map[string]string{"client.app.key": "the key of a client", "node.1.key": "the key of a " +
		"node",
		"node.2.key": "the key of a node"} {
		k.traces[keyTrace(c, filepath.Join(string(c.certs), file))] = whose
	}
	k.traces[keyTrace(c, filepath.Join(filepath.Dir(string(c.certs)), "ca.key"))] = "the key of the authority"
	return k
}

// keyTrace is a piece of the secret half of a key as its file has it.
func keyTrace(t testing.TB, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	require.Equal(t, "-----BEGIN PRIVATE KEY-----", lines[0])
	return strings.ToLower(lines[1][48:64]) // within the number, which begins behind 36 bytes
}

// look fails the test if a text has a secret. Each call is one path.
func (c *canaries) look(path, text string) {
	c.Helper()
	c.paths = append(c.paths, path)
	text = strings.ToLower(text)
	for trace, whose := range c.traces {
		if i := strings.Index(text, trace); i >= 0 {
			c.Errorf("%s shows %s: ...%s...", path, whose, text[max(0, i-100):min(len(text), i+len(trace)+20)])
		}
	}
}

// fails runs a command that has to fail, and looks at all that it says.
func (c *canaries) fails(path string, env []string, args ...string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	require.Error(c, err, "%s: %s", path, out)
	require.NoError(c, ctx.Err(), "%s: %s", path, out)
	require.NotEmpty(c, out, path)
	c.look(path, string(out))
}

// says runs a command, however it ends.
func (c *canaries) says(path string, args ...string) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--addr", strings.Join(c.addrs(), ","), "--certs-dir",
		string(c.certs), "--user", "alice")...)
	out, _ := cmd.CombinedOutput() // what it says counts
	require.NotEmpty(c, out, path)
	c.look(path, string(out))
}

// config writes a configuration with mode 0600 and returns its path.
func (c *canaries) config(text string) string {
	c.Helper()
	f := filepath.Join(c.TempDir(), "concord.yaml")
	require.NoError(c, os.WriteFile(f, []byte(text), 0o600))
	return f
}

// badNames are data source names, and places of them, that are wrong in every way that people find.
var badNames = map[string]string{
	"behind a comma":        `{name: a, driver: mysql, dsn: app:x,PW@tcp(db:3306)/shop}`,
	"behind a bracket":      `{name: a, driver: mysql, dsn: app:x}PW@tcp(db:3306)/shop}`,
	"in a list":             `{name: a, driver: mysql, dsn: ["app:PW"]}`,
	"in a map":              `{name: a, driver: mysql, dsn: {app: "PW"}}`,
	"an alias":              `{name: a, driver: mysql, dsn: *PW}`,
	"an open quote":         `{name: a, driver: mysql, dsn: "app:PW}`,
	"no map":                `"postgres://app:PW@db/shop"`,
	"as a name":             `{name: "postgres://app:PW@db/shop", driver: postgres, dsn: "a"}`,
	"as a driver":           `{name: a, driver: "postgres://app:PW@db/shop"}`,
	"as a file":             `{name: a, driver: postgres, dsn_file: "postgres://app:PW@db/shop"}`,
	"as a file of keywords": `{name: a, driver: postgres, dsn_file: "host=db password=PW"}`,
	"as an address":         `{name: a, driver: agent, addr: "app:PW@tcp(db:3306)/shop"}`,
	"as a directory":        `{name: a, driver: mysql, dir: "app:PW@tcp(db:3306)/shop"}`,
	"as a key":              `{name: a, driver: mysql, "app:PW": "tcp(db:3306)/shop"}`,
	"a bad escape":          `{name: a, driver: postgres, dsn: "postgres://app:PW%zz@db/shop"}`,
	"a bad port":            `{name: a, driver: postgres, dsn: "postgres://app:x@db:PW/shop"}`,
	"a bad keyword":         `{name: a, driver: postgres, dsn: "host=db password='PW"}`,
	"a bad mode":            `{name: a, driver: postgres, dsn: "postgres://app:` + bird + `@db/shop?sslmode=PW"}`,
	"no protocol":           `{name: a, driver: mysql, dsn: "app:PW@db/shop"}`,
	"no slash":              `{name: a, driver: mysql, dsn: "app:` + bird + `@tcp(db:3306)"}`,
	"a bad parameter":       `{name: a, driver: mysql, dsn: "app:x@tcp(db:3306)/shop?tls=PW"}`,
	"another bad parameter": `{name: a, driver: mysql, dsn: "app:x@tcp(db:3306)/shop?timeout=PW"}`,
}

// SEC45, SEC46: no password, no token and no private key is in anything that concord says, on the ways that
// lead to an error and on those of every day.
func TestSecretsAreNowhere(t *testing.T) {
	c := start(t, settings{cores: true})
	k := c.canaries()
	k.badConfigurations()
	k.badKeysAndTokens()
	k.badCalls()
	databases := k.badDatabases()
	k.everyDay(databases)
	k.badReloads()
	k.application()
	k.theirEnd()
	t.Logf("%d paths", len(k.paths))
	require.GreaterOrEqual(t, len(k.paths), 100)
}

// A canary that is there is found: else all the rest shows nothing.
func TestACanaryIsFound(t *testing.T) {
	dir := t.TempDir()
	c := &cluster{TB: t, certs: security.Dir(filepath.Join(dir, "certs"))}
	var err error
	c.authority, err = security.NewAuthority(c.certs, filepath.Join(dir, "ca.key"), "shop", time.Hour, false)
	require.NoError(t, err)
	c.issue(security.Node, "1", "2")
	c.issue(security.Client, "app")
	c.token, _, err = security.CreateToken(filepath.Join(dir, "tokens"), "app", time.Hour)
	require.NoError(t, err)
	key, err := os.ReadFile(filepath.Join(string(c.certs), "node.2.key"))
	require.NoError(t, err)
	for name, text := range map[string]string{"plain": password, "in a URL": url.QueryEscape(password),
		"quoted": fmt.Sprintf("%q", password), "upper case": strings.ToUpper(password), "token": c.token,
		"half a token": c.token[:24], "key": string(key), "bytes": fmt.Sprintf("%x", password)} {
		found := &recording{TB: t}
		k := c.canaries()
		k.cluster = &cluster{TB: found}
		k.look(name, "before "+text+" after")
		require.Equal(t, 1, min(1, found.errors), name)
		k.look(name, "nothing is here, and 0 and eCanary and cct_")
	}
}

// recording counts what a test would have complained about.
type recording struct {
	testing.TB
	errors int
}

func (r *recording) Helper()               {}
func (r *recording) Errorf(string, ...any) { r.errors++ }

func (c *canaries) badConfigurations() {
	head := "node: 1\ndata_dir: " + c.TempDir() + "\nmembers:\n  - {id: 1, peer: 127.0.0.1:1, api: 127.0.0.1:1}\n"
	for name, entry := range badNames {
		entry = strings.ReplaceAll(entry, "PW", password)
		c.fails("serve: "+name, nil, "serve", "--config", c.config(head+"resources:\n  - "+entry+"\n"))
		c.fails("serve by environment: "+name, []string{"CONCORD_RESOURCES=[" + entry + "]"}, "serve", "--config",
			c.config(head))
		c.fails("agent: "+name, nil, "agent", "--config", c.config("name: a\ndata_dir: "+c.TempDir()+
			"\nlisten: 127.0.0.1:1\ncoordinators: [\"127.0.0.1:1\"]\nresources:\n  - "+entry+"\n"))
	}
	secret := filepath.Join(c.TempDir(), "dsn")
	require.NoError(c, os.WriteFile(secret, []byte("postgres://app:"+password+"@db:x/shop"), 0o600))
	c.fails("serve: what a file of a data source name has", nil, "serve", "--config",
		c.config(head+"resources:\n  - {name: a, driver: postgres, dsn_file: "+secret+"}\n"))
	c.fails("serve: the file itself as configuration", nil, "serve", "--config", secret)
	c.fails("a password as an option", nil, "serve", "--config", c.config(head), "--log-level", "x"+c.token[:3])
}

func (c *canaries) badKeysAndTokens() {
	key, err := os.ReadFile(filepath.Join(string(c.certs), "client.app.key"))
	require.NoError(c, err)
	cert, err := os.ReadFile(filepath.Join(string(c.certs), "client.app.crt"))
	require.NoError(c, err)
	ca, err := os.ReadFile(filepath.Join(string(c.certs), "ca.crt"))
	require.NoError(c, err)
	token := []byte(c.token + "\n")
	for name, files := range map[string]map[string][]byte{
		"a key as a certificate": {"client.app.crt": key},
		"a certificate as a key": {"client.app.key": cert},
		"half a key":             {"client.app.key": key[:len(key)/2]},
		"a key and more": {"client.app.key": append(key[:len(key):len(key)], key...),
			"client.app.crt": cert[:50]},
		"a key among the authorities":   {"ca.crt": append(ca[:len(ca):len(ca)], key...)},
		"a key as the authority":        {"ca.crt": key},
		"a key as an authority of them": {"client-ca.crt": key},
		"a key as a list":               {"ca.crl": key},
		"a token as a key":              {"client.app.key": token},
		"a token as a certificate":      {"client.app.crt": token},
		"a token as the authority":      {"ca.crt": token},
		"a password as the authority":   {"ca.crt": []byte(password)},
	} {
		dir := c.TempDir()
		for file, b := range map[string][]byte{"ca.crt": ca, "client.app.crt": cert, "client.app.key": key} {
			require.NoError(c, os.WriteFile(filepath.Join(dir, file), b, 0o600))
		}
		for file, b := range files {
			require.NoError(c, os.WriteFile(filepath.Join(dir, file), b, 0o600))
		}
		c.fails(name, nil, "status", "--addr", c.nodes[0].api, "--certs-dir", dir)
	}
	for name, text := range map[string]string{"CR LF": c.token + "\r\n", "two": c.token + "\n" + c.token + "\n",
		"cut": c.token[:30], "a password": password, "a key": string(key), "quoted": `"` + c.token + `"`} {
		file := filepath.Join(c.TempDir(), "token")
		require.NoError(c, os.WriteFile(file, []byte(text), 0o600))
		c.fails("token: "+name, nil, "status", "--addr", c.nodes[0].api, "--certs-dir", string(c.certs), "--token-file",
			file)
		tokens := filepath.Join(c.TempDir(), "tokens")
		require.NoError(c, os.WriteFile(tokens, []byte(text), 0o600))
		c.fails("file of tokens: "+name, nil, "token", "ls", "--tokens", tokens)
	}
	file := filepath.Join(c.TempDir(), "token")
	require.NoError(c, os.WriteFile(file, token, 0o644))
	c.fails("token: for everybody to read", nil, "status", "--certs-dir", string(c.certs), "--token-file", file)
	// Nor does it show what somebody took for the name of something.
	c.fails("a token as its file", []string{"CONCORD_TOKEN_FILE=" + password}, "token", "ls", "--tokens",
		"/nonexistent")
}

// badCalls are what a node answers, and logs, when secrets come where none belongs.
func (c *canaries) badCalls() {
	for name, h := range map[string]http.Header{
		"another scheme":   {"Authorization": {"Basic " + c.token}},
		"no scheme":        {"Authorization": {c.token}},
		"almost the token": {"Authorization": {"Bearer " + c.token + "x"}},
		"a password":       {"Authorization": {"Bearer " + password}},
		"for another":      {"Concord-Caller": {c.token}},
		"a cookie":         {"Cookie": {"token=" + c.token}},
	} {
		for _, path := range []string{"/concord.v1.CoordinatorService/Status", "/metrics?token=" + c.token} {
			r, err := http.NewRequestWithContext(c.Context(), http.MethodPost, "https://"+c.nodes[1].api+path,
				strings.NewReader("{}"))
			require.NoError(c, err)
			r.Header = h.Clone()
			r.Header.Set("Content-Type", "application/json")
			res, err := c.http("", false).Do(r)
			require.NoError(c, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(c, err)
			require.NoError(c, res.Body.Close())
			require.NotEqual(c, http.StatusOK, res.StatusCode)
			c.look("answer: "+name+" at "+path[:8], string(b)+fmt.Sprint(res.Header))
		}
	}
	key, err := os.ReadFile(filepath.Join(string(c.certs), "node.2.key"))
	require.NoError(c, err)
	for _, addr := range []string{c.nodes[1].api, c.nodes[1].peer} {
		conn, err := c.as("node.2", addr)
		require.NoError(c, err)
		_, _ = conn.Write(append(key, '\n'))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		b, _ := io.ReadAll(conn) // it ends
		c.look("a key at a port", string(b))
		_ = conn.Close()
	}
}

// theirEnd looks at what is left of processes, and at what they say when they are killed as by a mistake of theirs.
func (c *canaries) theirEnd() {
	for _, n := range c.nodes {
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.process.Pid(), file))
			require.NoError(c, err)
			c.look(fmt.Sprintf("%s of node %d", file, n.id), string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	// A mistake that ends the process prints where every goroutine is; with the strictest setting there would be
	// a core file with all of its memory, if the node let it.
	for i, s := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV} {
		n := c.nodes[i]
		require.NoError(c, n.process.End(s, patience))
		status, ok := n.process.State().Sys().(syscall.WaitStatus)
		require.True(c, ok)
		require.False(c, status.CoreDump(), "%v: the memory of node %d is in a file", s, n.id)
		cores, err := filepath.Glob(filepath.Join(filepath.Dir(n.config), "core*"))
		require.NoError(c, err)
		require.Empty(c, cores)
		log, err := os.ReadFile(n.log)
		require.NoError(c, err)
		require.Contains(c, string(log), "goroutine ", "it says where it was")
		c.look(fmt.Sprintf("the log of node %d, up to %v", n.id, s), string(log))
	}
}
