// SPDX-License-Identifier: Apache-2.0

package concordgrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/concordtx/concord"
	concordv1 "github.com/concordtx/concord/api/concord/v1"
	"github.com/concordtx/concord/api/concord/v1/concordv1connect"
)

// UnaryClientInterceptor makes each call whose context carries a transaction a part of that one; others it
// passes on as they are. Votes and decisions go through the same connection. It is for services that join
// transactions: the answer of any other one makes the transaction abort.
func UnaryClientInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker,
		opts ...grpc.CallOption) error {
		ctx, call, err := begin(ctx, cc)
		if call == nil {
			if err != nil {
				return err
			}
			return invoke(ctx, method, request, reply, cc, opts...)
		}
		var trailer metadata.MD
		err = invoke(ctx, method, request, reply, cc, append(opts, grpc.Trailer(&trailer))...)
		answered(call, trailer, err)
		return err
	}
}

// StreamClientInterceptor is UnaryClientInterceptor for streams. Such a call is answered when RecvMsg has
// returned the end of the stream, or an error, or the only answer that there is.
func StreamClientInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer,
		opts ...grpc.CallOption) (grpc.ClientStream, error) {
		ctx, call, err := begin(ctx, cc)
		if call == nil {
			if err != nil {
				return nil, err
			}
			return open(ctx, desc, cc, method, opts...)
		}
		s, err := open(ctx, desc, cc, method, opts...)
		if err != nil {
			call.Failed(err)
			return nil, err
		}
		return &clientStream{ClientStream: s, call: call, one: !desc.ServerStreams}, nil
	}
}

// clientStream is a call that is answered by a stream.
type clientStream struct {
	grpc.ClientStream
	call *concord.Call
	one  bool // answer
	over sync.Once
}

// RecvMsg implements grpc.ClientStream.
func (s *clientStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil || s.one {
		s.over.Do(func() {
			failure := err
			if errors.Is(err, io.EOF) {
				failure = nil
			}
			answered(s.call, s.Trailer(), failure)
		})
	}
	return err
}

// begin begins a call if ctx carries a transaction; nil without an error: it does not.
func begin(ctx context.Context, cc *grpc.ClientConn) (context.Context, *concord.Call, error) {
	tx, ok := concord.FromContext(ctx)
	if !ok {
		return ctx, nil, nil
	}
	call, err := tx.Call(ctx, cc.Target(), func(addr string) (concord.Peer, error) {
		if addr != "" {
			return nil, fmt.Errorf("it says that it is reached at %s, which a service of gRPC does not", addr)
		}
		return peer{cc}, nil
	})
	if err != nil {
		return ctx, nil, err
	}
	return metadata.AppendToOutgoingContext(ctx, concord.PropagationHeader, call.Header()), call, nil
}

// answered ends a call. A trailer without a word of the service is that of somebody in between, or of gRPC itself.
func answered(call *concord.Call, trailer metadata.MD, err error) {
	said := trailer.Get(concord.ParticipationHeader)
	switch {
	case len(said) == 1:
		_ = call.Answered(said[0]) // Commit says it again
	case err != nil:
		call.Failed(err)
	default:
		_ = call.Answered("")
	}
}

// peer asks the service at the other end of a connection.
type peer struct{ cc *grpc.ClientConn }

// Vote implements concord.Peer.
func (p peer) Vote(ctx context.Context, r *concordv1.VoteRequest) (*concordv1.VoteResponse, error) {
	m := &concordv1.VoteResponse{}
	return m, p.invoke(ctx, concordv1connect.JoinServiceVoteProcedure, r, m)
}

// Conclude implements concord.Peer.
func (p peer) Conclude(ctx context.Context, r *concordv1.ConcludeRequest) (*concordv1.ConcludeResponse, error) {
	m := &concordv1.ConcludeResponse{}
	return m, p.invoke(ctx, concordv1connect.JoinServiceConcludeProcedure, r, m)
}

// invoke asks outside of the transaction that ctx may carry. The codes of both have the same numbers.
func (p peer) invoke(ctx context.Context, method string, request, answer any) error {
	err := p.cc.Invoke(concord.NewContext(ctx, nil), method, request, answer)
	if err == nil {
		return nil
	}
	return connect.NewError(connect.Code(status.Code(err)), errors.New(status.Convert(err).Message()))
}
