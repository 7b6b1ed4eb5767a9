// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/internal/program"
	"github.com/concordtx/concord/txn"
)

// clientEnv holds the order of another kind of child: an application with the SDK.
const clientEnv = "CONCORD_E2E_CLIENT"

type clientOrder struct {
	Addrs           []string
	Cluster         txn.ClusterID
	Orders, Billing string // data source names
	Workers         int    // that move money all the time
	Commit          bool   // commit one more transaction when told to, and say what came of it
}

// runClient moves money until it is killed. It also holds, as if it were in the middle of their
// commits, a transaction whose branches are prepared, and one whose branches are open.
func runClient(text string) int {
	if err := clientUntilKilled(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func clientUntilKilled(text string) error {
	var order clientOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return err
	}
	a, err := openApplication(order.Orders, order.Billing)
	if err != nil {
		return err
	}
	ctx := context.Background()
	c, err := concord.Dial(ctx, order.Addrs)
	if err != nil {
		return err
	}
	tx, err := a.hold(ctx, c)
	for ; !order.Commit; err = errors.Join(err, ctx.Err()) {
		h := &hand{cluster: order.Cluster, id: txn.NewID(time.Now()).WithLease(tx.ID().Lease())}
		if a.prepare(ctx, h) == nil {
			break
		}
		for _, s := range h.sessions { // the others were faster
			err = errors.Join(err, s.Rollback(ctx))
		}
	}
	if err != nil {
		return err
	}
	fmt.Println(tx.ID())
	for range order.Workers {
		go func() {
			for {
				_ = c.Run(ctx, func(ctx context.Context, tx *concord.Tx) error { return a.transfer(ctx, tx, tx.ID()) })
			}
		}()
	}
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil
	}
	fmt.Println(tx.Commit(ctx))
	return c.Close()
}

// hold begins a transaction and does its work.
func (a *application) hold(ctx context.Context, c *concord.Client) (*concord.Tx, error) {
	for {
		tx, err := c.Begin(ctx, concord.WithTimeout(10*time.Minute))
		if err != nil || a.transfer(ctx, tx, tx.ID()) == nil {
			return tx, err
		}
		if err := tx.Rollback(ctx); err != nil { // the others were faster
			return nil, err
		}
	}
}

// childClient is a child with the SDK.
type childClient struct {
	*program.Process
	id  txn.ID // of the transaction that it holds open
	in  io.WriteCloser
	out *bufio.Reader
}

// startClient starts a child and waits until it holds what it is to hold.
func (b *bank) startClient(c *cluster, workers int, commit bool) *childClient {
	b.Helper()
	self, err := os.Executable()
	require.NoError(b, err)
	order, err := json.Marshal(clientOrder{Addrs: c.addrs(), Cluster: c.id, Orders: b.left.dsn(),
		Billing: b.right.dsn(), Workers: workers, Commit: commit})
	require.NoError(b, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), clientEnv+"="+string(order))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, child := io.Pipe()
	cmd.Stdout = child
	in, err := cmd.StdinPipe()
	require.NoError(b, err)
	p, err := program.Start(cmd)
	require.NoError(b, err)
	b.Cleanup(func() { _ = p.End(syscall.SIGKILL, patience) })
	go func() {
		<-p.Done()
		_ = child.Close() // readers see the end
	}()
	k := &childClient{Process: p, in: in, out: bufio.NewReader(out)}
	line, err := k.out.ReadString('\n')
	require.NoError(b, err, "the child did not get there: %s", &stderr)
	k.id, err = txn.ParseID(strings.TrimSpace(line))
	require.NoError(b, err)
	require.NotZero(b, k.id.Lease(), "it has a lease")
	return k
}

// leased waits until the cluster grants leases.
func (c *cluster) leased(client *concord.Client) {
	c.Helper()
	eventually(c, "leases are switched on", func() bool {
		tx, err := client.Begin(context.Background())
		require.NoError(c, err)
		require.NoError(c, tx.Rollback(context.Background()))
		return tx.ID().Lease() != 0
	})
}

// Twenty clients are killed, some at a time, while others work on the same rows. What they held
// is free within seconds: the age at which it would be taken for left is far away.
func TestKilledClientsHoldNobodyUp(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute})
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	client := c.dial()
	c.leased(client)
	loading, stop := context.WithCancel(ctx)
	defer stop()
	l := startLoad(loading, b, client, 4, func(int) bool { return false })
	var worst time.Duration
	eventually(t, "the load is under way", func() bool { return l.sofar() >= 10 })
	before := l.rate(3 * time.Second)
	for range 5 {
		var killed []*childClient
		for range 4 {
			killed = append(killed, b.startClient(c, 2, false))
		}
		for _, k := range killed {
			require.NoError(t, k.End(syscall.SIGKILL, patience))
		}
		began := time.Now()
		leases := map[txn.Lease]bool{}
		for _, k := range killed {
			leases[k.id.Lease()] = true
		}
		require.Len(t, leases, len(killed), "each has its own")
		require.NotEmpty(t, b.heldBy(c, leases))
		eventually(t, "nothing of the killed clients is left", func() bool { return len(b.heldBy(c, leases)) == 0 })
		took := time.Since(began)
		worst = max(worst, took)
		t.Logf("free after %v; then the others commit at %.2f of their rate before", took.Round(10*time.Millisecond),
			l.rate(3*time.Second)/before)
		from := l.sofar()
		eventually(t, "the others go on", func() bool { return l.sofar() >= from+10 })
	}
	stop()
	<-l.done
	t.Logf("20 clients killed; what they held was free after %v at the latest", worst.Round(10*time.Millisecond))
	b.settled(c)
	b.sumHolds()
	left, right := b.left.texts(t, "SELECT gid FROM transfer"), b.right.texts(t, "SELECT gid FROM transfer")
	slices.Sort(left)
	slices.Sort(right)
	require.Equal(t, left, right, "each transfer happened in both databases or in none")
	for id, outcome := range l.answers {
		if _, shown := slices.BinarySearch(left, id.String()); outcome != concord.Unknown {
			require.Equal(t, outcome == concord.Committed, shown, "%v", id)
		}
	}
}

// heldBy returns what is prepared under these leases.
func (b *bank) heldBy(c *cluster, leases map[txn.Lease]bool) (held []string) {
	b.Helper()
	for _, d := range []*database{b.left, b.right} {
		query := "SELECT gid FROM pg_prepared_xacts"
		if d == b.right {
			query = "XA RECOVER"
		}
		for _, name := range d.texts(b, query) {
			if len(name) < 43 || !strings.HasPrefix(name, "concord-"+c.id.String()+"-") {
				continue
			}
			id, err := txn.ParseID(name[17:43])
			require.NoError(b, err)
			if leases[id.Lease()] {
				held = append(held, name)
			}
		}
	}
	return held
}

// A client that was stopped for longer than its lease lasts does not commit when it goes on.
func TestAClientThatWasStoppedPastItsLeaseAborts(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources(), maxAge: 10 * time.Minute})
	client := c.dial()
	c.leased(client)
	for _, long := range []bool{false, true} {
		k := b.startClient(c, 0, true)
		require.NoError(t, k.Signal(syscall.SIGSTOP))
		eventually(t, "it has stopped", k.Stopped)
		if long {
			eventually(t, "its lease has ended", func() bool {
				for _, n := range c.nodes {
					log, err := os.ReadFile(n.log)
					require.NoError(t, err)
					if strings.Contains(string(log), fmt.Sprintf("leases [%d] end", k.id.Lease())) {
						return true
					}
				}
				return false
			})
		}
		require.NoError(t, k.Signal(syscall.SIGCONT))
		_, err := io.WriteString(k.in, "go on\n")
		require.NoError(t, err)
		said, err := k.out.ReadString('\n')
		require.NoError(t, err)
		want := concord.Committed
		if long {
			want = concord.Aborted
			require.Contains(t, said, "was aborted")
			require.Contains(t, said, "lease")
		} else {
			require.Equal(t, "<nil>\n", said)
		}
		b.settled(c)
		require.Equal(t, want, b.shows(k.id), "%s", said)
		<-k.Done()
	}
	b.sumHolds()
}

// While leaders die nobody who lives loses a lease.
func TestLeadersDieAndNobodyLosesALease(t *testing.T) {
	b := newBank(t)
	c := startCluster(t, settings{resources: b.resources()})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	clients := []*concord.Client{c.dial(), c.dial()}
	var held []*concord.Tx
	for _, client := range clients {
		c.leased(client)
		tx, err := client.Begin(ctx, concord.WithTimeout(50*time.Second))
		require.NoError(t, err)
		require.NotZero(t, tx.ID().Lease())
		held = append(held, tx)
	}
	var over atomic.Bool
	l := startLoad(ctx, b, clients[0], 4, func(int) bool { return over.Load() })
	for range 3 {
		leader := c.leader()
		c.kill(leader)
		from := l.sofar()
		eventually(t, "transfers go on", func() bool { return l.sofar() >= from+20 })
		c.start(leader)
		c.ready()
	}
	for i, tx := range held {
		next, err := clients[i].Begin(ctx)
		require.NoError(t, err)
		require.Equal(t, tx.ID().Lease(), next.ID().Lease(), "client %d has its lease still", i)
		require.NoError(t, next.Rollback(ctx))
		require.NoError(t, b.transfer(ctx, tx, tx.ID()))
		err = tx.Commit(ctx)
		if err == nil {
			l.mu.Lock()
			l.answers[tx.ID()] = concord.Committed
			l.mu.Unlock()
			continue
		}
		require.NotContains(t, err.Error(), "lease") // a deadlock with the load is no fault of it
	}
	over.Store(true)
	l.wait(t, c)
	for id := range l.answers {
		require.Contains(t, []txn.Lease{held[0].ID().Lease(), held[1].ID().Lease()}, id.Lease(), "%v", id)
	}
}
