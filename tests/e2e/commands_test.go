// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/txn"
)

// grace is long enough here for an operator's command to come before the cluster
// finishes a branch by itself.
const grace = 6 * time.Second

// What scripts build upon: the fields of the JSON and the exit codes.
func TestCommands(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), grace: grace, scan: 500 * time.Millisecond})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	caller, client := c.caller(), c.dial()

	// inDoubt prepares a transfer and waits until the cluster lists its branches.
	inDoubt := func(t *testing.T) *hand {
		c := c.in(t)
		h, err := b.prepareTransfer(ctx, c.id)
		require.NoError(t, err)
		eventually(t, "the scans have listed both branches", func() bool {
			for _, x := range c.list("--state", "in-doubt") {
				if x.GID == h.id.String() && len(x.Branches) == 2 {
					require.Equal(t, "in-doubt", x.State)
					return true
				}
			}
			return false
		})
		return h
	}

	t.Run("status", func(t *testing.T) {
		c := c.in(t)
		leader := c.leader()
		var s statusJSON
		eventually(t, "the leader has heard of both followers", func() bool {
			s, _ = leader.status(t)
			following := 0
			for _, n := range s.Nodes {
				if n.State == "following" && n.Reachable && n.Epoch == s.Epoch {
					following++
				}
			}
			return following == 2
		})
		require.Equal(t, c.id.String(), s.Cluster)
		require.Equal(t, leader.id, s.Node)
		require.Equal(t, leader.id, s.Leader)
		require.Len(t, s.Nodes, 3)
		for i, n := range s.Nodes {
			require.Equal(t, i+1, n.ID)
			require.Equal(t, "voter", n.Role)
			require.Equal(t, c.node(n.ID).api, n.API)
			require.Regexp(t, `^\d+\.\d+$`, n.Zxid)
		}
		require.Equal(t, "leading", s.Nodes[leader.id-1].State)
		require.Len(t, s.Resources, 2)
		require.True(t, s.Resources[0].OK && s.Resources[1].OK, "%+v", s.Resources)
		table := command(t, "status", "--addr", leader.api)
		require.Equal(t, 0, table.code, "%v", table)
		require.Contains(t, table.stdout, "leading")
	})

	t.Run("a transaction that the SDK commits", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		id, err := b.run(ctx, client)
		require.NoError(t, err)
		var x txJSON
		c.json(&x, 0, "tx", "wait", id.String())
		require.Equal(t, "committed", x.State)
		require.Equal(t, "two_phase", x.Protocol)
		require.WithinDuration(t, time.Now(), x.Started, patience)
		age, err := time.ParseDuration(x.Age)
		require.NoError(t, err)
		require.GreaterOrEqual(t, age, time.Duration(0))
		require.Len(t, x.Branches, 2)
		for i, name := range []string{"orders", "billing"} {
			require.Equal(t, i, x.Branches[i].No)
			require.Equal(t, name, x.Branches[i].Resource)
			require.Equal(t, "committed", x.Branches[i].State)
			require.NotEmpty(t, x.Branches[i].Evidence)
		}
		list := c.list("--state", "committed", "--resource", "billing")
		require.Equal(t, id.String(), list[0].GID)
		list = c.list("--older-than", "1h")
		require.Empty(t, list)
	})

	t.Run("resolve --commit", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h := inDoubt(t)
		gid := h.id.String()
		require.Equal(t, 2, c.command("tx", "resolve", gid, "--commit", "--reason", "test").code,
			"nobody confirms without a terminal")
		require.Equal(t, 2, c.command("tx", "resolve", gid, "--commit", "--yes").code, "a reason is needed")
		require.Equal(t, "in-doubt", c.get(h.id).State, "nothing was done")
		var answer map[string]string
		r := c.command("tx", "resolve", gid, "--commit", "--reason", "test", "--yes")
		require.Equal(t, 5, r.code, "nothing says that these are all branches: %v", r)
		require.Contains(t, r.stderr, "--resources billing,orders")
		r = c.command("tx", "resolve", gid, "--commit", "--resources", "orders", "--reason", "test", "--yes")
		require.Equal(t, 5, r.code, "billing has one, too: %v", r)
		require.Equal(t, "in-doubt", c.get(h.id).State, "nothing was done")
		c.json(&answer, 0, "tx", "resolve", gid, "--commit", "--resources", "orders,billing", "--reason",
			"the other side has shipped", "--yes")
		require.Equal(t, gid, answer["gid"])
		require.Equal(t, "commit", answer["decision"])
		r = c.command("tx", "wait", gid, "--timeout", "50s")
		require.Equal(t, 0, r.code, "%v", r)
		b.settled(c)
		require.Equal(t, concord.Committed, b.shows(h.id))
		require.Contains(t, c.get(h.id).Reason, "the other side has shipped")
		r = c.command("tx", "resolve", gid, "--abort", "--reason", "second thoughts", "--yes")
		require.Equal(t, 5, r.code, "%v", r)
		require.Contains(t, r.stderr, gid)
	})

	// Nobody has to know which databases the application changes: the branches of the SDK say it.
	t.Run("resolve --commit of what says that it is whole, or half", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		saying := func() *hand {
			h := &hand{cluster: c.id, id: txn.NewID(time.Now()), siblings: []txn.BranchNo{0, 1}}
			require.NoError(t, b.prepare(ctx, h))
			return h
		}
		h := saying()
		// What somebody needs who sees it at three in the morning is in one answer.
		blocked := make(chan error, 1)
		go func() {
			_, err := b.left.admin.ExecContext(ctx, "CREATE INDEX blocked ON transfer (gid)")
			blocked <- err
		}()
		eventually(t, "tx get says who waits", func() bool {
			if c.command("tx", "get", h.id.String()).code != 0 { // no scan has listed it yet
				return false
			}
			x := c.get(h.id)
			return x.Whole == "yes, all 2 are prepared" && len(x.Branches) == 2 && len(x.Branches[0].Blocked) == 1
		})
		x := c.get(h.id)
		require.Contains(t, x.Branches[0].Blocked[0].Statement, "CREATE INDEX blocked")
		require.Contains(t, x.Next, "concord tx resolve "+h.id.String()+" --abort")
		r := c.command("tx", "get", h.id.String())
		require.Contains(t, r.stdout, "branch 0 at orders keeps process ")
		require.Contains(t, r.stdout, "is every branch there? yes, all 2 are prepared")
		r = c.command("recover", h.id.String())
		require.Contains(t, r.stderr, "is every branch there? yes, all 2 are prepared")
		var answer map[string]string
		c.json(&answer, 0, "tx", "resolve", h.id.String(), "--commit", "--reason", "shipped", "--yes")
		require.Equal(t, "commit", answer["decision"])
		b.settled(c)
		require.NoError(t, <-blocked)
		require.Equal(t, concord.Committed, b.shows(h.id))

		h = saying()
		name := h.xid(0).String() + "-0001"
		_, err := b.left.admin.ExecContext(ctx, "ROLLBACK PREPARED '"+name+"'")
		require.NoError(t, err)
		eventually(t, "a scan has listed the other branch",
			func() bool { return c.command("tx", "get", h.id.String()).code == 0 })
		require.Contains(t, c.get(h.id).Whole, "branch 0 is neither prepared nor committed anywhere")
		r = c.command("tx", "resolve", h.id.String(), "--commit", "--resources", "billing", "--reason", "test", "--yes")
		require.Equal(t, 5, r.code, "%v", r)
		require.Contains(t, r.stderr, "branch 0 is neither prepared nor committed anywhere")
		r = c.command("tx", "resolve", h.id.String(), "--abort", "--reason", "half of it is gone", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
		b.settled(c)
		require.Equal(t, concord.Aborted, b.shows(h.id))

		h = saying()
		_, err = b.left.admin.ExecContext(ctx, "COMMIT PREPARED '"+h.xid(0).String()+"-0001'")
		require.NoError(t, err)
		c.json(&answer, 0, "tx", "resolve", h.id.String(), "--commit", "--reason", "one half is committed already",
			"--yes")
		require.Equal(t, 0, c.command("tx", "wait", h.id.String(), "--timeout", "50s").code)
		require.Equal(t, concord.Committed, b.shows(h.id))
		require.Equal(t, "committed", c.get(h.id).State)
	})

	// The client died between two prepares, or somebody ended a branch by hand: what is left looks like
	// a transaction of one database.
	t.Run("resolve --commit of what is half", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h := inDoubt(t)
		gid := h.id.String()
		_, err := b.left.admin.ExecContext(ctx, "ROLLBACK PREPARED '"+h.xid(0).String()+"'")
		require.NoError(t, err)
		for _, args := range [][]string{{}, {"--resources", "orders,billing"}, {"--resources", "orders"}} {
			r := c.command(append([]string{"tx", "resolve", gid, "--commit", "--reason", "test", "--yes"}, args...)...)
			require.Equal(t, 5, r.code, "%v: %v", args, r)
			require.Contains(t, r.stderr, "orders", "%v", args)
		}
		require.Equal(t, "in-doubt", c.get(h.id).State)
		r := c.command("tx", "resolve", gid, "--abort", "--resources", "billing", "--reason", "test", "--yes")
		require.Equal(t, 2, r.code, "%v", r)
		r = c.command("tx", "resolve", gid, "--abort", "--reason", "half of it was rolled back by hand", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
		b.settled(c)
		require.Equal(t, concord.Aborted, b.shows(h.id))
	})

	t.Run("resolve --abort", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h := inDoubt(t)
		r := c.command("tx", "resolve", h.id.String(), "--abort", "--reason", "test", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
		b.settled(c)
		require.Equal(t, concord.Aborted, b.shows(h.id))
		r = c.command("tx", "wait", h.id.String())
		require.Equal(t, 0, r.code, "%v", r)
		require.Equal(t, "aborted", c.get(h.id).State)
		res, err := caller.Commit(ctx, h.request())
		require.NoError(t, err)
		require.Equal(t, "abort", res.GetDecision(), "its application comes too late")
	})

	t.Run("resolve, get, wait and forget of what is not there", func(t *testing.T) {
		c := c.in(t)
		gid := txn.NewID(time.Now()).String()
		for _, args := range [][]string{
			{"tx", "get", gid},
			{"tx", "resolve", gid, "--commit", "--reason", "test", "--yes"},
			{"tx", "forget", gid, "--reason", "test", "--yes"},
		} {
			r := c.command(args...)
			require.Equal(t, 3, r.code, "%v: %v", args, r)
			require.Contains(t, r.stderr, gid)
		}
		require.Equal(t, 4, c.command("tx", "wait", gid, "--timeout", "1s").code)
	})

	t.Run("recover and recover --apply", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h := inDoubt(t)
		var plan []actionJSON
		c.json(&plan, 6, "recover", h.id.String())
		require.Len(t, plan, 2)
		for _, a := range plan {
			require.Equal(t, "leave", a.Action, "it may be alive: %+v", a)
			require.Empty(t, a.Result)
			require.NotEmpty(t, a.Why)
		}
		res, err := caller.Commit(ctx, h.request())
		require.NoError(t, err)
		require.Equal(t, "commit", res.GetDecision())
		c.json(&plan, 6, "recover", h.id.String())
		require.Len(t, plan, 2)
		for _, a := range plan {
			require.Equal(t, "commit", a.Action, "%+v", a)
			require.Empty(t, a.Result)
		}
		require.NotEmpty(t, b.left.prepared(t, c.id), "a dry run does nothing")
		c.json(&plan, 0, "recover", "--apply", h.id.String())
		for _, a := range plan {
			require.Equal(t, "done", a.Result, "%+v", a)
		}
		require.Empty(t, b.left.prepared(t, c.id))
		require.Empty(t, b.right.prepared(t, c.id))
		require.Equal(t, concord.Committed, b.shows(h.id))
		c.json(&plan, 0, "recover")
		require.Empty(t, plan)
	})

	// The decision is commit, and one branch is gone: an administrator of PostgreSQL has
	// rolled it back, which that database remembers, or the session at MariaDB itself, of
	// which nothing is left to be seen.
	for no, x := range []struct {
		rollBack func(*hand) error
		branch   string
		whole    concord.Outcome
	}{
		{func(h *hand) error {
			_, err := b.left.admin.ExecContext(ctx, "ROLLBACK PREPARED '"+h.xid(0).String()+"'")
			return err
		}, "heuristic-rollback", concord.HeuristicMixed},
		{func(h *hand) error { return h.sessions[1].Rollback(ctx) }, "heuristic-hazard", concord.HeuristicHazard},
	} {
		broken, intact := []*database{b.left, b.right}[no], []*database{b.left, b.right}[1-no]
		t.Run("forget a branch that was rolled back by hand at "+broken.server.Flavor(), func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			h, err := b.prepareTransfer(ctx, c.id)
			require.NoError(t, err)
			require.NoError(t, x.rollBack(h))
			res, err := caller.Commit(ctx, h.request())
			require.NoError(t, err)
			require.Equal(t, "commit", res.GetDecision())
			r := c.command("tx", "wait", h.id.String(), "--timeout", "50s")
			require.Equal(t, 6, r.code, "%v", r)
			seen := c.get(h.id)
			require.Equal(t, "heuristic", seen.State)
			require.Len(t, seen.Heuristics, 1)
			require.Equal(t, x.branch, seen.Heuristics[0].Outcome)
			require.Equal(t, no, seen.Heuristics[0].No)
			outcome, err := client.Outcome(ctx, h.id)
			require.NoError(t, err)
			require.Equal(t, x.whole, outcome)
			require.Len(t, c.list("--state", "heuristic"), 1)
			eventually(t, "the alarm is there", func() bool { return alarms(t, c) == 1 })

			require.Equal(t, 2, c.command("tx", "forget", h.id.String(), "--reason", "booked by hand").code)
			require.Equal(t, 1, alarms(t, c))
			r = c.command("tx", "forget", h.id.String(), "--reason", "booked by hand", "--yes")
			require.Equal(t, 0, r.code, "%v", r)
			eventually(t, "the alarm has ended", func() bool { return alarms(t, c) == 0 })
			require.True(t, c.get(h.id).Heuristics[0].Forgotten)
			r = c.command("tx", "forget", h.id.String(), "--reason", "again", "--yes")
			require.Equal(t, 5, r.code, "%v", r)
			// By hand, as the reason says, so that the bank is right again.
			undo(t, intact, no, h.id)
		})
	}

	// Nothing lists the branch any more, and nobody has to finish it: its marker tells.
	t.Run("a branch that was committed by hand before the abort", func(t *testing.T) {
		b, c := b.in(t), c.in(t)
		h := inDoubt(t)
		_, err := b.left.admin.ExecContext(ctx, "COMMIT PREPARED '"+h.xid(0).String()+"'")
		require.NoError(t, err)
		r := c.command("tx", "resolve", h.id.String(), "--abort", "--reason", "test", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
		eventually(t, "the contradiction is reported", func() bool { return c.get(h.id).State == "heuristic" })
		seen := c.get(h.id)
		require.Len(t, seen.Heuristics, 1)
		require.Equal(t, "heuristic-commit", seen.Heuristics[0].Outcome)
		require.Equal(t, 0, seen.Heuristics[0].No)
		r = c.command("tx", "forget", h.id.String(), "--reason", "taken back by hand", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
		b.settled(c)
		undo(t, b.left, 1, h.id)
	})

	t.Run("resource ls and resource check", func(t *testing.T) {
		c := c.in(t)
		var list []resourceJSON
		c.json(&list, 0, "resource", "ls")
		require.Len(t, list, 2)
		require.Equal(t, []string{"orders", "postgres", "billing", "mysql"},
			[]string{list[0].Name, list[0].Driver, list[1].Name, list[1].Driver})
		require.NotEmpty(t, list[0].Identity)
		var reports []reportJSON
		c.json(&reports, 0, "resource", "check")
		require.Len(t, reports, 2)
		for _, r := range reports {
			require.True(t, r.OK, "%+v", r)
			require.NotEmpty(t, r.Version)
			require.NotEmpty(t, r.Findings)
			require.Equal(t, []string{"branch", "last_resource"}, r.CanBe)
		}
		c.json(&reports, 0, "resource", "check", "billing")
		require.Len(t, reports, 1)
		r := c.command("resource", "check", "nobody")
		require.Equal(t, 3, r.code, "%v", r)
		require.Contains(t, r.stderr, "nobody")
		require.Contains(t, r.stderr, "resource ls")
	})

	t.Run("no node answers", func(t *testing.T) {
		r := command(t, "status", "--addr", "127.0.0.1:1", "--timeout", "500ms")
		require.Equal(t, 4, r.code, "%v", r)
		require.Contains(t, r.stderr, "127.0.0.1:1")
		require.Empty(t, r.stdout)
	})

	t.Run("plain HTTP", func(t *testing.T) { plainHTTP(t, c) })

	b.settled(c)
	b.sumHolds()
}

// alarms is the number of heuristic outcomes that the leader still tells about.
func alarms(t testing.TB, c *cluster) int {
	t.Helper()
	s, ok := c.leader().status(t)
	require.True(t, ok)
	require.NotNil(t, s.Heuristic)
	return *s.Heuristic
}

// undo takes back the half of a transfer that has happened: in PostgreSQL, where the amount
// was taken, or in MariaDB, where it was given.
func undo(t testing.TB, d *database, given int, id txn.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	amounts := d.texts(t, "SELECT amount FROM transfer WHERE gid = '"+id.String()+"'")
	require.Len(t, amounts, 1, "the other branch ends as decided")
	sign := map[bool]string{true: " - ", false: " + "}[given == 0]
	_, err := d.admin.ExecContext(ctx, "UPDATE account SET balance = balance"+sign+"("+amounts[0]+") WHERE id = 0")
	require.NoError(t, err)
}

// plainHTTP talks to a node as curl would.
func plainHTTP(t *testing.T, c *cluster) {
	client := &http.Client{Timeout: patience}
	n := c.leader()
	res, err := client.Post("http://"+n.api+"/concord.v1.CoordinatorService/Status", "application/json",
		strings.NewReader("{}"))
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	var s struct {
		Cluster, Leader string // 64-bit numbers are strings in this encoding
		Nodes           []struct{ ID, State string }
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&s))
	require.Equal(t, c.id.String(), s.Cluster)
	require.NotEmpty(t, s.Leader)
	require.Len(t, s.Nodes, 3)

	bad, err := client.Post("http://"+n.api+"/concord.v1.CoordinatorService/Outcome", "application/json",
		strings.NewReader(`{"gid": "nonsense"}`))
	require.NoError(t, err)
	defer bad.Body.Close()
	require.Equal(t, http.StatusBadRequest, bad.StatusCode)
	text, err := io.ReadAll(bad.Body)
	require.NoError(t, err)
	require.Contains(t, string(text), "invalid_argument")

	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/metrics": "concord_in_doubt"} {
		res, err := client.Get("http://" + n.api + path)
		require.NoError(t, err)
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		require.Contains(t, string(text), want, path)
	}
}
