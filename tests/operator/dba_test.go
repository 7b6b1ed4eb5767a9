// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// cell is one case of what an administrator may do to a prepared branch behind the cluster's back.
type cell struct {
	flavor   string
	before   bool // he acts before the decision
	agrees   bool
	decision txn.Decision
}

func (c cell) String() string {
	when, what := "after", "contradicts"
	if c.before {
		when = "before"
	}
	if c.agrees {
		what = "agrees with"
	}
	return fmt.Sprintf("%s, %s the decision, %s %v", c.flavor, when, what, c.decision)
}

// act is what he does.
func (c cell) act() txn.Decision {
	if c.agrees == (c.decision == txn.Commit) {
		return txn.Commit
	}
	return txn.Abort
}

// want is what the cluster must say of the branch; empty: nothing. That a branch was rolled back only
// PostgreSQL remembers. In the others it looks as if it had been lost.
func (c cell) want() string {
	switch {
	case c.agrees:
		return ""
	case c.decision == txn.Abort:
		return "heuristic-commit"
	case c.flavor == testdb.FlavorPostgres:
		return "heuristic-rollback"
	}
	return "heuristic-hazard"
}

// state is that of the whole transaction.
func (c cell) state() string {
	switch {
	case !c.agrees:
		return "heuristic"
	case c.decision == txn.Commit:
		return "committed"
	}
	return "aborted"
}

var flavors = []string{testdb.FlavorPostgres, testdb.FlavorMariaDB, testdb.FlavorMySQL}

func cells() (all []cell) {
	for _, flavor := range flavors {
		for _, before := range []bool{true, false} {
			for _, agrees := range []bool{true, false} {
				for _, d := range []txn.Decision{txn.Commit, txn.Abort} {
					all = append(all, cell{flavor, before, agrees, d})
				}
			}
		}
	}
	return all
}

// Whatever an administrator does to a prepared branch is reported if it contradicts the decision, as
// what it is, and nothing else is ever reported. H01 to H04 of the fault matrix.
func TestWhatAnAdministratorDoesIsReportedExactly(t *testing.T) {
	dbs := map[string]*database{}
	var resources []resource
	for _, flavor := range flavors {
		dbs[flavor] = newDatabase(t, server(t, flavor))
		resources = append(resources, dbs[flavor].resource())
	}
	c := startCluster(t, 1, quick, resources...)
	alarms := map[string]string{} // gid: branch 0 and its outcome
	hands := map[cell]*hand{}
	groups := map[string][]cell{}
	for _, x := range cells() {
		groups[fmt.Sprintf("%s %v", x.flavor, x.before)] = append(groups[fmt.Sprintf("%s %v", x.flavor, x.before)], x)
	}
	for _, flavor := range flavors {
		d := dbs[flavor]
		other := dbs[flavors[(slices.Index(flavors, flavor)+1)%len(flavors)]]
		for _, before := range []bool{true, false} {
			group := groups[fmt.Sprintf("%s %v", flavor, before)]
			require.Len(t, group, 4)
			for _, x := range group {
				hands[x] = prepare(t, c.id, d, other)
			}
			// What was never seen of a branch nobody can miss; two scans after it was prepared it has been.
			for _, x := range group {
				h := hands[x]
				eventually(t, "both branches are listed", func() bool {
					got, _ := c.get(h.id)
					return len(got.Branches) == 2
				})
			}
			if before {
				for _, x := range group {
					d.endByHand(t, hands[x].xid(0), x.act())
				}
			} else {
				d.cut()
			}
			for _, x := range group {
				c.decide(hands[x], x.decision)
			}
			if !before {
				for _, x := range group {
					d.endByHand(t, hands[x].xid(0), x.act())
				}
				d.line.Heal()
			}
			for _, x := range group {
				t.Run(x.String(), func(t *testing.T) {
					c, h := c.in(t), hands[x]
					eventually(t, "it is "+x.state(), func() bool {
						got, _ := c.get(h.id)
						return got.State == x.state() && len(other.prepared(t, h.id)) == 0
					})
					require.Equal(t, x.act() == txn.Commit, d.has(t, h.id), "what he did")
					require.Equal(t, x.decision == txn.Commit, other.has(t, h.id), "the other branch")
					if x.want() != "" {
						alarms[h.id.String()] = x.want()
					}
					c.reported(h.id, x.want())
				})
			}
		}
	}

	// Clean load is no reason for an alarm, and neither are the sweeps of what is left of all this.
	t.Run("clean load", func(t *testing.T) {
		c := c.in(t)
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		client, err := concord.Dial(ctx, strings.Split(c.addrs(), ","))
		require.NoError(t, err)
		defer client.Close()
		committed := 0
		for began := time.Now(); time.Since(began) < 25*time.Second; committed++ { // a sweep comes every 20 s
			require.NoError(t, client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
				for _, d := range dbs {
					if err := d.note(ctx, tx, tx.ID()); err != nil {
						return err
					}
				}
				return nil
			}))
		}
		t.Logf("%d transactions of three databases", committed)
		require.NotZero(t, committed)
	})
	for id, outcome := range alarms {
		gid, err := txn.ParseID(id)
		require.NoError(t, err)
		c.reported(gid, outcome)
	}
	require.Len(t, c.list("--state", "heuristic"), len(alarms), "those, and no others")
	require.Empty(t, c.list("--state", "in-doubt"))
	require.Contains(t, c.leader().page(t, "/metrics"), fmt.Sprintf("\nconcord_heuristic %d\n", len(alarms)))
}

// decide has a transaction decided: by the request of its client, or by an operator.
func (c *cluster) decide(h *hand, d txn.Decision) {
	c.Helper()
	if d == txn.Abort {
		r := c.concord("tx", "resolve", h.id.String(), "--abort", "--reason", "test", "--yes")
		require.Equal(c, 0, r.code, "%v", r)
		return
	}
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	defer cancel()
	res, err := c.caller().Commit(ctx, h.request())
	require.NoError(c, err)
	require.Equal(c, "commit", res.GetDecision(), res.GetReason())
}

// reported checks what the log says of branch 0; of the others it says nothing.
func (c *cluster) reported(id txn.ID, outcome string) {
	c.Helper()
	x, _ := c.get(id)
	if outcome == "" {
		require.Empty(c, x.Heuristics)
		return
	}
	require.Len(c, x.Heuristics, 1, "%+v", x)
	require.Zero(c, x.Heuristics[0].No)
	require.Equal(c, outcome, x.Heuristics[0].Outcome)
	require.Equal(c, "cluster", x.Heuristics[0].By)
	require.NotEmpty(c, x.Heuristics[0].Who)
	require.NotEmpty(c, x.Heuristics[0].Why)
}

// list returns the gids that "concord tx ls" prints.
func (c *cluster) list(args ...string) (gids []string) {
	c.Helper()
	r := c.concord(append([]string{"tx", "ls", "--limit", "1000"}, args...)...)
	require.Equal(c, 0, r.code, "%v", r)
	for i, line := range strings.Split(strings.TrimSpace(r.stdout), "\n") {
		if fields := strings.Fields(line); i > 0 && len(fields) > 0 {
			gids = append(gids, fields[0])
		}
	}
	return gids
}
