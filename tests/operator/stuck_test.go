// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/txn"
)

// settle runs "concord tx settle".
func (c *cluster) settle(x txn.XID, args ...string) result {
	c.Helper()
	return c.concord(append([]string{"tx", "settle", fmt.Sprintf("%v/%d", x.ID, x.Branch), "--reason", "test", "--yes"},
		args...)...)
}

// whys are what "concord recover" says of each branch of a transaction.
func (c *cluster) whys(id txn.ID) (whys []string) {
	c.Helper()
	r := c.concord("recover", id.String(), "-o", "json")
	var actions []struct{ Action, Why string }
	require.NoError(c, json.Unmarshal([]byte(r.stdout), &actions), "%v", r)
	for _, a := range actions {
		require.Equal(c, "report", a.Action, "%v", r)
		whys = append(whys, a.Why)
	}
	return whys
}

// What the cluster will never end is shown with a command, and that ends it: on each server, also while the
// session that prepared it is alive.
func TestEveryBranchThatIsReportedHasACommand(t *testing.T) {
	var dbs []*database
	var resources []resource
	for _, flavor := range flavors {
		d := newDatabase(t, server(t, flavor))
		dbs, resources = append(dbs, d), append(resources, d.resource())
	}
	c := startCluster(t, 1, quick, resources...)
	c.decide(prepare(t, c.id, dbs[0], dbs[1]), txn.Commit) // what is a year old is too old from now on

	for _, stuck := range []struct {
		name, says string
		make       func(t *testing.T, at ...*database) *hand
	}{
		{"of a cluster that is lost", "it belongs to cluster", func(t *testing.T, at ...*database) *hand {
			return prepare(t, c.id+1, at...)
		}},
		{"older than the log", "older than what the log remembers", func(t *testing.T, at ...*database) *hand {
			return prepareAs(t, c.id, txn.NewID(time.Now().AddDate(-1, 0, 0)), at...)
		}},
		{"that no commit names", "for other branches than this one", func(t *testing.T, at ...*database) *hand {
			h := prepare(t, c.id, at...)
			h.branches[0].No = 1
			c.in(t).decide(h, txn.Commit) // of branch 1, which nobody has seen
			return h
		}},
	} {
		t.Run(stuck.name, func(t *testing.T) {
			c := c.in(t)
			for _, d := range dbs {
				for _, decision := range []txn.Decision{txn.Commit, txn.Abort} {
					h := stuck.make(t, d)
					var whys []string
					eventually(t, "it is reported", func() bool {
						r := c.concord("recover", h.id.String())
						if !strings.Contains(r.stdout, stuck.says) {
							return false
						}
						require.Equal(t, 6, r.code, "%v", r)
						whys = c.whys(h.id)
						return true
					})
					step := fmt.Sprintf("concord tx settle %v/0 --commit", h.id)
					require.Contains(t, strings.Join(whys, "\n"), step)
					require.Equal(t, 3, c.settle(h.xid(7), "--abort").code, "it has no such branch")
					r := c.settle(h.xid(0), "--"+decision.String())
					require.Equal(t, 0, r.code, "%s: %v", d.server.Flavor(), r)
					require.Contains(t, r.stdout, d.name)
					require.Empty(t, d.prepared(t, h.id))
					require.Equal(t, decision == txn.Commit, d.has(t, h.id))
					r = c.settle(h.xid(0), "--"+decision.String())
					require.Equal(t, 3, r.code, "it is gone: %v", r)
				}
			}
		})
	}

	t.Run("what can be decided is not settled", func(t *testing.T) {
		c := c.in(t)
		h := prepare(t, c.id, dbs[0], dbs[1])
		r := c.settle(h.xid(0), "--abort")
		require.Equal(t, 5, r.code, "%v", r)
		require.Contains(t, r.stderr, "concord tx resolve "+h.id.String())
		require.Len(t, dbs[0].prepared(t, h.id), 1)
		c.decide(h, txn.Commit)
	})

	t.Run("a gid that is mistyped", func(t *testing.T) {
		c := c.in(t)
		gid := txn.NewID(time.Now()).String()
		r := c.concord("tx", "resolve", gid, "--abort", "--reason", "test", "--yes")
		require.Equal(t, 3, r.code, "%v", r)
		require.Equal(t, 3, c.concord("tx", "get", gid).code, "there is no tombstone")
		require.Equal(t, 2, c.concord("tx", "resolve", gid, "--commit", "--force", "--reason", "test", "--yes").code)
		r = c.concord("tx", "resolve", gid, "--abort", "--force", "--reason", "test", "--yes")
		require.Equal(t, 0, r.code, "%v", r)
	})
	eventually(t, "nothing is in doubt", func() bool { return len(c.list("--state", "in-doubt")) == 0 })
}

// A database that is taken out of the configuration with branches to finish would keep them, and their locks.
func TestAResourceWithBranchesIsNotTakenOut(t *testing.T) {
	kept, gone := newDatabase(t, server(t, flavors[0])), newDatabase(t, server(t, flavors[1]))
	c := startCluster(t, 1, quick, kept.resource(), gone.resource())
	n := c.nodes[0]
	gone.cut()
	h := prepare(t, c.id, kept, gone)
	c.decide(h, txn.Commit)
	eventually(t, "the other branch is finished", func() bool { return kept.has(t, h.id) })

	c.resources = c.resources[:1]
	c.configure(n)
	require.NoError(t, n.process.Signal(syscall.SIGHUP))
	branch := h.id.String() + "/1"
	eventually(t, "the node says why it goes on with the old configuration", func() bool {
		text := tail(n.log)
		return strings.Contains(text, "the configuration was read again and is wrong") && strings.Contains(text, branch)
	})
	require.Equal(t, 2, len(first(n.status(t)).Resources))

	c.end(n, syscall.SIGTERM)
	c.start(n)
	require.Equal(t, 2, c.exits(n))
	require.Contains(t, tail(n.log), branch)
	require.Contains(t, tail(n.log), "--abandon "+gone.name)
	c.start(n, "--abandon", kept.name)
	require.Equal(t, 2, c.exits(n), "it is in the configuration")

	c.start(n, "--abandon", gone.name)
	c.ready()
	eventually(t, "the branch is on record", func() bool {
		x, _ := c.get(h.id)
		return len(x.Heuristics) == 1
	})
	x, _ := c.get(h.id)
	require.Equal(t, "heuristic", x.State)
	require.Equal(t, 1, x.Heuristics[0].No)
	require.Equal(t, "heuristic-hazard", x.Heuristics[0].Outcome)
	require.Equal(t, "operator", x.Heuristics[0].By)
	require.Equal(t, "node 1", x.Heuristics[0].Who)
	require.Contains(t, x.Heuristics[0].Why, "--abandon "+gone.name)
	r := c.concord("tx", "forget", h.id.String(), "--reason", "test", "--yes")
	require.Equal(t, 0, r.code, "%v", r)

	c.end(n, syscall.SIGTERM)
	c.start(n) // nothing is left that it would need
	c.ready()

	// By hand, so that the shared server keeps no locks.
	gone.endByHand(t, h.xid(1), txn.Commit)
}

func first[A, B any](a A, _ B) A { return a }
