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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/txn"
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

func (h *handler) Watch(_ context.Context, _ *concordv1.WatchRequest,
	s *connect.ServerStream[concordv1.StatusResponse]) error {
	for i := range 3 {
		if err := s.Send(&concordv1.StatusResponse{Committed: uint64(i)}); err != nil {
			return err
		}
	}
	return nil
}

func serve(t testing.TB, h concordv1connect.CoordinatorServiceHandler) (addr string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(concordv1connect.NewCoordinatorServiceHandler(h))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
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

// refuser answers the commit requests of a stream with an error.
type refuser struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	err error
}

func (h *refuser) Decide(_ context.Context,
	s *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	for {
		m, err := s.Receive()
		if err != nil {
			return nil // the client has ended
		}
		res := &concordv1.DecideResponse{}
		for _, c := range m.GetCommits() {
			res.Answers = append(res.Answers,
				&concordv1.NumberedAnswer{Number: c.GetNumber(), Error: api.CommitError(h.err)})
		}
		if err := s.Send(res); err != nil {
			return err
		}
	}
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
	follower := fails(&txn.NotLeaderError{Leader: 2, API: serve(t, leader)})
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
			return nil, &txn.NotLeaderError{}
		}
		return &concordv1.OutcomeResponse{Outcome: "aborted"}, nil
	}}
	res, err := dial(t, api.ClientOptions{}, serve(t, h)).Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "aborted", res.Outcome)
	require.EqualValues(t, 4, h.calls.Load())
}

// What one node refuses has happened nowhere, unless another one may have heard of it before.
func TestUnheardIsWhatNoNodeCanHaveHeard(t *testing.T) {
	refuses := serve(t, &refuser{err: fmt.Errorf("no: %w", txn.ErrInvalid)})
	for name, before := range map[string]struct {
		addr    string
		unheard bool
	}{
		"nobody is there":    {deadAddr(t), true},
		"no leader is known": {serve(t, &refuser{err: &txn.NotLeaderError{Untouched: true}}), true},
		"another leader is known": {serve(t, &refuser{err: &txn.NotLeaderError{Leader: 2, API: refuses,
			Untouched: true}}), true},
		"it led until now": {serve(t, &refuser{err: &txn.NotLeaderError{Leader: 2, API: refuses}}), false},
		"it is not said":   {serve(t, &refuser{err: fmt.Errorf("later: %w", txn.ErrUnavailable)}), false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dial(t, api.ClientOptions{}, before.addr, refuses).Commit(t.Context(), &concordv1.CommitRequest{})
			require.ErrorIs(t, err, txn.ErrInvalid)
			require.Equal(t, before.unheard, api.Unheard(err), err)
		})
	}
}

func TestTwoNodesThatNameEachOtherDoNotSpin(t *testing.T) {
	a, b := fails(nil), fails(nil)
	addrA, addrB := serve(t, a), serve(t, b)
	a.outcome = fails(&txn.NotLeaderError{Leader: 2, API: addrB}).outcome
	b.outcome = fails(&txn.NotLeaderError{Leader: 1, API: addrA}).outcome
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	_, err := dial(t, api.ClientOptions{}, addrA, addrB).Outcome(ctx, &concordv1.OutcomeRequest{})
	require.ErrorIs(t, err, txn.ErrUnavailable)
	require.LessOrEqual(t, a.calls.Load(), int64(12), "a pause follows each round")
}

func TestAHungNodeIsPassedOver(t *testing.T) {
	hung := &handler{outcome: func(ctx context.Context, _ *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse,
		error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	c := dial(t, api.ClientOptions{Attempt: 50 * time.Millisecond}, serve(t, hung), serve(t, says("committed")))
	res, err := c.Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "committed", res.Outcome)
}

// looker asks a slow database before it answers, and gives up with whoever asked.
type looker struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	takes time.Duration
}

func (h *looker) look(ctx context.Context) error {
	select {
	case <-time.After(h.takes):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *looker) Resources(ctx context.Context, _ *concordv1.ResourcesRequest) (*concordv1.ResourcesResponse, error) {
	return &concordv1.ResourcesResponse{}, h.look(ctx)
}

func (h *looker) Get(ctx context.Context, _ *concordv1.GetRequest) (*concordv1.GetResponse, error) {
	return &concordv1.GetResponse{}, h.look(ctx)
}

func (h *looker) Resolve(ctx context.Context, _ *concordv1.ResolveRequest) (*concordv1.ResolveResponse, error) {
	return &concordv1.ResolveResponse{}, h.look(ctx)
}

// The next node would look for as long: whoever goes on to it gets no answer from any.
func TestANodeThatAsksADatabaseIsWaitedFor(t *testing.T) {
	h := &looker{takes: 200 * time.Millisecond}
	c := dial(t, api.ClientOptions{Attempt: 80 * time.Millisecond, Patience: 3 * time.Second}, serve(t, h), serve(t, h))
	_, err := c.Resources(t.Context(), &concordv1.ResourcesRequest{Name: "orders"})
	require.NoError(t, err)
	_, err = c.Get(t.Context(), &concordv1.GetRequest{})
	require.NoError(t, err)
	_, err = c.Resolve(t.Context(), &concordv1.ResolveRequest{})
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = c.Resources(short, &concordv1.ResourcesRequest{})
	require.ErrorIs(t, err, context.DeadlineExceeded, "what asks no database has no need of patience")
}

func TestWhenNobodyAnswersTheErrorListsWhatEachAddressSaid(t *testing.T) {
	dead, lost := deadAddr(t), serve(t, fails(&txn.NotLeaderError{}))
	c := dial(t, api.ClientOptions{Patience: 100 * time.Millisecond}, dead, lost)
	_, err := c.Outcome(t.Context(), &concordv1.OutcomeRequest{})
	require.ErrorIs(t, err, txn.ErrUnavailable)
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
	for _, kind := range []error{txn.ErrInvalid, txn.ErrNotFound, txn.ErrDecided, txn.ErrRefused, txn.ErrTooOld} {
		h := fails(fmt.Errorf("transaction 01X: %w", kind))
		_, err := dial(t, api.ClientOptions{}, serve(t, h), serve(t, h)).Outcome(t.Context(),
			&concordv1.OutcomeRequest{})
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
			return nil, txn.ErrBusy
		}
		return &concordv1.OutcomeResponse{Outcome: "aborted"}, nil
	}}
	res, err := dial(t, api.ClientOptions{}, serve(t, h), serve(t, other)).Outcome(t.Context(),
		&concordv1.OutcomeRequest{})
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

// echo answers with a zxid, and remembers what the requests said their client had seen.
type echo struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	zxid string
	mu   sync.Mutex
	seen []string
}

func (h *echo) heard(seen string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = append(h.seen, seen)
}

// last returns what the last request said.
func (h *echo) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen[len(h.seen)-1]
}

func (h *echo) Outcome(_ context.Context, r *concordv1.OutcomeRequest) (*concordv1.OutcomeResponse, error) {
	h.heard(r.GetSeen())
	return &concordv1.OutcomeResponse{Outcome: "committed", Zxid: h.zxid}, nil
}

func (h *echo) Status(_ context.Context, r *concordv1.StatusRequest) (*concordv1.StatusResponse, error) {
	h.heard(r.GetSeen())
	return &concordv1.StatusResponse{Zxid: h.zxid}, nil
}

func (h *echo) Watch(_ context.Context, r *concordv1.WatchRequest,
	s *connect.ServerStream[concordv1.StatusResponse]) error {
	h.heard(r.GetSeen())
	return s.Send(&concordv1.StatusResponse{Zxid: h.zxid})
}

func (h *echo) Decide(_ context.Context,
	s *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	for {
		m, err := s.Receive()
		if err != nil {
			return nil // the client has ended
		}
		h.heard(m.GetSeen())
		for _, c := range m.GetCommits() {
			a := &concordv1.NumberedAnswer{Number: c.GetNumber(),
				Response: &concordv1.CommitResponse{Decision: "commit", Zxid: h.zxid}}
			if err := s.Send(&concordv1.DecideResponse{Answers: []*concordv1.NumberedAnswer{a}}); err != nil {
				return err
			}
		}
	}
}

func TestEveryRequestSaysTheHighestZxidThatItsClientHasSeen(t *testing.T) {
	h := &echo{zxid: "3.17"}
	c := dial(t, api.ClientOptions{}, serve(t, h))
	shared := &concordv1.OutcomeRequest{Gid: "x"}
	ask := func() string {
		t.Helper()
		_, err := c.Outcome(t.Context(), shared)
		require.NoError(t, err)
		return h.last()
	}
	require.Empty(t, ask(), "it has seen nothing yet")
	h.zxid = "3.9" // of a node that is behind, or of a broken one
	require.Equal(t, "3.17", ask())
	h.zxid = "nonsense"
	require.Equal(t, "3.17", ask(), "an older one changes nothing")
	h.zxid = "10.2"
	require.Equal(t, "3.17", ask())
	require.Equal(t, "10.2", ask(), "numbers, not texts")
	require.Empty(t, shared.GetSeen(), "the request belongs to the caller")

	h.zxid = "10.3"
	_, err := c.Status(t.Context(), &concordv1.StatusRequest{})
	require.NoError(t, err)
	require.Equal(t, "10.2", h.last())
	h.zxid = "10.4"
	res, err := c.Commit(t.Context(), &concordv1.CommitRequest{Gid: "x"})
	require.NoError(t, err)
	require.Equal(t, "10.4", res.GetZxid())
	require.Equal(t, "10.3", h.last(), "the stream says it too")
	h.zxid = "10.5"
	enough := errors.New("enough")
	require.ErrorIs(t, c.Watch(t.Context(), &concordv1.WatchRequest{},
		func(*concordv1.StatusResponse) error { return enough }), enough)
	require.Equal(t, "10.4", h.last())
	require.Equal(t, "10.5", ask(), "as it was streamed")

	_, err = c.Outcome(t.Context(), &concordv1.OutcomeRequest{Seen: "7.7"})
	require.NoError(t, err)
	require.Equal(t, "7.7", h.last(), "who passes his own has his reasons")
}

func TestANodeThatIsBehindIsPassedOver(t *testing.T) {
	behind := fails(fmt.Errorf("this node is at zxid 3.10, and you have seen 3.17: %w", txn.ErrUnavailable))
	res, err := dial(t, api.ClientOptions{}, serve(t, behind), serve(t, says("committed"))).Outcome(t.Context(),
		&concordv1.OutcomeRequest{})
	require.NoError(t, err)
	require.Equal(t, "committed", res.GetOutcome())
}

// handsOn is a node that redirects who asks for it, and else does what the leader would.
type handsOn struct {
	concordv1connect.UnimplementedCoordinatorServiceHandler
	leader              string
	redirected, commits atomic.Int64
}

func (h *handsOn) Commit(ctx context.Context, _ *concordv1.CommitRequest) (*concordv1.CommitResponse, error) {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	if info.RequestHeader().Get(api.RedirectHeader) != "" {
		h.redirected.Add(1)
		return nil, api.ToStatus(&txn.NotLeaderError{Leader: 2, API: h.leader})
	}
	info.ResponseHeader().Set(api.HandedOnHeader, "1")
	h.commits.Add(1)
	return &concordv1.CommitResponse{Decision: "commit"}, nil
}

func (h *handsOn) Decide(_ context.Context,
	s *connect.BidiStream[concordv1.DecideRequest, concordv1.DecideResponse]) error {
	for {
		m, err := s.Receive()
		if err != nil {
			return nil // the client has ended
		}
		for _, c := range m.GetCommits() {
			h.redirected.Add(1)
			a := &concordv1.NumberedAnswer{Number: c.GetNumber(),
				Error: api.CommitError(&txn.NotLeaderError{Leader: 2, API: h.leader})}
			if err := s.Send(&concordv1.DecideResponse{Answers: []*concordv1.NumberedAnswer{a}}); err != nil {
				return err
			}
		}
	}
}

func TestAClientThatCannotReachTheLeaderLetsAnotherNodeHandItsCallsOn(t *testing.T) {
	h := &handsOn{leader: deadAddr(t)}
	c := dial(t, api.ClientOptions{}, serve(t, h))
	for range 5 {
		res, err := c.Commit(t.Context(), &concordv1.CommitRequest{})
		require.NoError(t, err)
		require.Equal(t, "commit", res.GetDecision())
	}
	require.EqualValues(t, 5, h.commits.Load())
	require.EqualValues(t, 1, h.redirected.Load(), "it remembers that the leader is out of reach")
}

func TestAClientThatReachesTheLeaderAsksNobodyToHandOn(t *testing.T) {
	leader := &echo{zxid: "1.1"}
	h := &handsOn{leader: serve(t, leader)}
	c := dial(t, api.ClientOptions{}, serve(t, h))
	for range 5 {
		_, err := c.Commit(t.Context(), &concordv1.CommitRequest{})
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, h.redirected.Load())
	require.Zero(t, h.commits.Load())
}

func TestDialRefusesMalformedAddresses(t *testing.T) {
	for _, addr := range []string{"", "localhost", "http://localhost:1", ":7420", "127.0.0.1:"} {
		_, err := api.Dial([]string{addr}, api.ClientOptions{})
		require.ErrorIs(t, err, txn.ErrInvalid, "%q", addr)
		require.ErrorContains(t, err, "addrs[0]")
	}
	_, err := api.Dial(nil, api.ClientOptions{})
	require.ErrorIs(t, err, txn.ErrInvalid)
}

func BenchmarkCommitCall(b *testing.B) {
	c := dial(b, api.ClientOptions{}, serve(b, says("")))
	r := &concordv1.CommitRequest{Gid: "01J8Z0000000000000000000AA",
		Branches: []*concordv1.Branch{{Resource: "orders"}, {No: 1, Resource: "billing"}}}
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
