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
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
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
}

// stop is a point on the way of a commit.
type stop string

const (
	afterPrepare stop = "both branches are prepared, the cluster was not asked"
	afterRequest stop = "the cluster has decided, no branch is committed"
	betweenEnds  stop = "the first branch is committed, the second is not"
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

// killChild runs a child up to a point, kills it there, and returns the gid of its
// transaction.
func (b *bank) killChild(c *cluster, at stop) txn.ID {
	b.Helper()
	self, err := os.Executable()
	require.NoError(b, err)
	order, err := json.Marshal(childOrder{Stop: at, Addrs: c.addrs(), Cluster: c.id.String(), Orders: b.left.dsn(),
		Billing: b.right.dsn()})
	require.NoError(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(order))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, child := io.Pipe()
	cmd.Stdout = child
	_, err = cmd.StdinPipe() // stays open for as long as we live
	require.NoError(b, err)
	p, err := startProcess(cmd)
	require.NoError(b, err)
	go func() {
		<-p.done
		_ = child.Close() // the reader below sees the end
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, p.end(syscall.SIGKILL, patience))
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
