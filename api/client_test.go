// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
)

// handler answers Outcome with what its function says.
type handler struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	outcome func(context.Context, *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error)
	calls   atomic.Int64
}

func (h *handler) Outcome(ctx context.Context, r *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
	h.calls.Add(1)
	res, err := h.outcome(ctx, r)
	return res, api.ToStatus(err)
}

func (h *handler) Commit(context.Context, *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	return &concordv1.CommitResponse{Decision: "commit"}, nil
}

func (h *handler) Watch(_ context.Context, _ *concordv1.WatchRequest, s *connect.ServerStream[concordv1.StatusResponse]) error {
	for i := range 3 {
		if err := s.Send(&concordv1.StatusResponse{Committed: uint64(i)}); err != nil {
			return err
		}
	}
	return nil
}

func serve(t testing.TB, h *handler) (addr string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(h))
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func says(outcome string) *handler {
	return &handler{outcome: func(context.Context, *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
		return &concordv1.OutcomeResponse{Outcome: outcome}, nil
	}}
}

func fails(err error) *handler {
	return &handler{outcome: func(context.Context, *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
		return nil, err
	}}
}

// deadAddr returns an address that refuses connections.
func deadAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func dial(t testing.TB, opts api.ClientOptions, addrs ...string) *api.Client {
	c, err := api.Dial(addrs, opts)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestClientFollowsTheHintAndRemembersTheLeader(t *testing.T) {
	leader := says("committed")
	follower := fails(&api.NotLeaderError{Leader: 2, API: serve(t, leader)})
	c := dial(t, api.ClientOptions{}, deadAddr(t), serve(t, follower)) // the leader is in no list

	for range 3 {
		res, err := c.Outcome(t.Context(), &concordv1.OutcomeRequest{})
		require.NoError(t, err)
		require.Equal(t, "committed", res.Outcome)
	}
	require.EqualValues(t, 1, follower.calls.Load())
	require.EqualValues(t, 3, leader.calls.Load())
}

func TestClientWaitsForANewLeader(t *testing.T) {
	var h *handler
	h = &handler{outcome: func(context.Context, *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
		if h.calls.Load() < 4 {
			return nil, &api.NotLeaderError{}
		}
		return &concordv1.OutcomeResponse{Outcome: "aborted"}, nil
	}}
	res, err := dial(t, api.ClientOptions{}, serve(t, h)).Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "aborted", res.Outcome)
	require.EqualValues(t, 4, h.calls.Load())
}

func TestTwoNodesThatNameEachOtherDoNotSpin(t *testing.T) {
	a, b := fails(nil), fails(nil)
	addrA, addrB := serve(t, a), serve(t, b)
	a.outcome = fails(&api.NotLeaderError{Leader: 2, API: addrB}).outcome
	b.outcome = fails(&api.NotLeaderError{Leader: 1, API: addrA}).outcome
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	_, err := dial(t, api.ClientOptions{}, addrA, addrB).Outcome(ctx, &concordv1.OutcomeRequest{})
	require.ErrorIs(t, err, api.ErrUnavailable)
	require.LessOrEqual(t, a.calls.Load(), int64(12), "a pause follows each round")
}

func TestAHungNodeIsPassedOver(t *testing.T) {
	hung := &handler{outcome: func(ctx context.Context, _ *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c := dial(t, api.ClientOptions{Attempt: 50 * time.Millisecond}, serve(t, hung), serve(t, says("committed")))
	res, err := c.Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "committed", res.Outcome)
}

func TestWhenNobodyAnswersTheErrorListsWhatEachAddressSaid(t *testing.T) {
	dead, lost := deadAddr(t), serve(t, fails(&api.NotLeaderError{}))
	c := dial(t, api.ClientOptions{Patience: 100 * time.Millisecond}, dead, lost)
	_, err := c.Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.ErrorIs(t, err, api.ErrUnavailable)
	var none *api.NoAnswerError
	require.ErrorAs(t, err, &none)
	require.Len(t, none.Attempts, 2)
	require.Contains(t, err.Error(), dead+": ")
	require.Contains(t, err.Error(), "refused")
	require.Contains(t, err.Error(), lost+": this node is not the leader")
	require.True(t, strings.HasSuffix(err.Error(), fmt.Sprintf(`"concord status --addr %s,%s"`, dead, lost)), err)
}

func TestACancelledContextEndsTheCall(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dial(t, api.ClientOptions{}, deadAddr(t)).Outcome(ctx, &concordv1.OutcomeRequest{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestARefusalIsNotRepeated(t *testing.T) {
	for _, kind := range []error{api.ErrInvalid, api.ErrNotFound, api.ErrDecided, api.ErrRefused, api.ErrTooOld} {
		h := fails(fmt.Errorf("transaction 01X: %w", kind))
		_, err := dial(t, api.ClientOptions{}, serve(t, h), serve(t, h)).Outcome(t.Context(), &concordv1.OutcomeRequest{})
		require.ErrorIs(t, err, kind)
		require.EqualError(t, err, "ask for the outcome: transaction 01X: "+kind.Error())
		require.EqualValues(t, 1, h.calls.Load())
	}
}

func TestABusyLeaderIsAskedAgainAlone(t *testing.T) {
	other := says("committed")
	var h *handler
	h = &handler{outcome: func(context.Context, *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
		if h.calls.Load() < 3 {
			return nil, api.ErrBusy
		}
		return &concordv1.OutcomeResponse{Outcome: "aborted"}, nil
	}}
	res, err := dial(t, api.ClientOptions{}, serve(t, h), serve(t, other)).Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "aborted", res.Outcome)
	require.Zero(t, other.calls.Load())
}

func TestWatchGoesOnWithTheNextNode(t *testing.T) {
	c := dial(t, api.ClientOptions{}, deadAddr(t), serve(t, says("")))
	enough := errors.New("enough")
	seen := 0
	err := c.Watch(t.Context(), &concordv1.WatchRequest{}, func(*concordv1.StatusResponse) error {
		if seen++; seen == 5 { // the second stream
			return enough
		}
		return nil
	})
	require.ErrorIs(t, err, enough)
}

func TestDialRefusesMalformedAddresses(t *testing.T) {
	for _, addr := range []string{"", "localhost", "http://localhost:1", ":7420", "127.0.0.1:"} {
		_, err := api.Dial([]string{addr}, api.ClientOptions{})
		require.ErrorIs(t, err, api.ErrInvalid, "%q", addr)
		require.ErrorContains(t, err, "addrs[0]")
	}
	_, err := api.Dial(nil, api.ClientOptions{})
	require.ErrorIs(t, err, api.ErrInvalid)
}

func BenchmarkCommitCall(b *testing.B) {
	c := dial(b, api.ClientOptions{}, serve(b, says("")))
	r := &concordv1.CommitRequest{Gid: "01J8Z0000000000000000000AA", Branches: []*concordv1.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}}
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Commit(b.Context(), r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
