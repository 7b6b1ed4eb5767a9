// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
)

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

func (p payer) pay(ctx context.Context, c *concord.Client, key string, cents int64, more ...func(*concord.Tx) error) (concord.Once, error) {
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
		_, err := clients[1].RunOnce(t.Context(), "order 4713", func(context.Context, *concord.Tx) error { return nil })
		return err
	})
	require.NoError(t, err)
	require.True(t, third.Replayed)
	require.Empty(t, third.Result)
	require.EqualValues(t, 12, n.disks[1].Sum())
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
	require.EqualError(t, err, "begin: RunOnce works in two phases: leave WithProtocol out: invalid request")
	_, err = c.RunOnce(t.Context(), "k", func(_ context.Context, tx *concord.Tx) error { return tx.SetResult(make([]byte, concord.MaxResult+1)) })
	require.ErrorContains(t, err, "the result has 4097 bytes, and at most 4096 are kept with a key: keep less, or store it in a database and keep its name")
	err = c.Run(t.Context(), func(_ context.Context, tx *concord.Tx) error { return tx.SetResult(nil) })
	require.ErrorContains(t, err, "the transaction has no key to keep a result with: use Client.RunOnce")
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
