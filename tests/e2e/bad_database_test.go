// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/faultproxy"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// problem returns what the preflight says about one thing at one resource, which must
// be a problem.
func (c *cluster) problem(resource, what string) findingJSON {
	c.Helper()
	var reports []reportJSON
	c.json(&reports, 1, "resource", "check", resource)
	require.Len(c, reports, 1)
	require.False(c, reports[0].OK)
	for _, f := range reports[0].Findings {
		if f.What == what {
			require.True(c, f.Problem, "%+v", f)
			require.NotEmpty(c, f.Fix)
			return f
		}
	}
	c.Fatalf("nothing is said about %s: %+v", what, reports)
	return findingJSON{}
}

// waitUnfit waits until the status of a one-node cluster says that a resource is not
// fit, and returns why.
func (c *cluster) waitUnfit(name string) (why string) {
	c.Helper()
	eventually(c, name+" is found to be not fit", func() bool {
		s, ok := c.node(1).status(c)
		for _, r := range s.Resources {
			if ok && r.Name == name && !r.OK && r.Error != "" && r.Error != "not asked yet" {
				why = r.Error
				return true
			}
		}
		return false
	})
	return why
}

func TestWrongPasswordIsToldWithoutAnyPassword(t *testing.T) {
	const right, wrong = "r1ght-p4ssw0rd", "wr0ng-p4ssw0rd"
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := newBank(t)
	pg, my := b.left.server, b.right.server
	require.NoError(t, pg.Exec(ctx, "", "CREATE ROLE clerk LOGIN PASSWORD '"+right+"'"))
	require.NoError(t, my.Exec(ctx, "", "CREATE USER clerk IDENTIFIED BY '"+right+"'"))
	c := newCluster(t, settings{nodes: 1, resources: []resource{
		{"orders", "postgres", pg.UserDSN("clerk", wrong, b.left.name)},
		{"billing", "mysql", my.UserDSN("clerk", wrong, b.right.name)},
	}})
	n := c.node(1)
	c.start(n)
	var said strings.Builder
	for _, name := range []string{"orders", "billing"} {
		why := c.waitUnfit(name)
		require.Contains(t, why, "clerk")
		require.Regexp(t, "(?i)password|access denied", why)
		said.WriteString(why)
		r := c.command("resource", "check", name)
		require.Equal(t, 1, r.code, "%v", r)
		require.Contains(t, r.stdout, name)
		said.WriteString(r.String())
	}
	said.WriteString(c.command("status").String())
	said.WriteString(c.command("resource", "ls").String())
	said.WriteString(c.command("recover").String())
	// The SDK cannot use what the coordinator cannot finish.
	_, err := b.run(ctx, c.dial())
	require.ErrorIs(t, err, concord.ErrResource)
	require.ErrorContains(t, err, "concord resource check orders")
	said.WriteString(err.Error())
	log, err := os.ReadFile(n.log)
	require.NoError(t, err)
	said.Write(log)
	require.NotContains(t, said.String(), right)
	require.NotContains(t, said.String(), wrong)
}

func TestServerWithoutPreparedTransactionsIsNotFit(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := bankAt(t, testdb.Postgres(t, testdb.WithSetting("max_prepared_transactions", "0")), mariadbServer.Get(t))
	c := startCluster(t, settings{nodes: 1, resources: b.resources()})
	require.Contains(t, c.waitUnfit("orders"), "max_prepared_transactions")
	f := c.problem("orders", "max_prepared_transactions")
	require.Contains(t, f.Fix, "restart")
	id, err := b.run(ctx, c.dial())
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "max_prepared_transactions")
	require.ErrorContains(t, err, "orders")
	b.settled(c)
	require.Equal(t, concord.Aborted, b.shows(id))
	b.sumHolds()
}

func TestMySQLUserWithoutThePrivilegeIsNotFit(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := bankAt(t, postgresServer.Get(t), mysqlServer.Get(t))
	my := b.right.server
	require.NoError(t, my.Exec(ctx, "", "CREATE USER junior IDENTIFIED BY 'pw'",
		"GRANT ALL ON "+b.right.name+".* TO junior"))
	dsn := my.UserDSN("junior", "pw", b.right.name)
	_, err := sqldriver.ParseDSN(dsn)
	require.NoError(t, err)
	c := startCluster(t, settings{nodes: 1, resources: []resource{b.resources()[0], {"billing", "mysql", dsn}}})
	require.Contains(t, c.waitUnfit("billing"), "XA_RECOVER_ADMIN")
	f := c.problem("billing", "XA RECOVER")
	require.Contains(t, f.Fix, "GRANT XA_RECOVER_ADMIN")
}

// The name that is listed first goes on; the second is refused.
func TestSecondNameForOneDatabaseIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := newBank(t)
	twin := resource{"orders2", "postgres", b.left.dsn()}
	c := startCluster(t, settings{nodes: 1, resources: append(b.resources(), twin), maxAge: 3 * time.Second,
		scan: 500 * time.Millisecond})
	require.Contains(t, c.waitUnfit("orders2"), "same database as resource orders")
	id, err := b.run(ctx, c.dial())
	require.NoError(t, err, "the first name is as good as before")
	require.Equal(t, concord.Committed, b.shows(id))
	h, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)
	second := h.request()
	second.Branches[0].Resource = twin.name
	res, err := c.caller().Commit(ctx, second)
	require.NoError(t, err)
	require.Equal(t, "abort", res.GetDecision())
	require.Contains(t, res.GetReason(), "same database as resource orders")
	b.settled(c)
	require.Equal(t, concord.Aborted, b.shows(h.id))
	b.sumHolds()
}

func TestDatabaseKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 4 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	caller := c.caller()
	for no, d := range []*database{b.left, b.right} {
		t.Run(d.server.Flavor()+" between prepare and commit", func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			h, err := b.prepareTransfer(ctx, c.id)
			require.NoError(t, err)
			require.NoError(t, d.server.Kill())
			res, err := caller.Commit(ctx, h.request())
			require.NoError(t, err)
			require.Equal(t, txn.Commit.String(), res.GetDecision(), res.GetReason())
			// It stays down until the cluster has tried in vain: the decision is kept.
			eventually(t, "the attempts to reach the database are shown", func() bool {
				x := c.get(h.id)
				require.Equal(t, "committing", x.State)
				return len(x.Branches) == 2 && x.Branches[no].Error != "" && x.Branches[no].State == "prepared" &&
					x.Branches[1-no].State == "committed"
			})
			r := c.command("tx", "wait", h.id.String(), "--timeout", "500ms")
			require.Equal(t, 4, r.code, "%v", r)
			require.NoError(t, d.server.Start())
			b.settled(c)
			require.Equal(t, concord.Committed, b.shows(h.id))
			r = c.command("tx", "wait", h.id.String(), "--timeout", "60s")
			require.Equal(t, 0, r.code, "%v", r)
		})
		t.Run(d.server.Flavor()+" after prepare and nobody decides", func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			h, err := b.prepareTransfer(ctx, c.id)
			require.NoError(t, err)
			for _, n := range c.nodes { // which would end it, on a slow machine before it is looked for
				c.kill(n)
			}
			require.NoError(t, d.server.Kill())
			require.NoError(t, d.server.Start())
			require.NotEmpty(t, d.prepared(t, c.id), "a prepared branch survives a crash")
			for _, n := range c.nodes {
				c.start(n)
			}
			c.ready()
			b.settled(c)
			require.Equal(t, concord.Aborted, b.shows(h.id))
			require.Equal(t, 0, c.command("tx", "wait", h.id.String()).code)
			require.Equal(t, "aborted", c.get(h.id).State)
		})
	}
	b.sumHolds()
}

// The leader reaches no database any more, and the other nodes do: what is decided is finished all the same, and what
// nobody decides is rolled back.
func TestDatabasesThatOnlyOtherNodesReach(t *testing.T) {
	b := newBank(t)
	c := newCluster(t, settings{resources: b.resources(), maxAge: 4 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	links := map[*node][]*faultproxy.Link{}
	for _, n := range c.nodes {
		text, err := os.ReadFile(n.config)
		require.NoError(t, err)
		for _, d := range []*database{b.left, b.right} {
			at := fmt.Sprintf("127.0.0.1:%d", d.server.Port())
			link, err := faultproxy.New(at)
			require.NoError(t, err)
			t.Cleanup(link.Close)
			link.Use(faultproxy.NewKnife(faultproxy.MySQL)) // that is not aimed: for a server that speaks first
			require.Contains(t, string(text), at)
			text, links[n] = []byte(strings.ReplaceAll(string(text), at, link.Addr())), append(links[n], link)
		}
		require.NoError(t, os.WriteFile(n.config, text, 0o600))
		c.start(n)
	}
	c.ready()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	decided, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)
	leader := c.leader()
	for _, link := range links[leader] {
		link.Close()
	}
	undecided, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)
	res, err := c.caller().Commit(ctx, decided.request())
	require.NoError(t, err)
	require.Equal(t, txn.Commit.String(), res.GetDecision(), res.GetReason())
	b.settled(c)
	require.Equal(t, concord.Committed, b.shows(decided.id))
	require.Equal(t, concord.Aborted, b.shows(undecided.id))
	eventually(t, "the transactions are finished", func() bool {
		return c.get(decided.id).State == "committed" && c.get(undecided.id).State == "aborted"
	})
	require.Equal(t, leader, c.leader(), "it leads on")
	b.sumHolds()
}

func TestDatabasesKilledUnderLoad(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Second, grace: 2 * time.Second,
		scan: time.Second})
	over := make(chan struct{})
	l := startLoad(ctx, b, c.dial(), 8, func(int) bool {
		select {
		case <-over:
			return true
		default:
			return false
		}
	})
	for _, d := range []*database{b.left, b.right, b.left, b.right} {
		before := l.sofar()
		eventually(t, "transfers commit", func() bool { return l.sofar() > before+100 })
		require.NoError(t, d.server.Kill())
		require.NoError(t, d.server.Start())
	}
	before := l.sofar()
	eventually(t, "transfers commit", func() bool { return l.sofar() > before+100 })
	close(over)
	l.wait(t, c)
}

// resource is what the cluster says of one resource.
func (c *cluster) resource(name string) (found resourceJSON) {
	c.Helper()
	var list []resourceJSON
	c.json(&list, 0, "resource", "ls", "-o", "json")
	i := slices.IndexFunc(list, func(r resourceJSON) bool { return r.Name == name })
	require.GreaterOrEqual(c, i, 0)
	return list[i]
}

// covered waits until the log remembers a row of a database that covers all that has ended there.
func (c *cluster) covered(name string, d *database) (at string) {
	c.Helper()
	table := "concord_branch"
	if d.server.Flavor() == testdb.FlavorPostgres {
		table = "concord.branch"
	}
	mine := fmt.Sprintf("FROM %s WHERE cluster = %d AND gid ", table, uint32(c.id))
	eventually(c, "the high-water row of "+name+" is raised", func() bool {
		rows := d.texts(c, "SELECT gid "+mine+"> 'w'")
		if d.number(c, "SELECT COUNT(*) "+mine+"< 'w'") > 0 || len(rows) == 0 {
			return false
		}
		require.Len(c, rows, 1)
		p, err := txn.ParseRowText(rows[0][:25])
		require.NoError(c, err)
		at = p.String()
		return c.resource(name).HighWater == at
	})
	return at
}

type setBackJSON struct {
	Name          string         `json:"name"`
	Quarantine    quarantineJSON `json:"quarantine"`
	Missing       int            `json:"missing"`
	Unknown       int            `json:"unknown"`
	PreparedAgain int            `json:"prepared_again"`
	Present       int            `json:"present"`
	BackTo        *time.Time     `json:"back_to"`
	Branches      []struct {
		GID     string    `json:"gid"`
		No      int       `json:"no"`
		Label   string    `json:"label"`
		Begun   time.Time `json:"begun"`
		Decided string    `json:"decided"`
		Fate    string    `json:"fate"`
		Ended   bool      `json:"ended"`
	} `json:"branches"`
}

// A copy of the files is put back while a branch is open that was decided after it. What came back
// prepared waits, as does everything else there, until somebody accepts; then it is committed again by
// the decision that was kept, and what cannot be proven is reported.
func TestADatabaseThatWasPutBackIsHeldUntilSomebodyAccepts(t *testing.T) {
	for _, at := range []struct {
		name string
		bank func(t *testing.T) *bank
		of   func(b *bank) *database
		no   int
	}{
		{"PostgreSQL", func(t *testing.T) *bank { return newBank(t) }, func(b *bank) *database { return b.left }, 0},
		{"MariaDB", func(t *testing.T) *bank { return newBank(t) }, func(b *bank) *database { return b.right }, 1},
		{"MySQL", func(t *testing.T) *bank { return bankAt(t, postgresServer.Get(t), mysqlServer.Get(t)) },
			func(b *bank) *database { return b.right }, 1},
	} {
		t.Run(at.name, func(t *testing.T) {
			b := at.bank(t)
			putBack(t, b, at.of(b), b.resources()[at.no].name)
		})
	}
}

func putBack(t *testing.T, b *bank, d *database, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := startCluster(t, settings{resources: b.resources(), maxAge: 60 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	client, caller := c.dial(), c.caller()
	transfers := func(n int) (ids []txn.ID) {
		for range n {
			id, err := b.run(ctx, client)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		return ids
	}
	early := transfers(5)
	first := c.covered(name, d)

	back, err := b.prepareTransfer(ctx, c.id) // in the copy it is prepared
	require.NoError(t, err)
	require.NoError(t, d.server.Stop())
	saved, err := d.server.Save()
	require.NoError(t, err)
	require.NoError(t, d.server.Start())
	res, err := caller.Commit(ctx, back.request())
	require.NoError(t, err)
	require.Equal(t, txn.Commit.String(), res.GetDecision(), res.GetReason())
	b.settled(c)
	require.Equal(t, concord.Committed, b.shows(back.id))
	var gone []txn.ID
	eventually(t, "transfers go on", func() bool {
		id, err := b.run(ctx, client)
		if err == nil {
			gone = append(gone, id)
		}
		return err == nil
	})
	gone = append(gone, transfers(6)...)
	require.NotEqual(t, first, c.covered(name, d))
	open, err := b.prepareTransfer(ctx, c.id)
	require.NoError(t, err)
	require.Nil(t, c.resource(name).Quarantine)

	require.NoError(t, d.server.Stop())
	res, err = caller.Commit(ctx, open.request())
	require.NoError(t, err)
	require.Equal(t, txn.Commit.String(), res.GetDecision(), res.GetReason())
	require.NoError(t, saved.PutBack())
	require.NoError(t, d.server.Start())
	eventually(t, "it is quarantined", func() bool { return c.resource(name).Quarantine != nil })
	q := c.resource(name).Quarantine
	require.Equal(t, first, q.Has, "what the copy had")
	require.Contains(t, c.resource(name).Error, "is quarantined: its database is behind what the log remembers of it")

	held := func() {
		t.Helper()
		require.True(t, slices.ContainsFunc(d.prepared(t, c.id), func(name string) bool {
			return strings.Contains(name, back.id.String())
		}), "what came back is held")
		x := c.get(open.id)
		require.Equal(t, "committing", x.State)
		require.Len(t, c.get(back.id).Heuristics, 0)
		_, err := b.run(ctx, client)
		require.Error(t, err)
		if !errors.Is(err, concord.ErrQuarantined) { // on a connection that did not outlive the server
			eventually(t, "the quarantine is told", func() bool {
				_, err = b.run(ctx, client)
				require.Error(t, err)
				return errors.Is(err, concord.ErrQuarantined)
			})
		}
		require.ErrorContains(t, err, `then "concord resource accept `+name+` --reason TEXT"`)
	}
	for range 3 {
		held()
	}
	leader := c.leader()
	c.kill(leader)
	eventually(t, "another node leads", func() bool { l := c.leader(); return l != nil && l.id != leader.id })
	require.NotNil(t, c.resource(name).Quarantine)
	c.start(leader)
	c.ready()
	held()
	r := c.command("recover", "--apply")
	require.Contains(t, r.stdout, "is quarantined", "%v", r)
	held()
	r = c.command("tx", "resolve", "--commit", open.id.String(), "--reason", "no")
	require.NotContains(t, r.stdout, "quarantined", "it is decided")

	var report setBackJSON
	c.json(&report, 6, "resource", "report", name, "-o", "json")
	fates := map[string]string{}
	for _, b := range report.Branches {
		fates[b.GID] = b.Fate
	}
	for _, id := range gone {
		require.Equal(t, "missing", fates[id.String()])
	}
	require.Equal(t, "missing", fates[open.id.String()])
	require.Equal(t, "prepared-again", fates[back.id.String()])
	for _, id := range early {
		require.Empty(t, fates[id.String()], "it had ended before the row was written")
	}
	require.Equal(t, len(gone)+1, report.Missing)
	require.Equal(t, 1, report.PreparedAgain)
	require.Zero(t, report.Unknown)
	r = c.command("resource", "report", name)
	require.Equal(t, 6, r.code)
	require.Contains(t, r.stdout, fmt.Sprintf("told committed after that: %d missing, 0 unknown, 1 prepared again, "+
		"0 present", len(gone)+1))
	t.Logf("%s", r.stdout)

	r = c.command("resource", "accept", name)
	require.Equal(t, 2, r.code, "%v", r)
	r = c.command("resource", "accept", name, "--reason", "the backup of today", "--yes")
	require.Equal(t, 0, r.code, "%v", r)
	b.settled(c)
	count := fmt.Sprintf("SELECT COUNT(*) FROM transfer WHERE gid = '%v'", back.id)
	require.Equal(t, 1, d.number(t, count), "the kept decision has committed it again")
	eventually(t, "what cannot be proven is on record", func() bool { return len(c.get(open.id).Heuristics) == 1 })
	require.Equal(t, "heuristic-hazard", c.get(open.id).Heuristics[0].Outcome)
	require.Empty(t, c.get(back.id).Heuristics)
	eventually(t, "transfers go on", func() bool { _, err := b.run(ctx, client); return err == nil })
	c.covered(name, d)
	require.Nil(t, c.resource(name).Quarantine)
	r = c.command("resource", "accept", name, "--reason", "again", "--yes")
	require.Equal(t, 5, r.code, "%v", r)

	// The log remembers it over restarts of everything, and nothing else is taken for a loss.
	c.signal(syscall.SIGKILL, c.nodes...)
	require.NoError(t, d.server.Kill())
	require.NoError(t, d.server.Start())
	for _, n := range c.nodes {
		c.buried(n)
		c.start(n)
	}
	c.ready()
	require.Nil(t, c.resource(name).Quarantine)
	eventually(t, "transfers go on", func() bool { _, err := b.run(ctx, client); return err == nil })
}
