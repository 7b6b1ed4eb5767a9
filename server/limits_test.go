// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/coordinator"
	"github.com/concordtx/concord/coordinator/replica"
	"github.com/concordtx/concord/protocol/zab"
	"github.com/concordtx/concord/security/access"
	"github.com/concordtx/concord/txn"
)

// One subject has so many leases; those that ended are none.
func TestASubjectHasSoManyLeases(t *testing.T) {
	var h holders
	lasts := map[txn.Lease]bool{}
	hold := func(l txn.Lease) bool { return lasts[l] }
	for l := txn.Lease(1); l <= 3; l++ {
		require.NoError(t, h.reserve("evil", 3, hold))
		h.grant(l, "evil")
		lasts[l] = true
	}
	err := h.reserve("evil", 3, hold)
	require.ErrorIs(t, err, txn.ErrBusy)
	require.ErrorContains(t, err, `3 clients of "evil" have leases, which is the limit: have them share one client`)
	require.NoError(t, h.reserve("app", 3, hold))
	h.grant(0, "app")
	require.Empty(t, h.reserved, "what was not granted holds no place")
	lasts[2] = false
	require.NoError(t, h.reserve("evil", 3, hold), "one has lapsed")
	require.ErrorIs(t, h.reserve("evil", 3, hold), txn.ErrBusy, "one is on its way")
	h.grant(4, "evil")
	lasts[4] = true
	require.True(t, h.mayEnd(4, "evil"))
	require.NoError(t, h.reserve("evil", 3, hold), "one was given back")
	for range 10 {
		require.NoError(t, h.reserve("", 3, hold), "where nobody asks who calls")
	}
}

// So many may watch a node, and the place of one that hangs up is free.
func TestSoManyWatchANode(t *testing.T) {
	s := serve(t, newFake(), nil)
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	for range access.DefaultLimits.Watches {
		w, err := s.stub(t).Watch(ctx, &concordv1.WatchRequest{})
		require.NoError(t, err)
		require.True(t, w.Receive(), w.Err())
	}
	one, err := s.stub(t).Watch(t.Context(), &concordv1.WatchRequest{})
	require.NoError(t, err)
	require.False(t, one.Receive())
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(one.Err()))
	require.ErrorContains(t, one.Err(), "100 watch this node, which is the limit: ask again in a moment, or watch "+
		"another node")
	hangUp()
	require.Eventually(t, func() bool {
		w, err := s.stub(t).Watch(t.Context(), &concordv1.WatchRequest{})
		return err == nil && w.Receive()
	}, 30*time.Second, 10*time.Millisecond)
}

// full is a listener of a process that has no descriptors left.
type full struct{ net.Listener }

func (full) Accept() (net.Conn, error) { return nil, errors.New("too many open files") }

// A leader that cannot accept connections for seconds has another voter lead.
func TestALeaderThatCannotAcceptStepsAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFake()
		for id, state := range []string{"leading", "unknown", "following"} {
			n.snapshot.Nodes = append(n.snapshot.Nodes, coordinator.NodeState{State: state,
				Member: replica.Member{ID: zab.NodeID(id + 1)}})
		}
		asked := make(chan struct{}, 1)
		l := &wary{Listener: full{}, stuck: func() {
			stepAside(t.Context(), n, slog.New(slog.DiscardHandler))
			asked <- struct{}{}
		}}
		for range 19 { // net/http pauses likewise
			_, err := l.Accept()
			require.Error(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		require.Empty(t, n.calls, "a moment is nothing")
		for range 3 {
			_, err := l.Accept()
			require.Error(t, err)
			time.Sleep(100 * time.Millisecond)
		}
		<-asked
		require.Equal(t, []string{"Lead 3"}, n.calls)
		n.snapshot.Leader = 3
		stepAside(t.Context(), n, slog.New(slog.DiscardHandler))
		require.Len(t, n.calls, 1, "it does not lead")
	})
}
