// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/api"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/internal/testdb"
	"github.com/concordtx/concord/txn"
)

// childEnv holds the order of a child: the test binary, run again as an application
// that is to be killed.
const childEnv = "CONCORD_E2E_CHILD"

// childOrder says what a child does, and where it stops to be killed.
type childOrder struct {
	Stop            stop
	Addrs           []string
	Cluster         string
	Orders, Billing string // data source names
	Last            string // the last resource; empty: the cluster decides
}

// stop is a point on the way of a commit.
type stop string

const (
	afterPrepare stop = "both branches are prepared, the cluster was not asked"
	afterRequest stop = "the cluster has decided, no branch is committed"
	betweenEnds  stop = "the first branch is committed, the second is not"

	beforeLast stop = "the other branch is prepared, the last resource has not committed"
	afterLast  stop = "the last resource has committed, nobody was told"
	unreported stop = "both have committed, the cluster was not told"
)

// runChild takes the steps of a transfer up to the point of its order, tells its gid on
// stdout, and waits there until it is killed or its parent is gone.
func runChild(text string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h, err := goUntil(ctx, text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(h.id)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func goUntil(ctx context.Context, text string) (*hand, error) {
	var order childOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return nil, err
	}
	cluster, err := api.ParseCluster("cluster", order.Cluster)
	if err != nil {
		return nil, err
	}
	a, err := openApplication(order.Orders, order.Billing)
	if err != nil {
		return nil, err
	}
	if order.Last != "" {
		return a.goUntilLast(ctx, cluster, order)
	}
	h, err := a.prepareTransfer(ctx, cluster)
	if err != nil || order.Stop == afterPrepare {
		return h, err
	}
	caller, err := api.Dial(order.Addrs, api.ClientOptions{})
	if err != nil {
		return nil, err
	}
	res, err := caller.Commit(ctx, h.request())
	if err != nil {
		return nil, err
	}
	if res.GetDecision() != txn.Commit.String() {
		return nil, fmt.Errorf("the decision is %s: %s", res.GetDecision(), res.GetReason())
	}
	if order.Stop == betweenEnds {
		if finish, err := h.sessions[0].Commit(ctx); err != nil || finish != txn.Done {
			return nil, fmt.Errorf("commit the first branch: %v, %w", finish, err)
		}
	}
	return h, nil
}

// goUntilLast is that of a transaction with a last resource.
func (a *application) goUntilLast(ctx context.Context, cluster txn.ClusterID, order childOrder) (*hand, error) {
	h := &hand{cluster: cluster, id: txn.NewID(time.Now()).WithClass(txn.LastResource).WithLast(order.Last),
		last: order.Last}
	if err := a.transfer(ctx, h, h.id); err != nil {
		return nil, err
	}
	own, other := 0, 1
	if h.opened[other].Name() == order.Last {
		own, other = other, own
	}
	vote, branch, err := h.sessions[other].Prepare(ctx)
	if err != nil || vote != txn.VoteYes {
		return nil, fmt.Errorf("the other branch votes %v: %w", vote, err)
	}
	if order.Stop == beforeLast {
		return h, nil
	}
	branch.No, branch.Resource = txn.BranchNo(other), h.opened[other].Name()
	last := h.sessions[own].(adapters.Last)
	if err := last.CommitLast(ctx, txn.LastMarker{Decision: txn.Commit,
		Branches: []txn.Branch{branch}}); err != nil {
		return nil, err
	}
	if order.Stop == unreported {
		if finish, err := h.sessions[other].Commit(ctx); err != nil || finish != txn.Done {
			return nil, fmt.Errorf("commit the other branch: %v, %w", finish, err)
		}
	}
	return h, nil
}

// killChild runs a child up to a point, kills it there, and returns the gid of its
// transaction.
func (b *bank) killChild(c *cluster, at stop) txn.ID { return b.killChildWith(c, at, "") }

func (b *bank) killChildWith(c *cluster, at stop, last string) txn.ID {
	b.Helper()
	self, err := os.Executable()
	require.NoError(b, err)
	order, err := json.Marshal(childOrder{Stop: at, Addrs: c.addrs(), Cluster: c.id.String(), Orders: b.left.dsn(),
		Billing: b.right.dsn(), Last: last})
	require.NoError(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(order))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, child := io.Pipe()
	cmd.Stdout = child
	_, err = cmd.StdinPipe() // stays open for as long as we live
	require.NoError(b, err)
	p, err := program.Start(cmd)
	require.NoError(b, err)
	go func() {
		<-p.Done()
		_ = child.Close() // the reader below sees the end
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, p.End(syscall.SIGKILL, patience))
	require.NoError(b, err, "the child did not get there: %s", &stderr)
	id, err := txn.ParseID(strings.TrimSpace(line))
	require.NoError(b, err)
	return id
}

func TestClientKilled(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 3 * time.Second, grace: time.Second,
		scan: 500 * time.Millisecond})
	for _, x := range []struct {
		at    stop
		state string
		want  concord.Outcome
	}{
		{afterPrepare, "aborted", concord.Aborted},
		{afterRequest, "committed", concord.Committed},
		{betweenEnds, "committed", concord.Committed},
	} {
		t.Run(strings.ReplaceAll(string(x.at), ",", ""), func(t *testing.T) {
			b, c := b.in(t), c.in(t)
			id := b.killChild(c, x.at)
			b.settled(c)
			require.Equal(t, x.want, b.shows(id))
			require.Equal(t, 0, c.command("tx", "wait", id.String()).code)
			seen := c.get(id)
			require.Equal(t, x.state, seen.State)
			if x.want == concord.Aborted {
				require.Contains(t, seen.Reason, "orphan")
			}
		})
	}
	b.sumHolds()
}

// decidesLast waits until last resources are switched on: children do not ask for that.
func (c *cluster) decidesLast() {
	c.Helper()
	tx, err := c.dial().Begin(c.Context(), concord.WithLastResource("orders"))
	require.NoError(c, err)
	require.NoError(c, tx.Rollback(c.Context()))
}

// Whatever the client has come to when it dies, the marker in its last resource tells, on each database.
func TestClientKilledWithALastResource(t *testing.T) {
	for _, right := range []*testdb.Shared{mariadbServer, mysqlServer} {
		t.Run(string(right.Flavor), func(t *testing.T) {
			b := bankAt(t, postgresServer.Get(t), right.Get(t))
			c := startCluster(t, settings{resources: b.resources(), maxAge: 3 * time.Second, grace: time.Second,
				scan: 500 * time.Millisecond})
			want := map[stop]concord.Outcome{beforeLast: concord.Aborted, afterLast: concord.Committed,
				unreported: concord.Committed}
			left := map[txn.ID]concord.Outcome{}
			c.decidesLast()
			for _, last := range []string{"orders", "billing"} {
				for at, outcome := range want {
					left[b.killChildWith(c, at, last)] = outcome
				}
			}
			c.kill(c.leader()) // the next one finds the same
			b.settled(c)
			for id, outcome := range left {
				require.Equal(t, outcome, b.shows(id))
				eventually(t, "the log knows "+id.String(), func() bool {
					return c.command("tx", "get", id.String()).code == 0 && c.get(id).State == outcome.String()
				})
			}
			b.sumHolds()
		})
	}
}

// What waits for a last resource that is down is not decided by anybody else, and says what it waits for.
func TestALastResourceThatIsDownIsWaitedFor(t *testing.T) {
	b := bankAt(t, postgresServer.Get(t), testdb.MariaDB(t))
	c := startCluster(t, settings{resources: b.resources(), maxAge: time.Second, grace: time.Second,
		scan: 300 * time.Millisecond})
	c.decidesLast()
	committed, aborted := b.killChildWith(c, afterLast, "billing"), b.killChildWith(c, beforeLast, "billing")
	require.NoError(t, b.right.server.Kill())
	for _, id := range []txn.ID{committed, aborted} {
		eventually(t, "it waits for billing", func() bool {
			got := c.command("tx", "get", id.String())
			return got.code == 0 && strings.Contains(got.stdout, "it waits for its last resource billing")
		})
		got := c.command("tx", "resolve", "--abort", "--reason", "impatient", "--yes", id.String())
		require.NotZero(t, got.code, "nobody can override it")
	}
	require.Len(t, b.left.prepared(t, c.id), 2)
	require.NoError(t, b.right.server.Start())
	b.settled(c)
	require.Equal(t, concord.Committed, b.shows(committed))
	require.Equal(t, concord.Aborted, b.shows(aborted))
	b.sumHolds()
}

// Leaders and the last resource die under load: every answer is true.
func TestALastResourceUnderLoad(t *testing.T) {
	server := testdb.MariaDB(t)
	for _, last := range []string{"billing", "orders"} {
		t.Run(last, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
			defer cancel()
			b := bankAt(t, postgresServer.Get(t), server)
			c := startCluster(t, settings{resources: b.resources(), maxAge: 5 * time.Second, grace: time.Second,
				scan: 500 * time.Millisecond})
			var stop atomic.Bool
			l := startLoad(ctx, b, c.dial(), 8, func(int) bool { return stop.Load() },
				concord.WithLastResource(last), concord.WithTimeout(5*time.Second))
			goOn := func() {
				before := l.sofar()
				eventually(t, "transfers commit", func() bool { return l.sofar() > before+100 })
			}
			goOn()
			leader := c.leader()
			c.kill(leader)
			goOn()
			c.start(leader)
			require.NoError(t, server.Kill())
			require.NoError(t, server.Start())
			goOn()
			stop.Store(true)
			l.wait(t, c)
		})
	}
}
