// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// database is one SQL database: reached by each client process and by the nodes, or by the agent, through lines
// that can be cut.
type database struct {
	name    string // of the resource
	server  *testdb.Server
	admin   *sql.DB
	clients *faultproxy.Link // what clients reach it by; of the desk: what the agent reaches it by
	nodes   *faultproxy.Link // what the nodes reach it by; nil: they do not
}

// dbName is the database on its server.
const dbName = "chaos"

func (d *database) dbName() string {
	if d.name == desk {
		return "chaos_desk"
	}
	return dbName
}

// through is the data source name by way of a link.
func (d *database) through(l *faultproxy.Link) string {
	return strings.Replace(d.server.DSN(d.dbName()), fmt.Sprintf("127.0.0.1:%d", d.server.Port()), l.Addr(), 1)
}

// world is everything that runs.
type world struct {
	testing.TB
	dir     string
	seed    uint64
	id      txn.ClusterID
	servers map[string]*testdb.Server // by flavor
	dbs     map[string]*database
	nodes   []*node // node i has the id i+1
	links   map[[2]int]*faultproxy.Link
	apis    []*faultproxy.Link // what clients reach the nodes by
	agents  *faultproxy.Link   // what clients and nodes reach the agent by
	agent   *agentProcess
	history *history
	log     *os.File // what was broken when

	mu                 sync.Mutex
	clients            []*clientProcess
	started            int // client processes, ever
	members            int // that came, ever
	forgotten, putBack int
	ran                map[string]int // faults, by name
	moments            []moment
	injected           map[string]string // heuristic outcomes made by hand, by gid/branch
	hands              map[string]place  // the SQL databases as somebody reaches them who is disturbed by nothing
	resident           int64             // the most memory that a node had

	httpOver chan struct{}
	http     sync.WaitGroup
}

type clientProcess struct {
	name  string
	stdin io.Closer // when it is closed the client ends
	*program.Process
}

// startWorld starts everything but the load.
func startWorld(t testing.TB, dir string, seed uint64) *world {
	t.Helper()
	w := &world{TB: t, dir: dir, seed: seed, servers: map[string]*testdb.Server{}, dbs: map[string]*database{},
		links: map[[2]int]*faultproxy.Link{}, history: newHistory(dir), ran: map[string]int{},
		injected: map[string]string{}, hands: map[string]place{}}
	var err error
	w.log, err = os.OpenFile(w.path("faults.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	t.Cleanup(func() { _ = w.log.Close() })
	w.startServers()
	for name, flavor := range map[string]string{orders: testdb.FlavorPostgres, billing: testdb.FlavorMariaDB,
		stock: testdb.FlavorMySQL, desk: testdb.FlavorPostgres} {
		w.addDatabase(name, w.servers[flavor])
	}
	w.plantCanaries()
	w.configure()
	for _, n := range w.nodes {
		require.NoError(t, w.start(n))
	}
	require.NoError(t, w.startAgent())
	require.NoError(t, w.ready(patience))
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// say writes what happens now into the log of faults.
func (w *world) say(format string, args ...any) {
	fmt.Fprintf(w.log, "%s %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// moment is when something happened that matters for what was under way.
type moment struct {
	what string
	at   int64
}

func (w *world) moment(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moments = append(w.moments, moment{what, time.Now().UnixNano()})
}

func (w *world) startServers() {
	w.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	missing := map[string]error{}
	for flavor, options := range map[string][]testdb.Option{
		testdb.FlavorPostgres: {testdb.WithSetting("lock_timeout", "4s"),
			testdb.WithSetting("max_prepared_transactions", "100")},
		testdb.FlavorMariaDB: {testdb.WithSetting("innodb-lock-wait-timeout", "4")},
		testdb.FlavorMySQL:   {testdb.WithSetting("innodb-lock-wait-timeout", "4")},
	} {
		group.Go(func() {
			s, err := testdb.Start(flavor, "", options...)
			mu.Lock()
			defer mu.Unlock()
			if missing[flavor] = err; err == nil {
				w.servers[flavor] = s
			}
		})
	}
	group.Wait()
	w.Cleanup(func() {
		for _, s := range w.servers {
			if err := s.Close(); err != nil {
				w.Error(err)
			}
		}
	})
	for flavor, err := range missing {
		if errors.Is(err, testdb.ErrNotInstalled) {
			reason := testdb.NotRun(flavor, err)
			if testdb.Required(flavor) {
				w.Fatal(reason)
			}
			w.Skip(reason)
		}
		require.NoError(w, err)
	}
}

func (w *world) addDatabase(name string, s *testdb.Server) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := &database{name: name, server: s}
	require.NoError(w, s.Exec(ctx, "", "CREATE DATABASE "+d.dbName()))
	var accountRows, listRows []string
	for i := range accounts {
		accountRows = append(accountRows, fmt.Sprintf("(%d, %d)", i, opening))
	}
	for k := range lists {
		listRows = append(listRows, fmt.Sprintf("(%d, '')", k))
	}
	require.NoError(w, s.Exec(ctx, d.dbName(),
		"CREATE TABLE account (id INT PRIMARY KEY, balance BIGINT NOT NULL)",
		"INSERT INTO account VALUES "+strings.Join(accountRows, ", "),
		"CREATE TABLE uniq (gid VARCHAR(40) PRIMARY KEY, payload VARCHAR(80) NOT NULL)",
		"CREATE TABLE list (k INT PRIMARY KEY, elems TEXT NOT NULL)",
		"INSERT INTO list VALUES "+strings.Join(listRows, ", "),
		"CREATE TABLE counter (id INT PRIMARY KEY, n INT NOT NULL)",
		"INSERT INTO counter VALUES (0, 0)",
		"CREATE TABLE drawn (n INT NOT NULL, gid VARCHAR(40) NOT NULL)",
		"CREATE TABLE keyed (k VARCHAR(80) NOT NULL)",
		"CREATE TABLE hand (gid VARCHAR(40) PRIMARY KEY)"))
	kind := "mysql"
	if s.Flavor() == testdb.FlavorPostgres {
		kind = "pgx"
	}
	var err error
	d.admin, err = sql.Open(kind, s.DSN(d.dbName()))
	require.NoError(w, err)
	d.admin.SetMaxIdleConns(0) // a kept connection would not survive its server
	w.Cleanup(func() { require.NoError(w, d.admin.Close()) })
	at, speaksFirst := fmt.Sprintf("127.0.0.1:%d", s.Port()), kind == "mysql"
	d.clients = w.link(at, speaksFirst)
	if name != desk {
		d.nodes = w.link(at, speaksFirst)
	}
	w.dbs[name] = d
}

// link opens a link that ends with the test. To a server that speaks first it connects at once.
func (w *world) link(target string, speaksFirst bool) *faultproxy.Link {
	w.Helper()
	l, err := faultproxy.New(target)
	require.NoError(w, err)
	w.Cleanup(l.Close)
	if speaksFirst {
		l.Use(faultproxy.NewKnife(faultproxy.Framing{Header: 1, Length: func([]byte) int { return 1 }}))
	}
	return l
}

// canaries are prepared transactions of others. Nobody may touch them.
var canaries = []struct{ at, name string }{
	{orders, "somebody else''s"}, {orders, "concord-zzzzzzzz-01ARZ3NDEKTSV4RRFFQ69G5FAV-00"},
	{orders, "x''; DROP TABLE account; --"},
	{billing, "somebody else's"}, {stock, "somebody else's"},
}

func (w *world) plantCanaries() {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, c := range canaries {
		d := w.dbs[c.at]
		statements := []string{"CREATE TABLE IF NOT EXISTS canary (n INT)", "BEGIN",
			fmt.Sprintf("INSERT INTO canary VALUES (%d)", i), "PREPARE TRANSACTION '" + c.name + "'"}
		if c.at != orders {
			x := fmt.Sprintf("'canary %d','%s',7", i, "b")
			statements = []string{"CREATE TABLE IF NOT EXISTS canary (n INT)", "XA START " + x,
				fmt.Sprintf("INSERT INTO canary VALUES (%d)", i), "XA END " + x, "XA PREPARE " + x}
		}
		require.NoError(w, d.server.Exec(ctx, d.dbName(), statements...))
	}
}

// missingCanaries are those that are not prepared any more.
func (w *world) missingCanaries() (gone []string) {
	w.Helper()
	for i, c := range canaries {
		query, want := "SELECT gid FROM pg_prepared_xacts", strings.ReplaceAll(c.name, "''", "'")
		if c.at != orders {
			query, want = "XA RECOVER", fmt.Sprintf("canary %db", i)
		}
		found := false
		for _, name := range w.texts(w.dbs[c.at], query) {
			found = found || name == want
		}
		if !found {
			gone = append(gone, fmt.Sprintf("%q at %s", c.name, c.at))
		}
	}
	return gone
}

// texts returns the last column of every row.
func (w *world) texts(d *database, query string) (all []string) {
	w.Helper()
	for _, row := range w.rows(d, query) {
		all = append(all, row[len(row)-1])
	}
	return all
}

// rows returns all columns as texts.
func (w *world) rows(d *database, query string) [][]string {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := rowsOf(ctx, d.admin, query)
	require.NoError(w, err, "%s: %s", d.name, query)
	return all
}

func rowsOf(ctx context.Context, db *sql.DB, query string) (all [][]string, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		row, into := make([]string, len(columns)), make([]any, len(columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// prepared returns what a database lists as prepared for our cluster.
func (w *world) prepared(ctx context.Context, d *database) (ours []string, err error) {
	query := "XA RECOVER"
	if d.server.Flavor() == testdb.FlavorPostgres {
		query = "SELECT gid FROM pg_prepared_xacts WHERE database = '" + d.dbName() + "'"
	}
	rows, err := rowsOf(ctx, d.admin, query)
	for _, row := range rows {
		if name := row[len(row)-1]; strings.HasPrefix(name, "concord-"+w.id.String()+"-") {
			ours = append(ours, d.name+": "+name)
		}
	}
	return ours, err
}

// startClient starts one more client process.
func (w *world) startClient(workers int, kinds string) error {
	w.mu.Lock()
	w.started++
	name := fmt.Sprintf("client%d", w.started)
	w.mu.Unlock()
	order := clientOrder{Name: name, DSNs: map[string]string{}, Agent: w.agents.Addr(), Diary: w.path(name + ".diary"),
		Workers: workers, Seed: w.seed<<16 + uint64(w.started), Kinds: kinds}
	for _, l := range w.apis {
		order.Addrs = append(order.Addrs, l.Addr())
	}
	for _, name := range sqlNames {
		order.DSNs[name] = w.dbs[name].through(w.dbs[name].clients)
	}
	text, err := json.Marshal(order)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), clientEnv+"="+string(text))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	p, err := program.StartLogged(cmd, w.path(name+".log"))
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clients = append(w.clients, &clientProcess{name, stdin, p})
	return nil
}

// startHTTP starts clients of the HTTP API.
func (w *world) startHTTP(n int) {
	w.Helper()
	w.httpOver = make(chan struct{})
	var addrs []string
	for _, node := range w.nodes[:3] {
		addrs = append(addrs, node.api)
	}
	for i := range n {
		d, err := openDiary(w.path(fmt.Sprintf("http%d.diary", i)))
		require.NoError(w, err)
		rand.New(rand.NewPCG(w.seed, uint64(i))).Shuffle(len(addrs), func(i, j int) {
			addrs[i], addrs[j] = addrs[j], addrs[i]
		})
		c := newHTTPClient(fmt.Sprintf("http%d", i), addrs, d, w.seed+uint64(i), w.httpOver)
		w.http.Go(c.work)
	}
}

// stopLoad lets every client end what it does, and waits for it.
func (w *world) stopLoad() {
	w.Helper()
	close(w.httpOver)
	w.http.Wait()
	w.stopClients()
}

// caller makes a client of the bare API that no fault touches.
func (w *world) caller() *api.Client {
	w.Helper()
	var addrs []string
	for _, n := range w.nodes[:3] {
		addrs = append(addrs, n.api)
	}
	caller, err := api.Dial(addrs, api.ClientOptions{Patience: 20 * time.Second})
	require.NoError(w, err)
	w.Cleanup(func() { require.NoError(w, caller.Close()) })
	return caller
}

// settled waits until nothing of ours is prepared or held anywhere, and returns what is left if that takes too
// long.
func (w *world) settled(limit time.Duration) (took time.Duration, left []string) {
	w.Helper()
	for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		left = nil
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		for _, d := range w.dbs {
			ours, err := w.prepared(ctx, d)
			if left = append(left, ours...); err != nil {
				left = append(left, fmt.Sprintf("%s cannot be asked: %v", d.name, err))
			}
		}
		for _, name := range agentNames {
			held, err := w.agent.stub.ListBranches(ctx,
				&concordv1.ListBranchesRequest{Fresh: true, Resource: name, Limit: 10_000})
			if err != nil || held.GetMore() {
				left = append(left, fmt.Sprintf("the agent does not tell all of %s: %v", name, err))
			}
			for _, b := range held.GetBranches() {
				if b.GetPhase() != "ended" {
					left = append(left, fmt.Sprintf("agent: %v", b))
				}
			}
		}
		cancel()
		if took = time.Since(start); len(left) == 0 || took > limit {
			return took, left
		}
	}
}
