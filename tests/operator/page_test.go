// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

const page = "../../docs/operations.md"

// block is a fenced block of the page.
type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```\n")

func blocks(t testing.TB) (all []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, m := range fence.FindAllStringSubmatch(string(text), -1) {
		all = append(all, block{m[1], m[2]})
	}
	require.Equal(t, strings.Count(string(text), "\n```"), 2*len(all), "a fence is not closed")
	return all
}

// trials run each block of the page, found by a text that it alone has. They run in this order: what is
// granted first the cluster needs later.
var trials = []struct {
	has string
	try func(*operatorWorld, block)
}{
	{"CREATE ROLE concord_rec", func(w *operatorWorld, b block) {
		require.NoError(w, w.orders.server.Exec(w.Context(), "", "CREATE ROLE app LOGIN PASSWORD 'app'"))
		w.sql(w.orders, b)
	}},
	{"CREATE SCHEMA IF NOT EXISTS concord", func(w *operatorWorld, b block) {
		w.sql(w.orders, b)
		require.NoError(w, w.orders.server.Exec(w.Context(), w.orders.name, "GRANT SELECT, INSERT ON note TO app"))
	}},
	{"GRANT XA_RECOVER_ADMIN", func(w *operatorWorld, b block) { w.sql(w.stock, b) }},
	{"CONNECTION ADMIN, READ_ONLY ADMIN", func(w *operatorWorld, b block) { w.sql(w.billing, b) }},
	{"CREATE TABLE IF NOT EXISTS shop.concord_branch", func(w *operatorWorld, b block) {
		for _, d := range []*database{w.billing, w.stock} {
			require.NoError(w, d.server.Exec(w.Context(), "", "CREATE USER app@'%' IDENTIFIED BY 'app'"))
			w.sql(d, block{b.language, strings.ReplaceAll(b.text, "shop.", d.name+".")})
			require.NoError(w, d.server.Exec(w.Context(), "", "GRANT SELECT, INSERT ON "+d.name+".note TO app@'%'"))
		}
		w.begin() // with the logins that the page has made, and no others
	}},
	{"rule_files:", func(w *operatorWorld, b block) {
		dir := w.TempDir()
		rules, err := os.ReadFile("../../deploy/prometheus/concord.rules.yml")
		require.NoError(w, err)
		require.NoError(w, os.WriteFile(filepath.Join(dir, "concord.rules.yml"), rules, 0o600))
		require.NoError(w, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(b.text), 0o600))
		cmd := exec.CommandContext(w.Context(), promtool(w), "check", "config", "prometheus.yml")
		cmd.Dir = dir
		r := exited(w, cmd)
		require.Equal(w, 0, r.code, "%v", r)
	}},
	{"promtool check rules", func(w *operatorWorld, b block) {
		promtool(w)
		w.dir = "../../deploy/prometheus"
		defer func() { w.dir = "" }()
		w.shell(b)
	}},
	{"concord status  ", func(w *operatorWorld, b block) { w.shell(b) }},
	{"concord check in-doubt", func(w *operatorWorld, b block) {
		w.shell(b)
		require.Contains(w, w.said, "CONCORD OK - 0 in doubt")
	}},
	{"concord tx resolve GID --abort", func(w *operatorWorld, b block) {
		h := w.listed(w.orders, w.billing)
		w.shell(b.of(h), "recover 6")
		require.Contains(w, w.said, "is every branch there? yes, all 2 are prepared")
		w.ended(h, "aborted", w.orders, w.billing)
	}},
	{"concord tx resolve GID --commit", func(w *operatorWorld, b block) {
		h := w.listed(w.billing, w.stock)
		w.shell(b.of(h))
		w.ended(h, "committed", w.billing, w.stock)
	}},
	{"concord tx ls --state heuristic\nconcord tx get GID", func(w *operatorWorld, b block) {
		w.broken = w.listed(w.orders, w.stock)
		w.orders.endByHand(w, w.broken.xid(0), txn.Abort)
		w.cluster.decide(w.broken, txn.Commit)
		eventually(w, "it is heuristic", func() bool { return first(w.cluster.get(w.broken.id)).State == "heuristic" })
		w.shell(b.of(w.broken))
		require.Contains(w, w.said, "heuristic-rollback")
	}},
	{"concord tx forget", func(w *operatorWorld, b block) {
		w.shell(b.of(w.broken))
		require.Empty(w, w.cluster.list("--state", "heuristic"))
	}},
	{"concord recover GID\nconcord tx settle GID/NO --abort", func(w *operatorWorld, b block) {
		h := prepare(w, w.cluster.id+1, w.orders)
		w.shell(b.of(h), "recover 6")
		require.Contains(w, w.said, "it belongs to cluster")
		require.Empty(w, w.orders.prepared(w, h.id))
	}},
	{"concord tx settle GID/NO --abandon", func(w *operatorWorld, b block) {
		h := prepare(w, w.cluster.id, w.billing, w.orders)
		w.billing.cut()
		w.cluster.decide(h, txn.Commit)
		w.shell(b.of(h))
		w.billing.line.Heal()
		require.Equal(w, "heuristic", first(w.cluster.get(h.id)).State)
		require.Equal(w, 0, w.cluster.concord("tx", "forget", h.id.String(), "--reason", "test", "--yes").code)
		eventually(w, "the database is back, and what was given up is reported", func() bool {
			return w.cluster.settle(h.xid(0), "--commit").code == 0
		})
	}},
	{"concord tx ls --state in-doubt --resource NAME", func(w *operatorWorld, b block) {
		w.shell(block{b.language, strings.ReplaceAll(b.text, "NAME", w.stock.name)})
		require.Contains(w, w.said, "0 prepared branches")
	}},
	{"FROM pg_prepared_xacts", func(w *operatorWorld, b block) {
		w.lost = prepare(w, w.cluster.id+1, w.orders, w.stock, w.billing)
		require.Equal(w, []string{w.orders.name}, w.sql(w.orders, b.of(w.lost)), "the database of what is prepared")
	}},
	{"ROLLBACK PREPARED", func(w *operatorWorld, b block) {
		name := "concord-<cluster>-<gid>-<branch>-<branches>"
		require.Contains(w, b.text, name)
		w.sql(w.orders, block{b.language, strings.Replace(b.text, name, w.orders.prepared(w, w.lost.id)[0], 1)})
		require.Empty(w, w.orders.prepared(w, w.lost.id))
	}},
	{"XA RECOVER;\nSELECT HEX(cluster)", func(w *operatorWorld, b block) {
		for no, d := range []*database{w.stock, w.billing} {
			said := w.sql(d, b.of(w.lost))
			require.Len(w, said, 2, "the prepared branch, and its marker, which is not committed: %q", said)
			require.Equal(w, w.lost.xid(no+1).Gtrid()+w.lost.xid(no+1).Bqual(), said[0])
			require.Contains(w, said[1], "@")
			w.holder, _, _ = strings.Cut(said[1], "@") // at last of MariaDB
		}
	}},
	{"-- on MySQL\nXA ROLLBACK", func(w *operatorWorld, b block) {
		w.sql(w.stock, b.of(w.lost).branch(w.lost.xid(1)))
		require.Empty(w, w.stock.prepared(w, w.lost.id))
	}},
	{"KILL <session>", func(w *operatorWorld, b block) {
		b.text = strings.ReplaceAll(b.text, "<session>", w.holder)
		said := w.sql(w.billing, b.branch(w.lost.xid(2)))
		require.Equal(w, "0", said[0], "the session is gone")
		require.Empty(w, w.billing.prepared(w, w.lost.id))
		require.False(w, w.billing.has(w, w.lost.id))
	}},
	{"next=$(echo", func(w *operatorWorld, b block) {
		if _, err := exec.LookPath("jq"); err != nil {
			w.Skip("jq is not installed")
		}
		r := w.run("set -eu\n" + b.text)
		require.Equal(w, 0, r.code, "%v", r)
		require.Contains(w, r.stdout, w.broken.id.String()+"\t")
	}},
	{"concord member add 4", func(w *operatorWorld, b block) {
		c := w.cluster
		n := &node{id: 4, dir: w.root.TempDir(), api: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(w.root)),
			peer: fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(w.root))}
		n.log, n.config = filepath.Join(n.dir, "log"), filepath.Join(n.dir, "concord.yaml")
		c.nodes = append(c.nodes, n)
		c.start(n)
		b.text = strings.NewReplacer("10.0.0.4:7421", n.peer, "10.0.0.4:7420", n.api).Replace(b.text)
		w.shell(b)
		eventually(w, "the node that was removed ends by itself, with exit code 2", func() bool {
			select {
			case <-c.nodes[1].process.Done():
				return c.exits(c.nodes[1]) == 2
			default:
				return false
			}
		})
		require.Equal(w, 3, c.leader().id)
	}},
	{"concord member replace 2", func(w *operatorWorld, b block) {
		c := w.cluster
		lost := c.nodes[3]
		c.end(lost, syscall.SIGKILL)
		require.NoError(w, os.RemoveAll(filepath.Join(lost.dir, "data")))
		w.shell(block{b.language, strings.Replace(b.text, "replace 2", "replace 4", 1)})
		c.start(lost)
		eventually(w, "the node follows again", func() bool {
			s, ok := lost.status(w)
			return ok && s.Leader != 0
		})
	}},
	{"concord audit ls", func(w *operatorWorld, b block) {
		w.shell(b.of(w.broken))
		for _, act := range []string{"tx resolve --abort", "tx settle --abandon", "tx forget", "member add", "node 4",
			"member replace", "lead"} {
			require.Contains(w, w.said, act)
		}
		require.NotContains(w, w.said, "begun")
	}},
}

// Every command and every statement of the page was run: against real processes and real databases. A block that
// nothing here runs fails, and so does a trial without a block.
func TestThePageIsTrue(t *testing.T) {
	all := blocks(t)
	require.NotEmpty(t, all)
	found := make([]block, len(trials))
	for _, b := range all {
		i := slices.IndexFunc(trials, func(x struct {
			has string
			try func(*operatorWorld, block)
		}) bool {
			return strings.Contains(b.text, x.has)
		})
		require.GreaterOrEqual(t, i, 0, "nothing runs this block of the page:\n%s", b.text)
		require.Empty(t, found[i].text, "two blocks have %q", trials[i].has)
		found[i] = b
	}
	w := &operatorWorld{TB: t, root: t, orders: newDatabase(t, private(t, testdb.FlavorPostgres)),
		billing: newDatabase(t, private(t, testdb.FlavorMariaDB)), stock: newDatabase(t, private(t,
			testdb.FlavorMySQL))}
	for i, x := range trials {
		require.NotEmpty(t, found[i].text, "the page has no block with %q", x.has)
		if !t.Run(strings.SplitN(x.has, "\n", 2)[0], func(t *testing.T) {
			w.use(t)
			x.try(w, found[i])
		}) {
			break // what comes needs it
		}
	}
	w.use(t)
}

// private starts a server that only this test has: it makes accounts.
func private(t testing.TB, flavor string) *testdb.Server {
	t.Helper()
	server(t, flavor) // skips the test if there is none
	return map[string]func(testing.TB, ...testdb.Option) *testdb.Server{testdb.FlavorPostgres: testdb.Postgres,
		testdb.FlavorMariaDB: testdb.MariaDB, testdb.FlavorMySQL: testdb.MySQL}[flavor](t, testdb.WithPasswords())
}

// promtool returns the path of Prometheus' own tool.
func promtool(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil && os.Getenv("CONCORD_TEST_REQUIRE") != "" {
		t.Fatal("promtool is not installed: run \"make databases\", or install the package prometheus")
	}
	if err != nil {
		t.Skip("promtool is not installed")
	}
	return path
}

// of is a block about a transaction: its first branch, where one is meant.
func (b block) of(h *hand) block {
	return block{b.language, strings.NewReplacer("GID/NO", h.id.String()+"/0", "GID", h.id.String()).Replace(b.text)}
}

// branch is a block about one branch, as XA statements name it.
func (b block) branch(x txn.XID) block {
	return block{b.language, strings.NewReplacer("concord-<cluster>-<gid>", x.Gtrid(), "<branch>", x.Bqual()).
		Replace(b.text)}
}

// operatorWorld is what somebody has in front of him who reads the page.
type operatorWorld struct {
	testing.TB                        // of the trial
	root                   testing.TB // of all
	orders, billing, stock *database
	cluster                *cluster
	broken, lost           *hand
	holder, dir, said      string
}

func (w *operatorWorld) use(t testing.TB) {
	w.TB = t
	if w.cluster != nil {
		w.cluster.TB = t
	}
}

// begin starts three nodes and the application, with the logins that the page has made.
func (w *operatorWorld) begin() {
	w.Helper()
	var resources []resource
	for _, d := range []*database{w.orders, w.billing, w.stock} {
		d.app, d.rec = login{"app", "app"}, login{"concord_rec", "..."}
		d.connect(w.root)
		resources = append(resources, d.resource())
	}
	w.cluster = startCluster(w.root, 3, quick, resources...)
	r := w.cluster.concord("resource", "check")
	require.Equal(w, 0, r.code, "%v", r)
	require.NotContains(w, r.stdout, "PROBLEM")
}

// listed is a transaction with a prepared branch in each database, which the leader has seen.
func (w *operatorWorld) listed(at ...*database) *hand {
	w.Helper()
	h := prepare(w, w.cluster.id, at...)
	eventually(w, "its branches are listed", func() bool {
		return len(first(w.cluster.get(h.id)).Branches) == len(at)
	})
	return h
}

// ended waits until a transaction has ended everywhere, and looks into the databases.
func (w *operatorWorld) ended(h *hand, state string, at ...*database) {
	w.Helper()
	eventually(w, "it is "+state, func() bool {
		left := 0
		for _, d := range at {
			left += len(d.prepared(w, h.id))
		}
		return left == 0 && first(w.cluster.get(h.id)).State == state
	})
	for _, d := range at {
		require.Equal(w, state == "committed", d.has(w, h.id))
	}
}

// wrapper is "concord" in a script, where nobody can type the gid again.
const wrapper = `#!/bin/sh
case "$1 $2" in
"tx resolve" | "tx forget" | "tx settle" | "member replace") set -- "$@" --yes ;;
esac
exec "$OPERATOR_BINARY" "$@"
`

// run runs a script with "concord" on its path.
func (w *operatorWorld) run(script string) result {
	w.Helper()
	dir := w.TempDir()
	require.NoError(w, os.WriteFile(filepath.Join(dir, "concord"), []byte(wrapper), 0o700))
	ctx, cancel := context.WithTimeout(w.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "OPERATOR_BINARY="+binary)
	if w.cluster != nil {
		cmd.Env = append(cmd.Env, "CONCORD_ADDR="+w.cluster.addrs())
	}
	r := exited(w, cmd)
	require.NoError(w, ctx.Err(), "%s hangs: %v", script, r)
	return r
}

// shell runs the commands of a block one by one. They end with 0, or as codes say, such as "recover 6".
func (w *operatorWorld) shell(b block, codes ...string) {
	w.Helper()
	require.Equal(w, "sh", b.language)
	w.said = ""
	for _, line := range strings.Split(strings.TrimSpace(b.text), "\n") {
		r, want := w.run(line), 0
		for _, c := range codes {
			if command, code, _ := strings.Cut(c, " "); strings.Contains(line, command) {
				_, err := fmt.Sscan(code, &want)
				require.NoError(w, err)
			}
		}
		require.Equal(w, want, r.code, "%s: %v", line, r)
		w.said += r.stdout + r.stderr
	}
}

// sql runs the statements of a block as the superuser, in one session, and returns the last column of every row.
func (w *operatorWorld) sql(d *database, b block) (said []string) {
	w.Helper()
	require.Equal(w, "sql", b.language)
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	c, err := d.admin.Conn(ctx)
	require.NoError(w, err)
	defer c.Close()
	for _, statement := range strings.Split(b.text, ";\n") {
		if statement = comment.ReplaceAllString(statement, ""); strings.TrimSpace(statement) == "" {
			continue
		}
		rows, err := c.QueryContext(ctx, statement)
		require.NoError(w, err, "%s: %s", d.server.Flavor(), statement)
		columns, err := rows.Columns()
		require.NoError(w, err)
		into := make([]any, len(columns))
		for rows.Next() {
			var text string
			for i := range into {
				into[i] = new(any)
			}
			into[len(into)-1] = &text
			require.NoError(w, rows.Scan(into...))
			said = append(said, text)
		}
		require.NoError(w, rows.Err(), "%s: %s", d.server.Flavor(), statement)
		require.NoError(w, rows.Close())
	}
	return said
}

var comment = regexp.MustCompile(`(?m)^--.*\n`)
