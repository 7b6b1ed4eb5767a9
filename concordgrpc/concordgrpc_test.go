// SPDX-License-Identifier: Apache-2.0

package concordgrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/adapters/memory"
	"github.com/concordtx/concord/concordgrpc"
	"github.com/concordtx/concord/concordtest"
)

// billing is a service that adds to a bill: Add once, All for each number of a stream, which it answers.
type billing struct {
	client *concord.Client
	ledger *memory.Resource
	next   *grpc.ClientConn // to a service that does the same in the same transaction; nil: none
}

func (b *billing) add(ctx context.Context, n int64) (sum int64, err error) {
	err = b.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
		m, err := b.ledger.Tx(ctx, tx)
		if err != nil {
			return err
		}
		if sum, err = m.Add(ctx, "bill", n); err != nil || b.next == nil {
			return err
		}
		return b.next.Invoke(ctx, "/shop.Billing/Add", wrapperspb.Int64(n), &wrapperspb.Int64Value{})
	})
	switch {
	case n < 0:
		return 0, status.Error(codes.Internal, "less than nothing")
	case n == 0:
		return 0, status.Error(codes.NotFound, "nothing")
	}
	return sum, err
}

var service = grpc.ServiceDesc{
	ServiceName: "shop.Billing",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Add", Handler: func(s any, ctx context.Context, decode func(any) error,
		around grpc.UnaryServerInterceptor) (any, error) {
		n := &wrapperspb.Int64Value{}
		if err := decode(n); err != nil {
			return nil, err
		}
		return around(ctx, n, &grpc.UnaryServerInfo{Server: s, FullMethod: "/shop.Billing/Add"},
			func(ctx context.Context, request any) (any, error) {
				sum, err := s.(*billing).add(ctx, request.(*wrapperspb.Int64Value).GetValue())
				if err != nil {
					return nil, err
				}
				return wrapperspb.Int64(sum), nil
			})
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "All", ClientStreams: true, ServerStreams: true,
		Handler: func(s any, stream grpc.ServerStream) error {
			for {
				n := &wrapperspb.Int64Value{}
				if err := stream.RecvMsg(n); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
				sum, err := s.(*billing).add(stream.Context(), n.GetValue())
				if err != nil {
					return err
				}
				if err := stream.SendMsg(wrapperspb.Int64(sum)); err != nil {
					return err
				}
			}
		}}},
}

// shop is two services: orders is this test.
type shop struct {
	*testing.T
	cluster        *concordtest.Cluster
	client         *concord.Client
	orders, ledger *memory.Resource
	conn           *grpc.ClientConn
}

func open(t *testing.T) *shop {
	orders, ledger := concordtest.Memory("orders"), concordtest.Memory("ledger")
	s := &shop{T: t, cluster: concordtest.New(t, orders, ledger)}
	s.orders, s.ledger = orders.Resource(), ledger.Resource()
	s.client = s.cluster.Client()
	s.conn = s.serve(&billing{client: s.cluster.Dial(), ledger: s.ledger})
	return s
}

// serve starts a service, and returns a connection to it.
func (s *shop) serve(b *billing) *grpc.ClientConn {
	server := grpc.NewServer(
		grpc.UnaryInterceptor(concordgrpc.UnaryServerInterceptor(b.client)),
		grpc.StreamInterceptor(concordgrpc.StreamServerInterceptor(b.client)))
	concordgrpc.Register(server, b.client)
	server.RegisterService(&service, b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(s, err)
	go func() { _ = server.Serve(l) }()
	s.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(concordgrpc.UnaryClientInterceptor()),
		grpc.WithStreamInterceptor(concordgrpc.StreamClientInterceptor()))
	require.NoError(s, err)
	s.Cleanup(func() { require.NoError(s, conn.Close()) })
	return conn
}

func (s *shop) order(ctx context.Context, tx *concord.Tx) error {
	m, err := s.orders.Tx(ctx, tx)
	if err != nil {
		return err
	}
	_, err = m.Add(ctx, "order", 1)
	return err
}

func (s *shop) add(ctx context.Context, n int64) error {
	return s.conn.Invoke(ctx, "/shop.Billing/Add", wrapperspb.Int64(n), &wrapperspb.Int64Value{})
}

// all adds by a stream, and reads as many answers, and the end if it is asked to.
func (s *shop) all(ctx context.Context, end bool, ns ...int64) error {
	stream, err := s.conn.NewStream(ctx, &service.Streams[0], "/shop.Billing/All")
	if err != nil {
		return err
	}
	for _, n := range ns {
		if err := stream.SendMsg(wrapperspb.Int64(n)); err != nil {
			return err
		}
		if err := stream.RecvMsg(&wrapperspb.Int64Value{}); err != nil {
			return err
		}
	}
	if !end {
		return nil
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&wrapperspb.Int64Value{}); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (s *shop) requireDone(orders, bills int64) {
	s.Helper()
	for key, r := range map[string]*memory.Resource{"order": s.orders, "bill": s.ledger} {
		require.NoError(s, s.client.Run(context.Background(), func(ctx context.Context, tx *concord.Tx) error {
			m, err := r.Tx(ctx, tx)
			if err != nil {
				return err
			}
			v, _, err := m.Get(ctx, key)
			require.Equal(s, map[string]int64{"order": orders, "bill": bills}[key], v, key)
			return err
		}))
		listed, err := r.Recover(context.Background())
		require.NoError(s, err)
		require.Empty(s, listed)
	}
}

func TestAServiceJoinsATransaction(t *testing.T) {
	s := open(t)
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.order(ctx, tx), s.add(ctx, 1), s.all(ctx, true, 2, 3), s.add(ctx, 4))
	}))
	s.requireDone(1, 10)
	require.NoError(t, s.add(t.Context(), 1), "without a transaction")
	require.NoError(t, s.all(t.Context(), true, 1))
	s.requireDone(1, 12)

	errChanged := errors.New("changed my mind")
	require.ErrorIs(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.order(ctx, tx), s.add(ctx, 1), errChanged)
	}), errChanged)
	s.requireDone(1, 12)
}

// A service calls another one, in the transaction that it has joined.
func TestATransactionIsHandedOn(t *testing.T) {
	orders, ledger, stock := concordtest.Memory("orders"), concordtest.Memory("ledger"), concordtest.Memory("stock")
	s := &shop{T: t, cluster: concordtest.New(t, orders, ledger, stock)}
	s.orders, s.ledger, s.client = orders.Resource(), ledger.Resource(), s.cluster.Client()
	last := s.serve(&billing{client: s.cluster.Dial(), ledger: stock.Resource()})
	s.conn = s.serve(&billing{client: s.cluster.Dial(), ledger: s.ledger, next: last})
	for _, fails := range []error{nil, errors.New("changed my mind")} {
		require.ErrorIs(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
			return errors.Join(s.order(ctx, tx), s.add(ctx, 5), fails)
		}), fails)
		s.requireDone(1, 5)
	}
	s.cluster.FailVote("stock")
	require.ErrorIs(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.order(ctx, tx), s.add(ctx, 5))
	}), concord.ErrAborted)
	s.requireDone(1, 5)
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		m, err := stock.Resource().Tx(ctx, tx)
		if err != nil {
			return err
		}
		sum, _, err := m.Get(ctx, "bill")
		require.Equal(t, int64(5), sum)
		return err
	}, concord.WithRetry(concord.RetryPolicy{})))
}

func TestWhatFailsMakesTheWholeAbort(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		call func(ctx context.Context) error
		says string
	}{
		"an error": {func(ctx context.Context) error { return s.add(ctx, -1) }, "less than nothing"},
		"an unread stream": {func(ctx context.Context) error { return s.all(ctx, false, 1) },
			"a call of another service is under way"},
		"an error, streamed": {func(ctx context.Context) error { return s.all(ctx, true, 1, -1) }, "less than nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := s.client.Run(ctx, func(ctx context.Context, tx *concord.Tx) error {
				_ = c.call(ctx) // whatever the application makes of it
				return s.order(ctx, tx)
			})
			require.ErrorIs(t, err, concord.ErrAborted)
			require.ErrorContains(t, err, c.says)
			cancel()
			s.requireDone(0, 0)
		})
	}
	s.cluster.FailVote("ledger")
	err := s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.order(ctx, tx), s.add(ctx, 1))
	})
	var aborted *concord.AbortedError
	require.ErrorAs(t, err, &aborted)
	require.Equal(t, "ledger", aborted.Resource)
	s.requireDone(0, 0)
}

func TestAnAnswerIsAnAnswer(t *testing.T) {
	s := open(t)
	require.NoError(t, s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		require.Equal(t, codes.NotFound, status.Code(s.add(ctx, 0)))
		return s.order(ctx, tx)
	}))
	s.requireDone(1, 0)
}

// A server that lost its interceptor does its work at once, which the transaction cannot take back, so it is said.
func TestAServiceThatDoesNotJoin(t *testing.T) {
	s := open(t)
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo,
		h grpc.UnaryHandler) (any, error) {
		return h(ctx, r)
	}))
	server.RegisterService(&service, &billing{client: s.cluster.Dial(), ledger: s.ledger})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(concordgrpc.UnaryClientInterceptor()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	err = s.client.Run(t.Context(), func(ctx context.Context, tx *concord.Tx) error {
		return errors.Join(s.order(ctx, tx),
			conn.Invoke(ctx, "/shop.Billing/Add", wrapperspb.Int64(1), &wrapperspb.Int64Value{}))
	})
	require.ErrorIs(t, err, concord.ErrAborted)
	require.ErrorContains(t, err, "does not say what was done there")
	s.requireDone(0, 1)
}
