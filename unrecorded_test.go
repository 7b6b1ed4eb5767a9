// SPDX-License-Identifier: Apache-2.0

package concord_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters"
	"github.com/concordtx/concord/adapters/adaptertest"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/txn"
)

// A transaction that changed one database is decided there, so the cluster must never say
// "aborted" of it, whoever asks, however, and however often.
func TestWhatOneDatabaseCommittedIsNeverCalledAborted(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	raw, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	orders := memory.New("orders", n.disks[0])

	var id concord.ID
	require.NoError(t, c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		id = tx.ID()
		o, err := orders.Tx(ctx, tx)
		if err != nil {
			return err
		}
		return o.Put(ctx, "alone", 1)
	}))
	require.EqualValues(t, 1, n.disks[0].Sum(), "the row is there")

	for range 2 { // before anybody asked for good, and after
		got, err := c.Outcome(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, "unrecorded", got.String())
		res, err := raw.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
		require.NoError(t, err)
		require.Equal(t, "unrecorded", res.GetTransaction().GetState())
		list, err := raw.List(t.Context(), &concordv1.ListRequest{State: "aborted"})
		require.NoError(t, err)
		require.Empty(t, list.GetTransactions())
		list, err = raw.List(t.Context(), &concordv1.ListRequest{State: "unrecorded"})
		require.NoError(t, err)
		require.Len(t, list.GetTransactions(), 1)
	}
	for _, m := range n.members {
		require.Equal(t, "unrecorded", outcomeByCurl(t, m.API, id), "at node %d", m.ID)
	}
	// The record is durable: it says the same after every node was started again.
	for i := range n.members {
		n.stops[i]()
		n.stops[i] = nil
		n.start(i)
	}
	n.leader(raw)
	for _, m := range n.members {
		require.Equal(t, "unrecorded", outcomeByCurl(t, m.API, id), "at node %d", m.ID)
	}
}

// outcomeByCurl asks one node, in JSON over plain HTTP.
func outcomeByCurl(t *testing.T, addr string, id concord.ID) string {
	t.Helper()
	var answer struct{ Outcome string }
	require.Eventually(t, func() bool {
		res, err := http.Post("http://"+addr+"/concord.v1.CoordinatorService/Outcome", "application/json",
			strings.NewReader(`{"gid":"`+id.String()+`"}`))
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK && json.NewDecoder(res.Body).Decode(&answer) == nil
	}, 20*time.Second, 20*time.Millisecond)
	return answer.Outcome
}

// With Recorded the cluster decides whatever changed, so that its word is final.
func TestARecordedTransactionIsCommittedOrAbortedForEver(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	for name, work := range map[string]func(context.Context, *concord.Tx) error{
		"nothing": func(context.Context, *concord.Tx) error { return nil },
		"one that was read": func(ctx context.Context, tx *concord.Tx) error {
			_, _, err := must(t, orders, tx).Get(ctx, "x")
			return err
		},
		"one": func(ctx context.Context, tx *concord.Tx) error { return must(t, orders, tx).Put(ctx, "one", 1) },
		"two, of which one was read": func(ctx context.Context, tx *concord.Tx) error {
			_, _, err := must(t, billing, tx).Get(ctx, "x")
			return errors.Join(err, must(t, orders, tx).Put(ctx, "one of two", 1))
		},
		"two": func(ctx context.Context, tx *concord.Tx) error {
			return errors.Join(must(t, orders, tx).Put(ctx, "first", 1), must(t, billing, tx).Put(ctx, "second", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			var id, failed concord.ID
			require.NoError(t, c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				id = tx.ID()
				return work(ctx, tx)
			}, concord.Recorded()))
			require.True(t, strings.HasSuffix(id.String(), "R"))
			err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				failed = tx.ID()
				return errors.Join(work(ctx, tx), errors.New("changed my mind"))
			}, concord.Recorded())
			require.ErrorIs(t, err, concord.ErrAborted)
			got, err := c.Lookup(t.Context(), failed)
			require.NoError(t, err)
			require.Equal(t, concord.Pending, got, "presumed abort leaves no record, and looking makes none")
			for _, m := range n.members {
				require.Equal(t, "committed", outcomeByCurl(t, m.API, id), "at node %d", m.ID)
				require.Equal(t, "aborted", outcomeByCurl(t, m.API, failed), "at node %d", m.ID)
			}
		})
	}
	require.EqualValues(t, 3, n.disks[0].Sum())
	require.EqualValues(t, 1, n.disks[1].Sum())
}

func must(t *testing.T, r *memory.Resource, tx *concord.Tx) *memory.Tx {
	t.Helper()
	m, err := r.Tx(t.Context(), tx)
	require.NoError(t, err)
	return m
}

func TestLookupChangesNothing(t *testing.T) {
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	looks := func(id concord.ID, want concord.Outcome) {
		t.Helper()
		got, err := c.Lookup(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	tx, err := c.Begin(t.Context())
	require.NoError(t, err)
	require.NoError(t, must(t, orders, tx).Put(t.Context(), "a", 1))
	require.NoError(t, must(t, billing, tx).Put(t.Context(), "b", 1))
	looks(tx.ID(), concord.Pending)
	require.NoError(t, tx.Commit(t.Context()), "the look has not aborted it")
	looks(tx.ID(), concord.Committed)

	other, err := c.Begin(t.Context())
	require.NoError(t, err)
	got, err := c.Outcome(t.Context(), other.ID())
	require.NoError(t, err)
	require.Equal(t, concord.Unrecorded, got)
	looks(other.ID(), concord.Unrecorded)
	require.NoError(t, must(t, orders, other).Put(t.Context(), "c", 1))
	require.NoError(t, must(t, billing, other).Put(t.Context(), "d", 1))
	require.ErrorIs(t, other.Commit(t.Context()), concord.ErrAborted, "the question has")
	require.Eventually(t, func() bool {
		got, err := c.Lookup(t.Context(), other.ID())
		return err == nil && got == concord.Aborted
	}, 20*time.Second, 10*time.Millisecond, "and the commit request has told that there were two")
}

// The cluster could not be asked in time, and never hears of the transaction: the client that
// had two branches of it knows that it is aborted. Another one does not.
func TestAnUnknownOutcomeIsSettledByTheClientThatHadIt(t *testing.T) {
	b := newBank(t)
	ctx, cancel := context.WithCancel(t.Context())
	b.before = func(asked context.Context) error {
		cancel()
		<-asked.Done()
		return context.Cause(asked)
	}
	tx, err := b.client.Begin(ctx)
	require.NoError(t, err)
	require.NoError(t, b.transfer(ctx, tx))
	var unknown *concord.UnknownError
	require.ErrorAs(t, tx.Commit(ctx), &unknown)
	outcome, err := b.client.Outcome(t.Context(), unknown.GID)
	require.NoError(t, err)
	require.Equal(t, concord.Aborted, outcome)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Contains(t, b.several, unknown.GID)
}

// TestALastResourceDecides: of two databases one is prepared, and the other commits. The cluster hears of it, and takes
// note of it.
func TestALastResourceDecides(t *testing.T) {
	t.Parallel()
	n := startNodes(t)
	c, err := concord.Dial(t.Context(), n.addrs())
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	raw, err := api.Dial(n.addrs(), api.ClientOptions{})
	require.NoError(t, err)
	defer func() { require.NoError(t, raw.Close()) }()
	orders, billing := memory.New("orders", n.disks[0]), memory.New("billing", n.disks[1])
	last := concord.WithLastResource("billing")
	eventually := func(id concord.ID, state string) (m *concordv1.Transaction) {
		t.Helper()
		require.Eventually(t, func() bool {
			res, err := raw.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
			m = res.GetTransaction()
			return err == nil && m.GetState() == state
		}, 30*time.Second, 10*time.Millisecond)
		return m
	}
	cluster := func() txn.ClusterID {
		s, err := raw.Resources(t.Context(), &concordv1.ResourcesRequest{})
		require.NoError(t, err)
		id, err := api.ParseCluster("cluster", s.GetCluster())
		require.NoError(t, err)
		return id
	}()

	t.Run("one that this client has never used", func(t *testing.T) {
		var id concord.ID
		err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			id = tx.ID()
			return errors.Join(must(t, orders, tx).Put(ctx, "unused", 1), must(t, billing, tx).Put(ctx, "unused", 1))
		}, concord.WithLastResource("stock"))
		require.EqualError(t, err, "transaction "+id.String()+` was aborted: its last resource "stock" has never been `+
			"used by this client, so its marker cannot be written: call Tx of that resource in the transaction")
		require.ErrorIs(t, err, concord.ErrAborted)
		require.Zero(t, n.disks[0].Sum()+n.disks[1].Sum())
	})

	t.Run("both commit, and the marker goes with the end", func(t *testing.T) {
		var id concord.ID
		require.NoError(t, c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			id = tx.ID()
			return errors.Join(must(t, orders, tx).Put(ctx, "both", 1), must(t, billing, tx).Put(ctx, "both", 1))
		}, last, concord.WithLabel("order 4711")))
		require.True(t, strings.HasSuffix(id.String(), "M"))
		require.EqualValues(t, 1, n.disks[0].Sum())
		require.EqualValues(t, 1, n.disks[1].Sum())
		m := eventually(id, "committed")
		require.Equal(t, "billing", m.GetLastResource())
		require.Equal(t, "last_resource", m.GetProtocol())
		require.Equal(t, "order 4711", m.GetLabel())
		require.Len(t, m.GetBranches(), 1)
		require.Eventually(t, func() bool {
			kept, err := billing.Evidence(t.Context(), txn.XID{Cluster: cluster})
			return err == nil && len(kept) == 0
		}, 30*time.Second, 10*time.Millisecond)
		got, err := c.Outcome(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, concord.Committed, got)
	})
	t.Run("without work of its own it decides all the same", func(t *testing.T) {
		extra := memory.New("orders", n.disks[0])
		var id concord.ID
		err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			id = tx.ID()
			_, _, err := must(t, billing, tx).Get(ctx, "both")
			return errors.Join(err, must(t, extra, tx).Put(ctx, "elsewhere", 1))
		}, last)
		require.NoError(t, err)
		require.Equal(t, "billing", eventually(id, "committed").GetLastResource())
	})
	t.Run("a No of either leaves nothing and no record", func(t *testing.T) {
		for _, bad := range []*memory.Resource{orders, billing} {
			sums := [2]int64{n.disks[0].Sum(), n.disks[1].Sum()}
			var id concord.ID
			err := c.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
				id = tx.ID()
				err := errors.Join(must(t, orders, tx).Put(ctx, "no", 1), must(t, billing, tx).Put(ctx, "no", 1))
				_ = must(t, bad, tx).Put(ctx, "", 1) // which the application does not look at
				return err
			}, last)
			require.ErrorIs(t, err, concord.ErrAborted)
			var aborted *concord.AbortedError
			require.ErrorAs(t, err, &aborted)
			require.Equal(t, bad.Name(), aborted.Resource)
			require.Equal(t, sums, [2]int64{n.disks[0].Sum(), n.disks[1].Sum()})
			_, err = raw.Get(t.Context(), &concordv1.GetRequest{Gid: id.String()})
			require.ErrorIs(t, err, txn.ErrNotFound)
		}
	})
	t.Run("whoever was asked first wins", func(t *testing.T) {
		tx, err := c.Begin(t.Context(), last)
		require.NoError(t, err)
		require.NoError(t, must(t, orders, tx).Put(t.Context(), "late", 1))
		require.NoError(t, must(t, billing, tx).Put(t.Context(), "late", 1))
		for _, wrong := range []string{"", "orders"} { // nothing is presumed, and no other database is asked
			_, err := raw.Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: tx.ID().String(), LastResource: wrong})
			require.ErrorIs(t, err, txn.ErrRefused)
		}
		res, err := raw.Outcome(t.Context(), &concordv1.OutcomeRequest{Gid: tx.ID().String(), Several: true,
			LastResource: "billing"})
		require.NoError(t, err)
		require.Equal(t, "aborted", res.GetOutcome())
		err = tx.Commit(t.Context())
		require.ErrorIs(t, err, adapters.ErrSettled)
		require.ErrorIs(t, err, concord.ErrAborted)
		require.True(t, concord.Retryable(err))
	})
	t.Run("what a client leaves behind is settled", func(t *testing.T) {
		left := func(commit bool) txn.ID {
			id := txn.NewID(time.Now().Add(-time.Hour)).WithClass(txn.LastResource).WithLast("billing")
			s, err := orders.Open(t.Context(), txn.XID{Cluster: cluster, ID: id, Branch: 1})
			require.NoError(t, err)
			s.(adapters.Tagged).SetTag(txn.TagOf("billing"))
			tx, err := orders.Tx(t.Context(), adaptertest.Enlisted(s))
			require.NoError(t, err)
			require.NoError(t, tx.Put(t.Context(), "left "+id.String(), 1))
			vote, branch, err := s.Prepare(t.Context())
			require.NoError(t, err)
			require.Equal(t, txn.VoteYes, vote)
			if commit {
				s, err := billing.Open(t.Context(), txn.XID{Cluster: cluster, ID: id, Branch: 2})
				require.NoError(t, err)
				require.NoError(t, s.(adapters.Last).CommitLast(t.Context(), txn.LastMarker{Decision: txn.Commit,
					Label: "left", Branches: []txn.Branch{branch}}))
			}
			return id
		}
		committed, aborted := left(true), left(false)
		m := eventually(committed, "committed")
		require.Equal(t, "left", m.GetLabel())
		require.Equal(t, "billing", m.GetLastResource())
		eventually(aborted, "aborted")
		value, found := n.disks[0].Get("left " + committed.String())
		require.True(t, found)
		require.EqualValues(t, 1, value)
		require.Eventually(t, func() bool {
			_, found := n.disks[0].Get("left " + aborted.String())
			list, err := orders.Recover(t.Context())
			return err == nil && len(list) == 0 && !found
		}, 30*time.Second, 10*time.Millisecond)
		kept, err := billing.Evidence(t.Context(), txn.XID{Cluster: cluster})
		require.NoError(t, err)
		require.Contains(t, kept, txn.LastXID(cluster, aborted), "its marker stays for who wakes up")
	})
	t.Run("options that contradict it", func(t *testing.T) {
		for _, o := range []concord.TxOption{concord.Recorded(), concord.WithProtocol(concord.ThreePhase)} {
			_, err := c.Begin(t.Context(), last, o)
			require.ErrorIs(t, err, txn.ErrInvalid)
		}
	})
}
