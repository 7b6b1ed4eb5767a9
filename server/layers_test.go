// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"

	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
	"github.com/concordtx/concord/txn"
)

// procedures are all methods of the API, as the descriptors have them.
func procedures() (all []protoreflect.MethodDescriptor) {
	services := concordv1.File_concord_v1_concord_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			all = append(all, methods.Get(j))
		}
	}
	return all
}

// knock calls a method with an empty message, in whichever form it has, and hangs up.
func knock(t *testing.T, client *http.Client, url string, m protoreflect.MethodDescriptor) {
	t.Helper()
	body, kind := []byte("{}"), "application/json"
	if m.IsStreamingClient() || m.IsStreamingServer() {
		body, kind = append([]byte{0, 0, 0, 0, 2}, body...), "application/connect+json"
	}
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost,
		url+"/"+string(m.Parent().FullName())+"/"+string(m.Name()), bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", kind)
	res, err := client.Do(req)
	require.NoError(t, err, m.FullName())
	defer res.Body.Close()
	require.NotEqual(t, http.StatusNotFound, res.StatusCode, m.FullName())
	if m.IsStreamingServer() && !m.IsStreamingClient() {
		_, err = res.Body.Read(make([]byte, 1)) // it goes on for ever
	} else {
		_, err = io.ReadAll(res.Body)
	}
	require.NoError(t, err, m.FullName())
}

func TestEveryProcedurePassesEveryLayer(t *testing.T) {
	var mu sync.Mutex
	passed := map[string][]int{}
	s := serve(t, newFake(), func(i int, l layer) layer {
		return func(ctx context.Context, c call, next func(context.Context) error) error {
			return l(ctx, c, func(ctx context.Context) error { // the layer lets it through
				mu.Lock()
				passed[c.procedure] = append(passed[c.procedure], i)
				mu.Unlock()
				return next(ctx)
			})
		}
	})
	all := procedures()
	require.True(t, slices.ContainsFunc(all, protoreflect.MethodDescriptor.IsStreamingClient))
	require.True(t, slices.ContainsFunc(all,
		func(m protoreflect.MethodDescriptor) bool { return m.IsStreamingServer() && !m.IsStreamingClient() }))
	want := make([]int, len(layers(s.metrics, nil)))
	for i := range want {
		want[i] = i
	}
	client := h2(t)
	for _, m := range all {
		knock(t, client, s.URL, m)
		mu.Lock()
		require.Equal(t, want, passed["/"+string(m.Parent().FullName())+"/"+string(m.Name())], m.FullName())
		mu.Unlock()
		// What the first of them keeps: calls in the histogram, streams where they are counted.
		require.Eventually(t, func() bool {
			var n float64
			for _, code := range []string{"ok", "canceled", "invalid_argument"} {
				name := "concord_rpc_duration_seconds_count"
				if m.IsStreamingClient() || m.IsStreamingServer() {
					name = "concord_rpc_streams_ended_total"
				}
				v, _ := s.value(t, fmt.Sprintf(`%s{code=%q,method=%q}`, name, code, m.Name()))
				n += v
			}
			return n == 1
		}, 10*time.Second, 10*time.Millisecond, m.FullName())
	}
	for _, m := range all {
		v, _ := s.value(t, fmt.Sprintf(`concord_rpc_streams{method=%q}`, m.Name()))
		require.Zero(t, v, "%s is not open any more", m.FullName())
	}
}

// further is another service than the node's own.
type further struct {
	concordv1connect.UnimplementedParticipantServiceHandler
	left time.Duration // of the last call
}

func (f *further) Describe(ctx context.Context, _ *concordv1.DescribeRequest) (*concordv1.DescribeResponse, error) {
	by, _ := ctx.Deadline()
	f.left = time.Until(by)
	return nil, fmt.Errorf("not now: %w", txn.ErrBusy)
}

func TestFurtherServicesPassEveryLayerAndHaveLimitsOfTheirOwn(t *testing.T) {
	var passed []int
	f := &further{}
	s := serve(t, newFake(), func(i int, l layer) layer {
		return func(ctx context.Context, c call, next func(context.Context) error) error {
			return l(ctx, c, func(ctx context.Context) error {
				passed = append(passed, i)
				return next(ctx)
			})
		}
	}, Service{Name: concordv1connect.ParticipantServiceName, Limit: time.Hour,
		New: func(o ...connect.HandlerOption) (string, http.Handler) {
			return concordv1connect.NewParticipantServiceHandler(f, o...)
		}})
	_, err := concordv1connect.NewParticipantServiceClient(h2(t), s.URL).Describe(t.Context(),
		&concordv1.DescribeRequest{})
	require.Equal(t, connect.CodeResourceExhausted, connect.CodeOf(err), "%v", err)
	require.Equal(t, []int{0, 1, 2, 3, 4}, passed)
	require.Greater(t, f.left, time.Hour-time.Minute)
	n, _ := s.value(t,
		`concord_rpc_duration_seconds_count{code="resource_exhausted",method="ParticipantService/Describe"}`)
	require.EqualValues(t, 1, n)
}

// decide sends commit requests on one stream and returns the answers in the order of the requests.
func decide(t *testing.T, s *served, seen string, requests ...*concordv1.CommitRequest) []*concordv1.NumberedAnswer {
	t.Helper()
	stream, err := s.stub(t).Decide(t.Context())
	require.NoError(t, err)
	m := &concordv1.DecideRequest{Seen: seen}
	for i, r := range requests {
		m.Commits = append(m.Commits, &concordv1.NumberedCommit{Number: uint64(i), Request: r})
	}
	require.NoError(t, stream.Send(m))
	require.NoError(t, stream.CloseRequest())
	answers := make([]*concordv1.NumberedAnswer, len(requests))
	for got := 0; got < len(requests); {
		m, err := stream.Receive()
		require.NoError(t, err)
		for _, a := range m.GetAnswers() {
			answers[a.GetNumber()] = a
			got++
		}
	}
	_, err = stream.Receive()
	require.ErrorIs(t, err, io.EOF)
	return answers
}

func bare() *concordv1.CommitRequest {
	return &concordv1.CommitRequest{Gid: txn.NewID(time.Now()).String(), Cluster: fakeCluster.String()}
}

func TestDecisionsOfAStreamAreMeasuredOneByOne(t *testing.T) {
	s := serve(t, newFake(), nil)
	answers := decide(t, s, "", bare(), bare(), &concordv1.CommitRequest{Gid: "nonsense"}, bare())
	require.Equal(t, "commit", answers[0].GetResponse().GetDecision())
	require.EqualValues(t, connect.CodeInvalidArgument, answers[2].GetError().GetCode())
	for code, want := range map[string]float64{"ok": 3, "invalid_argument": 1} {
		n, _ := s.value(t, fmt.Sprintf(`concord_rpc_duration_seconds_count{code=%q,method="Decide"}`, code))
		require.Equal(t, want, n, code)
	}
}

// A panic is the end of a call and not of the process, also on the goroutine of a stream.
func TestPanicEndsOneCall(t *testing.T) {
	n := newFake()
	n.panics = true
	s := serve(t, n, nil)
	stub := s.stub(t)
	_, err := stub.List(t.Context(), &concordv1.ListRequest{})
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err), "%v", err)
	require.NotContains(t, err.Error(), "a bug")
	watch, err := stub.Watch(t.Context(), &concordv1.WatchRequest{})
	require.NoError(t, err)
	require.False(t, watch.Receive())
	require.Equal(t, connect.CodeInternal, connect.CodeOf(watch.Err()), "%v", watch.Err())
	stream, err := stub.Decide(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&concordv1.DecideRequest{Commits: []*concordv1.NumberedCommit{{Number: 1,
		Request: bare()}}}))
	_, err = stream.Receive()
	require.Error(t, err)
	require.Equal(t, connect.CodeInternal, connect.CodeOf(err), "%v", err)
	count, _ := s.value(t, "concord_panics_total")
	require.EqualValues(t, 3, count)
	v, _ := s.value(t, `concord_rpc_duration_seconds_count{code="internal",method="List"}`)
	require.EqualValues(t, 1, v)
	n.panics = false
	_, err = stub.List(t.Context(), &concordv1.ListRequest{})
	require.NoError(t, err)
}

func TestTooManyCallsAreRefused(t *testing.T) {
	l := limited(2, 1)
	for _, stream := range []bool{false, true} {
		var hold func(n int) error
		hold = func(n int) error {
			return l(t.Context(), call{stream: stream}, func(context.Context) error {
				if n == 1 {
					return nil
				}
				return hold(n - 1)
			})
		}
		most := map[bool]int{false: 2, true: 1}[stream]
		require.NoError(t, hold(most))
		require.ErrorContains(t, hold(most+1), "ask again")
		require.NoError(t, hold(most), "those that have ended count no more")
	}
}

// What a node may have put into the log while it led it does not hand on.
func TestWhatMayBeInTheLogIsNotHandedOn(t *testing.T) {
	first, second := newFake(), newFake()
	leads := serve(t, first, nil)
	second.follows(1, leads.addr())
	second.err = &txn.NotLeaderError{Leader: 1, API: leads.addr()}
	follows := serve(t, second, nil)
	require.Error(t, ofLeader["Commit"](t.Context(), follows.stub(t)))
	require.NotNil(t, decide(t, follows, "", bare())[0].GetError())
	require.Empty(t, first.calls)
}
