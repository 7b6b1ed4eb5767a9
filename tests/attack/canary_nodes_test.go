// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/concordotel"
	"github.com/concordtx/concord/internal/testdb"
)

// badDatabases gives the nodes databases that cannot be reached in several ways, each with a password in its data
// source name, and returns their names.
func (c *canaries) badDatabases() (names []string) {
	c.Helper()
	pg, my := testdb.Postgres(c, testdb.WithPasswords()), testdb.MariaDB(c)
	hung, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing
	require.NoError(c, err)
	c.Cleanup(func() { _ = hung.Close() })
	rude, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(c, err)
	c.Cleanup(func() { _ = rude.Close() })
	go func() {
		for {
			conn, err := rude.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("this is neither database"))
			_ = conn.Close()
		}
	}()
	user := url.UserPassword("app", password).String()
	dsns := map[string][2]string{}
	for name, port := range map[string]int{"wrong": pg.Port(), "down": 1, "hung": hung.Addr().(*net.TCPAddr).Port,
		"rude": rude.Addr().(*net.TCPAddr).Port} {
		dsns["pg_"+name] = [2]string{"postgres",
			fmt.Sprintf("postgres://%s@127.0.0.1:%d/shop?connect_timeout=3", user, port)}
	}
	dsns["pg_tls"] = [2]string{"postgres",
		fmt.Sprintf("postgres://%s@127.0.0.1:%d/shop?sslmode=verify-full", user, pg.Port())}
	dsns["pg_keywords"] = [2]string{"postgres",
		fmt.Sprintf("host=127.0.0.1 port=%d user=app password='%s' dbname=shop", pg.Port(), password)}
	for name, port := range map[string]int{"wrong": my.Port(), "down": 1, "hung": hung.Addr().(*net.TCPAddr).Port,
		"rude": rude.Addr().(*net.TCPAddr).Port} {
		dsns["my_"+name] = [2]string{"mysql", fmt.Sprintf("app:%s@tcp(127.0.0.1:%d)/shop?timeout=3s", password, port)}
	}
	dsns["my_tls"] = [2]string{"mysql", fmt.Sprintf("app:%s@tcp(127.0.0.1:%d)/shop?tls=true", password, my.Port())}
	dir := c.TempDir()
	resources := "log: {level: debug}\nresources:\n"
	for name, d := range dsns {
		names = append(names, name)
		file := filepath.Join(dir, name)
		require.NoError(c, os.WriteFile(file, []byte(d[1]), 0o600))
		resources += fmt.Sprintf("  - {name: %s, driver: %s, dsn_file: %s}\n", name, d[0], file)
	}
	for _, n := range c.nodes {
		text, err := os.ReadFile(n.config)
		require.NoError(c, err)
		before, after, ok := strings.Cut(string(text), "resources:\n  - {name: nothing, driver: agent, addr: "+
			"127.0.0.1:1}\n")
		require.True(c, ok)
		after = strings.ReplaceAll(after, "[nothing]", "[my_down]")
		require.NoError(c, os.WriteFile(n.config, []byte(before+after+resources), 0o600))
	}
	c.restart()
	return names
}

// everyDay is what people look at while nothing works.
func (c *canaries) everyDay(resources []string) {
	for _, r := range resources {
		c.says("resource check "+r, "resource", "check", r)
		c.says("resource check of "+r+" in JSON", "resource", "check", r, "-o", "json")
	}
	for _, line := range []string{"status", "status -o json", "resource ls", "resource ls -o json", "recover",
		"recover -o json", "recover --apply", "tx ls", "tx ls --state in-doubt -o json", "member ls",
		"check in-doubt --warn 1s --crit 2s"} {
		c.says(line, strings.Fields(line)...)
	}
	for _, n := range c.nodes {
		for _, page := range []string{"/metrics", "/livez", "/readyz"} {
			r, err := http.NewRequestWithContext(c.Context(), http.MethodGet, "https://"+n.api+page, nil)
			require.NoError(c, err)
			res, err := c.http("client.alice", false).Do(r)
			require.NoError(c, err)
			b, err := io.ReadAll(res.Body)
			require.NoError(c, err)
			require.NoError(c, res.Body.Close())
			require.NotEmpty(c, b)
			c.look(fmt.Sprintf("%s of node %d", page, n.id), string(b))
		}
	}
}

// badReloads put secrets where they do not belong while the nodes run. They go on with what they had.
func (c *canaries) badReloads() {
	n := c.nodes[2]
	key, err := os.ReadFile(filepath.Join(string(c.certs), "node.3.key"))
	require.NoError(c, err)
	good, err := os.ReadFile(n.config)
	require.NoError(c, err)
	for file, text := range map[string]string{
		n.config: strings.Replace(string(good), "resources:", "resources:\n  - {name: a, driver: mysql, dsn: app:x,"+
			password+"@tcp(db)/shop}", 1),
		c.tokens:                                     c.token + "\n",
		filepath.Join(string(c.certs), "ca.crt"):     string(key),
		filepath.Join(string(c.certs), "ca.crl"):     string(key),
		filepath.Join(string(c.certs), "node.3.crt"): string(key),
	} {
		info, statErr := os.Stat(file)
		was, readErr := os.ReadFile(file)
		before, err := os.ReadFile(n.log)
		require.NoError(c, err)
		mode := os.FileMode(0o600)
		if statErr == nil {
			mode = info.Mode().Perm()
		}
		require.NoError(c, os.WriteFile(file, []byte(text), mode))
		require.NoError(c, n.process.Signal(syscall.SIGHUP))
		var news string
		eventually(c, "a wrong "+file+" is noticed", func() bool {
			log, err := os.ReadFile(n.log)
			require.NoError(c, err)
			news = string(log[len(before):])
			return strings.Contains(news, "the configuration was read again and is wrong")
		})
		c.look("the log after a wrong "+filepath.Base(file), news)
		if readErr == nil {
			require.NoError(c, os.WriteFile(file, was, mode))
		} else {
			require.NoError(c, os.Remove(file))
		}
	}
	c.says("status after wrong files", "status")
}

// application runs transactions on databases that do not let it in, and looks at its errors and its traces.
func (c *canaries) application() {
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	client, err := concord.Dial(c.Context(), c.addrs(), concord.WithCertsDir(string(c.certs)), concord.WithUser("app"),
		concord.WithHook(concordotel.Hook(concordotel.WithTracerProvider(tracers))))
	require.NoError(c, err)
	defer client.Close()
	pool, err := pgxpool.New(c.Context(), fmt.Sprintf("postgres://%s@127.0.0.1:1/shop",
		url.UserPassword("app", password)))
	require.NoError(c, err)
	defer pool.Close()
	right, err := mysql.Open("my_down", fmt.Sprintf("app:%s@tcp(127.0.0.1:1)/shop", password))
	require.NoError(c, err)
	defer right.Close()
	left := postgres.New("pg_down", pool)
	for name, begin := range map[string]func(context.Context, *concord.Tx) error{
		"postgres": func(ctx context.Context, tx *concord.Tx) error { _, err := left.Tx(ctx, tx); return err },
		"mysql":    func(ctx context.Context, tx *concord.Tx) error { _, err := right.Tx(ctx, tx); return err },
	} {
		err := client.Run(c.Context(), begin)
		require.Error(c, err, name)
		c.look("the error of "+name, err.Error())
		c.look("the error of "+name+" in full", fmt.Sprintf("%+v %#v", err, err))
	}
	require.NotEmpty(c, spans.GetSpans())
	c.look("traces", fmt.Sprintf("%+v", spans.GetSpans()))
}
