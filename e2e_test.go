// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/concordotel"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/commit"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/server"
	"github.com/concordtx/concord/txn"
)

// nodes are three real coordinator nodes in this process, with stores in files.
type nodes struct {
	t       *testing.T
	members []replica.Member
	dirs    []string
	disks   [2]*memory.Disk
	stops   []func() // nil while a node is down
	log     *slog.Logger
	rules   commit.Rules
}

func startNodes(t *testing.T, set ...func(*nodes)) *nodes {
	n := &nodes{t: t, disks: [2]*memory.Disk{memory.NewDisk(), memory.NewDisk()}, stops: make([]func(), 3),
		log: slog.New(slog.DiscardHandler)}
	for _, s := range set {
		s(n)
	}
	for i := range 3 {
		n.members = append(n.members, replica.Member{ID: zab.NodeID(i + 1), Peer: freeAddr(t), API: freeAddr(t)})
		n.dirs = append(n.dirs, t.TempDir())
	}
	for i := range 3 {
		n.start(i)
	}
	t.Cleanup(func() {
		for _, stop := range n.stops {
			if stop != nil {
				stop()
			}
		}
	})
	return n
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}

func (n *nodes) start(i int) {
	node, err := coordinator.Open(coordinator.Config{
		Node: n.members[i].ID, Members: n.members, DataDir: n.dirs[i], Logger: n.log, Rules: n.rules,
		Resources: []adapters.Resource{memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])},
	})
	require.NoError(n.t, err)
	listener, err := net.Listen("tcp", n.members[i].API)
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	// Their errors are that they were stopped.
	running.Go(func() { _ = node.Run(ctx) })
	running.Go(func() { _ = server.Serve(ctx, node, access.Open(), listener, n.log) })
	n.stops[i] = func() { cancel(); running.Wait() }
}

func (n *nodes) addrs() (addrs []string) {
	for _, m := range n.members {
		addrs = append(addrs, m.API)
	}
	return addrs
}

// leader waits until a node is leading and returns its index.
func (n *nodes) leader(c *api.Client) (index int) {
	require.Eventually(n.t, func() bool {
		s, err := c.Status(n.t.Context(), &concordv1.StatusRequest{})
		index = int(s.GetLeader()) - 1
		return err == nil && index >= 0 && n.stops[index] != nil
	}, 20*time.Second, 20*time.Millisecond)
	return index
}

func TestTransfersSurviveLeaderLossesOnRealNodes(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	status, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, status.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])

	var mu sync.Mutex
	var moved int64
	var doubtful []concord.ID
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			key := fmt.Sprint("account-", w)
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
					from, err := orders.Tx(ctx, tx)
					if err != nil {
						return err
					}
					if _, err := from.Add(ctx, key, -1); err != nil {
						return err
					}
					to, err := billing.Tx(ctx, tx)
					if err != nil {
						return err
					}
					_, err = to.Add(ctx, key, 1)
					return err
				})
				var unknown *concord.UnknownError
				mu.Lock()
				switch {
				case err == nil:
					moved++
				case errors.As(err, &unknown):
					doubtful = append(doubtful, unknown.GID)
				case !errors.Is(err, concord.ErrAborted):
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	progress := func() {
		mu.Lock()
		before := moved
		mu.Unlock()
		require.Eventually(t, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return moved >= before+20
		}, 30*time.Second, 10*time.Millisecond)
	}
	progress()
	for range 2 {
		i := n.leader(status)
		n.stops[i]()
		n.stops[i] = nil
		progress()
		n.start(i)
	}
	close(stop)
	workers.Wait()
	for _, id := range doubtful {
		outcome, err := c.Outcome(t.Context(), id)
		require.NoError(t, err)
		if outcome == concord.Committed {
			moved++
		}
	}
	require.NoError(t, c.Close())
	for _, r := range []*memory.Resource{orders, billing} {
		require.Eventually(t, func() bool {
			list, err := r.Recover(t.Context())
			return err == nil && len(list) == 0
		}, 30*time.Second, 20*time.Millisecond, "the cluster finishes what sessions left")
	}
	require.Equal(t, -moved, n.disks[0].Sum())
	require.Equal(t, moved, n.disks[1].Sum())
	t.Logf("%d transfers, %d outcomes asked for", moved, len(doubtful))
}

// keyed waits until every member of the cluster is known to know keys.
func (n *nodes) keyed(c *api.Client) {
	require.Eventually(n.t, func() bool {
		_, err := c.KeyUse(n.t.Context(), &concordv1.KeyUseRequest{Key: "nobody's"})
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
}

// payer runs payments at most once for a key.
type payer struct {
	*nodes
	orders, billing *memory.Resource
}

func (n *nodes) payer() payer {
	return payer{n, memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])}
}

func (p payer) pay(ctx context.Context, c *concord.Client, key string, cents int64,
	more ...func(*concord.Tx) error) (concord.Once, error) {
	return c.RunOnce(ctx, key, func(ctx context.Context, tx *concord.Tx) error {
		from, err := p.orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := from.Add(ctx, "A", -cents); err != nil {
			return err
		}
		to, err := p.billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		left, err := to.Add(ctx, "A", cents)
		if err != nil {
			return err
		}
		for _, do := range more {
			if err := do(tx); err != nil {
				return err
			}
		}
		return tx.SetResult(fmt.Append(nil, left))
	})
}

func TestRunOnce(t *testing.T) {
	n := startNodes(t)
	p := n.payer()
	caller, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, caller.Close()) }()
	var clients [2]*concord.Client
	for i := range clients {
		clients[i], err = concord.Dial(t.Context(), n.addrs())
		require.NoError(t, err)
		defer func() { require.NoError(t, clients[i].Close()) }()
	}
	n.keyed(caller)
	first, err := p.pay(t.Context(), clients[0], "order 4711", 5)
	require.NoError(t, err)
	require.False(t, first.Replayed)
	require.Equal(t, "5", string(first.Result))
	for _, c := range clients {
		again, err := p.pay(t.Context(), c, "order 4711", 5)
		require.NoError(t, err)
		require.Equal(t, concord.Once{GID: first.GID, Result: first.Result, Replayed: true}, again)
	}
	outcome, err := clients[1].Outcome(t.Context(), first.GID)
	require.NoError(t, err)
	require.Equal(t, concord.Committed, outcome)

	// What was rolled back has used no key.
	broke := errors.New("broke")
	_, err = p.pay(t.Context(), clients[0], "order 4712", 5, func(*concord.Tx) error { return broke })
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, broke)
	second, err := p.pay(t.Context(), clients[1], "order 4712", 7)
	require.NoError(t, err)
	require.False(t, second.Replayed)
	require.Equal(t, "12", string(second.Result))
	require.EqualValues(t, 12, n.disks[1].Sum())

	// Somebody else commits under the key while the function runs.
	third, err := p.pay(t.Context(), clients[0], "order 4713", 1, func(*concord.Tx) error {
		known, err := caller.Identify(t.Context())
		if err == nil {
			_, err = caller.Commit(t.Context(), &concordv1.CommitRequest{Key: "order 4713",
				Gid: txn.NewID(time.Now()).WithClass(txn.Recorded).String(), Cluster: known.GetCluster()})
		}
		return err
	})
	require.NoError(t, err)
	require.True(t, third.Replayed)
	require.Empty(t, third.Result)
	require.EqualValues(t, 12, n.disks[1].Sum())
}

// Calls of one key at once, by several clients: one of them works, and the others wait for it, or for as long as they
// want to.
func TestAKeyInFlightIsWaitedFor(t *testing.T) {
	n := startNodes(t)
	p := n.payer()
	caller, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, caller.Close()) }()
	n.keyed(caller)
	var clients []*concord.Client
	for range 3 {
		c, err := concord.Dial(t.Context(), n.addrs())
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		clients = append(clients, c)
	}
	var calls sync.WaitGroup
	var ran, failed atomic.Int32
	broke, begun := errors.New("broke"), make(chan struct{})
	var mu sync.Mutex
	answers := map[string]int{}
	for i := range 50 {
		calls.Go(func() {
			once, err := p.pay(t.Context(), clients[i%len(clients)], "order 4711", 5, func(*concord.Tx) error {
				if ran.Add(1) > 1 {
					return nil
				}
				<-begun
				return broke // what waits does it then
			})
			if errors.Is(err, broke) {
				failed.Add(1)
				return
			}
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			answers[fmt.Sprintf("%v %s", once.GID, once.Result)]++
		})
	}
	require.Eventually(t, func() bool { return ran.Load() == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { // the cluster may be slow to say so
		_, err := clients[0].RunOnce(t.Context(), "order 4711",
			func(context.Context, *concord.Tx) error { return broke }, concord.WithTimeout(100*time.Millisecond))
		return errors.Is(err, concord.ErrInFlight)
	}, 20*time.Second, time.Millisecond)
	close(begun)
	calls.Wait()
	require.EqualValues(t, 2, ran.Load())
	require.EqualValues(t, 1, failed.Load())
	require.Len(t, answers, 1, "%v", answers)
	for _, count := range answers {
		require.Equal(t, 49, count)
	}
	require.EqualValues(t, 5, n.disks[1].Sum())
}

func TestBadKeysAndResults(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	caller, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, caller.Close()) }()
	n.keyed(caller)
	nothing := func(context.Context, *concord.Tx) error { return nil }
	_, err = c.RunOnce(t.Context(), "", nothing)
	require.EqualError(t, err, "begin: RunOnce: is empty, want an idempotency key, such as the number of an order")
	_, err = c.RunOnce(t.Context(), strings.Repeat("k", 129), nothing)
	require.EqualError(t, err, "begin: RunOnce: has 129 bytes, at most 128 are allowed")
	_, err = c.RunOnce(t.Context(), "k", nothing, concord.WithProtocol(concord.ThreePhase))
	require.EqualError(t, err, "begin: RunOnce works in two phases: leave WithProtocol out")
	_, err = c.RunOnce(t.Context(), "k", func(_ context.Context,
		tx *concord.Tx) error {
		return tx.SetResult(make([]byte, concord.MaxResult+1))
	})
	require.ErrorContains(t, err, "the result has 4097 bytes, and at most 4096 are kept with a key: keep less, or "+
		"store it in a database and keep its name")
	err = c.Run(t.Context(), func(_ context.Context, tx *concord.Tx) error { return tx.SetResult(nil) })
	require.ErrorContains(t, err, "the transaction has no key to keep a result with: use Client.RunOnce")
	err = c.Run(t.Context(), func(ctx context.Context, _ *concord.Tx) error {
		_, err := c.RunOnce(ctx, "k", nothing)
		return err
	})
	require.ErrorContains(t, err, "RunOnce commits a transaction of its own, and its context is that of another "+
		"one: call it outside of Run")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.RunOnce(ended, "k", nothing)
	require.EqualError(t, err, "begin: context canceled", "and nothing about the nodes")
	once, err := c.RunOnce(t.Context(), "k", nothing)
	require.NoError(t, err)
	require.False(t, once.Replayed)
}

// Fifty calls of one key at once, by three clients, while leaders die: one effect, and fifty equal answers.
func TestOneKeyHasOneEffect(t *testing.T) {
	n := startNodes(t)
	p := n.payer()
	caller, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, caller.Close()) }()
	n.keyed(caller)
	var clients []*concord.Client
	for range 3 {
		c, err := concord.Dial(t.Context(), n.addrs())
		require.NoError(t, err)
		defer func() { require.NoError(t, c.Close()) }()
		clients = append(clients, c)
	}
	const rounds, calls = 3, 50
	for round := range rounds {
		key := fmt.Sprint("round ", round)
		var mu sync.Mutex
		answers := map[string]int{}
		ran := 0
		begun := make(chan struct{}, calls)
		var running sync.WaitGroup
		for i := range calls {
			running.Go(func() {
				for { // as whoever repeats a request does, with its key
					once, err := p.pay(t.Context(), clients[i%len(clients)], key, 1, func(*concord.Tx) error {
						select {
						case begun <- struct{}{}:
						default:
						}
						return nil
					})
					if err != nil && t.Context().Err() == nil {
						continue // aborted, or not known: nothing is lost by another try
					}
					mu.Lock()
					answers[fmt.Sprintf("%v %s", once.GID, once.Result)]++
					if !once.Replayed {
						ran++
					}
					mu.Unlock()
					return
				}
			})
		}
		<-begun
		i := n.leader(caller)
		n.stops[i]()
		n.stops[i] = nil
		n.start(i)
		running.Wait()
		require.Len(t, answers, 1, "%v", answers)
		for _, count := range answers {
			require.Equal(t, calls, count)
		}
		require.LessOrEqual(t, ran, 1)
	}
	require.Eventually(t, func() bool {
		for _, r := range []*memory.Resource{p.orders, p.billing} {
			if list, err := r.Recover(t.Context()); err != nil || len(list) > 0 {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond)
	require.EqualValues(t, rounds, n.disks[1].Sum())
	require.EqualValues(t, -rounds, n.disks[0].Sum())
}

// logged is what is logged, line by line.
type logged chan string

func (s logged) Write(line []byte) (int, error) {
	select {
	case s <- string(line):
	default: // nobody reads any more
	}
	return len(line), nil
}

// What the cluster ends in the place of a client that cannot, it logs with the span of the transaction.
func TestTheClusterNamesTheTraceOfWhatItEnds(t *testing.T) {
	lines := make(logged, 1000)
	n := startNodes(t, func(n *nodes) {
		n.log = slog.New(slog.NewTextHandler(lines, nil))
		n.rules = commit.Rules{Grace: 50 * time.Millisecond}
	})
	spans := tracetest.NewInMemoryExporter()
	tracers := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	c, err := concord.Dial(t.Context(), n.addrs(),
		concord.WithHook(concordotel.Hook(concordotel.WithTracerProvider(tracers))))
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	orders, billing := newScripted("orders", n.disks[0]), newScripted("billing", n.disks[1])
	const always = 1 << 30
	billing.dropped[callCommit], billing.dropped[callRecovery] = always, always
	var id concord.ID
	require.NoError(t, c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		return errors.Join(orders.add(ctx, tx, "A", -1), billing.add(ctx, tx, "A", 1))
	}))
	var transaction tracetest.SpanStub
	for _, s := range spans.GetSpans() {
		if s.Name == "concord.transaction" {
			transaction = s
		}
	}
	want := fmt.Sprintf("resource=billing gid=%v branch=1 decision=commit trace_id=%v span_id=%v found=done", id,
		transaction.SpanContext.TraceID(), transaction.SpanContext.SpanID())
	require.Eventually(t, func() bool {
		for {
			select {
			case line := <-lines:
				if strings.Contains(line, "branch finished by the cluster") {
					require.Contains(t, line, want)
					return true
				}
			default:
				return false
			}
		}
	}, 20*time.Second, 10*time.Millisecond)
}

// anew replaces the cluster by one that knows nothing.
func (n *nodes) anew() {
	for i, stop := range n.stops {
		stop()
		n.stops[i] = nil
	}
	for i := range n.dirs {
		n.dirs[i] = n.t.TempDir()
		n.start(i)
	}
}

func TestAClusterThatIsMadeAnewIsNotTakenForTheOld(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	transfer := func(ctx context.Context, tx *concord.Tx) error {
		from, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if _, err := from.Add(ctx, "A", -1); err != nil {
			return err
		}
		to, err := billing.Tx(ctx, tx)
		if err != nil {
			return err
		}
		_, err = to.Add(ctx, "A", 1)
		return err
	}
	for range 20 { // the client sees more than the new cluster will soon have
		require.NoError(t, c.Run(t.Context(), transfer))
	}
	begun, err := c.Begin(t.Context(), concord.WithTimeout(time.Minute))
	require.NoError(t, err)
	earlier, err := c.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, earlier.Commit(t.Context()))

	n.anew()
	status, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, status.Close()) }()
	n.leader(status)
	require.NoError(t, transfer(t.Context(), begun))
	started := time.Now()
	err = begun.Commit(t.Context())
	require.Less(t, time.Since(started), 30*time.Second, "it did not wait for its limit")
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorIs(t, err, concord.ErrCluster)
	require.ErrorContains(t, err, "concord recover")
	requireUnprepared(t, orders, billing)
	require.EqualValues(t, -20, n.disks[0].Sum())

	err = c.Run(t.Context(), func(context.Context, *concord.Tx) error { t.Error("it began"); return nil })
	require.ErrorIs(t, err, concord.ErrCluster)
	outcome, err := c.Outcome(t.Context(), earlier.ID())
	require.ErrorIs(t, err, concord.ErrCluster, "the new cluster knows nothing of it")
	require.Equal(t, concord.Unknown, outcome)

	again, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	require.NoError(t, again.Run(t.Context(), transfer))
	require.NoError(t, again.Close())
}

func requireUnprepared(t *testing.T, rs ...*memory.Resource) {
	t.Helper()
	for _, r := range rs {
		list, err := r.Recover(t.Context())
		require.NoError(t, err)
		require.Empty(t, list)
	}
}
