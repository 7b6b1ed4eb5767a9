// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	remote "github.com/concordtx/concord/adapters/agent"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/adapters/mysql"
	"github.com/concordtx/concord/adapters/pebble"
	"github.com/concordtx/concord/adapters/postgres"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/gateway"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/participant"
	"github.com/concordtx/concord/participant/service"
	"github.com/concordtx/concord/participant/statement"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

// world is a cluster with its gateways, and an agent with databases, all in this process, with real
// stores, journals and servers.
type world struct {
	testing.TB
	members   []replica.Member
	dirs      []string
	disk      *memory.Disk // of "plain", which no agent has
	agent     *host
	resources []string // that the agent hosts
	stops     []func() // nil while a node is down
}

// newWorld starts the agent first, which waits for its cluster.
func newWorld(t testing.TB, nodes int, databases ...statement.Database) *world {
	t.Helper()
	w := &world{TB: t, disk: memory.NewDisk(), stops: make([]func(), nodes)}
	for i := range nodes {
		w.members = append(w.members, replica.Member{ID: zab.NodeID(i + 1), Peer: addr(t), API: addr(t)})
		w.dirs = append(w.dirs, t.TempDir())
	}
	for _, d := range databases {
		w.resources = append(w.resources, d.Name())
	}
	w.agent = &host{TB: t, w: w, addr: addr(t), data: t.TempDir(), databases: databases}
	w.agent.start()
	for i := range nodes {
		w.start(i)
	}
	t.Cleanup(func() {
		for _, stop := range w.stops {
			if stop != nil {
				stop()
			}
		}
		w.agent.stop()
	})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	for i := range nodes { // every node knows the cluster, and every database which one it is
		require.Eventually(t, func() bool { return w.ready(i) }, patience, 20*time.Millisecond)
	}
	return w
}

func addr(t testing.TB) string { return fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)) }

func (w *world) addrs() (list []string) {
	for _, m := range w.members {
		list = append(list, m.API)
	}
	return list
}

func (w *world) start(i int) {
	w.Helper()
	log := slog.New(slog.DiscardHandler)
	resources := []adapters.Resource{memory.New("plain", w.disk)}
	for _, name := range w.resources {
		client, err := remote.Dial(w.agent.addr)
		require.NoError(w, err)
		resources = append(resources, remote.New(name, client))
	}
	node, err := coordinator.Open(coordinator.Config{Node: w.members[i].ID, Members: w.members, DataDir: w.dirs[i],
		Logger: log, Resources: resources})
	require.NoError(w, err)
	listener, err := net.Listen("tcp", w.members[i].API)
	require.NoError(w, err)
	g := gateway.New(gateway.Config{Node: uint64(w.members[i].ID), Resources: resources, Address: node.APIAddress,
		Dial: func(ctx context.Context) (*concord.Client, error) { return concord.Dial(ctx, w.addrs()) }})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = node.Run(ctx) }) // its error is that it was stopped
	running.Go(func() { _ = g.Run(ctx) })
	running.Go(func() { _ = server.Serve(ctx, node, access.Open(), listener, log, g.Service()) })
	w.stops[i] = func() {
		cancel()
		running.Wait()
		for _, r := range resources {
			require.NoError(w, r.Close())
		}
	}
}

// stop ends a node in good order; what is open at it is rolled back.
func (w *world) stop(i int) {
	w.stops[i]()
	w.stops[i] = nil
}

func (w *world) ready(i int) bool {
	m := w.call(i, "CoordinatorService/Resources", `{}`)
	list, _ := m["resources"].([]any)
	known := 0
	for _, r := range list {
		if r.(map[string]any)["identity"] != nil && r.(map[string]any)["ok"] == true {
			known++
		}
	}
	return known == len(w.resources)+1
}

// call posts JSON to a node, as curl would, and returns what comes back, "http" for the status.
func (w *world) call(i int, method, body string) map[string]any {
	w.Helper()
	m, err := post(w.members[i].API, method, body)
	if err != nil {
		return map[string]any{"code": "no answer", "message": err.Error()}
	}
	return m
}

func post(addr, method, body string) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/concord.v1."+method,
		bytes.NewBufferString(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	return m, json.Unmarshal(b, &m)
}

// driven is a transaction of a program that speaks JSON.
type driven struct {
	*world
	node    int // that is asked
	session string
	gid     string
	number  int
}

func (w *world) begin(node int, body string) *driven {
	w.Helper()
	m := w.call(node, "TransactionService/Begin", body)
	require.NotEmpty(w, m["session"], "%v", m)
	return &driven{world: w, node: node, session: m["session"].(string), gid: m["gid"].(string)}
}

// ask sends the next request; rest is JSON behind session and number.
func (d *driven) ask(method, rest string) map[string]any {
	d.Helper()
	return d.call(d.node, "TransactionService/"+method, d.body(d.number+1, rest))
}

func (d *driven) body(number int, rest string) string {
	return fmt.Sprintf(`{"session": %q, "number": "%d"%s}`, d.session, number, rest)
}

// answer is ask for a request that takes its number.
func (d *driven) answer(method, rest string) map[string]any {
	d.Helper()
	m := d.ask(method, rest)
	require.Nil(d, m["code"], "%s %s: %v", method, rest, m)
	d.number++
	return m
}

// execute runs a statement that has to work.
func (d *driven) execute(resource, text string, args ...string) map[string]any {
	d.Helper()
	m := d.answer("Execute", statementOf(resource, text, args...))
	require.Nil(d, m["error"], "%s: %v", text, m)
	return m
}

func statementOf(resource, text string, args ...string) string {
	s, _ := json.Marshal(text)
	return fmt.Sprintf(`, "resource": %q, "statement": %s, "arguments": [%s]`, resource, s, strings.Join(args, ", "))
}

func (d *driven) commit() map[string]any {
	d.Helper()
	return d.ask("Commit", "")
}

func (d *driven) rollback() map[string]any {
	d.Helper()
	return d.call(d.node, "TransactionService/Rollback", fmt.Sprintf(`{"session": %q}`, d.session))
}

// value is the only field of the only row.
func value(t testing.TB, m map[string]any) map[string]any {
	t.Helper()
	rows, _ := m["rows"].([]any)
	require.Len(t, rows, 1, "%v", m)
	values := rows[0].(map[string]any)["values"].([]any)
	require.Len(t, values, 1)
	return values[0].(map[string]any)
}

// host is an agent.
type host struct {
	testing.TB
	w          *world
	addr, data string
	databases  []statement.Database
	end        func()
}

func (h *host) start() {
	h.Helper()
	log := slog.New(slog.DiscardHandler)
	nodes, err := api.Dial(h.w.addrs(), api.ClientOptions{})
	require.NoError(h, err)
	a, err := participant.Open(participant.Config{Name: "east", DataDir: h.data, Databases: h.databases,
		Cluster: service.Cluster(nodes), Scan: 100 * time.Millisecond, Logger: log})
	require.NoError(h, err)
	l, err := net.Listen("tcp", h.addr)
	require.NoError(h, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) })
	running.Go(func() { _ = service.Serve(ctx, a, access.Open(), l, nil, log) })
	h.end = func() {
		cancel()
		running.Wait()
		_ = nodes.Close()
	}
}

func (h *host) stop() { h.end() }

// left is what an agent and its databases hold of a transaction.
func (w *world) left(gid string) []string {
	w.Helper()
	m, err := post(w.agent.addr, "ParticipantService/ListBranches", fmt.Sprintf(`{"gid": %q, "fresh": true}`, gid))
	require.NoError(w, err)
	var phases []string
	list, _ := m["branches"].([]any)
	for _, b := range list {
		if phase := b.(map[string]any)["phase"].(string); phase != "ended" {
			phases = append(phases, phase)
		}
	}
	return phases
}

// settled waits until nothing is held of a transaction.
func (w *world) settled(gid string) {
	w.Helper()
	require.Eventually(w, func() bool { return len(w.left(gid)) == 0 }, patience, 20*time.Millisecond,
		"something is left of %s", gid)
}

// ledger is an embedded store, and sql PostgreSQL and MariaDB with a table account(id, cents) each.
func ledger(t testing.TB) statement.Database {
	t.Helper()
	store, err := pebble.Open("ledger", filepath.Join(t.TempDir(), "ledger"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return statement.Pebble(store)
}

func sql(t testing.TB) []statement.Database {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	table := []string{"CREATE TABLE account (id INT PRIMARY KEY, cents BIGINT NOT NULL)",
		"INSERT INTO account VALUES (1, 1000), (2, 1000)"}
	pg, my := testdb.Postgres(t), testdb.MariaDB(t)
	require.NoError(t, pg.Exec(ctx, "postgres",
		append(table, "CREATE TABLE v (a boolean, b bigint, c numeric, d double precision, e text, f bytea, g "+
			"timestamptz, h jsonb)")...))
	require.NoError(t, my.Exec(ctx, "", "CREATE DATABASE app CHARACTER SET utf8mb4"))
	require.NoError(t, my.Exec(ctx, "app",
		append(table, "CREATE TABLE v (b BIGINT UNSIGNED, c DECIMAL(40,10), e VARCHAR(40), f VARBINARY(20), g "+
			"DATETIME(6))")...))
	orders, err := postgres.Open(ctx, "orders", pg.DSN("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = orders.Close() })
	billing, err := mysql.Open("billing", my.DSN("app"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = billing.Close() })
	return []statement.Database{statement.Postgres(orders), statement.MySQL(billing)}
}

// cents is the balance of account 1, as a transaction of its own reads it.
func (w *world) cents(resource string) string {
	w.Helper()
	d := w.begin(0, `{}`)
	m := d.execute(resource, "select cents from account where id = 1")
	require.Equal(w, "committed", d.commit()["outcome"])
	return value(w, m)["int"].(string)
}

// number is what a ledger has under a key; 0 if nothing.
func (w *world) amount(key string) string {
	w.Helper()
	d := w.begin(0, `{}`)
	m := d.execute("ledger", "add "+key+" 0")
	require.Equal(w, "aborted", d.rollback()["outcome"])
	return value(w, m)["int"].(string)
}

func outcomeOf(t testing.TB, w *world, gid string) string {
	t.Helper()
	_, err := txn.ParseID(gid)
	require.NoError(t, err)
	m := w.call(0, "CoordinatorService/Outcome", fmt.Sprintf(`{"gid": %q}`, gid))
	require.Nil(t, m["code"], "%v", m)
	return m["outcome"].(string)
}
