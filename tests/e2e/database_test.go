// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	sqldriver "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

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
			require.NoError(t, d.server.Kill())
			require.NoError(t, d.server.Start())
			require.NotEmpty(t, d.prepared(t, c.id), "a prepared branch survives a crash")
			b.settled(c)
			require.Equal(t, concord.Aborted, b.shows(h.id))
			require.Equal(t, 0, c.command("tx", "wait", h.id.String()).code)
			require.Equal(t, "aborted", c.get(h.id).State)
		})
	}
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
	b := bankAt(t, testdb.Postgres(t, testdb.WithSetting("max_prepared_transactions", "0")), mariadbServer.get(t))
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
	b := bankAt(t, postgresServer.get(t), mysqlServer.get(t))
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
