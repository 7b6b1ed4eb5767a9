// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// agent is a "concord agent" process.
type agent struct {
	testing.TB
	name, addr, dir, config, log string
	process                      *program.Process
	stub                         concordv1connect.ParticipantServiceClient
	who                          atomic.Pointer[concordv1.DescribeResponse] // as of its last start
}

// startAgent starts an agent of a cluster and waits until it knows it. Each resource is a line of
// YAML.
func startAgent(t testing.TB, c *cluster, name string, more string, resources ...string) *agent {
	t.Helper()
	return startAgentAt(t, c, fmt.Sprintf("127.0.0.1:%d", testdb.FreePort(t)), name, more, resources...)
}

// startAgentAt is startAgent at an address that the nodes know.
func startAgentAt(t testing.TB, c *cluster, addr, name, more string, resources ...string) *agent {
	t.Helper()
	a := &agent{TB: t, name: name, dir: t.TempDir(), addr: addr}
	a.config, a.log = filepath.Join(a.dir, "agent.yaml"), filepath.Join(a.dir, "agent.log")
	coordinators, err := json.Marshal(c.addrs())
	require.NoError(t, err)
	text := fmt.Sprintf("name: %s\ndata_dir: %s\nlisten: %s\ncoordinators: %s\nscan: 300ms\n%sresources:\n", name,
		filepath.Join(a.dir, "data"), a.addr, coordinators, more)
	for _, r := range resources {
		text += "  - {" + r + "}\n"
	}
	require.NoError(t, os.WriteFile(a.config, []byte(text), 0o600))
	a.stub = concordv1connect.NewParticipantServiceClient(http.DefaultClient, "http://"+a.addr)
	t.Cleanup(func() {
		if err := a.process.End(syscall.SIGTERM, 20*time.Second); err != nil {
			t.Errorf("agent %s: %v", name, err)
		}
		if t.Failed() {
			t.Logf("end of the log of agent %s:\n%s", name, tail(a.log))
		}
	})
	a.start()
	return a
}

func (a *agent) start() {
	a.Helper()
	log, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(a, err)
	defer log.Close()
	cmd := exec.Command(binary, "agent", "--config", a.config)
	cmd.Stdout, cmd.Stderr = log, log
	a.process, err = program.Start(cmd)
	require.NoError(a, err)
	eventually(a, "the agent knows its cluster and its databases", func() bool {
		require.True(a, a.process.Alive(), "the agent ended:\n%s", tail(a.log))
		who, err := a.stub.Describe(a.within(), &concordv1.DescribeRequest{})
		if err != nil || who.GetCluster() == "" {
			return false
		}
		for _, r := range who.GetResources() {
			if r.GetIdentity() == "" {
				return false
			}
		}
		a.who.Store(who)
		return true
	})
}

func (a *agent) kill() {
	a.Helper()
	require.True(a, a.process.Alive(), "the agent had ended by itself:\n%s", tail(a.log))
	require.NoError(a, a.process.End(syscall.SIGKILL, patience))
}

func (a *agent) within() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	a.Cleanup(cancel)
	return ctx
}

// branches are those that the agent and its databases know of a transaction, by phase.
func (a *agent) phases(id txn.ID) map[string]int {
	a.Helper()
	m, err := a.stub.ListBranches(a.within(), &concordv1.ListBranchesRequest{Gid: id.String(), Fresh: true})
	require.NoError(a, err)
	phases := map[string]int{}
	for _, b := range m.GetBranches() {
		phases[b.GetPhase()]++
	}
	return phases
}

// driven is a transaction whose branches are at agents, driven as a coordinator drives it.
type driven struct {
	testing.TB
	c        *cluster
	id       txn.ID
	branches []*drivenBranch
}

type drivenBranch struct {
	a       *agent
	address *concordv1.BranchAddress
	number  uint64
	digest  []byte
	yes     *concordv1.Branch
}

func drive(t testing.TB, c *cluster) *driven {
	return &driven{TB: t, c: c, id: txn.NewID(time.Now()).WithClass(txn.Recorded)}
}

func (d *driven) branch(a *agent, resource string) *drivenBranch {
	b := &drivenBranch{a: a, address: &concordv1.BranchAddress{
		Cluster: d.c.id.String(), Gid: d.id.String(), No: uint32(len(d.branches)), Resource: resource,
		Journal: a.who.Load().GetJournal(), Epoch: a.who.Load().GetEpoch(),
	}}
	d.branches = append(d.branches, b)
	return b
}

func (b *drivenBranch) do(t testing.TB, statement string, args ...*concordv1.Value) *concordv1.ExecuteResponse {
	t.Helper()
	r, err := b.a.stub.Execute(b.a.within(),
		&concordv1.ExecuteRequest{Branch: b.address, Number: b.number + 1, Statement: statement, Arguments: args})
	require.NoError(t, err)
	require.Empty(t, r.GetError())
	b.number, b.digest = r.GetNumber(), r.GetDigest()
	return r
}

func (b *drivenBranch) prepare(ctx context.Context) (*concordv1.PrepareResponse, error) {
	return b.a.stub.Prepare(ctx, &concordv1.PrepareRequest{Branch: b.address, Number: b.number, Digest: b.digest})
}

func (b *drivenBranch) finish(t testing.TB, d txn.Decision) string {
	t.Helper()
	r, err := b.a.stub.Finish(b.a.within(),
		&concordv1.FinishRequest{Branch: b.address, Decision: d.String(), Record: b.yes})
	require.NoError(t, err)
	return r.GetFinish()
}

func text(s string) *concordv1.Value { return &concordv1.Value{Kind: &concordv1.Value_Text{Text: s}} }

// transfer does the work of a transfer at one agent with both databases of a bank.
func (d *driven) transfer(a *agent) {
	d.Helper()
	left, right := d.branch(a, "orders"), d.branch(a, "billing")
	left.do(d, "update account set balance = balance - 5 where id = $1", text("1"))
	left.do(d, "insert into transfer values ($1, 5)", text(d.id.String()))
	right.do(d, "update account set balance = balance + 5 where id = ?", text("1"))
	right.do(d, "insert into transfer values (?, 5)", text(d.id.String()))
}

// vote prepares all branches, which have to say yes.
func (d *driven) vote() {
	d.Helper()
	for _, b := range d.branches {
		r, err := b.prepare(b.a.within())
		require.NoError(d, err)
		require.Equal(d, "yes", r.GetVote(), r.GetReason())
		require.Equal(d, b.a.name, r.GetName())
		require.Equal(d, b.a.who.Load().GetEpoch(), r.GetEpoch())
		b.yes = r.GetBranch()
	}
}

// decide has the cluster decide to commit.
func (d *driven) decide(caller *api.Client) {
	d.Helper()
	r := &concordv1.CommitRequest{Gid: d.id.String(), Cluster: d.c.id.String()}
	for _, b := range d.branches {
		if b.address.GetResource() != "ledger" { // a node knows no resource that only an agent has
			r.Branches = append(r.Branches, b.yes)
		}
	}
	res, err := caller.Commit(d.branches[0].a.within(), r)
	require.NoError(d, err)
	require.Equal(d, "commit", res.GetDecision(), res.GetReason())
}

// bankAgent is an agent with both databases of a bank, in a cluster that leaves them alone for as
// long as a test takes: nobody but the agent ends its branches.
func bankAgent(t testing.TB, more string) (*cluster, *bank, *agent) {
	t.Helper()
	b := newBank(t)
	c := startCluster(t, settings{nodes: 1, resources: b.resources(), maxAge: time.Hour, grace: time.Hour,
		scan: time.Hour})
	a := startAgent(t, c, "east", more,
		fmt.Sprintf("name: orders, driver: postgres, dsn: %q", b.left.dsn()),
		fmt.Sprintf("name: billing, driver: mysql, dsn: %q", b.right.dsn()))
	return c, b, a
}

func TestAgentsCommitAndAbort(t *testing.T) {
	c, b, east := bankAgent(t, "")
	west := startAgent(t, c, "west", "", "name: ledger, driver: pebble, dir: "+filepath.Join(t.TempDir(), "ledger"))
	caller := c.caller()

	d := drive(t, c)
	d.transfer(east)
	d.branch(west, "ledger").do(t, "add transfers 1")
	d.vote()
	require.Len(t, b.left.prepared(t, c.id), 1)
	d.decide(caller)
	for _, branch := range d.branches {
		require.Equal(t, "done", branch.finish(t, txn.Commit))
		require.Equal(t, "already-done", branch.finish(t, txn.Commit))
	}
	require.Equal(t, concord.Committed, b.shows(d.id))

	d = drive(t, c)
	d.transfer(east)
	d.branch(west, "ledger").do(t, "add transfers 1")
	d.vote()
	for _, branch := range d.branches {
		require.Equal(t, "done", branch.finish(t, txn.Abort))
	}
	require.Equal(t, concord.Aborted, b.shows(d.id))

	d = drive(t, c)
	r := d.branch(west, "ledger").do(t, "get transfers")
	require.Equal(t, "1", string(r.GetRows()[0].GetValues()[0].GetBytes()))
	res, err := d.branches[0].prepare(west.within())
	require.NoError(t, err)
	require.Equal(t, "read-only", res.GetVote())
	b.sumHolds()
	b.settled(c)
}

// Killed with work in open branches: they are gone, and so is every way to prepare them.
func TestAgentKilledBeforePrepare(t *testing.T) {
	c, b, a := bankAgent(t, "")
	d := drive(t, c)
	d.transfer(a)
	a.kill()
	a.start()
	require.EqualValues(t, 2, a.who.Load().GetEpoch())
	for _, branch := range d.branches {
		r, err := branch.prepare(a.within())
		require.NoError(t, err)
		require.Equal(t, "no", r.GetVote())
		require.Contains(t, r.GetReason(), "this agent has restarted since: its epoch is 2, the request is for 1")
		_, err = a.stub.Execute(a.within(),
			&concordv1.ExecuteRequest{Branch: branch.address, Number: 1, Statement: "select 1"})
		require.ErrorIs(t, api.FromStatus(err), txn.ErrRefused)
		require.Equal(t, "already-done", branch.finish(t, txn.Abort))
	}
	require.Equal(t, concord.Aborted, b.shows(d.id))
	b.settled(c)
	b.sumHolds()
	// The rows are free.
	d = drive(t, c)
	d.transfer(a)
	d.vote()
	d.decide(c.caller())
	require.Equal(t, "done", d.branches[0].finish(t, txn.Commit))
	require.Equal(t, "done", d.branches[1].finish(t, txn.Commit))
	b.sumHolds()
}

// Killed while PREPARE runs: it takes effect afterwards, and nobody has heard a vote. The next life
// finds the branch, decides nothing by itself, and ends it when the cluster has decided.
func TestAgentKilledBetweenPrepareAndVote(t *testing.T) {
	c, b, a := bankAgent(t, "")
	ctx := context.Background()
	_, err := b.left.admin.ExecContext(ctx,
		`create function wait() returns trigger language plpgsql as $$ begin perform `+
			`pg_advisory_xact_lock_shared(7); return null; end $$`)
	require.NoError(t, err)
	_, err = b.left.admin.ExecContext(ctx,
		`create constraint trigger wait after insert on transfer deferrable initially deferred for each row execute `+
			`function wait()`)
	require.NoError(t, err)
	lock, err := b.left.admin.Conn(ctx)
	require.NoError(t, err)
	defer lock.Close()
	_, err = lock.ExecContext(ctx, "select pg_advisory_lock(7)")
	require.NoError(t, err)

	d := drive(t, c)
	d.transfer(a)
	asked := make(chan error, 1)
	go func() {
		_, err := d.branches[0].prepare(ctx)
		asked <- err
	}()
	waiting := "select count(*) from pg_locks where locktype = 'advisory' and not granted"
	eventually(t, "PREPARE waits", func() bool { return b.left.number(t, waiting) == 1 })
	a.kill()
	require.Error(t, <-asked, "nobody heard a vote")
	_, err = lock.ExecContext(ctx, "select pg_advisory_unlock(7)")
	require.NoError(t, err)
	eventually(t, "PREPARE takes effect without its client", func() bool { return len(b.left.prepared(t, c.id)) == 1 })
	a.start()
	r, err := d.branches[0].prepare(a.within())
	require.NoError(t, err)
	require.Equal(t, "no", r.GetVote())
	require.Equal(t, map[string]int{"listed": 1}, a.phases(d.id))
	_, err = c.caller().Outcome(a.within(), &concordv1.OutcomeRequest{Gid: d.id.String()})
	require.NoError(t, err)
	b.settled(c) // the agent learned it by itself
	require.Equal(t, concord.Aborted, b.shows(d.id))
	b.sumHolds()
}

// Killed after its votes: the branches are held, the votes stay the same, and the agent asks what
// was decided.
func TestAgentKilledAfterItsVotes(t *testing.T) {
	c, b, a := bankAgent(t, "")
	caller := c.caller()
	for _, decided := range []string{"told", "asked", "decided while it was down", "nobody decides"} {
		t.Run(decided, func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			d := drive(t, c)
			d.transfer(a)
			d.vote()
			a.kill()
			if decided == "decided while it was down" {
				d.decide(caller)
			}
			require.Len(t, b.left.prepared(t, c.id), 1)
			a.start()
			switch decided {
			case "told":
				require.Equal(t, map[string]int{"in-doubt": 2}, a.phases(d.id))
				before := d.branches[0].yes
				d.vote()
				require.Equal(t, before.GetEvidence(), d.branches[0].yes.GetEvidence())
				d.decide(caller)
				for _, branch := range d.branches {
					require.Contains(t, []string{"done", "already-done"}, branch.finish(t, txn.Commit))
				}
			case "asked":
				d.decide(caller)
			}
			b.settled(c)
			if decided == "nobody decides" {
				require.Equal(t, concord.Aborted, b.shows(d.id))
				require.Equal(t, "aborted", c.get(d.id).State)
				return
			}
			eventually(t, "it is committed", func() bool { return b.shows(d.id) == concord.Committed })
			if decided != "told" { // whoever is told reports it himself
				require.Equal(t, 0, c.command("tx", "wait", d.id.String(), "--timeout", "60s").code)
			}
		})
	}
	b.sumHolds()
}

// A session that goes silent is rolled back, and its locks are free.
func TestSilentSessionAtAnAgent(t *testing.T) {
	c, b, a := bankAgent(t, "silence: 700ms\n")
	d := drive(t, c)
	d.transfer(a)
	eventually(t, "it is rolled back", func() bool { return a.phases(d.id)["ended"] == 2 })
	r, err := d.branches[0].prepare(a.within())
	require.NoError(t, err)
	require.Equal(t, "no", r.GetVote())
	require.Equal(t, "it heard nothing for 700ms, so the agent rolled it back: begin a new transaction, and send "+
		"its work or its end sooner", r.GetReason())
	require.Equal(t, concord.Aborted, b.shows(d.id))
	require.EqualValues(t, 0, b.left.number(t,
		"select count(*) from pg_stat_activity where state like 'idle in transaction%'"))
}

// A clean end rolls back what is open and holds what is prepared.
func TestAgentStopped(t *testing.T) {
	c, b, a := bankAgent(t, "")
	open, prepared := drive(t, c), drive(t, c)
	prepared.transfer(a)
	prepared.vote()
	o := open.branch(a, "orders")
	o.do(t, "insert into transfer values ($1, 5)", text(open.id.String()))
	require.NoError(t, a.process.End(syscall.SIGTERM, patience))
	require.Equal(t, 0, a.process.State().ExitCode(), tail(a.log))
	require.Len(t, b.left.prepared(t, c.id), 1)
	require.Zero(t, b.left.number(t, "select count(*) from pg_stat_activity where state like 'idle in transaction%'"))
	a.start()
	prepared.decide(c.caller())
	b.settled(c)
	require.Equal(t, concord.Committed, b.shows(prepared.id))
	require.Equal(t, concord.Aborted, b.shows(open.id))
}

// Nor does a statement that takes long, or waits for a lock, keep it from ending: the statement is cut short.
func TestAgentStoppedDuringAStatement(t *testing.T) {
	c, b, a := bankAgent(t, "")
	d := drive(t, c)
	for resource, q := range map[string]struct {
		d                *database
		statement, shown string
	}{
		"orders": {b.left, "select pg_sleep(600)",
			"select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'"},
		"billing": {b.right, "select sleep(600)",
			"select count(*) from information_schema.processlist where info = 'select sleep(600)'"},
	} {
		branch := d.branch(a, resource)
		branch.do(t, "update account set balance = 0")
		go func() {
			_, _ = a.stub.Execute(a.within(), &concordv1.ExecuteRequest{Branch: branch.address, Number: 2,
				Statement: q.statement, TimeoutMs: (4 * time.Minute).Milliseconds()}) // it is cut short
		}()
		eventually(t, "the statement runs", func() bool { return q.d.number(t, q.shown) == 1 })
	}
	require.NoError(t, a.process.End(syscall.SIGTERM, patience))
	require.Equal(t, 0, a.process.State().ExitCode(), tail(a.log))
	a.start()
	b.settled(c)
	b.sumHolds()
}

// One journal, one agent, one cluster.
func TestAgentsThatMustNotStart(t *testing.T) {
	c := startCluster(t, settings{nodes: 1})
	ledger := "name: ledger, driver: pebble, dir: " + filepath.Join(t.TempDir(), "ledger")
	a := startAgent(t, c, "east", "", ledger)
	config, err := os.ReadFile(a.config)
	require.NoError(t, err)
	with := func(changes ...string) string {
		file := filepath.Join(t.TempDir(), "other.yaml")
		require.NoError(t, os.WriteFile(file, []byte(strings.NewReplacer(changes...).Replace(string(config))), 0o600))
		return file
	}
	other := filepath.Join(t.TempDir(), "other")
	r := command(t, "agent", "--config", a.config)
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, "only one process at a time can open it")
	r = command(t, "agent", "--config", with(filepath.Dir(strings.TrimPrefix(ledger,
		"name: ledger, driver: pebble, dir: ")), other, a.addr, "127.0.0.1:0"))
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, "the journal is in use")
	require.NoError(t, a.process.End(syscall.SIGTERM, patience))
	r = command(t, "agent", "--config", with("name: east", "name: west"))
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, `it was made for "east", this is "west"`)
	elsewhere := startCluster(t, settings{nodes: 1})
	r = command(t, "agent", "--config", with(c.nodes[0].api, elsewhere.nodes[0].api))
	require.Equal(t, 1, r.code, "%v", r)
	require.Contains(t, r.stderr, "the agent belongs to another cluster")
	a.start()
}

// An agent whose connections broke, or whose databases were killed, never prepares what is left.
func TestAgentThatLostItsSessions(t *testing.T) {
	c, b, a := bankAgent(t, "")
	for name, lose := range map[string]func(){
		"connections ended": func() {
			_ = b.left.texts(t, "select pg_terminate_backend(pid)::text from pg_stat_activity where state like "+
				"'idle in transaction%'")
			for _, id := range b.right.texts(t, "select trx_mysql_thread_id from information_schema.innodb_trx") {
				_, err := b.right.admin.ExecContext(context.Background(), "kill "+id)
				require.NoError(t, err)
			}
		},
		"servers killed": func() {
			for _, d := range []*database{b.left, b.right} {
				require.NoError(t, d.server.Kill())
				require.NoError(t, d.server.Start())
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := drive(t, c)
			d.transfer(a)
			lose()
			for _, branch := range d.branches {
				r, err := branch.prepare(a.within())
				require.NoError(t, err)
				require.Equal(t, "no", r.GetVote())
				require.NotEmpty(t, r.GetReason())
				require.False(t, r.GetTorn(), r.GetReason())
				require.Contains(t, []string{"done", "already-done"}, branch.finish(t, txn.Abort))
			}
			b.in(t).settled(c)
			require.Equal(t, concord.Aborted, b.in(t).shows(d.id))
		})
	}
	b.sumHolds()
	d := drive(t, c)
	d.transfer(a)
	d.vote()
	d.decide(c.caller())
	for _, branch := range d.branches {
		require.Equal(t, "done", branch.finish(t, txn.Commit))
	}
	b.sumHolds()
}

// What would end the transaction by a detour, or be too much, at a real agent: an error, nothing
// committed, nothing prepared.
func TestBadStatementsAtAnAgent(t *testing.T) {
	c, b, a := bankAgent(t, "")
	for _, q := range []struct{ resource, statement, says string }{
		{"orders", "commit", "BEGIN, COMMIT, ROLLBACK and the like are not allowed inside a branch: the statement " +
			"was not sent; commit or roll back the global transaction instead"},
		{"billing", "XA COMMIT 'x'", "XA and prepared transactions inside a branch are reserved for concord: the " +
			"statement was not sent; commit or roll back the global transaction instead"},
		{"billing", "set autocommit = 1",
			"autocommit and completion_type must not be changed inside a branch: the statement was not sent; leave " +
				"it out"},
		{"billing", "create table x (id int)",
			"this database allows no DDL, LOCK TABLES or GRANT inside a branch, because they commit: the statement " +
				"was not sent; run them outside"},
		{"orders", "select 1; commit", "the text contains several statements: none was sent; send each in a " +
			"request of its own"},
		{"orders", "select n from generate_series(1, 1000000) n",
			"more than 10000 rows: the result is too large: ask for less with WHERE or LIMIT, or page by page"},
		{"orders", "select repeat('x', 2000000)",
			"row 1 is beyond the limit of bytes: the result is too large: ask for less with WHERE or LIMIT, or " +
				"page by page"},
		{"orders", "update account set balance = $1", "expected 1 arguments, got 0"},
		{"billing", "call no_such_procedure()", "Error 1305 (42000): PROCEDURE"},
	} {
		t.Run(q.statement, func(t *testing.T) {
			d := drive(t, c)
			branch := d.branch(a, q.resource)
			branch.do(t, "update account set balance = 0")
			r, err := a.stub.Execute(a.within(),
				&concordv1.ExecuteRequest{Branch: branch.address, Number: 2, Statement: q.statement})
			require.NoError(t, err)
			require.Contains(t, r.GetError(), q.says)
			branch.number, branch.digest = r.GetNumber(), r.GetDigest()
			vote, err := branch.prepare(a.within())
			require.NoError(t, err)
			sent := !strings.Contains(q.says, "not sent") && !strings.Contains(q.says, "none was sent")
			require.Equal(t, !sent, r.GetNotSent())
			require.Equal(t, map[bool]string{true: "no", false: "yes"}[sent], vote.GetVote(), vote.GetReason())
			require.Contains(t, []string{"done", "already-done"}, branch.finish(t, txn.Abort))
			b.in(t).settled(c)
			b.in(t).sumHolds()
		})
	}
}
