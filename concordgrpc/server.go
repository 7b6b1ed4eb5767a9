// SPDX-License-Identifier: Apache-2.0

package concordgrpc

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/concordtx/concord"
	"github.com/concordtx/concord/api"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
)

// voteTimeout bounds how long one request for votes, or with a decision, waits; it comes again.
const voteTimeout = 30 * time.Second

var errPanicked = errors.New("its handler panicked")

// UnaryServerInterceptor makes handlers take part in the transactions of those who call through the interceptors
// for clients: the context of a call carries the transaction, so that Run of this client joins it, and
// concord.FromContext returns it. Calls without a transaction pass as they are.
func UnaryServerInterceptor(c *concord.Client) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any,
		err error) {
		j, err := join(ctx, c, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) }) // or nobody hears it
		switch {
		case err != nil:
			return nil, err
		case j == nil:
			return handle(ctx, request)
		}
		failure := errPanicked
		defer func() { j.leave(failure) }()
		answer, err = handle(j.Context(), request)
		failure = failed(err)
		return answer, err
	}
}

// StreamServerInterceptor is UnaryServerInterceptor for streams.
func StreamServerInterceptor(c *concord.Client) grpc.StreamServerInterceptor {
	return func(service any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
		j, err := join(s.Context(), c, s.SetTrailer)
		switch {
		case err != nil:
			return err
		case j == nil:
			return handle(service, s)
		}
		failure := errPanicked
		defer func() { j.leave(failure) }()
		err = handle(service, serverStream{s, j.Context()})
		failure = failed(err)
		return err
	}
}

// serverStream is a stream with another context.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s serverStream) Context() context.Context { return s.ctx }

// joined is a call that takes part in a transaction.
type joined struct {
	*concord.Join
	trailer func(metadata.MD)
}

func (j *joined) leave(failure error) {
	j.trailer(metadata.Pairs(concord.ParticipationHeader, j.Leave(failure, "")))
}

// join joins the transaction that a call came with; nil: it came without.
func join(ctx context.Context, c *concord.Client, trailer func(metadata.MD)) (*joined, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	header := md.Get(concord.PropagationHeader)
	if len(header) == 0 {
		return nil, nil
	}
	j, err := c.Join(ctx, header[0])
	if err == nil {
		return &joined{j, trailer}, nil
	}
	var refusal *concord.JoinError
	if errors.As(err, &refusal) && refusal.Header != "" {
		trailer(metadata.Pairs(concord.ParticipationHeader, refusal.Header))
	}
	return nil, toStatus(api.ToStatus(err))
}

// failed returns an error after which the transaction must not be committed, or nil.
func failed(err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.OutOfRange:
		return nil
	}
	return err
}

func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var said *connect.Error
	if errors.As(err, &said) {
		return status.Error(codes.Code(said.Code()), said.Message())
	}
	return err
}

// Register serves what is asked and told of the transactions that a client takes part in.
func Register(s grpc.ServiceRegistrar, c *concord.Client) {
	s.RegisterService(&joinService, c.JoinService())
}

var joinService = grpc.ServiceDesc{
	ServiceName: concordv1connect.JoinServiceName,
	HandlerType: (*concord.Peer)(nil),
	Methods: []grpc.MethodDesc{
		{MethodName: "Vote", Handler: method("Vote", concord.Peer.Vote)},
		{MethodName: "Conclude", Handler: method("Conclude", concord.Peer.Conclude)},
	},
	Metadata: concordv1.File_concord_v1_join_proto.Path(),
}

// method makes a handler of gRPC. What the server has in front of its handlers is in front of these, too.
func method[Q, A any](name string, do func(concord.Peer, context.Context, *Q) (*A, error)) grpc.MethodHandler {
	return func(service any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any,
		error) {
		request := new(Q)
		if err := decode(request); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, request any) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, voteTimeout)
			defer cancel()
			answer, err := do(service.(concord.Peer), ctx, request.(*Q))
			if err != nil {
				return nil, toStatus(err)
			}
			return answer, nil
		}
		if around == nil {
			return handle(ctx, request)
		}
		return around(ctx, request, &grpc.UnaryServerInfo{Server: service,
			FullMethod: "/" + concordv1connect.JoinServiceName + "/" + name}, handle)
	}
}
